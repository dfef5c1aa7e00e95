import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { ManualClock } from '../../../src/core/clock.ts'
import { DomainError } from '../../../src/core/errors.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { createLog } from '../../../src/core/log.ts'
import type { Database } from '../../../src/db/client.ts'
import { Rollup } from '../../../src/usage/rollup.ts'
import { UsageService } from '../../../src/usage/service.ts'
import { NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { pick, randomFrom, runSeed } from '../../support/load.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const AGENTS = ['a', 'a/b', 'ab', 'team/x', 'team/x/run']
const MODELS = ['gpt-4o', 'gpt-4o-mini']
const RATES = { input: 2_000n, output: 10_000n, cachedInput: 1_000n, cacheWrite: 2_000n, cacheWrite1h: 2_000n }
const NO_CACHE = { cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 }

/** Ids of this process never run backwards; one of another process, or of the last one, may be old. */
const idOf = (at_ms: number): string => {
  const time = at_ms.toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-7${randomUUID().slice(15)}`
}

type Counted = { agentId: string; model: string; at_ms: number; spent: bigint; input: number; output: number }

describeEachDatabase('sums of usage', (openTestDatabase) => {
  const clock = new ManualClock(NOON)
  let database: Database
  let t: TestApp
  let usage: UsageService
  beforeAll(async () => {
    database = await openTestDatabase()
    t = await openTestApp(database, { clock })
    usage = new UsageService({ database, clock })
  })
  afterAll(() => t.stop())

  const log = createLog('silent')
  const rollup = (options = {}, on: Database = database) => new Rollup({ database: on, log }, { stepEvents: 7, ...options })
  const call = (operationId = uuidv7(clock.now())) => ({ operationId, resumed: false })
  const openAccount = async (): Promise<string> => {
    const { key, accountId } = await t.createAccount(100_000)
    await t.api.put('/v1/budget/envelope', { agent_id: '*', limit_usd: 1_000_000 }, key)
    return accountId
  }

  /** The plain sum over everything, from the rows themselves. */
  async function everything(accountId: string): Promise<Counted[]> {
    const holds = await database.sql.unsafe('select * from holds where account_id = $1', [accountId])
    const ledger = await database.sql.unsafe(`select hold_id, detail from ledger where account_id = $1 and kind = 'settle'`, [
      accountId,
    ])
    const details = new Map(ledger.map((row) => [row.hold_id as string, row.detail as string]))
    return holds.map((row) => {
      const own = typeof row.detail === 'string' && row.detail.startsWith('{"end"') ? row.detail : '{}'
      const used = JSON.parse(details.get(row.hold_id as string) ?? own) as { input_tokens?: number; output_tokens?: number }
      return {
        agentId: row.agent_id as string,
        model: row.model as string,
        at_ms: Number(row.taken_ms),
        spent: row.state === 2 ? 0n : ((row.actual_nanousd ?? row.estimate_nanousd) as bigint),
        input: used.input_tokens ?? 0,
        output: used.output_tokens ?? 0,
      }
    })
  }

  async function isExact(accountId: string, random: () => number): Promise<void> {
    const all = await everything(accountId)
    const to_ms = clock.now() + 1
    const anywhere = () => to_ms - Math.floor(random() * 9 * DAY)
    const ranges = [
      { from_ms: Math.floor(to_ms / DAY) * DAY - 8 * DAY, to_ms, step_ms: DAY },
      { from_ms: Math.floor(to_ms / HOUR) * HOUR - 30 * HOUR, to_ms, step_ms: HOUR },
      { from_ms: Math.floor(anywhere() / HOUR) * HOUR, to_ms: to_ms + HOUR, step_ms: 5 * HOUR },
      { from_ms: anywhere(), to_ms, step_ms: HOUR },
      { from_ms: to_ms - 6 * HOUR, to_ms, step_ms: HOUR / 12 },
      { from_ms: anywhere(), to_ms: anywhere(), step_ms: 11 * HOUR },
    ].filter((range) => range.from_ms < range.to_ms)
    for (const agentId of [null, 'a', pick(random, AGENTS)]) {
      const own = all.filter((one) => agentId === null || one.agentId === agentId || one.agentId.startsWith(`${agentId}/`))
      for (const range of ranges) {
        const taken = own.filter(({ at_ms }) => at_ms >= range.from_ms && at_ms < range.to_ms)
        const series = await usage.spendSeries(accountId, { ...range, agentId })
        const expected = series.map(({ at_ms }) => {
          const inStep = taken.filter((one) => one.at_ms >= at_ms && one.at_ms < at_ms + range.step_ms)
          return { at_ms, spent: inStep.reduce((sum, { spent }) => sum + spent, 0n), calls: inStep.length }
        })
        expect({ agentId, range, series }).toEqual({ agentId, range, series: expected })
        const byAgent = new Map(AGENTS.map((one) => [one, { agentId: one, spent: 0n, calls: 0 }]))
        for (const one of taken) {
          const sum = byAgent.get(one.agentId)!
          sum.spent += one.spent
          sum.calls++
        }
        const found = await usage.spendByAgent(accountId, { ...range, agentId })
        const byId = (a: { agentId: string }, b: { agentId: string }) => (a.agentId < b.agentId ? -1 : 1)
        expect(found.toSorted(byId)).toEqual([...byAgent.values()].filter(({ calls }) => calls > 0).sort(byId))
      }
      const whole = { from_ms: Math.floor(anywhere() / HOUR) * HOUR, to_ms: Math.ceil(to_ms / HOUR) * HOUR }
      const models = new Map<string, unknown>()
      const inWhole = own.filter(({ at_ms }) => at_ms >= whole.from_ms && at_ms < whole.to_ms)
      for (const model of new Set(inWhole.map((one) => one.model))) {
        const used = inWhole.filter((one) => one.model === model)
        models.set(model, {
          model,
          spent: used.reduce((sum, { spent }) => sum + spent, 0n),
          calls: used.length,
          inputTokens: BigInt(used.reduce((sum, { input }) => sum + input, 0)),
          outputTokens: BigInt(used.reduce((sum, { output }) => sum + output, 0)),
        })
      }
      const found = await usage.spendByModel(accountId, { ...whole, agentId, limit: 100 })
      expect(new Map(found.map((one) => [one.model, one]))).toEqual(models)
    }
  }

  /** Some operations at random: of each kind that moves money, settlements long after their hold among them. */
  async function operate(accountId: string, random: () => number, open: string[][], count: number): Promise<void> {
    const { budgets } = t.app
    const one = async (): Promise<void> => {
      const agentId = pick(random, AGENTS)
      const model = pick(random, MODELS)
      const estimate = BigInt(Math.floor(random() * 1e6))
      const usage = { inputTokens: Math.floor(random() * 100), outputTokens: Math.floor(random() * 100), ...NO_CACHE }
      const old = open.length > 0 && random() < 0.4 ? open.splice(Math.floor(random() * open.length), 1)[0] : undefined
      if (old !== undefined) {
        const [kind, holdId, owner] = old as [string, string, string]
        if (kind === 'clearance') {
          const released = random() < 0.3
          if (released) await budgets.release(accountId, call(), { clearanceId: holdId, boundTo: null })
          else await budgets.reconcile(accountId, call(), { agentId: owner, clearanceId: holdId, usage })
        } else if (random() < 0.3) await budgets.releaseReservation(accountId, call(), holdId)
        else {
          const detail = JSON.stringify({ end: 'complete', input_tokens: usage.inputTokens, output_tokens: usage.outputTokens })
          const settled = { agentId: owner, reservationId: holdId, usage, cost: estimate * 2n, detail }
          await budgets.settleReservation(accountId, call(), settled)
        }
        return
      }
      const id = call()
      const kind = random()
      if (kind < 0.4) {
        await budgets.clear(accountId, id, { agentId, model, estimatedTokens: 50, estimatedInputTokens: 0, hold_ms: 7 * DAY })
        open.push(['clearance', id.operationId, agentId])
      } else if (kind < 0.7) {
        await budgets.reserve(accountId, id, { agentId, model, estimate, rates: RATES, hold_ms: 120_000 })
        open.push(['reservation', id.operationId, agentId])
      } else if (kind < 0.85) {
        // What an account writes itself must neither be counted nor stop anything.
        const detail = JSON.stringify({
          resource_type: 'custom',
          metadata: { input_tokens: 'x', nul: '\u0000', '"input_tokens":': 5 },
        })
        await budgets.book(accountId, id, { agentId, label: 'custom:x', cost: estimate, detail })
      } else {
        // An outage of two days: its id is as old as that.
        const detail = JSON.stringify({ end: 'complete', input_tokens: 7, output_tokens: 9, allowed_at: 1 })
        await budgets.bookAfterwards(accountId, idOf(clock.now() - 2 * DAY), { agentId, label: model, cost: estimate, detail })
      }
    }
    // Several at once share a version.
    await Promise.all(
      Array.from({ length: count }, () =>
        one().catch((error: unknown) => {
          // A clearance that had expired stands at its estimate.
          if (!(error instanceof DomainError) || error.code !== 'no_pending_clearance') throw error
        }),
      ),
    )
  }

  it('and what came after them are the plain sum over everything, under any operations and whoever dies when', async () => {
    const seed = runSeed()
    const random = randomFrom(seed)
    console.log(`seed ${seed}`)
    const accounts = [await openAccount(), await openAccount()]
    const open: string[][][] = [[], []]
    let [broken, steps] = [0, 0]
    /** Loses statements before or after they are carried out. */
    const unreliable: Database = {
      ...database,
      sql: new Proxy(database.sql, {
        get: (sql, name) =>
          name !== 'unsafe'
            ? Reflect.get(sql, name)
            : async (...parameters: Parameters<typeof sql.unsafe>) => {
                const fails = random() < 0.3
                if (fails && random() < 0.5) throw new Error('lost before')
                const rows = await sql.unsafe(...parameters)
                if (fails) throw new Error('lost after')
                return rows
              },
      }),
    }
    for (let round = 0; round < 12; round++) {
      for (const [index, accountId] of accounts.entries()) {
        for (let batch = 0; batch < 6; batch++) {
          await operate(accountId, random, open[index]!, 1 + Math.floor(random() * 8))
          clock.advance(Math.floor(random() ** 3 * 6 * HOUR))
        }
      }
      const how = random()
      if (how < 0.4) {
        const worker = rollup({}, unreliable)
        await worker.pass().catch(() => broken++)
        await rollup().stop() // another one's end takes nothing away
        await database.sql.unsafe(`delete from leases where name = 'usage.rollup'`)
      } else if (how < 0.8) {
        // Two at once, as when a process stood still for longer than its lease; one is stopped on its way.
        const [one, two] = [rollup({ lease_ms: -1 }), rollup({ lease_ms: -1 })]
        const passes = [one.pass(), two.pass()]
        await operate(accounts[0]!, random, open[0]!, 5)
        await one.stop()
        for (const taken of await Promise.all(passes)) steps += taken ?? 0
      }
      for (const accountId of accounts) await isExact(accountId, random)
    }
    const last = rollup()
    steps += (await last.pass()) ?? 0
    await last.stop()
    for (const accountId of accounts) {
      await isExact(accountId, random)
      const [row] = await database.sql.unsafe(
        'select a.version - h.version as behind from accounts a join usage_heads h using (account_id) where account_id = $1',
        [accountId],
      )
      expect(row?.behind).toBe(0n)
    }
    expect(steps).toBeGreaterThan(10)
    console.log(`${steps} steps, ${broken} broken passes`)
  }, 180_000)

  it('are made by one process at a time, and add nothing when there is nothing new', async () => {
    const accountId = await openAccount()
    await operate(accountId, randomFrom(1), [], 20)
    const [one, two] = [rollup(), rollup()]
    expect(await one.pass()).toBeGreaterThan(0)
    expect(await two.pass()).toBeNull()
    expect(await one.pass()).toBe(0)
    await one.stop()
    expect(await two.pass()).toBe(0)
    await two.stop()
    await isExact(accountId, randomFrom(2))
  })

  it('go on with the other accounts when one cannot be summed up', async () => {
    const accounts = [await openAccount(), await openAccount(), await openAccount()].sort()
    const spend = async () => {
      for (const accountId of accounts)
        await t.app.budgets.clear(accountId, call(), {
          agentId: 'a',
          model: 'gpt-4o',
          estimatedTokens: 10,
          estimatedInputTokens: 0,
          hold_ms: 1000,
        })
    }
    const calls = async () => {
      const rows = await database.sql.unsafe(
        'select account_id, calls from usage_spend where account_id = any($1) and span = 0',
        [accounts],
      )
      return accounts.map((id) => rows.find((row) => row.account_id === id)?.calls)
    }
    const one = rollup()
    await spend()
    await one.pass()
    await database.sql.unsafe('update usage_spend set calls = 2147483647 where account_id = $1', [accounts[1]!])
    await spend()
    await one.pass()
    expect(await calls()).toEqual([2, 2147483647, 2])
  })
})
