import { z } from 'zod'
import { defineOperation } from '../core/operation.ts'
import { integer, plainLine, text } from '../core/text.ts'
import { EVENTS, eventsIn, maskOf } from './events.ts'
import {
  deliveryJson,
  deliveryView,
  maskedUrl,
  type NotificationOperationDeps,
  testJson,
  testResult,
  testThrottle,
} from './operations.ts'
import type { Endpoint, EndpointChange } from './service.ts'
import { newSigningSecret } from './signature.ts'

const DEFAULT_THRESHOLDS = [50, 80, 100]
const FORMATS = ['standard', 'slack', 'discord'] as const
const unixMs = z.number().int().describe('Unix milliseconds')
const owner = { kind: 'key', scopes: ['owner'] } as const
const reader = { kind: 'key', scopes: ['owner', 'read'], agentRule: 'none' } as const
const webhookId = text(1, 64)

const fields = {
  url: z.string().describe('An https address of a public host'),
  name: text(1, 64),
  events: z.array(z.enum(EVENTS)).min(1).max(EVENTS.length).describe('Which events to send; all when left out'),
  thresholds: z
    .array(integer(1, 1000))
    .min(1)
    .max(10)
    .describe('Percentages of a limit at which envelope.threshold is sent; 50, 80 and 100 when left out'),
}

const webhookView = z.object({
  webhook_id: z.string(),
  url: z.string().describe('Slack and Discord: host only, the rest is a secret'),
  name: z.string(),
  format: z.enum(FORMATS).describe('standard: JSON signed as Standard Webhooks says; slack, discord: a message in their format'),
  events: z.array(z.enum(EVENTS)),
  thresholds: z.array(z.number().int()),
  enabled: z.boolean(),
  created_at: unixMs,
  verified_at: unixMs.nullable().describe('When a test message last arrived'),
})
const secretView = webhookView.extend({
  secret: z.string().optional().describe('Signs what is sent in the standard format; shown when made, never again'),
})

const webhookJson = (webhook: Endpoint) => ({
  webhook_id: webhook.endpointId,
  url: webhook.kind === 'webhook' ? webhook.target : maskedUrl(webhook.target),
  name: webhook.name,
  format: webhook.kind === 'slack' || webhook.kind === 'discord' ? webhook.kind : ('standard' as const),
  events: eventsIn(webhook.eventMask),
  thresholds: webhook.thresholds,
  enabled: webhook.enabled,
  created_at: webhook.createdMs,
  verified_at: webhook.verifiedMs,
})
const ascending = (numbers: readonly number[]): number[] => [...new Set(numbers)].sort((a, b) => a - b)

export const createWebhook = defineOperation({
  name: 'create_webhook',
  title: 'Add a webhook',
  description:
    'Posts events of the account to your address: refusals, thresholds, approvals, keys, top-ups. Signed as Standard Webhooks says (webhook-id, webhook-timestamp, webhook-signature); each delivery arrives at least once, in order per subject. clearance.denied and rate.exceeded are sent the first time in a minute per agent and model.',
  tag: 'Webhooks',
  method: 'post',
  path: '/v1/webhooks',
  access: owner,
  status: 201,
  changes: true,
  input: z.object({
    url: fields.url,
    name: fields.name.optional(),
    format: z.enum(FORMATS).optional().describe('standard when left out'),
    events: fields.events.optional(),
    thresholds: fields.thresholds.optional(),
  }),
  inputErrors: { url: 'invalid_webhook_url' },
  output: secretView,
  errors: ['invalid_webhook_url'],
  secretResult: true,
  async run({ notifications }: NotificationOperationDeps, input, context) {
    const kind = input.format === undefined || input.format === 'standard' ? 'webhook' : input.format
    const webhook = await notifications.create(context.caller.accountId, context, {
      role: 'webhook',
      kind,
      name: plainLine(input.name ?? 'webhook'),
      target: input.url,
      secret: null,
      thresholds: ascending(input.thresholds ?? DEFAULT_THRESHOLDS),
      events: input.events ?? EVENTS,
    })
    return { ...webhookJson(webhook), ...(webhook.secret && { secret: webhook.secret }) }
  },
})

export const listWebhooks = defineOperation({
  name: 'list_webhooks',
  title: 'List webhooks',
  description: 'Every webhook of the account, oldest first, without their secrets.',
  tag: 'Webhooks',
  method: 'get',
  path: '/v1/webhooks',
  access: reader,
  input: z.object({}),
  output: z.object({ webhooks: z.array(webhookView) }),
  async run({ notifications }: NotificationOperationDeps, _input, { caller }) {
    return { webhooks: (await notifications.list(caller.accountId, 'webhook')).map(webhookJson) }
  },
})

