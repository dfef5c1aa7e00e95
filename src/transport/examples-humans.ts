import type { Example } from './examples.ts'

const NOON = 1_763_812_800_000
const APPROVAL = 'ap_Jr3Xo0cTnq7Zk2uWv9LdYb5sHfEg1iAm'
const CHANNEL = '019ab5c4-9b02-7d3c-8f11-5b7c2a9e6d40'
const WEBHOOK = '019ab5c4-a77d-7b19-9c04-1e8d3f5a2b66'
const DELIVERY_ID = '019ab5c4-b310-7e58-8a2d-7c4f9b1e0d33'
const MAIL = {
  channel_id: 'email',
  kind: 'email',
  name: 'email',
  target: 'owner@example.com',
  created_at: null,
  verified_at: null,
}
const SLACK = {
  channel_id: CHANNEL,
  kind: 'slack',
  name: 'on call',
  target: 'https://hooks.slack.com/…',
  created_at: NOON,
  verified_at: null,
}
const HOOK = {
  webhook_id: WEBHOOK,
  url: 'https://example.com/gvnr',
  name: 'webhook',
  format: 'standard',
  events: ['clearance.denied', 'envelope.threshold'],
  thresholds: [50, 80, 100],
  enabled: true,
  created_at: NOON,
  verified_at: null,
}
const DELIVERED = {
  delivery_id: DELIVERY_ID,
  event: 'clearance.denied',
  state: 'sent',
  attempts: 1,
  created_at: NOON,
  next_attempt_at: null,
  finished_at: NOON + 180,
  outcome: 'answered 200',
}

/** Examples of approvals, channels and webhooks, by operation name. */
export const humanExamples: Readonly<Record<string, Example>> = {
  request_approval: {
    request: {
      agent_id: 'crawler',
      action_summary: 'Crawl 400 more pages of the archive',
      ttl_seconds: 900,
      grant: { limit_usd: 10, window: 'daily' },
    },
    response: {
      approval_id: APPROVAL,
      approval_url: `https://gvnr.example.com/approve/${APPROVAL}`,
      expires_at: NOON + 900_000,
      notification: { email: 'queued' },
    },
  },
  check_approval: {
    request: { approval_id: APPROVAL, wait_seconds: 30 },
    response: {
      approval_id: APPROVAL,
      decision: 'approved',
      agent_id: 'crawler',
      action_summary: 'Crawl 400 more pages of the archive',
      created_at: NOON,
      expires_at: NOON + 900_000,
      responder: 'approval link',
      decided_at: NOON + 42_000,
    },
  },
  create_channel: {
    request: { kind: 'slack', name: 'on call', url: 'https://hooks.slack.com/services/T000/B000/XXXX' },
    response: SLACK,
  },
  list_channels: { response: { channels: [MAIL, SLACK] } },
  list_channel_deliveries: {
    request: { channel_id: CHANNEL },
    response: { deliveries: [{ ...DELIVERED, event: 'approval.requested' }] },
  },
  test_channel: { request: { channel_id: CHANNEL }, response: { ok: true, state: 'sent', outcome: 'answered 200' } },
  delete_channel: { request: { channel_id: CHANNEL }, response: { ok: true, channel_id: CHANNEL } },
  create_webhook: {
    request: { url: HOOK.url, events: HOOK.events },
    response: { ...HOOK, secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwk3vN1xQ0b8c=' },
  },
  list_webhooks: { response: { webhooks: [HOOK] } },
  list_webhook_deliveries: { request: { webhook_id: WEBHOOK }, response: { deliveries: [DELIVERED] } },
  redeliver_webhook: {
    request: { webhook_id: WEBHOOK, delivery_id: DELIVERY_ID },
    response: { ok: true, delivery_id: DELIVERY_ID, state: 'queued' },
  },
  test_webhook: { request: { webhook_id: WEBHOOK }, response: { ok: true, state: 'sent', outcome: 'answered 200' } },
  update_webhook: { request: { webhook_id: WEBHOOK, enabled: false }, response: { ...HOOK, enabled: false } },
  delete_webhook: { request: { webhook_id: WEBHOOK }, response: { ok: true, webhook_id: WEBHOOK } },
}
