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

const WAITING = {
  approval_ref: '019ab5c4-8f3e-7c21-b6d0-5a9e1f7c3b28',
  decision: 'pending',
  agent_id: 'crawler',
  action_summary: 'Crawl 400 more pages of the archive',
  created_at: NOON,
  expires_at: NOON + 900_000,
  effect: 'raises crawler from $5.00 to $10.00 a day; $1.17 is spent',
  terms: '5000000000.0',
}
const DAY = {
  window: 'daily',
  limit_usd: 5,
  cap_usd: 5,
  spent_usd: 1.17,
  remaining_usd: 3.83,
  reset_at: NOON + 43_200_000,
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
  list_approvals: { request: { state: 'pending' }, response: { approvals: [WAITING], next_before: null } },
  decide_approval: {
    request: { approval_ref: WAITING.approval_ref, decision: 'approved', terms: WAITING.terms },
    response: {
      ...WAITING,
      decision: 'approved',
      responder: 'key owner',
      decided_at: NOON + 42_000,
      effect: null,
      terms: null,
    },
  },
  get_settings: { response: { approval_links: 'agent' } },
  update_settings: { request: { approval_links: 'owner' }, response: { approval_links: 'owner' } },
  view_dashboard: {
    request: { agent_id: 'crawler' },
    response: {
      generated_at: NOON,
      operations_remaining: 961,
      operations_used_24h: 39,
      agents: [{ agent_id: 'crawler', depth: 0, limits: [DAY], spent_24h_usd: 1.17, approved_24h: 39 }],
      agents_in_all: 1,
      burn: {
        agent_id: 'crawler',
        window: 'daily',
        limit_usd: 5,
        spent_usd: 1.17,
        from: NOON - 43_200_000,
        to: NOON + 43_200_000,
        points: [
          { at: NOON - 43_200_000, spent_usd: 0 },
          { at: NOON, spent_usd: 1.17 },
        ],
        rate_usd_per_hour: 0.09,
        forecast_usd: 2.25,
        limit_reached_at: null,
      },
      approvals: [
        {
          approval_ref: WAITING.approval_ref,
          agent_id: 'crawler',
          action_summary: WAITING.action_summary,
          effect: WAITING.effect,
          expires_at: NOON + 900_000,
        },
      ],
      decisions: [
        {
          id: '019ab5c4-c0de-7f10-9a3b-2d5e8c7f1a44',
          at: NOON - 4_000,
          kind: 'approved',
          agent_id: 'crawler',
          subject: 'claude-sonnet-4-6',
          amount_usd: 0.03,
          detail: 'open',
        },
      ],
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
