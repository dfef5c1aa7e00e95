import { expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { MAX_NANOUSD } from '../../../src/core/money.ts'
import type { Database } from '../../../src/db/client.ts'
import { envelopePath, expectStatus, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { press, requestApproval } from '../../support/humans.ts'

const CLEAR = { model: 'gpt-4o', estimated_tokens: 1_000_000 }
/** What CLEAR holds. */
const TEN_DOLLARS = 10_000_000_000n
const MODEL = 'gemini-2.5-pro'

/** As if so much had been spent on the way: no test clears nine billion dollars. */
const spend = async (database: Database, accountId: string, agentId: string, amount: bigint) => {
  await database.sql.unsafe(
    `update envelopes set (spent_hourly_nanousd, spent_daily_nanousd, spent_weekly_nanousd, spent_monthly_nanousd, spent_session_nanousd) =
       ($3::bigint, 0, $3::bigint, $3::bigint, $3::bigint) where account_id = $1::uuid and agent_id = $2`,
    [accountId, agentId, String(amount)],
  )
  await database.sql.unsafe('update accounts set version = version + 1 where account_id = $1::uuid', [accountId])
}

describeEachDatabase('at the largest amount that can be stored', (openTestDatabase) => {
  it('clearing, settling, releasing and booking count as much as can be counted, and answer', async () => {
    const database = await openTestDatabase()
    const { api, createAccount, logged } = await openTestApp(database)
    const { key, accountId } = await createAccount(100)
    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1_000_000 }, key))
    await spend(database, accountId, 'a', MAX_NANOUSD - TEN_DOLLARS)
    const clear = () => api.post('/v1/budget/clear', { agent_id: 'a', ...CLEAR }, key)
    const [first, second] = [expectStatus(200, await clear()), expectStatus(200, await clear())]
    expect([first.approved, second.approved]).toEqual([true, true])
    const usage = { agent_id: 'a', actual_input_tokens: 1_000_000_000, actual_output_tokens: 1_000_000_000 }
    expectStatus(200, await api.post('/v1/budget/reconcile', { ...usage, clearance_id: first.clearance_id }, key))
    expectStatus(200, await api.post('/v1/budget/release', { clearance_id: second.clearance_id }, key))
    const booking = { agent_id: 'a', resource_type: 'custom', action: 'x', cost: 900_000 }
    expectStatus(200, await api.post('/v1/book', booking, key))
    const [row] = await database.sql.unsafe(
      'select spent_session_nanousd as spent, spent_daily_nanousd as today from envelopes where account_id = $1 and agent_id = $2',
      [accountId, 'a'],
    )
    // The counter that is full stays so; the one with a limit is exact.
    expect(row?.spent).toBe(MAX_NANOUSD)
    expect(row?.today).toBe(12_500_000_000_000n + 900_000_000_000_000n)
    const envelope = expectStatus(200, await api.get(envelopePath('a'), key))
    expect(envelope.spent_usd).toBe(912_500)
    // A limit on the full window refuses everything, and is readable.
    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1_000_000, window: 'session' }, key))
    expect((await clear()).body).toMatchObject({ approved: false, reason: 'envelope_exceeded', remaining_usd: 0 })
    for (const path of ['/v1/agents', '/v1/agents/a', '/v1/usage/a', '/v1/dashboard', envelopePath('a')])
      expect([path, (await api.get(path, key)).status]).not.toEqual([path, 500])
    expect((await verifyBalances(database, { accountId })).differences.filter(({ kind }) => kind === 'settlement')).toEqual([])
    expect(logged).toEqual([])
  })

  it('raises add up to as much as can be stored', async () => {
    const database = await openTestDatabase()
    const { api, app, createAccount, logged } = await openTestApp(database)
    const { key, accountId } = await createAccount(100)
    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 1 }, key))
    const raise = async () => {
      const asked = await requestApproval(api, key, { agent_id: 'crawler', grant: { extra_usd: 1_000_000, window: 'daily' } })
      await press(app, asked.approval_id, 'approved')
      return expectStatus(200, await api.get(`/v1/approval/check/${asked.approval_id}`, key)).decision
    }
    expect(await raise()).toBe('approved')
    await database.sql.unsafe('update envelopes set extra_daily_nanousd = $2::bigint where account_id = $1::uuid', [
      accountId,
      String(MAX_NANOUSD - 1n),
    ])
    await database.sql.unsafe('update accounts set version = version + 1 where account_id = $1::uuid', [accountId])
    expect(await raise()).toBe('approved')
    expectStatus(200, await api.get(envelopePath('crawler'), key))
    expect((await api.post('/v1/budget/clear', { agent_id: 'crawler', ...CLEAR }, key)).body).toMatchObject({ approved: true })
    expect(logged).toEqual([])
  })

  it('is never reached by one request: the largest are refused as invalid or priced', async () => {
    const { api, createAccount, logged } = await openTestApp(await openTestDatabase())
    const { key } = await createAccount(100)
    const put = (limit_usd: number) => api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd }, key)
    expect((await put(1_000_000)).status).toBe(200)
    for (const limit of [1_000_000.000001, 1e10, 1e300]) expect((await put(limit)).body.error).toBe('invalid_params')
    const clear = (fields: object) => api.post('/v1/budget/clear', { agent_id: 'a', model: 'nobody-knows', ...fields }, key)
    expect((await clear({ estimated_tokens: 1_000_000_000, estimated_input_tokens: 1_000_000_000 })).body).toMatchObject({
      approved: true,
      remaining_usd: 910_000,
    })
    expect((await clear({ estimated_tokens: 1_000_000_001 })).body.error).toBe('invalid_params')
    const book = (cost: number) => api.post('/v1/book', { agent_id: 'a', resource_type: 'custom', action: 'x', cost }, key)
    for (const cost of [1e10, 1e300]) expect((await book(cost)).body.error).toBe('invalid_params')
    expect(logged).toEqual([])
  })
})

