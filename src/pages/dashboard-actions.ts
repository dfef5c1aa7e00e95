import { plainLine } from '../core/text.ts'
import type { Notice } from './dashboard-view.ts'

/** The fields of a form, by name; empty ones count as left out. */
export type Fields = { readonly get: (name: string) => string | undefined }
export type Action = {
  /** The part of the page that it is about. */
  readonly section: string
  readonly input: (fields: Fields) => Record<string, unknown>
  /** What the page says afterwards, where a redirect would lose it: a secret, or how a test went. */
  readonly notice?: (result: Record<string, unknown>) => Notice | null
  readonly done: string
}

const DAY_SECONDS = 86_400
const WINDOWS = ['hourly', 'daily', 'weekly', 'monthly', 'session'] as const

const numberOf = (text: string | undefined): number | undefined => (text === undefined ? undefined : Number(text))
const only =
  (...names: string[]) =>
  (fields: Fields) =>
    defined(Object.fromEntries(names.map((name) => [name, fields.get(name)])))
const defined = (input: Record<string, unknown>): Record<string, unknown> =>
  Object.fromEntries(Object.entries(input).filter(([, value]) => value !== undefined))

function agentOf(fields: Fields): string | undefined {
  const encoded = fields.get('agent')
  if (encoded === undefined) return fields.get('agent_id')
  try {
    return decodeURIComponent(encoded)
  } catch {
    return undefined
  }
}

const secretNotice =
  (field: string, text: string) =>
  (result: Record<string, unknown>): Notice | null =>
    typeof result[field] === 'string' ? { kind: 'done', text, secret: result[field] } : null

const testNotice = (result: Record<string, unknown>): Notice =>
  result.ok === true
    ? { kind: 'done', text: 'The test message arrived.' }
    : { kind: 'error', text: `The test message did not arrive: ${plainLine(String(result.outcome))}.` }

/**
 * What the buttons of the dashboard do: operations of the product by their names, run with the key of who is signed in. Who may do what is
 * decided there.
 */
export const ACTIONS: Readonly<Record<string, Action>> = {
  set_envelope: {
    section: 'agents',
    input: (fields) => ({
      agent_id: agentOf(fields),
      limits: defined(Object.fromEntries(WINDOWS.map((window) => [window, numberOf(fields.get(window))]))),
    }),
    done: 'The cap is set.',
  },
  delete_envelope: {
    section: 'agents',
    input: (fields) => ({ agent_id: agentOf(fields) }),
    done: 'The cap is deleted. What was spent is remembered.',
  },
  decide_approval: {
    section: 'approvals',
    input: only('approval_ref', 'decision', 'terms'),
    notice: (result) =>
      result.decision === 'timeout' ? { kind: 'error', text: 'Too late: the request has ended without an answer.' } : null,
    done: 'Your answer is stored, and the agent is told.',
  },
  create_key: {
    section: 'keys',
    input: (fields) => {
      const days = numberOf(fields.get('days'))
      const scope = fields.get('scope')
      return defined({
        name: fields.get('name'),
        scope,
        agent_id: scope === 'owner' ? undefined : fields.get('agent_id'),
        expires_in_seconds: days === undefined ? undefined : days * DAY_SECONDS,
      })
    },
    notice: secretNotice('api_key', 'The key is made. It is shown this once: keep it now.'),
    done: 'The key is made.',
  },
  revoke_key: { section: 'keys', input: only('key_id'), done: 'The key is revoked.' },
  set_notification_email: { section: 'channels', input: only('email'), done: 'The address is set. Send a test to it.' },
  delete_notification_email: { section: 'channels', input: () => ({}), done: 'The address is removed.' },
  create_channel: {
    section: 'channels',
    input: only('kind', 'name', 'url', 'bot_token', 'chat_id'),
    notice: secretNotice('secret', 'The channel is added. Its messages are signed with this secret, which is shown this once:'),
    done: 'The channel is added. Send a test to it.',
  },
  test_channel: { section: 'channels', input: only('channel_id'), notice: testNotice, done: '' },
  delete_channel: { section: 'channels', input: only('channel_id'), done: 'The channel is removed.' },
  create_webhook: {
    section: 'webhooks',
    input: only('url', 'name', 'format'),
    notice: secretNotice('secret', 'The webhook is added. Its messages are signed with this secret, which is shown this once:'),
    done: 'The webhook is added. Send a test to it.',
  },
  test_webhook: { section: 'webhooks', input: only('webhook_id'), notice: testNotice, done: '' },
  delete_webhook: { section: 'webhooks', input: only('webhook_id'), done: 'The webhook is removed.' },
  update_settings: { section: 'settings', input: only('approval_links'), done: 'Saved.' },
}
