import { expect, it } from 'vitest'
import { ManualClock } from '../../../src/core/clock.ts'
import { NOON, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const HOUR = 3_600_000
const MINUTE = 60_000

/** Ids of one process never go back in time, so neither does the clock from one test to the next. */
let day = 0

type Agent = { agent_id: string; [field: string]: unknown }

describeEachDatabase('agents and their usage', (openTestDatabase) => {
  const setUp = async () => {
    const clock = new ManualClock(NOON + ++day * 24 * HOUR)
    const test = await openTestApp(await openTestDatabase(), { clock })
    const { key, accountId } = await test.createAccount(500)
    const { api } = test
    await api.put('/v1/budget/envelope', { agent_id: 'team', limit_usd: 10 }, key)
    const book = (cost: number, agent_id = 'team/a', action = 'search') =>
      api.post('/v1/book', { agent_id, resource_type: 'api_call', action, cost }, key)
    const clear = (agent_id: string, tokens = 1000) =>
      api.post('/v1/budget/clear', { agent_id, model: 'gpt-4o', estimated_tokens: tokens }, key)
    const list = async (query = '', caller = key) => {
      const { body } = await api.get(`/v1/agents${query}`, caller)
      return { agents: body.agents as Agent[], next: body.next_after as string | null }
    }
    const agent = async (id: string, caller = key) => (await api.get(`/v1/agents/${encodeURIComponent(id)}`, caller)).body
    const predict = async (id: string, query = '') =>
      (await api.get(`/v1/agents/${encodeURIComponent(id)}/prediction${query}`, key)).body
    return { ...test, key, accountId, book, clear, list, agent, predict }
  }

  it('are those that asked for something or have an envelope, with what they spend', async () => {
    const { book, clear, list, agent, clock, api, key } = await setUp()
    await book(0.5)
    clock.advance(5 * MINUTE)
    const { clearance_id } = (await clear('team/a')).body
    await clear('team/b')
    await clear('loner')
    const { agents, next } = await list()
    expect(next).toBeNull()
    expect(agents.map(({ agent_id }) => agent_id).sort()).toEqual(['loner', 'team', 'team/a', 'team/b'])
    const team = await agent('team')
    expect(team).toMatchObject({
      first_seen_at: null,
      last_activity_at: null,
      suspended: false,
      open_holds: 0,
      spent_usd: { hourly: 0.52, daily: 0.52, session: 0.52 },
      limits: [{ window: 'daily', limit_usd: 10, spent_usd: 0.52, remaining_usd: 9.48 }],
    })
    expect(await agent('team/a')).toMatchObject({
      first_seen_at: clock.now() - 5 * MINUTE,
      last_activity_at: clock.now(),
      open_holds: 1,
      open_usd: 0.01,
      spent_usd: null,
      limits: [],
    })
    await api.post('/v1/budget/release', { clearance_id }, key)
    clock.advance(2 * HOUR)
    expect(await agent('team/a')).toMatchObject({ open_holds: 0, open_usd: 0 })
    expect(await agent('team/b')).toMatchObject({ open_holds: 0 })
  })

  it('are listed in pages, each agent once', async () => {
    const { clear, list } = await setUp()
    for (const agent of ['a', 'b', 'c', 'd', 'e']) await clear(agent)
    const seen: string[] = []
    let after = ''
    for (let page = 0; page < 9; page++) {
      const { agents, next } = await list(`?limit=2${after === '' ? '' : `&after=${after}`}`)
      seen.push(...agents.map(({ agent_id }) => agent_id))
      expect(agents.length).toBeLessThanOrEqual(2)
      if (next === null) break
      after = next
    }
    expect(seen.sort()).toEqual(['a', 'b', 'c', 'd', 'e', 'team'])
  })

  it('show that they are suspended, and by what', async () => {
    const { app, accountId, book, agent } = await setUp()
    await book(0.1)
    const call = { operationId: '019ab5c4-1f00-7c11-8a52-6f0d3c9b7e22', resumed: false }
    await app.budgets.setSuspended(accountId, call, 'team', true, 'test')
    expect(await agent('team/a')).toMatchObject({ suspended: true, suspended_agent_id: 'team' })
  })

  it('are kept to the account, and a bound key to its path', async () => {
    const { book, clear, list, createKey, createAccount, key, api } = await setUp()
    await book(0.1)
    await clear('teammate')
    const bound = await createKey(key, { scope: 'read', agent_id: 'team' })
    expect((await list('', bound.key)).agents.map(({ agent_id }) => agent_id).sort()).toEqual(['team', 'team/a'])
    const other = await createAccount(1)
    expect((await list('', other.key)).agents).toEqual([])
    for (const path of ['agents/team%2Fa', 'agents/team%2Fa/prediction', 'usage/team%2Fa', 'agents/nobody']) {
      expect((await api.get(`/v1/${path}`, path === 'agents/nobody' ? key : other.key)).status, path).toBe(404)
      if (path !== 'agents/nobody') expect((await api.get(`/v1/${path}`, bound.key)).status, path).toBe(200)
    }
    expect((await api.get('/v1/usage/teammate', bound.key)).status).toBe(403)
  })

  it('have their spend told per hour and per model, with tokens where they are known', async () => {
    const { book, clear, api, key, clock } = await setUp()
    const from = clock.now()
    await book(0.5)
    const { clearance_id } = (await clear('team/a')).body
    const usage = {
      agent_id: 'team/a',
      clearance_id,
      actual_input_tokens: 4000,
      actual_output_tokens: 2000,
      cached_input_tokens: 1000,
    }
    expect((await api.post('/v1/budget/reconcile', usage, key)).status).toBe(200)
    clock.advance(HOUR)
    await book(0.25, 'team/b')
    await book(7, 'elsewhere')
    const { body } = await api.get(`/v1/usage/team?from=${from}`, key)
    const settled = (4000 * 2.5 - 1000 * 1.25 + 2000 * 10) / 1e6
    expect(body.spent_usd).toBeCloseTo(0.75 + settled, 6)
    const series = body.series as { at: number; spent_usd: number; calls: number }[]
    expect(series.map(({ at, calls }) => [at - from, calls])).toEqual([
      [0, 2],
      [HOUR, 1],
    ])
    expect(series[1]?.spent_usd).toBe(0.25)
    expect(body.models).toEqual([
      { model: 'api_call:search', spent_usd: 0.75, calls: 2, input_tokens: 0, output_tokens: 0 },
      { model: 'gpt-4o', spent_usd: expect.closeTo(settled, 6), calls: 1, input_tokens: 4000, output_tokens: 2000 },
    ])
    const days = await api.get('/v1/usage/team%2Fa?step=day', key)
    expect(days.body.series).toHaveLength(31)
    for (const wrong of ['step=minute', `from=${from}&to=${from - 1}`, 'from=0', `from=${from - 80 * 24 * HOUR}`])
      expect((await api.get(`/v1/usage/team?${wrong}`, key)).status, wrong).toBe(400)
  })

  it('have a prediction of when the budget is used up', async () => {
    const { book, predict, clock } = await setUp()
    expect(await predict('team')).toMatchObject({
      status: 'ok',
      remaining_budget: 10,
      rate_usd_per_hour: null,
      prediction_timestamp: null,
      remaining_time_seconds: null,
      confidence: 'none',
    })
    for (let step = 0; step < 36; step++) {
      await book(0.1)
      clock.advance(5 * MINUTE)
    }
    // $3.60 in three hours; $6.40 left at $1.20 an hour last 5 h 20 min, and the day's window ends in nine hours.
    const body = await predict('team/a')
    expect(body).toMatchObject({ limit_agent_id: 'team', remaining_budget: 6.4, trend: 'steady', confidence: 'high' })
    expect(body.rate_usd_per_hour).toBeCloseTo(1.2, 1)
    expect(Number(body.remaining_time_seconds) / 3600).toBeCloseTo(6.4 / 1.2, 0)
    expect(body.prediction_timestamp).toBe(clock.now() + Math.floor(Number(body.prediction_timestamp) - clock.now()))
    expect(body.message).toContain('lasts 5 hours')
  })

  it('are told that a budget lasts beyond its reset, that it is used up, or that there is none', async () => {
    const { book, predict, clock, api, key } = await setUp()
    for (let step = 0; step < 12; step++) {
      await book(0.01)
      clock.advance(5 * MINUTE)
    }
    expect(await predict('team')).toMatchObject({
      remaining_time_seconds: null,
      prediction_timestamp: null,
      message: expect.stringContaining('beyond its next reset'),
    })
    expect(await predict('team', '?period=monthly')).toMatchObject({ remaining_budget: null, remaining_time_seconds: null })
    await book(9.88)
    expect(await predict('team')).toMatchObject({ remaining_budget: 0, remaining_time_seconds: 0 })
    await api.put('/v1/budget/envelope', { agent_id: 'team/a', limit_usd: 9.5 }, key)
    expect(await predict('team', '?period=session')).toMatchObject({ remaining_budget: null })
    for (const wrong of ['?period=yearly', '?lookback_hours=0', '?lookback_hours=x'])
      expect((await api.get(`/v1/agents/team/prediction${wrong}`, key)).status).toBe(400)
  })
})
