import { enforcementExamples } from './examples-enforcement.ts'
import { humanExamples } from './examples-humans.ts'
import { operatorExamples } from './examples-operator.ts'

/** One request and its answer, as the reference shows them. */
export type Example = {
  /** The whole input: path, query and body fields. Absent when there is none. */
  readonly request?: Readonly<Record<string, unknown>>
  readonly response: Readonly<Record<string, unknown>>
}

const CLEARANCE = '019ab5c4-7d1e-7a40-9f3b-2c6f0e1d8a55'
const ACCOUNT = '019ab5c4-1f00-7c11-8a52-6f0d3c9b7e21'
const KEY = '019ab5c4-3a9c-7f02-b1c4-90ad52e6f7d3'
const NOON = 1_763_812_800_000
const MIDNIGHT = 1_763_856_000_000
const SHARE = { agent_id: 'crawler', provider: 'anthropic', model: 'claude-sonnet-4-6' }
const DAILY = { window: 'daily', limit_usd: 5, spent_usd: 0.12, remaining_usd: 4.88, reset_at: MIDNIGHT }
const ENVELOPE = { agent_id: 'crawler', ...DAILY, limits: [DAILY] }
const PAYER = '0x70997970c51812dc3a010c7d01b50e0d17dc79c8'
const RECEIVER = '0x9965507d1a55bcc2695c58ba16fb37d819b0a4dc'
const USDC = '0x036CbD53842c5426634e7929541eC2318f3dCF7e'
const TX = '0x52a6c1f0d9b8e7a65f4e3d2c1b0a99887766554433221100ffeeddccbbaae341'
const PAID = { operations_remaining: 5025, credited_ops: 5000, credited_usd: 5 }
const RECEIPT = {
  topup_id: '019ab5c4-9e10-7d33-a1b2-4c5d6e7f8091',
  state: 'credited',
  source: 'x402',
  amount_usd: 5,
  ops: 5000,
  payer: PAYER,
  receiver: RECEIVER,
  tx_hash: TX,
  explorer_url: `https://sepolia.basescan.org/tx/${TX}`,
  block_number: 33_912_004,
  created_at: NOON,
  credited_at: NOON + 180,
}
const AGENT_KEY = { name: 'crawler', scope: 'agent', agent_id: 'crawler', created_at: NOON, expires_at: null }

