import { plainLine } from '../core/text.ts'

/** A message to a person before it takes the form of a mail or a chat post. Plain text throughout: each format escapes it its own way. */
export type Notice = {
  readonly title: string
  readonly facts: readonly { readonly label: string; readonly text: string }[]
  readonly link: { readonly text: string; readonly url: string } | null
  readonly note: string | null
}

type Data = Readonly<Record<string, unknown>>

const LINK_NOTE = 'Whoever has this link can decide, so do not forward it. Opening it decides nothing.'
const MAX_FACTS = 8
const MAX_FACT_LENGTH = 600

/** What a person is told about an event. @param link the approval link, if the message still has one */
export function noticeOf(event: string, data: Data, link: string | null): Notice {
  const facts = factsOf(event, data)
    .filter(({ text }) => text !== '')
    .slice(0, MAX_FACTS)
  return {
    title: titleOf(event, data),
    facts,
    link: link === null ? null : { text: 'Review and decide', url: link },
    note: link === null ? null : LINK_NOTE,
  }
}

function titleOf(event: string, data: Data): string {
  const agent = short(textOf(data.agent_id), 60)
  switch (event) {
    case 'approval.requested':
      return `${agent} asks for your approval`
    case 'approval.decided':
      return `The request of ${agent}: ${data.decision === 'timeout' ? 'no answer in time' : textOf(data.decision)}`
    case 'clearance.denied':
      return `${agent} was refused a spend`
    case 'envelope.threshold':
      return `${agent} has spent ${textOf(data.threshold_percent)} % of its ${textOf(data.window)} limit`
    case 'topup.credited':
      return 'A top-up was credited'
    case 'key.created':
      return 'A key was created'
    case 'key.revoked':
      return 'A key was revoked'
    case 'rate.exceeded':
      return `${agent} reached its request rate`
    default:
      return 'Test message from Gvnr'
  }
}

const LABELS: Readonly<Record<string, string>> = {
  action_summary: 'What',
  effect: 'If approved',
  agent_id: 'Agent',
  expires_at: 'Answer by',
  responder: 'Decided by',
  estimated_usd: 'Estimate',
  ops: 'Operations',
  tx_hash: 'Transaction',
}
const HIDDEN = new Set(['approval_ref', 'grant', 'created_at', 'denial_id', 'decision', 'topup_id'])

function factsOf(event: string, data: Data): Notice['facts'] {
  if (event === 'test') return [{ label: 'Result', text: 'Messages of this account arrive here.' }]
  const order = event === 'approval.requested' ? ['action_summary', 'effect', 'agent_id', 'expires_at'] : Object.keys(data)
  return order
    .filter((key) => !HIDDEN.has(key))
    .map((key) => ({ label: LABELS[key] ?? labelOf(key), text: short(factText(key, data[key]), MAX_FACT_LENGTH) }))
}

const labelOf = (key: string): string => {
  const words = key.replace(/_(usd|at|id)$/, '').replaceAll('_', ' ')
  return words.charAt(0).toUpperCase() + words.slice(1)
}

function factText(key: string, value: unknown): string {
  if (typeof value === 'number' && key.endsWith('_at')) return timeText(value)
  if (typeof value === 'number' && key.endsWith('_usd')) return `$${value.toFixed(value < 1 ? 4 : 2)}`
  if (Array.isArray(value)) return plainLine(value.join(', '))
  return textOf(value)
}

const textOf = (value: unknown): string => (value === null || value === undefined ? '' : plainLine(String(value)))

/** e.g. `22 Nov 2026, 04:10 UTC` */
export function timeText(at_ms: number): string {
  const [, date = '', time = ''] = /^\w+, (\d+ \w+ \d+) (\d+:\d+)/.exec(new Date(at_ms).toUTCString()) ?? []
  return `${date.replace(/^0/, '')}, ${time} UTC`
}

/** At most `max` characters, never half a surrogate pair. */
export const short = (text: string, max: number): string => {
  const characters = [...text]
  return characters.length <= max ? text : `${characters.slice(0, max - 1).join('')}…`
}
