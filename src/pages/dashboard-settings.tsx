import type { Child } from 'hono/jsx'
import { plainLine } from '../core/text.ts'
import { usd } from './burn-chart.tsx'
import type { SettingsView, Viewer } from './dashboard-view.ts'
import { Field, Form } from './form.tsx'
import { Moment } from './moment.tsx'

type List<K extends 'keys' | 'channels' | 'webhooks' | 'topups'> = NonNullable<SettingsView[K]>

const MAX_SHOWN = 50

type ButtonProps = {
  readonly viewer: Viewer
  readonly action: string
  readonly hidden?: Readonly<Record<string, string>>
  /** What it does to which row, for those who do not see the row. */
  readonly label: string
  /** Whether it takes something away. */
  readonly isNo?: boolean
  readonly children?: Child
}

/** A form of one button. */
const Button = ({ viewer, action, hidden = {}, label, isNo = false, children }: ButtonProps) => (
  <Form viewer={viewer} action={action} hidden={hidden}>
    <button class={isNo ? 'button no' : 'button'} type="submit" aria-label={label}>
      {children}
    </button>
  </Form>
)

type KeysProps = { readonly viewer: Viewer; readonly keys: List<'keys'>; readonly now_ms: number }

export function Keys({ viewer, keys, now_ms }: KeysProps) {
  const live = keys.filter(({ revoked_at, expires_at }) => revoked_at === null && (expires_at === null || expires_at > now_ms))
  return (
    <>
      <ul class="rows">
        {live.slice(0, MAX_SHOWN).map((key) => (
          <li>
            <div>
              <strong>
                <bdi>{plainLine(key.name)}</bdi>
              </strong>{' '}
              <span class="soft">
                {key.scope}
                {key.agent_id === null ? '' : ` of ${plainLine(key.agent_id)}`}
                {key.last_used_at === null ? ', not used yet' : ', used '}
                {key.last_used_at === null ? null : <Moment at_ms={key.last_used_at} now_ms={now_ms} />}
                {key.expires_at === null ? null : (
                  <>
                    , ends <Moment at_ms={key.expires_at} />
                  </>
                )}
              </span>
            </div>
            {viewer.may('revoke_key') ? (
              <Button
                viewer={viewer}
                action="revoke_key"
                hidden={{ key_id: key.key_id }}
                label={`${revokeText(key.key_id, viewer)}: ${plainLine(key.name)}`}
                isNo
              >
                {revokeText(key.key_id, viewer)}
              </Button>
            ) : null}
          </li>
        ))}
      </ul>
      {live.length > MAX_SHOWN ? <p class="soft">{live.length - MAX_SHOWN} more: GET /v1/account/keys lists them.</p> : null}
      {viewer.may('create_key') ? <NewKey viewer={viewer} /> : null}
    </>
  )
}

const NewKey = ({ viewer }: { readonly viewer: Viewer }) => (
  <details>
    <summary>Make a key</summary>
    <Form viewer={viewer} action="create_key" class="stack">
      <Field label="Name" name="name" maxlength={100} required />
      <label>
        <span>May</span>
        <select name="scope">
          <option value="agent">clear and reconcile for one agent</option>
          <option value="read">read</option>
          <option value="owner">everything</option>
        </select>
      </label>
      <Field label="Agent (needed for one agent)" name="agent_id" maxlength={128} />
      <Field label="Ends after days (empty: never)" name="days" type="number" min="1" step="1" />
      <button class="button main" type="submit">
        Make
      </button>
    </Form>
  </details>
)

const revokeText = (keyId: string, { caller }: Viewer): string => (keyId === caller.keyId ? 'Revoke, and sign out' : 'Revoke')

type ChannelsProps = { readonly viewer: Viewer; readonly channels: List<'channels'>; readonly email: string | null }