describeEachDatabase('a long request', (openTestDatabase) => {
  it('is settled at the prices of its own length, whatever was estimated', async () => {
    const database = await openTestDatabase()
    const { api, app, createAccount } = await openTestApp(database)
    const other = await openTestApp(database)
    const { key } = await createAccount(100)
    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1_000 }, key))
    const cost = async (settledBy: typeof api, estimated: object, actual_input_tokens: number) => {
      const request = { agent_id: 'a', model: MODEL, estimated_tokens: 1_000, ...estimated }
      const { clearance_id } = expectStatus(200, await api.post('/v1/budget/clear', request, key))
      const before = expectStatus(200, await api.get(envelopePath('a'), key)).spent_usd
      const usage = { agent_id: 'a', clearance_id, actual_input_tokens, actual_output_tokens: 1_000 }
      expectStatus(200, await settledBy.post('/v1/budget/reconcile', usage, key))
      const after = expectStatus(200, await api.get(envelopePath('a'), key)).spent_usd
      const held = 'estimated_input_tokens' in estimated ? Number(estimated.estimated_input_tokens) : 0
      return { before, after, held }
    }
    // 1.25/10 a million tokens, above 200,000 of input 2.50/15.
    const drift = async (...of: Parameters<typeof cost>) => {
      const { before, after } = await cost(...of)
      return Number((after - before).toFixed(6))
    }
    expect(await drift(api, {}, 1_000_000)).toBe(2.505)
    // Settled by a process that reads the hold from the database.
    expect(await drift(other.api, {}, 1_000_000)).toBe(2.505)
    expect(await drift(other.api, {}, 200_000)).toBe(0.25)
    expect(await drift(api, { estimated_input_tokens: 1_000_000 }, 1_000)).toBe(Number((0.00125 + 0.01 - 2.515).toFixed(6)))
    await app.sealer.pass()
    const { entries } = expectStatus(200, await api.get('/v1/audit?page_size=1000', key))
    const rates = (entries as { type: string; data: Record<string, unknown> }[])
      .filter(({ type }) => type === 'clearance.approved')
      .map(({ data }) => (data.rates_pusd_per_token as Record<string, string>).input)
    expect(rates).toEqual(['2500000', '1250000', '1250000', '1250000'])
  })
})

describeEachDatabase('a model that no price list knows', (openTestDatabase) => {
  it('is said to be unknown when it is denied; a known one is not', async () => {
    const { api, createAccount } = await openTestApp(await openTestDatabase())
    const { key } = await createAccount(100)
    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key))
    const clear = async (model: string, estimated_tokens: number) =>
      expectStatus(200, await api.post('/v1/budget/clear', { agent_id: 'a', model, estimated_tokens }, key))
    expect(await clear('cluade-haiku', 1000)).toMatchObject({ approved: true })
    expect(await clear('cluade-haiku', 1e9)).toMatchObject({ approved: false, hint: expect.stringContaining('GET /v1/models') })
    expect((await clear('claude-haiku-4-5', 1000)).hint).toBeUndefined()
    expect((await clear('claude-haiku-4-5', 1e9)).hint).not.toContain('GET /v1/models')
  })
})
