import { expect, it } from 'vitest'
import { DecisionEngine } from '../../../src/budgets/engine.ts'
import { loopCounts, purgeLoops } from '../../../src/budgets/loops.store.ts'
import type { ClearRequest } from '../../../src/budgets/requests.ts'
import { BudgetService } from '../../../src/budgets/service.ts'
import { HOLD_KIND } from '../../../src/budgets/tables.ts'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import type { Database } from '../../../src/db/client.ts'
import { createCatalogue } from '../../../src/prices/catalogue.ts'
import { NOON, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const call = () => ({ operationId: uuidv7(NOON), resumed: false })
const LOOP = { maxRepeats: 3, window_ms: 60_000 }

/** Two processes on one account; "a" has a generous envelope with a loop limit of 3 in a minute. */
async function setUp(database: Database) {
  const test = await openTestApp(database)
  const { accountId, key } = await test.createAccount(1000)
  const clock = new ManualClock(NOON)
  const processes = [0, 1].map(() => {
    const engine = new DecisionEngine({ database, clock, companions: [loopCounts] }, { lanes: 1, maxBatch: 64, maxQueue: 1000 })
    return new BudgetService({ engine, catalogue: createCatalogue(), database, clock })
  })
  const [here, there] = processes as [BudgetService, BudgetService]
  await here.setEnvelope(accountId, call(), 'a', { daily: 100 }, LOOP)
  const ask = async (budgets: BudgetService, fields: Partial<ClearRequest> = {}): Promise<string> => {
    const outcome = await budgets.clear(accountId, call(), {
      agentId: 'a',
      model: 'gpt-4o',
      estimatedTokens: 1000,
      estimatedInputTokens: 0,
      hold_ms: 60_000,
      ...fields,
    })
    return outcome.approved ? 'approved' : outcome.reason
  }
  const inTurn = async (times: number, fields: Partial<ClearRequest> = {}): Promise<string[]> => {
    const answers: string[] = []
    for (let turn = 0; turn < times; turn++) answers.push(await ask(turn % 2 === 0 ? here : there, fields))
    return answers
  }
  const rows = async () =>
    Number((await database.sql.unsafe('select count(*) as n from loops where account_id = $1', [accountId]))[0]?.n)
  return { ...test, accountId, key, clock, here, there, ask, inTurn, rows }
}

describeEachDatabase('loop limits', (openTestDatabase) => {
  it('deny identical clearances beyond the limit, on every process together', async () => {
    const { inTurn, ask, here, database } = await setUp(await openTestDatabase())
    expect(await inTurn(5)).toEqual(['approved', 'approved', 'approved', 'loop_detected', 'loop_detected'])
    expect(await ask(here, { model: 'gpt-4o-mini' })).toBe('approved')
    expect(await ask(here, { estimatedTokens: 1001 })).toBe('approved')
    expect((await verifyBalances(database)).differences).toEqual([])
  })

  it('let exactly as many through when all come at once, from both processes', async () => {
    const { ask, here, there } = await setUp(await openTestDatabase())
    const answers = await Promise.all(Array.from({ length: 24 }, (_, index) => ask(index % 2 === 0 ? here : there)))
    expect(answers.filter((answer) => answer === 'approved')).toHaveLength(3)
    expect(answers.filter((answer) => answer === 'loop_detected')).toHaveLength(21)
  })

  it('begin anew after a window that stayed within the limit', async () => {
    const { inTurn, clock } = await setUp(await openTestDatabase())
    expect(await inTurn(3)).toEqual(['approved', 'approved', 'approved'])
    clock.advance(LOOP.window_ms)
    expect(await inTurn(3)).toEqual(['approved', 'approved', 'approved'])
  })

  it('once exceeded hold until the agent has paused for a whole window', async () => {
    const { inTurn, ask, here, clock } = await setUp(await openTestDatabase())
    await inTurn(4)
    for (let time = 0; time < 4; time++) {
      clock.advance(LOOP.window_ms - 1)
      expect(await ask(here)).toBe('loop_detected')
    }
    clock.advance(LOOP.window_ms)
    expect(await ask(here)).toBe('approved')
  })

  it('turn denials that are repeated into loops, never what would be approved', async () => {
    const { accountId, here, there, ask } = await setUp(await openTestDatabase())
    const big = { estimatedTokens: 50_000_000 }
    await here.setEnvelope(accountId, call(), 'a', { daily: 100 }, { maxRepeats: 50, window_ms: 60_000 })
    const said: string[] = []
    for (let time = 0; time < 4; time++) said.push(await ask(time % 2 === 0 ? here : there, big))
    expect(said).toEqual(['envelope_exceeded', 'envelope_exceeded', 'loop_detected', 'loop_detected'])
    await there.setEnvelope(accountId, call(), 'a', { daily: 1000 }, { maxRepeats: 50, window_ms: 60_000 })
    expect(await ask(here, big)).toBe('approved')
  })

  it('tell a repeated denial with what was behind it', async () => {
    const { api, key } = await setUp(await openTestDatabase())
    const clear = () => api.post('/v1/budget/clear', { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 50_000_000 }, key)
    await clear()
    await clear()
    const { body } = await clear()
    expect(body).toMatchObject({
      approved: false,
      reason: 'loop_detected',
      underlying_reason: 'envelope_exceeded',
      limit_agent_id: 'a',
      window: 'daily',
    })
    expect(body.hint).toContain('Stop')
    expect(body.approval_request).toBeUndefined()
  })

  it('hold for everything below, and the strictest on the path counts', async () => {
    const { accountId, here, inTurn } = await setUp(await openTestDatabase())
    await here.setEnvelope(accountId, call(), 'a/b', { daily: 10 }, { maxRepeats: 50, window_ms: 1000 })
    expect(await inTurn(4, { agentId: 'a/b' })).toEqual(['approved', 'approved', 'approved', 'loop_detected'])
    await here.setEnvelope(accountId, call(), '*', { daily: 1000 }, { maxRepeats: 1, window_ms: 1000 })
    expect(await inTurn(2, { agentId: 'a/c' })).toEqual(['approved', 'loop_detected'])
  })

  it('go by the prompt where its fingerprint is known, and by the caller where no envelope has one', async () => {
    const { accountId, here, inTurn, rows } = await setUp(await openTestDatabase())
    await here.setEnvelope(accountId, call(), 'p', { daily: 100 })
    const prompt = (fingerprint: string) => ({
      agentId: 'p',
      holdKind: HOLD_KIND.reservation,
      fingerprint,
      loop: { maxRepeats: 2, window_ms: 60_000 },
    })
    expect(await inTurn(3, prompt('same'))).toEqual(['approved', 'approved', 'loop_detected'])
    for (let turn = 0; turn < 4; turn++) expect(await inTurn(1, prompt(`other ${turn}`))).toEqual(['approved'])
    const before = await rows()
    expect(await inTurn(4, { agentId: 'p' })).toEqual(['approved', 'approved', 'approved', 'approved'])
    expect(await rows()).toBe(before)
  })

  it('stop the twenty-first of the same request in a minute where the proxy asks for its own', async () => {
    const { accountId, here, inTurn } = await setUp(await openTestDatabase())
    await here.setEnvelope(accountId, call(), 'q', { daily: 100 })
    const answers = await inTurn(22, {
      agentId: 'q',
      holdKind: HOLD_KIND.reservation,
      fingerprint: 'bytes',
      loop: { maxRepeats: 20, window_ms: 60_000 },
    })
    expect(answers.filter((answer) => answer === 'approved')).toHaveLength(20)
    expect(answers.slice(20)).toEqual(['loop_detected', 'loop_detected'])
  })

  it('do not concern bookings', async () => {
    const { accountId, here, rows } = await setUp(await openTestDatabase())
    for (let time = 0; time < 5; time++)
      expect(await here.book(accountId, call(), { agentId: 'a', label: 'x', cost: 1n, detail: '{}' })).toMatchObject({
        approved: true,
      })
    expect(await rows()).toBe(0)
  })

  it('are set and shown with the envelope, and gone with the next one that names none', async () => {
    const { api, key } = await setUp(await openTestDatabase())
    const loop = { max_repeats: 5, window_seconds: 30 }
    expect((await api.put('/v1/budget/envelope', { agent_id: 'x', limit_usd: 1, loop }, key)).body).toMatchObject({ loop })
    expect((await api.get('/v1/budget/envelope/x', key)).body.loop).toEqual(loop)
    await api.put('/v1/budget/envelope', { agent_id: 'x', limit_usd: 2 }, key)
    expect((await api.get('/v1/budget/envelope/x', key)).body.loop).toBeUndefined()
    for (const wrong of [{ max_repeats: 0, window_seconds: 30 }, { max_repeats: 5 }, { ...loop, more: 1 }])
      expect((await api.put('/v1/budget/envelope', { agent_id: 'x', limit_usd: 1, loop: wrong }, key)).status).toBe(400)
  })

  it('leave nothing behind once their windows have passed', async () => {
    const { accountId, inTurn, rows, clock, database } = await setUp(await openTestDatabase())
    await inTurn(2)
    await inTurn(1, { model: 'o3' })
    expect(await rows()).toBe(2)
    await purgeLoops(database, clock.now() + LOOP.window_ms, 100)
    expect(await rows()).toBe(2)
    await purgeLoops(database, clock.now() + LOOP.window_ms + 1, 100)
    expect({ accountId, rows: await rows() }).toEqual({ accountId, rows: 0 })
  })
})
