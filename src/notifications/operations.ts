import { z } from 'zod'
import { defineOperation, type RunContext } from '../core/operation.ts'
import { integer, plainLine, text } from '../core/text.ts'
import type { Result } from './delivery.ts'
import { CHANNEL_KINDS, EMAIL_CHANNEL, type Endpoint, type NotificationService } from './service.ts'

export type NotificationOperationDeps = {
  readonly notifications: NotificationService
  readonly accounts: { get(accountId: string): Promise<{ readonly notificationEmail: string | null }> }
}

const TESTS_PER_MINUTE = 10
const MINUTE_MS = 60_000
const unixMs = z.number().int().describe('Unix milliseconds')
const channelId = text(1, 64).describe('The channel_id, or "email" for the notification address')
const owner = { kind: 'key', scopes: ['owner'] } as const
const reader = { kind: 'key', scopes: ['owner', 'read'], agentRule: 'none' } as const

/** Scheme and host: the rest of such an address is what lets one post there. */
export const maskedUrl = (url: string): string => (URL.canParse(url) ? `${new URL(url).origin}/…` : '…')

const channelView = z.object({
  channel_id: z.string(),
  kind: z.enum(CHANNEL_KINDS),
  name: z.string(),
  target: z.string().nullable().describe('Where it leads; what would let others post there is left out'),
  created_at: unixMs.nullable(),
  verified_at: unixMs.nullable().describe('When a test message last arrived'),
})

const channelJson = (channel: Endpoint) => ({
  channel_id: channel.endpointId,
  kind: channel.kind,
  name: channel.name,
  target: channel.kind === 'telegram' ? channel.target : maskedUrl(channel.target),
  created_at: channel.createdMs,
  verified_at: channel.verifiedMs,
})

export const testResult = z.object({
  ok: z.boolean(),
  state: z.enum(['sent', 'failed']),
  outcome: z.string().describe('How the receiver answered, or why it could not be reached'),
})
export const testJson = (result: Result) => {
  const ok = result.state === 'sent'
  return { ok, state: ok ? ('sent' as const) : ('failed' as const), outcome: result.outcome }
}

/** A test goes out at once and to an address of the caller's choice: few of them. */
export const testThrottle = (_deps: unknown, { caller }: RunContext) =>
  caller.kind === 'key'
    ? {
        subject: `notification-test:${caller.accountId}`,
        max: TESTS_PER_MINUTE,
        window_ms: MINUTE_MS,
        hint: `At most ${TESTS_PER_MINUTE} test messages a minute. Wait retry_after_ms.`,
      }
    : null

export const createChannel = defineOperation({
  name: 'create_channel',
  title: 'Add a notification channel',
  description:
    'Where approval requests are sent besides the notification address: an incoming webhook of Slack or Discord (url), a Telegram bot (bot_token and chat_id), or a signed webhook (url; the answer holds its secret).',
  tag: 'Notifications',
  method: 'post',
  path: '/v1/account/channels',
  access: owner,
  status: 201,
  changes: true,
  input: z
    .object({
      kind: z.enum(['slack', 'discord', 'telegram', 'webhook']),
      name: text(1, 64).optional(),
      url: z.string().optional().describe('slack, discord, webhook: an https address'),
      bot_token: z
        .string()
        .regex(/^\d{1,20}:[\w-]{20,80}$/, 'must be the token that BotFather gave')
        .optional(),
      chat_id: z
        .string()
        .regex(/^(-?\d{1,20}|@\w{4,64})$/, 'must be a chat id or @channel')
        .optional(),
    })
    .superRefine((input, context) => {
      const need = (field: 'url' | 'bot_token' | 'chat_id') => {
        if (input[field] === undefined)
          context.addIssue({ code: 'custom', path: [field], message: `is required for ${input.kind} (string)` })
      }
      if (input.kind === 'telegram') {
        need('bot_token')
        need('chat_id')
      } else need('url')
    }),
  inputErrors: { url: 'invalid_webhook_url' },
  output: channelView.extend({ secret: z.string().optional().describe('Signing secret of a webhook channel') }),
  errors: ['invalid_webhook_url'],
  secretResult: true,
  async run({ notifications }: NotificationOperationDeps, input, context) {
    const isBot = input.kind === 'telegram'
    const channel = await notifications.create(context.caller.accountId, context, {
      role: 'channel',
      kind: input.kind,
      name: plainLine(input.name ?? input.kind),
      target: (isBot ? input.chat_id : input.url) ?? '',
      secret: isBot ? (input.bot_token ?? null) : null,
      thresholds: [],
      events: [],
    })
    return { ...channelJson(channel), ...(channel.kind === 'webhook' && channel.secret && { secret: channel.secret }) }
  },
})

