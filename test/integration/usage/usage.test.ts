import { afterAll, beforeAll, expect, it } from 'vitest'
import { ManualClock } from '../../../src/core/clock.ts'
import { UsageService } from '../../../src/usage/service.ts'
import { NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const SONNET = 'claude-sonnet-4-6' // $15 per million output tokens: 1000 tokens are 15,000,000 nano-dollars
const EACH = 15_000_000n
const HOUR = 3_600_000

/** One for both databases: ids never run backwards within a process. */
const clock = new ManualClock(NOON)

describeEachDatabase('usage', (openTestDatabase) => {
  let t: TestApp
  let usage: UsageService
  let owner: string
  let accountId: string
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase(), { clock })
    usage = new UsageService(t)
  })
  afterAll(() => t.stop())
  const newAccount = async () => {
    ;({ key: owner, accountId } = await t.createAccount())
    await t.api.put('/v1/budget/envelope', { agent_id: '*', limit_usd: 100 }, owner)
  }
  const clear = async (agent_id: string, tokens = 1000) =>
    (await t.api.post('/v1/budget/clear', { agent_id, model: SONNET, estimated_tokens: tokens }, owner)).body
  const series = (agentId: string | null, hours = 3) => {
    const to_ms = t.clock.now() + 1
    return usage.spendSeries(accountId, { agentId, from_ms: to_ms - hours * HOUR, to_ms, step_ms: HOUR })
  }

  it('counts a clearance where it was taken, at what it really cost', async () => {
    await newAccount()
    await clear('team/a')
    const settled = await clear('team/a')
    const released = await clear('team/b')
    const used = { agent_id: 'team/a', actual_input_tokens: 0, actual_output_tokens: 3000 }
    await t.api.post('/v1/budget/reconcile', { ...used, clearance_id: settled.clearance_id }, owner)
    await t.api.post('/v1/budget/release', { clearance_id: released.clearance_id }, owner)
    t.clock.advance(HOUR)
    await clear('teammate', 2000)
    const spent = async (agentId: string | null) => (await series(agentId)).map((point) => point.spent)
    expect(await spent(null)).toEqual([0n, 4n * EACH, 2n * EACH])
    expect(await spent('*')).toEqual([0n, 4n * EACH, 2n * EACH])
    expect(await spent('team')).toEqual([0n, 4n * EACH, 0n])
    expect(await spent('team/a')).toEqual([0n, 4n * EACH, 0n])
    expect(await spent('team/b')).toEqual([0n, 0n, 0n])
    expect((await series('team')).map(({ calls }) => calls)).toEqual([0, 3, 0])
    const range = { from_ms: t.clock.now() - 2 * HOUR, to_ms: t.clock.now() + 1 }
    expect(await usage.spendByAgent(accountId, range)).toEqual([
      { agentId: 'team/a', spent: 4n * EACH, calls: 2 },
      { agentId: 'teammate', spent: 2n * EACH, calls: 1 },
      { agentId: 'team/b', spent: 0n, calls: 1 },
    ])
    expect(await usage.spendByAgent(accountId, { ...range, agentId: 'team', limit: 1 })).toHaveLength(1)
  })

  it('has every step, and refuses more than it may have', async () => {
    await newAccount()
    const points = await series(null, 24)
    expect(points.map(({ at_ms }) => at_ms)).toEqual(
      Array.from({ length: 24 }, (_, hour) => t.clock.now() + 1 - (24 - hour) * HOUR),
    )
    const range = { from_ms: 0, to_ms: t.clock.now(), step_ms: HOUR }
    await expect(usage.spendSeries(accountId, range)).rejects.toThrow(RangeError)
    await expect(usage.spendSeries(accountId, { ...range, step_ms: 0 })).rejects.toThrow(RangeError)
  })

  it('lists decisions newest first, page by page, those of a path for who is bound to it', async () => {
    await newAccount()
    for (let call = 0; call < 5; call++) {
      t.clock.advance(1)
      await clear(call % 2 === 0 ? 'team/a' : 'other')
    }
    t.clock.advance(1)
    expect((await clear('team/a', 1_000_000_000)).approved).toBe(false)
    const all = await usage.recentDecisions(accountId, { boundTo: null, limit: 100 })
    expect(all.map(({ kind, subject }) => (kind === 'change' ? subject : kind))).toEqual([
      'denied',
      ...Array(5).fill('approved'),
      'limit',
      'grant',
    ])
    const pages = []
    for (let before: string | null = null; ; ) {
      const page = await usage.recentDecisions(accountId, { boundTo: null, limit: 3, before })
      pages.push(...page)
      if (page.length < 3) break
      before = page.at(-1)!.id
    }
    expect(pages).toEqual(all)
    const bound = await usage.recentDecisions(accountId, { boundTo: 'team', limit: 100 })
    expect(bound.map(({ agentId }) => agentId)).toEqual(Array(4).fill('team/a'))
    expect(await usage.recentDecisions((await t.createAccount()).accountId, { boundTo: null, limit: 9 })).toHaveLength(1)
  })

  it('has a mark that moves with every decision and every request', async () => {
    await newAccount()
    const mark = async () => (await usage.marks([accountId])).get(accountId)
    const seen = [await mark()]
    const steps = [
      () => clear('team'),
      () => clear('team', 1_000_000_000),
      () => t.api.post('/v1/approval/request', { agent_id: 'team', action_summary: 'x' }, owner),
    ]
    for (const step of steps) {
      await step()
      seen.push(await mark())
    }
    expect(new Set(seen).size).toBe(4)
    expect(await mark()).toBe(seen.at(-1))
    expect(await usage.marks([])).toEqual(new Map())
  })
})
