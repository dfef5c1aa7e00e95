import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Database } from '../../../src/db/client.ts'
import { operations } from '../../../src/operations.ts'
import { ADMIN_SECRET, type ApiResponse, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

/** Who may ask. `agent` and `readBound` are bound to "team", `agentElsewhere` to "other". */
const CALLERS = [
  'noKey',
  'malformedKey',
  'unknownKey',
  'revokedKey',
  'expiredKey',
  'owner',
  'agent',
  'agentElsewhere',
  'read',
  'readBound',
  'otherOwner',
  'adminSecret',
  'wrongAdminSecret',
] as const
type Caller = (typeof CALLERS)[number]

/** What the request names: things of the account under test, whoever asks. */
type Named = {
  readonly accountId: string
  readonly keyId: string
  readonly clearanceId: string
  readonly key: string
  readonly approvalId: string
  readonly approvalRef: string
  readonly channelId: string
  readonly webhookId: string
}
type Request = { readonly method: string; readonly path: string; readonly body?: unknown }
type Answers = { readonly [C in 'owner' | 'agent' | 'agentElsewhere' | 'read' | 'readBound' | 'otherOwner']: number }
type Row = { readonly request: (named: Named) => Request } & (
  | {
      readonly access: 'key'
      readonly answers: Answers /** Who may ask and is denied, with 403 and no error body. */
      readonly denied?: Caller
    }
  | { readonly access: 'public' | 'admin'; readonly success: number }
)

const get = (path: string): Request => ({ method: 'GET', path })
const post = (path: string, body: unknown): Request => ({ method: 'POST', path, body })
const everyone: Answers = { owner: 200, agent: 200, agentElsewhere: 200, read: 200, readBound: 200, otherOwner: 200 }
/** The owner's alone: raising limits, keys and settings. */
const ownerOnly: Answers = { owner: 200, agent: 403, agentElsewhere: 403, read: 403, readBound: 403, otherOwner: 200 }
/** What an agent does all day, for the agent it is bound to. */
const agentWork: Answers = { owner: 200, agent: 200, agentElsewhere: 403, read: 403, readBound: 403, otherOwner: 200 }
/** Reads of one agent's things. Another account has none under that name. */
const agentRead: Answers = { owner: 200, agent: 200, agentElsewhere: 403, read: 200, readBound: 200, otherOwner: 404 }

/** Settings that a read key may look at, but no agent. */
const settings: Answers = { ...ownerOnly, read: 200, readBound: 200 }
/** What concerns the whole account is nothing for a key that is bound to a path. */
const accountWide: Answers = { ...settings, readBound: 403 }
/** Of one endpoint: another account has none by that id. */
const ofOthers = (answers: Answers): Answers => ({ ...answers, otherOwner: 404 })
/** The server under test takes no money: nobody gets further than that, but who may not ask is told so first. */
const unconfigured: Answers = { ...ownerOnly, owner: 503, otherOwner: 503 }
const NOWHERE = '00000000-0000-7000-8000-000000000000'
const HOOK = 'https://hooks.example.com/gvnr'

const RATE = { agent_id: 'team/a', provider: 'p', model: 'm' }
const USAGE = { agent_id: 'team/a', actual_input_tokens: 1, actual_output_tokens: 1 }
const EMAIL = '/v1/account/notification-email'

/** Contract sections 2 to 6, written out. An operation without a row here fails the first test below. */
const TABLE: Record<string, Row> = {
  create_account: { access: 'public', success: 201, request: () => post('/v1/account', {}) },
  admin_seed: {
    access: 'admin',
    success: 200,
    request: ({ key }) => post('/v1/admin/seed', { api_key: key, operations: 5 }),
  },
  get_account: { access: 'key', answers: everyone, request: () => get('/v1/account') },
  get_balance: { access: 'key', answers: everyone, request: () => get('/v1/account/balance') },
  list_models: { access: 'key', answers: everyone, request: () => get('/v1/models') },
  create_key: {
    access: 'key',
    answers: { ...ownerOnly, owner: 201, otherOwner: 201 },
    request: () => post('/v1/account/keys', { scope: 'read' }),
  },
  list_keys: { access: 'key', answers: settings, request: () => get('/v1/account/keys') },
  revoke_key: {
    access: 'key',
    answers: { ...ownerOnly, otherOwner: 404 },
    request: ({ keyId }) => ({ method: 'DELETE', path: `/v1/account/keys/${keyId}` }),
  },
  rotate_key: {
    access: 'key',
    answers: { ...ownerOnly, owner: 201, otherOwner: 404 },
    request: ({ keyId }) => post(`/v1/account/keys/${keyId}/rotate`, {}),
  },
  rename_key: {
    access: 'key',
    answers: ofOthers(ownerOnly),
    request: ({ keyId }) => ({ method: 'PATCH', path: `/v1/account/keys/${keyId}`, body: { name: 'renamed' } }),
  },
  list_audit: { access: 'key', answers: settings, request: () => get('/v1/audit') },
  get_audit_head: { access: 'key', answers: accountWide, request: () => get('/v1/audit/head') },
  admin_generate_key: { access: 'admin', success: 201, request: () => post('/v1/admin/generate-key', { name: 'first' }) },
  admin_refresh_prices: { access: 'admin', success: 503, request: () => post('/v1/admin/price-cache/refresh', {}) },
  admin_suspend: {
    access: 'admin',
    success: 200,
    request: ({ accountId }) => post('/v1/admin/suspend', { account_id: accountId, agent_id: 'team' }),
  },
  admin_resume: {
    access: 'admin',
    success: 200,
    request: ({ accountId }) => post('/v1/admin/resume', { account_id: accountId, agent_id: 'team' }),
  },
  admin_reset_daily: {
    access: 'admin',
    success: 200,
    request: ({ accountId }) => post('/v1/admin/reset-daily', { account_id: accountId }),
  },
  admin_reset_monthly: {
    access: 'admin',
    success: 200,
    request: ({ accountId }) => post('/v1/admin/reset-monthly', { account_id: accountId }),
  },
  set_notification_email: { access: 'key', answers: ownerOnly, request: () => post(EMAIL, { email: 'new@example.com' }) },
  get_notification_email: { access: 'key', answers: accountWide, request: () => get(EMAIL) },
  delete_notification_email: { access: 'key', answers: ownerOnly, request: () => ({ method: 'DELETE', path: EMAIL }) },
  set_envelope: {
    access: 'key',
    answers: agentWork,
    request: () => ({ method: 'PUT', path: '/v1/budget/envelope', body: { agent_id: 'team/a', limit_usd: 3 } }),
  },
  get_envelope: { access: 'key', answers: agentRead, request: () => get('/v1/budget/envelope/team%2Fa') },
  list_envelopes: { access: 'key', answers: everyone, request: () => get('/v1/budget/envelope') },
  delete_envelope: {
    access: 'key',
    answers: { ...agentWork, otherOwner: 404 },
    request: () => ({ method: 'DELETE', path: '/v1/budget/envelope/team%2Fa' }),
  },
  budget_clear: {
    access: 'key',
    answers: agentWork,
    request: () => post('/v1/budget/clear', { agent_id: 'team/a', model: 'gpt-4o', estimated_tokens: 10 }),
  },
  book_spend: {
    access: 'key',
    // Another account has no envelope there: its booking is denied, which here is a 403 as well.
    answers: { ...agentWork, otherOwner: 403 },
    denied: 'otherOwner',
    request: () => post('/v1/book', { agent_id: 'team/a', resource_type: 'api_call', action: 'search', cost: 0.01 }),
  },
  list_agents: { access: 'key', answers: everyone, request: () => get('/v1/agents') },
  get_agent: { access: 'key', answers: agentRead, request: () => get('/v1/agents/team%2Fa') },
  get_prediction: { access: 'key', answers: agentRead, request: () => get('/v1/agents/team%2Fa/prediction') },
  get_usage: { access: 'key', answers: agentRead, request: () => get('/v1/usage/team%2Fa') },
  reconcile: {
    access: 'key',
    answers: { ...agentWork, otherOwner: 400 },
    request: ({ clearanceId }) => post('/v1/budget/reconcile', { ...USAGE, clearance_id: clearanceId }),
  },
  release: {
    access: 'key',
    // Names a clearance, not an agent: for whoever may not touch it, it does not exist.
    answers: { ...agentWork, agentElsewhere: 400, otherOwner: 400 },
    request: ({ clearanceId }) => post('/v1/budget/release', { clearance_id: clearanceId }),
  },
  set_rate_envelope: {
    access: 'key',
    answers: ownerOnly,
    request: () => ({ method: 'PUT', path: '/v1/rate/envelope', body: { ...RATE, requests_per_minute: 9 } }),
  },
  get_rate_envelope: { access: 'key', answers: agentRead, request: () => get('/v1/rate/envelope/team%2Fa/p/m') },
  delete_rate_envelope: {
    access: 'key',
    answers: { ...ownerOnly, otherOwner: 404 },
    request: () => ({ method: 'DELETE', path: '/v1/rate/envelope/team%2Fa/p/m' }),
  },
  rate_check: { access: 'key', answers: agentWork, request: () => post('/v1/rate/check', RATE) },
  request_approval: {
    access: 'key',
    answers: agentWork,
    request: () => post('/v1/approval/request', { agent_id: 'team/a', action_summary: 'buy a list' }),
  },
  check_approval: {
    access: 'key',
    // An approval of an agent outside the key's path does not exist for it.
    answers: { ...agentRead, agentElsewhere: 404 },
    request: ({ approvalId }) => get(`/v1/approval/check/${approvalId}`),
  },
  list_approvals: { access: 'key', answers: everyone, request: () => get('/v1/approval') },
  decide_approval: {
    access: 'key',
    answers: ofOthers(ownerOnly),
    request: ({ approvalRef }) => post(`/v1/approval/decide/${approvalRef}`, { decision: 'denied' }),
  },
  get_settings: { access: 'key', answers: accountWide, request: () => get('/v1/account/settings') },
  update_settings: {
    access: 'key',
    answers: ownerOnly,
    request: () => ({ method: 'PUT', path: '/v1/account/settings', body: { approval_links: 'owner' } }),
  },
  view_dashboard: { access: 'key', answers: everyone, request: () => get('/v1/dashboard') },
  create_channel: {
    access: 'key',
    answers: { ...ownerOnly, owner: 201, otherOwner: 201 },
    request: () => post('/v1/account/channels', { kind: 'webhook', url: HOOK }),
  },
  list_channels: { access: 'key', answers: accountWide, request: () => get('/v1/account/channels') },
  delete_channel: {
    access: 'key',
    answers: ofOthers(ownerOnly),
    request: ({ channelId }) => ({ method: 'DELETE', path: `/v1/account/channels/${channelId}` }),
  },
  test_channel: {
    access: 'key',
    answers: ofOthers(ownerOnly),
    request: ({ channelId }) => post(`/v1/account/channels/${channelId}/test`, {}),
  },
  list_channel_deliveries: {
    access: 'key',
    answers: ofOthers(accountWide),
    request: ({ channelId }) => get(`/v1/account/channels/${channelId}/deliveries`),
  },
  create_webhook: {
    access: 'key',
    answers: { ...ownerOnly, owner: 201, otherOwner: 201 },
    request: () => post('/v1/webhooks', { url: HOOK }),
  },
  list_webhooks: { access: 'key', answers: accountWide, request: () => get('/v1/webhooks') },
  update_webhook: {
    access: 'key',
    answers: ofOthers(ownerOnly),
    request: ({ webhookId }) => ({ method: 'PATCH', path: `/v1/webhooks/${webhookId}`, body: { name: 'renamed' } }),
  },
  delete_webhook: {
    access: 'key',
    answers: ofOthers(ownerOnly),
    request: ({ webhookId }) => ({ method: 'DELETE', path: `/v1/webhooks/${webhookId}` }),
  },
  test_webhook: {
    access: 'key',
    answers: ofOthers(ownerOnly),
    request: ({ webhookId }) => post(`/v1/webhooks/${webhookId}/test`, {}),
  },
  list_webhook_deliveries: {
    access: 'key',
    answers: ofOthers(accountWide),
    request: ({ webhookId }) => get(`/v1/webhooks/${webhookId}/deliveries`),
  },
  redeliver_webhook: {
    access: 'key',
    answers: { ...ownerOnly, owner: 404, otherOwner: 404 },
    request: ({ webhookId }) => post(`/v1/webhooks/${webhookId}/deliveries/${NOWHERE}/redeliver`, {}),
  },
  topup: { access: 'key', answers: unconfigured, request: () => post('/v1/account/topup?usd=5', {}) },
  topup_pack: { access: 'key', answers: unconfigured, request: () => post('/v1/account/topup/starter', {}) },
  topup_verify: {
    access: 'key',
    answers: unconfigured,
    request: () => post('/v1/account/topup-verify', { tx_hash: `0x${'1'.repeat(64)}` }),
  },
  topup_verify_pack: {
    access: 'key',
    answers: unconfigured,
    request: () => post('/v1/account/topup-verify/starter', { tx_hash: `0x${'1'.repeat(64)}` }),
  },
  list_topups: { access: 'key', answers: accountWide, request: () => get('/v1/account/topups') },
  get_deposit_address: {
    access: 'key',
    answers: { ...unconfigured, read: 503 },
    request: () => get('/v1/account/deposit-address'),
  },
  get_pack: { access: 'public', success: 503, request: () => get('/v1/packs/starter/info') },
  list_payments: { access: 'admin', success: 503, request: () => get('/v1/admin/payments') },
  attribute_payment: {
    access: 'admin',
    success: 503,
    request: () => post(`/v1/admin/payments/${NOWHERE}/attribute`, { account_id: NOWHERE }),
  },
  idempotency_check: {
    access: 'key',
    answers: { ...agentWork, agentElsewhere: 200 },
    request: () => post('/v1/idempotency/check', { key: 'invoice-1' }),
  },
}

/** The answer that the table asks for. */
function expected(row: Row, caller: Caller): { status: number; error?: string } {
  if (row.access !== 'key') {
    const mayCall = row.access === 'public' || caller === 'adminSecret'
    return mayCall ? { status: row.success } : { status: 401, error: 'unauthorized' }
  }
  switch (caller) {
    case 'noKey':
    case 'adminSecret':
    case 'wrongAdminSecret':
      return { status: 401, error: 'missing_api_key' }
    case 'malformedKey':
    case 'unknownKey':
    case 'revokedKey':
    case 'expiredKey':
      return { status: 401, error: 'invalid_api_key' }
    default: {
      const status = row.answers[caller]
      return status === 403 && row.denied !== caller ? { status, error: 'forbidden' } : { status }
    }
  }
}

type World = Named & { readonly keys: { readonly [C in Caller]?: string } }

/** An account with one of everything, a key of every kind, and a second account. */
async function createWorld({ api, clock, createAccount, createKey }: TestApp): Promise<World> {
  const { key: owner, accountId } = await createAccount()
  const other = await createAccount()
  const make = (fields: Record<string, unknown>) => createKey(owner, fields)
  const [agent, agentElsewhere, read, readBound, revoked, expired, victim] = [
    await make({ scope: 'agent', agent_id: 'team' }),
    await make({ scope: 'agent', agent_id: 'other' }),
    await make({ scope: 'read' }),
    await make({ scope: 'read', agent_id: 'team' }),
    await make({}),
    await make({ expires_in_seconds: 1 }),
    await make({}),
  ]
  await api.delete(`/v1/account/keys/${revoked.keyId}`, owner)
  clock.advance(1001)
  await api.put('/v1/budget/envelope', { agent_id: 'team/a', limit_usd: 5 }, owner)
  await api.put('/v1/budget/envelope', { agent_id: 'team', limit_usd: 10 }, owner)
  await api.put('/v1/rate/envelope', { ...RATE, requests_per_minute: 5 }, owner)
  await api.post(EMAIL, { email: 'ops@example.com' }, owner)
  await api.post('/v1/idempotency/check', { key: 'invoice-1' }, owner)
  const clear = await api.post('/v1/budget/clear', { agent_id: 'team/a', model: 'gpt-4o', estimated_tokens: 100 }, owner)
  const approval = await api.post('/v1/approval/request', { agent_id: 'team/a', action_summary: 'buy a list' }, owner)
  const listed = await api.get('/v1/approval', owner)
  const [waiting] = listed.body.approvals as { approval_ref: string }[]
  const channel = await api.post('/v1/account/channels', { kind: 'webhook', url: HOOK }, owner)
  const webhook = await api.post('/v1/webhooks', { url: HOOK }, owner)
  return {
    accountId,
    key: owner,
    approvalId: String(approval.body.approval_id),
    approvalRef: waiting!.approval_ref,
    channelId: String(channel.body.channel_id),
    webhookId: String(webhook.body.webhook_id),
    keyId: victim.keyId,
    clearanceId: clear.body.clearance_id,
    keys: {
      malformedKey: 'bg_not-a-key',
      unknownKey: `bg_${'0'.repeat(32)}`,
      revokedKey: revoked.key,
      expiredKey: expired.key,
      owner,
      agent: agent.key,
      agentElsewhere: agentElsewhere.key,
      read: read.key,
      readBound: readBound.key,
      otherOwner: other.key,
    },
  }
}

const ACCOUNT_TABLES = [
  'accounts',
  'api_keys',
  'envelopes',
  'holds',
  'denials',
  'ledger',
  'idempotency_keys',
  'idempotent_requests',
  'rate_envelopes',
  'approvals',
  'endpoints',
  'outbox',
  'sessions',
  'credits',
  'payment_intents',
  'receiving_addresses',
  'loops',
  'agents',
  'audit_events',
  'audit_seals',
  'usage_spend',
  'usage_heads',
]

/** Every row of one account. */
async function rowsOf({ sql }: Database, accountId: string): Promise<unknown[]> {
  const rows: unknown[] = []
  for (const table of ACCOUNT_TABLES)
    rows.push(...(await sql.unsafe(`select t::text as row from ${table} t where account_id = $1 order by 1`, [accountId])))
  return rows
}

function send({ api }: TestApp, world: World, caller: Caller, request: Request, headers = {}): Promise<ApiResponse> {
  const secret = { adminSecret: ADMIN_SECRET, wrongAdminSecret: `${ADMIN_SECRET}x` }
  const admin = caller === 'adminSecret' || caller === 'wrongAdminSecret' ? { 'X-Admin-Secret': secret[caller] } : {}
  return api.request(request.method, request.path, request.body, world.keys[caller], { ...headers, ...admin })
}

describe('the table of rights', () => {
  it('has a row for every operation and none besides', () => {
    expect(Object.keys(TABLE).sort()).toEqual(operations.map((operation) => operation.name).sort())
  })

  it('asks for the operation that it names', () => {
    const named = {
      accountId: 'n',
      keyId: 'k',
      clearanceId: 'c',
      key: 'x',
      approvalId: 'a',
      approvalRef: 'r',
      channelId: 'h',
      webhookId: 'w',
    }
    for (const { name, method, path } of operations) {
      const request = TABLE[name]!.request(named)
      expect(request.method).toBe(method.toUpperCase())
      expect(request.path.split('?')[0]).toMatch(new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`))
    }
  })
})

describeEachDatabase('rights', (openTestDatabase) => {
  let database: Database
  let test: TestApp
  beforeAll(async () => {
    database = await openTestDatabase()
    test = await openTestApp(database)
  })
  afterAll(() => test.stop())

  it('covers every table with an account in it', async () => {
    const rows = await database.sql.unsafe(
      "select table_name from information_schema.columns where column_name = 'account_id' and table_schema = 'public'",
    )
    expect(rows.map((row) => row.table_name).sort()).toEqual([...ACCOUNT_TABLES].sort())
  })

  for (const [name, row] of Object.entries(TABLE)) {
    it(`${name} answers each caller as the table says`, async () => {
      const wrong: unknown[] = []
      let world = await createWorld(test)
      for (const caller of CALLERS) {
        const before = await rowsOf(database, world.accountId)
        const response = await send(test, world, caller, row.request(world))
        const want = expected(row, caller)
        if (response.status !== want.status || (want.error !== undefined && response.body.error !== want.error))
          wrong.push({ caller, want, got: response.status, body: response.text.slice(0, 200) })
        const isDenial = row.access === 'key' && row.denied === caller && response.body.status === 'denied'
        if (response.status >= 400 && !isErrorBody(response) && !isDenial) wrong.push({ caller, body: response.text })
        // Whoever is refused, and every other account, leaves this account as it was.
        const mayChange = response.status < 400 && caller !== 'otherOwner'
        if (!mayChange && JSON.stringify(await rowsOf(database, world.accountId)) !== JSON.stringify(before))
          wrong.push({ caller, problem: 'the account was changed' })
        const secrets = [world.accountId, world.clearanceId, world.keyId, world.key].filter(
          (secret) => !JSON.stringify(row.request(world)).includes(secret),
        )
        if (caller === 'otherOwner' && secrets.some((secret) => response.text.includes(secret)))
          wrong.push({ caller, problem: 'the answer tells of the account', body: response.text })
        if (response.status < 400 && row.request(world).method !== 'GET') world = await createWorld(test)
      }
      expect(wrong).toEqual([])
      expect(test.logged).toEqual([])
    })
  }

  it('replays a stored response to its own account only', async () => {
    for (const [name, row] of Object.entries(TABLE)) {
      if (
        row.access !== 'key' ||
        row.request({
          accountId: '',
          keyId: '',
          clearanceId: '',
          key: '',
          approvalId: '',
          approvalRef: '',
          channelId: '',
          webhookId: '',
        }).method === 'GET'
      )
        continue
      // Nothing is stored of a server that cannot serve it yet.
      if (row.answers.owner >= 500) continue
      const world = await createWorld(test)
      const headers = { 'Idempotency-Key': 'shared' }
      const first = await send(test, world, 'owner', row.request(world), headers)
      const other = await send(test, world, 'otherOwner', row.request(world), headers)
      const again = await send(test, world, 'owner', row.request(world), headers)
      expect({ name, status: other.status, replayed: other.headers.get('idempotent-replayed') }).toEqual({
        name,
        status: row.answers.otherOwner,
        replayed: null,
      })
      expect({ name, text: again.text, replayed: again.headers.get('idempotent-replayed') }).toEqual({
        name,
        text: first.text,
        replayed: 'true',
      })
      // Who may not do it does not get the stored answer either.
      for (const caller of ['read', 'readBound', 'agentElsewhere', 'revokedKey', 'expiredKey'] as const) {
        const refused = await send(test, world, caller, row.request(world), headers)
        if (expected(row, caller).status < 400) continue
        expect({ name, caller, refused: refused.status >= 400 && isErrorBody(refused) }).toEqual({ name, caller, refused: true })
      }
    }
  })

  it('keeps lists to the account, and a bound key to its path', async () => {
    const world = await createWorld(test)
    await test.api.put('/v1/budget/envelope', { agent_id: 'other', limit_usd: 1 }, world.key)
    await test.api.put('/v1/budget/envelope', { agent_id: 'teammate', limit_usd: 1 }, world.key)
    const seen = async (caller: Caller) => {
      const { body } = await test.api.get('/v1/budget/envelope', world.keys[caller])
      return body.envelopes.map((envelope) => envelope.agent_id)
    }
    expect(await seen('owner')).toEqual(['other', 'team', 'team/a', 'teammate'])
    expect(await seen('read')).toEqual(['other', 'team', 'team/a', 'teammate'])
    expect(await seen('agent')).toEqual(['team', 'team/a'])
    expect(await seen('readBound')).toEqual(['team', 'team/a'])
    expect(await seen('agentElsewhere')).toEqual(['other'])
    expect(await seen('otherOwner')).toEqual([])
    const keysOfOther = await test.api.get('/v1/account/keys', world.keys.otherOwner)
    expect(keysOfOther.body.keys).toHaveLength(1)
  })
})

function isErrorBody({ body }: ApiResponse): boolean {
  return (
    /^[a-z][a-z0-9_]+$/.test(String(body.error)) &&
    typeof body.hint === 'string' &&
    body.hint !== '' &&
    typeof body.retryable === 'boolean'
  )
}