export const listChannels = defineOperation({
  name: 'list_channels',
  title: 'List notification channels',
  description: 'The notification address and every further channel. Nothing shown lets anyone post there.',
  tag: 'Notifications',
  method: 'get',
  path: '/v1/account/channels',
  access: reader,
  input: z.object({}),
  output: z.object({ channels: z.array(channelView) }),
  async run({ notifications, accounts }: NotificationOperationDeps, _input, { caller }) {
    const [channels, account] = await Promise.all([
      notifications.list(caller.accountId, 'channel'),
      accounts.get(caller.accountId),
    ])
    const mail = {
      channel_id: EMAIL_CHANNEL,
      kind: 'email' as const,
      name: EMAIL_CHANNEL,
      target: account.notificationEmail,
      created_at: null,
      verified_at: null,
    }
    return { channels: [mail, ...channels.map(channelJson)] }
  },
})

export const deleteChannel = defineOperation({
  name: 'delete_channel',
  title: 'Remove a notification channel',
  description: 'Nothing is sent there any more, also what is still queued.',
  tag: 'Notifications',
  method: 'delete',
  path: '/v1/account/channels/{channel_id}',
  access: owner,
  input: z.object({ channel_id: channelId }),
  output: z.object({ ok: z.literal(true), channel_id: z.string() }),
  errors: ['not_found'],
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    await notifications.delete(caller.accountId, caller, 'channel', input.channel_id)
    return { ok: true as const, channel_id: input.channel_id }
  },
})

export const testChannel = defineOperation({
  name: 'test_channel',
  title: 'Send a test message to a channel',
  description: 'Sends at once and answers how that went: ok:false with the outcome when it did not arrive.',
  tag: 'Notifications',
  method: 'post',
  path: '/v1/account/channels/{channel_id}/test',
  access: owner,
  input: z.object({ channel_id: channelId }),
  output: testResult,
  errors: ['not_found', 'rate_limited'],
  throttle: testThrottle,
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    return testJson(await notifications.test(caller.accountId, 'channel', input.channel_id))
  },
})

export const deliveryView = z.object({
  delivery_id: z.string(),
  event: z.string(),
  state: z.enum(['queued', 'sent', 'failed']),
  attempts: integer(0, 1000),
  created_at: unixMs,
  next_attempt_at: unixMs.nullable(),
  finished_at: unixMs.nullable(),
  outcome: z.string().nullable().describe('How the last attempt ended'),
})
type DeliveryRow = Awaited<ReturnType<NotificationService['deliveries']>>[number]
export const deliveryJson = (row: DeliveryRow) => ({
  delivery_id: row.eventId,
  event: row.event,
  state: row.state,
  attempts: row.attempts,
  created_at: row.atMs,
  next_attempt_at: row.state === 'queued' ? row.dueMs : null,
  finished_at: row.finishedMs,
  outcome: row.outcome,
})

export const listChannelDeliveries = defineOperation({
  name: 'list_channel_deliveries',
  title: 'What became of messages to a channel',
  description: 'The last 100, newest first: queued, sent or failed, with the outcome of the last attempt.',
  tag: 'Notifications',
  method: 'get',
  path: '/v1/account/channels/{channel_id}/deliveries',
  access: reader,
  input: z.object({ channel_id: channelId }),
  output: z.object({ deliveries: z.array(deliveryView) }),
  errors: ['not_found'],
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    const rows = await notifications.deliveries(caller.accountId, 'channel', input.channel_id)
    return { deliveries: rows.map(deliveryJson) }
  },
})

export const channelOperations = [createChannel, listChannels, listChannelDeliveries, testChannel, deleteChannel]
