import { expect, it } from 'vitest'
import { openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { mcpOf } from '../../support/mcp.ts'

const SEARCH = { agent_id: 'a', resource_type: 'api_call', action: 'web_search', cost: 0.5 }

describeEachDatabase('bookings', (openTestDatabase) => {
  const setUp = async (envelope: object = { agent_id: 'a', limit_usd: 2 }) => {
    const test = await openTestApp(await openTestDatabase())
    const { key, accountId } = await test.createAccount(10)
    await test.api.put('/v1/budget/envelope', envelope, key)
    const book = (fields: object = {}, headers: Record<string, string> = {}) =>
      test.api.post('/v1/book', { ...SEARCH, ...fields }, key, headers)
    return { ...test, key, accountId, book }
  }

  it('are charged to every envelope above the agent, tell what is left per window, and burn one operation', async () => {
    const { api, key, book } = await setUp({ agent_id: 'a', limits: { daily: 2, monthly: 10 } })
    await api.put('/v1/budget/envelope', { agent_id: '*', limits: { daily: 1.75, weekly: 5 } }, key)
    const { status, body } = await book({ metadata: { query: 'x' } })
    expect(status).toBe(200)
    expect(body).toEqual({
      status: 'success',
      cost: 0.5,
      agent_id: 'a',
      booking_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      budgets: [
        { period: 'daily', remaining: 1.25 },
        { period: 'weekly', remaining: 4.5 },
        { period: 'monthly', remaining: 9.5 },
      ],
      operations_remaining: 9,
    })
    expect((await api.get('/v1/budget/envelope/a', key)).body.spent_usd).toBe(0.5)
  })

  it('that do not fit answer 403, say why, cost nothing, and are stored as decisions', async () => {
    const { api, key, accountId, book, database } = await setUp()
    await book({ cost: 1.8 })
    const { status, body } = await book()
    expect(status).toBe(403)
    expect(body).toMatchObject({
      status: 'denied',
      reason: 'daily_budget_exceeded',
      message: 'Daily budget exceeded. Limit: $2.00, Spent: $1.80, Required: $0.50',
      cost: 0.5,
      limit_agent_id: 'a',
      limit_usd: 2,
      spent_usd: 1.8,
      budgets: [{ period: 'daily', remaining: 0.2 }],
    })
    expect(body.hint).toContain('Do not spend')
    expect((await api.get('/v1/account/balance', key)).body.operations_remaining).toBe(9)
    const denials = await database.sql.unsafe('select kind, model, reason from denials where account_id = $1', [accountId])
    expect(denials).toEqual([{ kind: 1, model: 'api_call:web_search', reason: 'envelope_exceeded' }])
  })

  it('are denied without an envelope and without operations', async () => {
    const test = await setUp()
    expect(await test.book({ agent_id: 'b' })).toMatchObject({ status: 403, body: { reason: 'no_envelope', budgets: [] } })
    const poor = await test.createAccount(0)
    await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 2 }, poor.key)
    const { status, body } = await test.api.post('/v1/book', SEARCH, poor.key)
    expect({ status, reason: body.reason }).toEqual({ status: 403, reason: 'no_credits' })
  })

  it('count to the nano-dollar, rounded up, and may be free', async () => {
    const { database, accountId, book } = await setUp()
    await book({ cost: 0.1 })
    await book({ cost: 1e-12 })
    expect((await book({ cost: 0 })).body).toMatchObject({ status: 'success', cost: 0, operations_remaining: 7 })
    const [row] = await database.sql.unsafe('select spent_daily_nanousd as spent from envelopes where account_id = $1', [
      accountId,
    ])
    expect(row?.spent).toBe(100_000_001n)
  })

  it.each([
    [{ cost: -0.01 }, 'cost'],
    [{ cost: 1_000_001 }, 'cost'],
    [{ cost: '1' }, 'cost'],
    [{ cost: null }, 'cost'],
    [{ resource_type: 'bribe' }, 'resource_type'],
    [{ action: '' }, 'action'],
    [{ action: 'x'.repeat(129) }, 'action'],
    [{ metadata: 'text' }, 'metadata'],
    [{ metadata: { text: 'x'.repeat(5000) } }, 'metadata'],
    [{ metadata: { a: { b: { c: { d: { e: { f: 1 } } } } } } }, 'metadata'],
  ])('refuse %j and name the field', async (fields, path) => {
    const { status, body } = await (await setUp()).book(fields)
    expect(status).toBe(400)
    expect(body.error).toBe('invalid_params')
    expect(body.issues.map((issue) => issue.path)).toContain(path)
  })

  it('refuse metadata that is nested without end, at once', async () => {
    const { api, key } = await setUp()
    const deep = `${'{"a":'.repeat(8000)}1${'}'.repeat(8000)}`
    const { status } = await api.post('/v1/book', JSON.stringify(SEARCH).replace('}', `,"metadata":${deep}}`), key)
    expect(status).toBe(400)
  })

  it('with an Idempotency-Key are made once, approved or denied', async () => {
    const { book } = await setUp()
    const first = await book({ cost: 1.5 }, { 'Idempotency-Key': 'one' })
    expect(await book({ cost: 1.5 }, { 'Idempotency-Key': 'one' })).toMatchObject({ status: 200, text: first.text })
    const denied = await book({ cost: 1 }, { 'Idempotency-Key': 'two' })
    expect(denied.status).toBe(403)
    expect(await book({ cost: 1 }, { 'Idempotency-Key': 'two' })).toMatchObject({ status: 403, text: denied.text })
    expect((await book()).body.operations_remaining).toBe(8)
  })

  it('never exceed a limit, however many come at once', async () => {
    const { book, api, key } = await setUp()
    const results = await Promise.all(Array.from({ length: 9 }, () => book()))
    expect(results.map(({ status }) => status).sort()).toEqual([200, 200, 200, 200, 403, 403, 403, 403, 403])
    expect((await api.get('/v1/budget/envelope/a', key)).body.remaining_usd).toBe(0)
  })

  it('are a tool of MCP, where a denial is a result', async () => {
    const { api, key } = await setUp()
    const mcp = mcpOf(api)
    const booked = await mcp.call('book_spend', SEARCH, { key })
    expect(booked.result.structuredContent).toMatchObject({ status: 'success', cost: 0.5 })
    const denied = await mcp.call('book_spend', { ...SEARCH, cost: 5 }, { key })
    expect(denied.result.isError).toBeUndefined()
    expect(denied.result.structuredContent).toMatchObject({ status: 'denied', reason: 'daily_budget_exceeded' })
  })
})
