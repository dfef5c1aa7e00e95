import type { Example } from './examples.ts'

const ACCOUNT = '019ab5c4-1f00-7c11-8a52-6f0d3c9b7e21'
const KEY = '019ab5c4-3a9c-7f02-b1c4-90ad52e6f7d3'
const OLD_KEY = '019ab5c4-2b10-7d44-9c31-5e0f7a8b9c0d'
const NOON = 1_763_812_800_000
const HASH = '5f0c1b7d1f0f2b9e7c0d4d9f8a3b6e2c1d5a4b3c2f1e0d9c8b7a695847362514'
const LEAD = {
  key_id: KEY,
  name: 'team lead',
  scope: 'read',
  agent_id: 'team',
  created_at: NOON,
  expires_at: NOON + 2_592_000_000,
}
const API_KEY = 'bg_3f9c1e7a5b2d4c6e8f0a1b2c3d4e5f60'
const SWITCH = { ok: true, account_id: ACCOUNT, agent_id: 'team/crawler', changed: true }

/** Of the audit trail, the keys of an organisation, and the operator. */
export const operatorExamples: Readonly<Record<string, Example>> = {
  list_audit: {
    request: { page: 1, page_size: 1, agent_id: 'crawler' },
    response: {
      account_id: ACCOUNT,
      entries: [
        {
          account_id: ACCOUNT,
          seq: 42,
          id: '019ab5c4-7d1e-7a40-9f3b-2c6f0e1d8a55',
          at: NOON,
          type: 'clearance.denied',
          agent_id: 'crawler',
          data: { model: 'claude-sonnet-4-6', estimate_usd: 0.168, estimate_nanousd: '168000000', reason: 'envelope_exceeded' },
          hash: HASH,
        },
      ],
      page: 1,
      page_size: 1,
      has_more: true,
      complete: true,
    },
  },
  get_audit_head: { response: { account_id: ACCOUNT, seq: 42, hash: HASH, sealed_at: NOON + 900 } },
  rotate_key: {
    request: { key_id: OLD_KEY, overlap_seconds: 3600 },
    response: { api_key: API_KEY, ...LEAD, rotated_key_id: OLD_KEY, rotated_key_expires_at: NOON + 3_600_000 },
  },
  rename_key: { request: { key_id: KEY, name: 'team lead' }, response: LEAD },
  admin_generate_key: {
    request: { account_id: ACCOUNT, name: 'team lead', scope: 'read', agent_id: 'team', expires_in_seconds: 2_592_000 },
    response: { api_key: API_KEY, account_id: ACCOUNT, ...LEAD, operations_remaining: 25 },
  },
  admin_refresh_prices: {
    request: { accept: ['grok-9'] },
    response: {
      ok: true,
      models: 212,
      applied: [
        {
          model: 'grok-9',
          before: { input_usd_per_mtok: 1, output_usd_per_mtok: 4 },
          after: { input_usd_per_mtok: 3, output_usd_per_mtok: 15 },
        },
      ],
      removed: [],
      quarantined: [],
      overruled: ['gpt-4o'],
      price_version: 'genai-prices@0.1.8+1f0c9a7e',
    },
  },
  admin_suspend: {
    request: { account_id: ACCOUNT, agent_id: 'team/crawler', reason: 'runs away' },
    response: { ...SWITCH, suspended: true },
  },
  admin_resume: { request: { account_id: ACCOUNT, agent_id: 'team/crawler' }, response: { ...SWITCH, suspended: false } },
  admin_reset_daily: {
    request: { account_id: ACCOUNT, agent_id: 'crawler', reason: 'a test run' },
    response: { ok: true, account_id: ACCOUNT, reset: ['crawler'] },
  },
  admin_reset_monthly: {
    request: { account_id: ACCOUNT },
    response: { ok: true, account_id: ACCOUNT, reset: ['crawler', 'team'] },
  },
}