export const updateWebhook = defineOperation({
  name: 'update_webhook',
  title: 'Change a webhook',
  description: 'Changes the fields that are given. rotate_secret makes a new signing secret, which the answer holds once.',
  tag: 'Webhooks',
  method: 'patch',
  path: '/v1/webhooks/{webhook_id}',
  access: owner,
  changes: true,
  input: z.object({
    webhook_id: webhookId,
    url: fields.url.optional(),
    name: fields.name.optional(),
    events: fields.events.optional(),
    thresholds: fields.thresholds.optional(),
    enabled: z.boolean().optional().describe('false stops sending; what is queued is given up'),
    rotate_secret: z.literal(true).optional(),
  }),
  inputErrors: { url: 'invalid_webhook_url' },
  output: secretView,
  errors: ['not_found', 'invalid_webhook_url'],
  secretResult: true,
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    const before = await notifications.get(caller.accountId, 'webhook', input.webhook_id)
    const secret = input.rotate_secret && before.kind === 'webhook' ? newSigningSecret() : undefined
    const change: EndpointChange = {
      ...(input.url !== undefined && { target: input.url }),
      ...(input.name !== undefined && { name: plainLine(input.name) }),
      ...(input.events !== undefined && { eventMask: maskOf(input.events) }),
      ...(input.thresholds !== undefined && { thresholds: ascending(input.thresholds) }),
      ...(input.enabled !== undefined && { enabled: input.enabled }),
      ...(secret !== undefined && { secret }),
    }
    const after =
      Object.keys(change).length === 0
        ? before
        : await notifications.update(caller.accountId, caller, 'webhook', input.webhook_id, change)
    return { ...webhookJson(after), ...(secret !== undefined && { secret }) }
  },
})

export const deleteWebhook = defineOperation({
  name: 'delete_webhook',
  title: 'Delete a webhook',
  description: 'Nothing is sent there any more, also what is still queued.',
  tag: 'Webhooks',
  method: 'delete',
  path: '/v1/webhooks/{webhook_id}',
  access: owner,
  input: z.object({ webhook_id: webhookId }),
  output: z.object({ ok: z.literal(true), webhook_id: z.string() }),
  errors: ['not_found'],
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    await notifications.delete(caller.accountId, caller, 'webhook', input.webhook_id)
    return { ok: true as const, webhook_id: input.webhook_id }
  },
})

export const testWebhook = defineOperation({
  name: 'test_webhook',
  title: 'Send a test event',
  description:
    'Sends an event of type "test" at once and answers how that went: ok:false with the outcome when it did not arrive.',
  tag: 'Webhooks',
  method: 'post',
  path: '/v1/webhooks/{webhook_id}/test',
  access: owner,
  input: z.object({ webhook_id: webhookId }),
  output: testResult,
  errors: ['not_found', 'rate_limited'],
  throttle: testThrottle,
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    return testJson(await notifications.test(caller.accountId, 'webhook', input.webhook_id))
  },
})

export const listWebhookDeliveries = defineOperation({
  name: 'list_webhook_deliveries',
  title: 'What became of events',
  description: 'The last 100 deliveries to a webhook, newest first. Those that failed for good stay here for a week.',
  tag: 'Webhooks',
  method: 'get',
  path: '/v1/webhooks/{webhook_id}/deliveries',
  access: reader,
  input: z.object({ webhook_id: webhookId }),
  output: z.object({ deliveries: z.array(deliveryView) }),
  errors: ['not_found'],
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    const rows = await notifications.deliveries(caller.accountId, 'webhook', input.webhook_id)
    return { deliveries: rows.map(deliveryJson) }
  },
})

export const redeliverWebhook = defineOperation({
  name: 'redeliver_webhook',
  title: 'Send an event again',
  description: 'Queues a finished delivery once more, with its first id. An approval link is not in it any more.',
  tag: 'Webhooks',
  method: 'post',
  path: '/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver',
  access: owner,
  changes: true,
  input: z.object({ webhook_id: webhookId, delivery_id: text(1, 64) }),
  output: z.object({ ok: z.literal(true), delivery_id: z.string(), state: z.literal('queued') }),
  errors: ['not_found'],
  async run({ notifications }: NotificationOperationDeps, input, { caller }) {
    await notifications.redeliver(caller.accountId, input.webhook_id, input.delivery_id)
    return { ok: true as const, delivery_id: input.delivery_id, state: 'queued' as const }
  },
})

export const webhookOperations = [
  createWebhook,
  listWebhooks,
  listWebhookDeliveries,
  redeliverWebhook,
  testWebhook,
  updateWebhook,
  deleteWebhook,
]