/** By operation name. A test holds each against the operation's schemas and fails when one is missing. */
export const examples: Readonly<Record<string, Example>> = {
  ...humanExamples,
  ...enforcementExamples,
  ...operatorExamples,
  budget_clear: {
    request: { agent_id: 'crawler', model: 'claude-sonnet-4-6', estimated_tokens: 2000, estimated_input_tokens: 6000 },
    response: {
      approved: true,
      remaining_usd: 4.832,
      operations_remaining: 24,
      clearance_id: CLEARANCE,
      expires_at: NOON + 3_600_000,
    },
  },
  reconcile: {
    request: { agent_id: 'crawler', clearance_id: CLEARANCE, actual_input_tokens: 5812, actual_output_tokens: 1140 },
    response: {
      ok: true,
      drift_usd: -0.013464,
      remaining_usd: 4.845464,
      operations_remaining: 24,
      clearance_id: CLEARANCE,
    },
  },
  release: {
    request: { clearance_id: CLEARANCE },
    response: { ok: true, released_usd: 0.048, remaining_usd: 4.88, operations_remaining: 24, clearance_id: CLEARANCE },
  },
  set_envelope: {
    request: { agent_id: 'crawler', limit_usd: 5, window: 'daily' },
    response: { success: true, agent_id: 'crawler', limit_usd: 5, window: 'daily' },
  },
  get_envelope: { request: { agent_id: 'crawler' }, response: ENVELOPE },
  list_envelopes: { response: { envelopes: [ENVELOPE] } },
  delete_envelope: { request: { agent_id: 'crawler' }, response: { success: true, agent_id: 'crawler' } },
  rate_check: { request: SHARE, response: { allowed: true, requests_remaining_this_minute: 59 } },
  set_rate_envelope: {
    request: { ...SHARE, requests_per_minute: 60 },
    response: { success: true, ...SHARE, requests_per_minute: 60 },
  },
  get_rate_envelope: {
    request: SHARE,
    response: { ...SHARE, requests_per_minute: 60, requests_in_window: 1, window_start: NOON },
  },
  delete_rate_envelope: { request: SHARE, response: { success: true, ...SHARE } },
  idempotency_check: {
    request: { key: 'invoice-4711-paid', ttl_seconds: 86_400 },
    response: { is_first_call: true, ttl_remaining_seconds: 86_400 },
  },
  create_account: {
    response: { api_key: 'bg_0123456789abcdef0123456789abcdef', account_id: ACCOUNT, operations_remaining: 25 },
  },
  get_account: {
    response: {
      account_id: ACCOUNT,
      operations_remaining: 25,
      created_at: NOON,
      key: { key_id: ACCOUNT, name: 'owner', scope: 'owner', agent_id: null, expires_at: null },
    },
  },
  get_balance: { response: { operations_remaining: 25 } },
  create_key: {
    request: { name: 'crawler', scope: 'agent', agent_id: 'crawler' },
    response: { api_key: 'bg_fedcba9876543210fedcba9876543210', key_id: KEY, ...AGENT_KEY },
  },
  list_keys: { response: { keys: [{ key_id: KEY, ...AGENT_KEY, last_used_at: NOON, revoked_at: null }] } },
  revoke_key: { request: { key_id: KEY }, response: { ok: true, key_id: KEY } },
  set_notification_email: {
    request: { email: 'ops@example.com' },
    response: { ok: true, notification_email: 'ops@example.com' },
  },
  get_notification_email: { response: { notification_email: 'ops@example.com' } },
  delete_notification_email: { response: { ok: true } },
  admin_seed: {
    request: { api_key: 'bg_0123456789abcdef0123456789abcdef', operations: 5000 },
    response: { ok: true, credited_ops: 5000, operations_remaining: 5025 },
  },
  topup: {
    request: { usd: '5' },
    response: { ...PAID, tx_hash: TX, payer: PAYER, network: 'eip155:84532' },
  },
  topup_pack: {
    request: { pack: 'starter' },
    response: {
      operations_remaining: 19_025,
      credited_ops: 19_000,
      credited_usd: 19,
      tx_hash: TX,
      payer: PAYER,
      network: 'eip155:84532',
      pack: 'starter',
    },
  },
  topup_verify: { request: { tx_hash: TX }, response: PAID },
  topup_verify_pack: { request: { tx_hash: TX, pack: 'starter' }, response: { ...PAID, pack: 'starter' } },
  list_topups: { response: { topups: [RECEIPT] } },
  get_deposit_address: {
    response: {
      deposit_address: '0x976EA74026E726554dB657fA54763abd0C3a0aa9',
      is_own: true,
      network_name: 'Base Sepolia (test network)',
      chain_id: 84_532,
      usdc_contract: USDC,
    },
  },
  get_pack: {
    request: { pack: 'starter' },
    response: {
      pack: 'starter',
      amount_usd: 19,
      ops: 19_000,
      description: '19,000 governance operations: a few agents in development.',
      network_name: 'Base Sepolia (test network)',
      chain_id: 84_532,
      usdc_contract: USDC,
      usdc_amount_raw: '19000000',
      payto_address: '0x9965507D1a55bcC2695C58ba16FB37d819B0A4dc',
    },
  },
  list_payments: {
    request: { state: 'unattributed' },
    response: {
      payments: [{ ...RECEIPT, state: 'unattributed', source: null, ops: 0, credited_at: null, account_id: null }],
    },
  },
  attribute_payment: {
    request: { payment_id: RECEIPT.topup_id, account_id: ACCOUNT },
    response: { ok: true, credited_ops: 5000, credited_usd: 5, operations_remaining: 5025 },
  },
  list_models: {
    response: {
      object: 'list',
      data: [
        {
          id: 'claude-sonnet-4-6',
          object: 'model',
          created: 0,
          owned_by: 'anthropic',
          pricing: {
            input_usd_per_mtok: 3,
            output_usd_per_mtok: 15,
            cached_input_usd_per_mtok: 0.3,
            input_only: false,
          },
        },
      ],
      price_version: 'genai-prices@0.1.8+1a2b3c4d',
    },
  },
}