export function Channels({ viewer, channels, email }: ChannelsProps) {
  const isOwner = viewer.may('create_channel')
  const others = channels.filter(({ kind }) => kind !== 'email')
  return (
    <>
      <ul class="rows">
        <li>
          <div>
            <strong>Mail</strong> <span class="soft">{email === null ? 'no address' : plainLine(email)}</span>
          </div>
          {isOwner && email !== null ? (
            <>
              <Button viewer={viewer} action="test_channel" hidden={{ channel_id: 'email' }} label="Test: mail">
                Test
              </Button>
              <Button viewer={viewer} action="delete_notification_email" label="Remove the address" isNo>
                Remove
              </Button>
            </>
          ) : null}
        </li>
        {others.map((channel) => (
          <li>
            <div>
              <strong>
                <bdi>{plainLine(channel.name)}</bdi>
              </strong>{' '}
              <span class="soft">
                {channel.kind}, {plainLine(channel.target ?? '')}
                {channel.verified_at === null ? ', not tested' : ''}
              </span>
            </div>
            {isOwner ? (
              <>
                <Button
                  viewer={viewer}
                  action="test_channel"
                  hidden={{ channel_id: channel.channel_id }}
                  label={`Test ${plainLine(channel.name)}`}
                >
                  Test
                </Button>
                <Button
                  viewer={viewer}
                  action="delete_channel"
                  hidden={{ channel_id: channel.channel_id }}
                  label={`Remove ${plainLine(channel.name)}`}
                  isNo
                >
                  Remove
                </Button>
              </>
            ) : null}
          </li>
        ))}
      </ul>
      {isOwner ? (
        <>
          <details>
            <summary>{email === null ? 'Add a mail address' : 'Change the mail address'}</summary>
            <Form viewer={viewer} action="set_notification_email" class="stack">
              <Field label="Mail address" name="email" type="email" required maxlength={254} />
              <button class="button main" type="submit">
                Save
              </button>
            </Form>
          </details>
          <details>
            <summary>Add a channel</summary>
            <Form viewer={viewer} action="create_channel" class="stack">
              <label>
                <span>Kind</span>
                <select name="kind">
                  <option value="slack">Slack</option>
                  <option value="discord">Discord</option>
                  <option value="telegram">Telegram</option>
                  <option value="webhook">Signed webhook</option>
                </select>
              </label>
              <Field label="Name" name="name" maxlength={64} />
              <Field label="Address (Slack, Discord, webhook)" name="url" type="url" />
              <Field label="Bot token (Telegram)" name="bot_token" />
              <Field label="Chat id (Telegram)" name="chat_id" />
              <button class="button main" type="submit">
                Add
              </button>
            </Form>
          </details>
        </>
      ) : null}
    </>
  )
}

export function Webhooks({ viewer, webhooks }: { readonly viewer: Viewer; readonly webhooks: List<'webhooks'> }) {
  const isOwner = viewer.may('create_webhook')
  return (
    <>
      {webhooks.length === 0 ? <p class="soft">No program follows the events of this account.</p> : null}
      <ul class="rows">
        {webhooks.map((webhook) => (
          <li>
            <div>
              <strong>
                <bdi>{plainLine(webhook.name)}</bdi>
              </strong>{' '}
              <span class="soft">
                {webhook.format}, <bdi>{plainLine(webhook.url)}</bdi>
                {webhook.enabled ? '' : ', off'}
              </span>
            </div>
            {isOwner ? (
              <>
                <Button
                  viewer={viewer}
                  action="test_webhook"
                  hidden={{ webhook_id: webhook.webhook_id }}
                  label={`Test ${plainLine(webhook.name)}`}
                >
                  Test
                </Button>
                <Button
                  viewer={viewer}
                  action="delete_webhook"
                  hidden={{ webhook_id: webhook.webhook_id }}
                  label={`Remove ${plainLine(webhook.name)}`}
                  isNo
                >
                  Remove
                </Button>
              </>
            ) : null}
          </li>
        ))}
      </ul>
      {isOwner ? (
        <details>
          <summary>Add a webhook</summary>
          <Form viewer={viewer} action="create_webhook" class="stack">
            <Field label="Name" name="name" maxlength={64} />
            <Field label="Address" name="url" type="url" required />
            <label>
              <span>Format</span>
              <select name="format">
                <option value="standard">JSON, signed</option>
                <option value="slack">Slack</option>
                <option value="discord">Discord</option>
              </select>
            </label>
            <button class="button main" type="submit">
              Add
            </button>
          </Form>
        </details>
      ) : null}
    </>
  )
}

export const Topups = ({ topups }: { readonly topups: List<'topups'> }) => (
  <>
    {topups.length === 0 ? <p class="soft">Nothing has been paid yet.</p> : null}
    <ul class="rows">
      {topups.map((topup) => (
        <li>
          <div>
            <strong>{usd(topup.amount_usd)}</strong>{' '}
            <span class="soft">
              {topup.ops.toLocaleString('en-US')} operations, {topup.state}
            </span>
          </div>
        </li>
      ))}
    </ul>
    <p>
      <a href="/pay">Top up</a>
    </p>
  </>
)

type SettingsProps = { readonly viewer: Viewer; readonly approvalLinks: 'agent' | 'owner' }

export function Settings({ viewer, approvalLinks }: SettingsProps) {
  const mayChange = viewer.may('update_settings')
  return (
    <Form viewer={viewer} action="update_settings" class="stack">
      <fieldset disabled={!mayChange}>
        <legend>A link that decides an approval goes to</legend>
        <label class="choice">
          <input type="radio" name="approval_links" value="agent" checked={approvalLinks === 'agent'} />
          <span>whoever asked, to hand it to a human</span>
        </label>
        <label class="choice">
          <input type="radio" name="approval_links" value="owner" checked={approvalLinks === 'owner'} />
          <span>the account's channels and this page only: an agent cannot approve its own request</span>
        </label>
        {mayChange ? (
          <button class="button main" type="submit">
            Save
          </button>
        ) : null}
      </fieldset>
    </Form>
  )
}
