import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Database } from '../../../src/db/client.ts'
import { ADMIN_SECRET, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

describeEachDatabase('metrics', (openTestDatabase) => {
  let database: Database
  let test: TestApp
  beforeAll(async () => {
    database = await openTestDatabase()
    test = await openTestApp(database)
    test.app.metrics.start()
  })
  afterAll(() => test.stop())

  /** The sample lines as `name{labels}` → value. */
  const scrape = async (app = test) => {
    const response = await app.api.get('/metrics', undefined, { 'X-Admin-Secret': ADMIN_SECRET })
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toMatch(/^text\/plain; version=/)
    const lines = response.text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
    return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]))
  }
  const figures = async () => {
    expect(await test.app.figures.refresh()).toBe(true)
    const all = await scrape()
    return (name: string) => all.get(name)
  }

  it('are for the operator only, unless they are made public', async () => {
    const { key } = await test.createAccount()
    for (const headers of [{}, { 'X-Admin-Secret': 'x' }, { Authorization: `Bearer ${key}` }, { Authorization: 'Bearer x' }])
      expect((await test.api.get('/metrics', undefined, headers as Record<string, string>)).body.error).toBe('unauthorized')
    expect((await test.api.get(`/metrics?api_key=${encodeURIComponent(ADMIN_SECRET)}`)).status).toBe(401)
    for (const headers of [{ 'X-Admin-Token': ADMIN_SECRET }, { Authorization: `Bearer ${ADMIN_SECRET}` }])
      expect((await test.api.get('/metrics', undefined, headers as Record<string, string>)).status).toBe(200)
    const open = await openTestApp(database, { config: { METRICS_PUBLIC: true } })
    expect((await open.api.get('/metrics')).status).toBe(200)
    const without = await openTestApp(database, { config: { ADMIN_SECRET: undefined } })
    expect((await without.api.get('/metrics', undefined, { Authorization: 'Bearer undefined' })).status).toBe(401)
  })

  it('count decisions, calls, rate and idempotency by outcome, on every transport', async () => {
    const { key, accountId } = await test.createAccount(2)
    await test.api.put('/v1/budget/envelope', { agent_id: 'secret-agent', limit_usd: 0.06 }, key)
    const clear = (agent_id: string, estimated_tokens: number) =>
      test.api.post('/v1/budget/clear', { agent_id, model: 'claude-opus-4-8', estimated_tokens }, key)
    const before = await scrape()
    await clear('secret-agent', 1000)
    await clear('secret-agent', 1_000_000)
    await clear('nobody', 1)
    await clear('nobody', -1)
    await test.api.post(
      '/v1/budget/reconcile',
      { agent_id: 'secret-agent', actual_input_tokens: 1, actual_output_tokens: 1 },
      key,
    )
    const share = { agent_id: 'secret-agent', provider: 'p', model: 'm' }
    await test.api.put('/v1/rate/envelope', { ...share, requests_per_minute: 1 }, key)
    for (let n = 0; n < 3; n++) await test.api.post('/v1/rate/check', share, key)
    for (let n = 0; n < 2; n++) await test.api.post('/v1/idempotency/check', { key: 'k' }, key)
    for (let n = 0; n < 2; n++) await test.api.post('/v1/budget/release', { clearance_id: 'x' }, key, { 'Idempotency-Key': 'i' })
    for (let n = 0; n < 2; n++) await test.api.post('/v1/idempotency/check', { key: 'm' }, key, { 'Idempotency-Key': 'j' })
    const call = { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'get_balance', arguments: {} } }
    await test.api.post('/mcp', call, key, { Accept: 'application/json, text/event-stream' })
    const after = await scrape()
    const grown = Object.fromEntries([...after].map(([name, value]) => [name, value - (before.get(name) ?? 0)]))
    expect(grown).toMatchObject({
      'gvnr_decisions_total{kind="clearance",outcome="approved",reason=""}': 1,
      'gvnr_decisions_total{kind="clearance",outcome="denied",reason="envelope_exceeded"}': 1,
      'gvnr_decisions_total{kind="clearance",outcome="denied",reason="no_envelope"}': 1,
      'gvnr_settlements_total{outcome="settled"}': 1,
      'gvnr_operations_total{operation="budget_clear",transport="rest",outcome="ok"}': 3,
      'gvnr_operations_total{operation="budget_clear",transport="rest",outcome="invalid_params"}': 1,
      'gvnr_operation_duration_seconds_count{operation="budget_clear",transport="rest"}': 4,
      'gvnr_operation_duration_seconds_count{operation="get_balance",transport="mcp"}': 1,
      'gvnr_rate_checks_total{outcome="allowed"}': 1,
      'gvnr_rate_checks_total{outcome="rate_exceeded"}': 2,
      'gvnr_idempotency_checks_total{outcome="first"}': 2,
      'gvnr_idempotency_checks_total{outcome="repeat"}': 1,
      gvnr_idempotent_replays_total: 2,
      'gvnr_operations_total{operation="release",transport="rest",outcome="no_pending_clearance"}': 2,
    })
    expect(grown.gvnr_engine_batch_commands_count).toBeGreaterThan(3)
    expect(after.get('gvnr_engine_commands_total')).toBeGreaterThan(3)
    expect(after.get('gvnr_engine_queue_depth')).toBe(0)
    expect(after.get('process_resident_memory_bytes')).toBeGreaterThan(0)
    const text = [...after.keys()].join('\n')
    for (const private_ of [accountId, key, 'secret-agent']) expect(text).not.toContain(private_)
  })

  it('show the figures of the database, computed by one process and exported by all', async () => {
    const { key } = await test.createAccount()
    await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 5 }, key)
    const clear = (hold_seconds: number) =>
      test.api.post('/v1/budget/clear', { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 10, hold_seconds }, key)
    const start = await figures()
    await clear(1)
    await clear(3600)
    test.clock.advance(2000)
    const now = await figures()
    expect([now('gvnr_holds{state="open"}'), now('gvnr_holds{state="expired"}')]).toEqual([
      (start('gvnr_holds{state="open"}') ?? 0) + 1,
      (start('gvnr_holds{state="expired"}') ?? 0) + 1,
    ])
    const second = await openTestApp(database, { clock: test.clock })
    expect(await second.app.figures.refresh()).toBe(false)
    expect((await scrape(second as TestApp)).get('gvnr_holds{state="expired"}')).toBe(now('gvnr_holds{state="expired"}'))
    expect([now('overshoot_nanousd'), now('leaked_holds'), now('unattributed_payments')]).toEqual([0, 0, 0])
  })

  it('stay 0 through lowered limits, raises, resets, drift and release', async () => {
    const { key, accountId } = await test.createAccount()
    const put = (limit_usd: number) => test.api.put('/v1/budget/envelope', { agent_id: 'a/b', limit_usd }, key)
    const clear = async (estimated_tokens: number) => {
      const body = { agent_id: 'a/b', model: 'claude-opus-4-8', estimated_tokens }
      return (await test.api.post('/v1/budget/clear', body, key)).body
    }
    await put(1)
    expect(await clear(40_000)).toMatchObject({ approved: true })
    await put(0.5)
    expect(await clear(1)).toMatchObject({ approved: false })
    await put(3)
    const { clearance_id } = await clear(80_000)
    const used = { agent_id: 'a/b', clearance_id, actual_input_tokens: 0, actual_output_tokens: 9_000_000 }
    await test.api.post('/v1/budget/reconcile', used, key)
    await test.api.admin('/v1/admin/reset-daily', { account_id: accountId })
    const second = await clear(100_000)
    await test.api.post('/v1/budget/release', { clearance_id: second.clearance_id }, key)
    expect(await clear(110_000)).toMatchObject({ approved: true })
    const now = await figures()
    expect([now('overshoot_nanousd'), now('leaked_holds')]).toEqual([0, 0])
    expect(test.logged).toEqual([])
  })

  it('tell of a hold that went past the limit, and of one that leaked', async () => {
    const { key, accountId } = await test.createAccount()
    await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key)
    const clear = () =>
      test.api.post('/v1/budget/clear', { agent_id: 'a', model: 'claude-opus-4-8', estimated_tokens: 30_000 }, key)
    expect((await clear()).body).toMatchObject({ approved: true })
    // What a second writer that knows nothing of the first would do.
    await database.sql.unsafe(
      `insert into holds select account_id, gen_random_uuid(), agent_id, kind, state, model, estimate_nanousd, rates, charged, taken_ms, taken_version, expires_ms
       from holds where account_id = $1`,
      [accountId],
    )
    await database.sql.unsafe('update accounts set version = version + 1 where account_id = $1', [accountId])
    expect((await figures())('overshoot_nanousd')).toBe(500_000_000)
    await database.sql.unsafe('update holds set state = 2, resolved_ms = 1, actual_nanousd = 0 where account_id = $1', [
      accountId,
    ])
    await database.sql.unsafe('update accounts set version = version + 1 where account_id = $1', [accountId])
    const now = await figures()
    expect([now('overshoot_nanousd'), now('leaked_holds')]).toEqual([0, 2])
    expect(test.logged.every(({ msg }) => msg === 'balances are wrong')).toBe(true)
    await database.sql.unsafe('delete from holds where account_id = $1', [accountId])
    await database.sql.unsafe('update accounts set version = version + 1 where account_id = $1', [accountId])
    expect((await figures())('leaked_holds')).toBe(0)
  })
})
