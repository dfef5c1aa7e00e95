import { beforeAll, describe, expect, it } from 'vitest'
import { insertAccount } from '../../../src/accounts/store.ts'
import { DecisionEngine, type EngineOptions } from '../../../src/budgets/engine.ts'
import { pathOf } from '../../../src/budgets/path.ts'
import type { ClearCommand, Command, PerWindow, SettleCommand } from '../../../src/budgets/state.ts'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { NOON } from '../../support/app.ts'
import { createTestDatabase, describeEachDatabase } from '../../support/databases.ts'

const OPTIONS: EngineOptions = { lanes: 1, maxBatch: 512, maxQueue: 10_000 }
const RATES = { input: 1000n, output: 1000n, cachedInput: 0n, cacheWrite: 0n, cacheWrite1h: 0n }
const NO_USAGE = { cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 }
const daily = (limit: bigint): PerWindow<bigint | null> => [null, limit, null, null, null]

const newId = () => uuidv7(NOON)
const clear = (agentId: string, estimate: bigint, more: Partial<ClearCommand> = {}): ClearCommand => ({
  kind: 'clear',
  id: newId(),
  resumed: false,
  agentId,
  path: pathOf(agentId),
  model: 'm',
  estimate,
  rates: RATES,
  hold_ms: 3_600_000,
  ...more,
})
const settle = (agentId: string, holdId: string | null, outputTokens: number): SettleCommand => ({
  kind: 'settle',
  id: newId(),
  resumed: false,
  agentId,
  path: pathOf(agentId),
  holdId,
  usage: { inputTokens: 0, outputTokens, ...NO_USAGE },
})
const setEnvelope = (agentId: string, limit: bigint): Command & { kind: 'set_envelope' } => ({
  kind: 'set_envelope',
  id: newId(),
  resumed: false,
  agentId,
  limits: daily(limit),
})

async function newAccount(database: Database, engine: DecisionEngine, ops: bigint): Promise<string> {
  const accountId = newId()
  const key = { keyId: accountId, keyHash: Buffer.from(accountId), name: 'owner', scope: 'owner' as const, agentId: null }
  const row = { accountId, ...key, createdMs: NOON, expiresMs: null }
  await insertAccount(database, { accountId, createdMs: NOON }, row, async () => {})
  await engine.submit(accountId, { kind: 'grant', id: newId(), resumed: false, entry: 'grant', ops, detail: 'test' })
  return accountId
}

/** The database as seen beside a neighbour that gets in between: `before` and `after` run around each statement outside transactions. */
function withNeighbour(
  database: Database,
  neighbour: { before?(text: string): Promise<void>; after?(text: string): Promise<void> },
): Database {
  const unsafe = async (text: string, ...rest: [string[], { prepare: boolean }]) => {
    await neighbour.before?.(text)
    const rows = await database.laneSql.unsafe(text, ...rest)
    await neighbour.after?.(text)
    return rows
  }
  const laneSql = { unsafe, begin: database.laneSql.begin.bind(database.laneSql) } as unknown as Database['laneSql']
  return { ...database, laneSql }
}
const isWrite = (text: string): boolean => text.startsWith('with locked')
/** Another process changes the account without changing anything that matters. */
const move = (database: Database) => database.sql.unsafe('update accounts set version = version + 1')

describeEachDatabase('the decision engine', (openTestDatabase) => {
  const clock = new ManualClock(NOON)
  let database: Database
  let engine: DecisionEngine
  beforeAll(async () => {
    database = await openTestDatabase()
    engine = new DecisionEngine({ database, clock }, OPTIONS)
  })

  it('decides again when another engine has changed the account since', async () => {
    const engines = [engine, new DecisionEngine({ database, clock }, OPTIONS)]
    const accountId = await newAccount(database, engine, 100n)
    await engine.submit(accountId, setEnvelope('a', 10n))
    const remaining: bigint[] = []
    for (let turn = 0; turn < 12; turn++) {
      const outcome = await engines[turn % 2]!.submit(accountId, clear('a', 1n))
      expect(outcome.approved).toBe(turn < 10)
      remaining.push(outcome.remaining)
    }
    expect(remaining).toEqual([9n, 8n, 7n, 6n, 5n, 4n, 3n, 2n, 1n, 0n, 0n, 0n])
    expect(engines[1]!.stats.conflicts).toBeGreaterThan(0)
    expect((await verifyBalances(database, { accountId })).differences).toEqual([])
  })

  it('sees an envelope that another engine has set where it knew of none', async () => {
    const other = new DecisionEngine({ database, clock }, OPTIONS)
    const accountId = await newAccount(database, engine, 10n)
    expect(await engine.submit(accountId, clear('a/b', 5n))).toMatchObject({ approved: false, reason: 'no_envelope' })
    await other.submit(accountId, setEnvelope('a', 7n))
    expect(await engine.submit(accountId, clear('a/b', 5n))).toMatchObject({ approved: true, remaining: 2n })
    await other.submit(accountId, { kind: 'delete_envelope', id: newId(), resumed: false, agentId: 'a' })
    expect(await engine.submit(accountId, clear('a/b', 1n))).toMatchObject({ approved: false, reason: 'no_envelope' })
  })

  it('settles what another engine has cleared, once', async () => {
    const other = new DecisionEngine({ database, clock }, OPTIONS)
    const accountId = await newAccount(database, engine, 10n)
    await engine.submit(accountId, setEnvelope('a', 100n))
    const approval = await engine.submit(accountId, clear('a', 10n))
    if (!approval.approved) throw new Error('denied')
    expect(await other.submit(accountId, settle('a', null, 3))).toMatchObject({ drift: -7n, remaining: 97n, replayed: false })
    expect(await engine.submit(accountId, settle('a', approval.holdId, 9))).toMatchObject({ drift: -7n, replayed: true })
    expect(await engine.submit(accountId, settle('a', null, 1))).toEqual({ error: 'no_pending_clearance', expired: false })
  })

  it('takes the most recent clearance that is open by the clock of the account, not by its own', async () => {
    const accountId = await newAccount(database, engine, 10n)
    const ahead = new DecisionEngine({ database, clock: new ManualClock(NOON + 60_000) }, OPTIONS)
    await engine.submit(accountId, setEnvelope('a', 100n))
    const lasting = await engine.submit(accountId, clear('a', 10n))
    await engine.submit(accountId, clear('a', 20n, { hold_ms: 1000 }))
    // A process whose clock is ahead moves the account past the expiry of the second clearance.
    await ahead.submit(accountId, setEnvelope('b', 1n))
    if (!lasting.approved) throw new Error('denied')
    expect(await engine.submit(accountId, settle('a', null, 1))).toMatchObject({ hold: { holdId: lasting.holdId }, drift: -9n })
  })

  it('answers commands that arrive together as if they had come one after the other', async () => {
    const accountId = await newAccount(database, engine, 100n)
    await engine.submit(accountId, setEnvelope('a', 1000n))
    await engine.submit(accountId, clear('a', 100n))
    // Either the settlement takes the older clearance, and the new one is decided after it; or it takes the new one.
    const [approval, settled] = await Promise.all([
      engine.submit(accountId, clear('a', 10n)),
      engine.submit(accountId, settle('a', null, 40)),
    ])
    const seen = [approval.remaining, 'drift' in settled && settled.drift, 'drift' in settled && settled.remaining]
    expect([
      [950n, -60n, 960n],
      [890n, 30n, 860n],
    ]).toContainEqual(seen)
  })

  it('decides under the lock when it keeps losing the race', async () => {
    const harried = withNeighbour(database, { before: async (text) => void (isWrite(text) && (await move(database))) })
    const loser = new DecisionEngine({ database: harried, clock }, OPTIONS)
    const accounts = await Promise.all([0, 1, 2].map(() => newAccount(database, engine, 10n)))
    for (const accountId of accounts) await engine.submit(accountId, setEnvelope('a', 3n))
    const outcomes = await Promise.all(accounts.flatMap((id) => [1, 2, 3, 4].map(() => loser.submit(id, clear('a', 1n)))))
    expect(outcomes.map(({ approved }) => approved)).toEqual(accounts.flatMap(() => [true, true, true, false]))
    expect(loser.stats).toMatchObject({ locked: 1, failures: 0 })
    for (const accountId of accounts) expect((await verifyBalances(database, { accountId })).differences).toEqual([])
  })

  it('decides under the lock when the account moves whenever it is read', async () => {
    const harried = withNeighbour(database, { after: async () => void (await move(database)) })
    const loser = new DecisionEngine({ database: harried, clock }, OPTIONS)
    const accountId = await newAccount(database, engine, 10n)
    await engine.submit(accountId, setEnvelope('a', 100n))
    const approval = await engine.submit(accountId, clear('a', 10n))
    if (!approval.approved) throw new Error('denied')
    const both = await Promise.all([
      loser.submit(accountId, settle('a', approval.holdId, 3)),
      loser.submit(accountId, clear('a', 1n)),
    ])
    expect(both[0]).toMatchObject({ drift: -7n, replayed: false })
    expect(both[1]).toMatchObject({ approved: true, remaining: 96n })
    expect(loser.stats.failures).toBe(0)
  })

  it('does not fail the neighbours of a poisonous command', async () => {
    const accountId = await newAccount(database, engine, 100n)
    const neighbourId = await newAccount(database, engine, 100n)
    for (const agent of ['greedy', 'modest']) await engine.submit(accountId, setEnvelope(agent, 1000n))
    await engine.submit(neighbourId, setEnvelope('a', 10n))
    // Text that no PostgreSQL column takes.
    const poison = () => engine.submit(accountId, clear('greedy', 1n, { model: 'a\u0000' }))
    const outcomes = await Promise.allSettled([
      engine.submit(accountId, clear('modest', 1n)),
      poison(),
      engine.submit(accountId, clear('greedy', 5n)),
      poison(),
      engine.submit(accountId, clear('modest', 2n)),
      engine.submit(neighbourId, clear('a', 3n)),
      engine.submit(newId(), clear('a', 1n)),
    ])
    expect(outcomes.map(({ status }) => status)).toEqual([
      ...['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled', 'fulfilled', 'rejected'],
    ])
    expect(outcomes[2]).toMatchObject({ value: { approved: true, remaining: 995n } })
    expect(outcomes[4]).toMatchObject({ value: { approved: true, remaining: 997n } })
    expect(outcomes[5]).toMatchObject({ value: { approved: true, remaining: 7n } })
    expect(outcomes[6]).toMatchObject({ reason: { code: 'account_not_found' } })
    // The poisoned agent still answers.
    expect(await engine.submit(accountId, clear('greedy', 1n))).toMatchObject({ approved: true, remaining: 994n })
    for (const id of [accountId, neighbourId]) expect((await verifyBalances(database, { accountId: id })).differences).toEqual([])
  })

  it('refuses with overloaded what no longer fits into the queue, and nothing else', async () => {
    const small = new DecisionEngine({ database, clock }, { lanes: 1, maxBatch: 4, maxQueue: 10 })
    const accountId = await newAccount(database, engine, 100n)
    await engine.submit(accountId, setEnvelope('a', 100n))
    const outcomes = await Promise.allSettled(Array.from({ length: 30 }, () => small.submit(accountId, clear('a', 1n))))
    const refused = outcomes.filter(({ status }) => status === 'rejected')
    expect(refused).toHaveLength(20)
    for (const { reason } of refused as PromiseRejectedResult[])
      expect(reason).toMatchObject({ code: 'overloaded', status: 503, retryAfterSeconds: 1 })
    expect(small.depth).toBe(0)
    expect(await small.submit(accountId, clear('a', 1n))).toMatchObject({ approved: true, remaining: 89n, ops: 89n })
  })

  it('spreads accounts over lanes and keeps each in its own', async () => {
    const wide = new DecisionEngine({ database, clock }, { ...OPTIONS, lanes: 4 })
    const accounts = await Promise.all(Array.from({ length: 12 }, () => newAccount(database, engine, 20n)))
    await Promise.all(accounts.map((id) => wide.submit(id, setEnvelope('a', 10n))))
    const outcomes = await Promise.all(
      accounts.flatMap((id) => Array.from({ length: 15 }, () => wide.submit(id, clear('a', 1n)))),
    )
    expect(outcomes.filter(({ approved }) => approved)).toHaveLength(120)
    await wide.settled()
    expect(wide.stats).toMatchObject({ conflicts: 0, failures: 0 })
  })

  describe('taking up an interrupted command', () => {
    it('finds what the first run did, for every kind', async () => {
      const accountId = await newAccount(database, engine, 10n)
      const other = new DecisionEngine({ database, clock }, OPTIONS)
      const envelope = setEnvelope('a', 100n)
      await engine.submit(accountId, envelope)
      const approved = clear('a', 10n)
      const first = await engine.submit(accountId, approved)
      expect(await other.submit(accountId, { ...approved, resumed: true })).toEqual(first)
      await engine.submit(accountId, clear('a', 20n))

      const settled = settle('a', null, 5)
      expect(await engine.submit(accountId, settled)).toMatchObject({ drift: -15n, replayed: false })
      expect(await other.submit(accountId, { ...settled, resumed: true })).toMatchObject({ drift: -15n, replayed: true })

      const grant = { kind: 'grant', id: newId(), resumed: false, entry: 'grant', ops: 5n, detail: 'again' } as const
      expect(await engine.submit(accountId, grant)).toEqual({ ops: 13n })
      expect(await other.submit(accountId, { ...grant, resumed: true })).toEqual({ ops: 13n })
      expect((await verifyBalances(database, { accountId })).differences).toEqual([])
    })

    it('does it when the first run did not', async () => {
      const accountId = await newAccount(database, engine, 10n)
      await engine.submit(accountId, { ...setEnvelope('a', 100n), resumed: true })
      expect(await engine.submit(accountId, clear('a', 10n, { resumed: true }))).toMatchObject({ approved: true, ops: 9n })
      expect(await engine.submit(accountId, { ...settle('a', null, 4), resumed: true })).toMatchObject({ drift: -6n })
      const gone = { kind: 'delete_envelope', id: newId(), resumed: true, agentId: 'a' } as const
      expect(await engine.submit(accountId, gone)).toEqual({ existed: true })
      expect((await verifyBalances(database, { accountId })).differences).toEqual([])
    })

    it('does not undo what came after the first run', async () => {
      const accountId = await newAccount(database, engine, 10n)
      const set = setEnvelope('a', 5n)
      const remove = { kind: 'delete_envelope', id: newId(), resumed: false, agentId: 'a' } as const
      await engine.submit(accountId, set)
      await engine.submit(accountId, remove)
      await engine.submit(accountId, setEnvelope('a', 50n))
      expect(await engine.submit(accountId, { ...remove, resumed: true })).toEqual({ existed: true })
      expect(await engine.submit(accountId, { ...set, resumed: true })).toMatchObject({ tightest: { limit: 5n } })
      expect(await engine.submit(accountId, clear('a', 20n))).toMatchObject({ approved: true, remaining: 30n })
    })

    it('sees a first run that was not dead and finished in between', async () => {
      const accountId = await newAccount(database, engine, 10n)
      await engine.submit(accountId, setEnvelope('a', 100n))
      await engine.submit(accountId, clear('a', 10n))
      await engine.submit(accountId, clear('a', 20n))
      const first = settle('a', null, 5)
      let finished = false
      const slow = withNeighbour(database, {
        after: async (text) => {
          if (finished || !text.includes('ledger')) return
          finished = true
          await engine.submit(accountId, first)
        },
      })
      const second = new DecisionEngine({ database: slow, clock }, OPTIONS)
      expect(await second.submit(accountId, { ...first, resumed: true })).toMatchObject({ drift: -15n, replayed: true })
      expect(finished).toBe(true)
      expect((await verifyBalances(database, { accountId })).differences).toEqual([])
    })
  })
})

describe('several processes on one PostgreSQL', () => {
  it('approve exactly what fits, burn exactly one op each, and settle each hold once', { timeout: 120_000 }, async () => {
    const home = await createTestDatabase('postgres')
    const databases = await Promise.all([0, 1, 2].map(() => openDatabase({ ...home, laneConnections: 3 })))
    try {
      const [database] = databases
      const clock = new ManualClock(NOON)
      const engines = databases.map((each) => new DecisionEngine({ database: each, clock }, { ...OPTIONS, maxBatch: 8 }))
      const accounts = await Promise.all([0, 1].map(() => newAccount(database!, engines[0]!, 1000n)))
      for (const id of accounts) {
        await engines[0]!.submit(id, setEnvelope('*', 300n))
        await engines[0]!.submit(id, setEnvelope('a', 250n))
      }
      const clears = await Promise.all(
        Array.from({ length: 900 }, (_, turn) => {
          const accountId = accounts[turn % 2]!
          return engines[turn % 3]!.submit(accountId, clear(turn % 4 < 2 ? 'a' : 'b', 1n)).then((outcome) => ({
            accountId,
            outcome,
            turn,
          }))
        }),
      )
      for (const id of accounts) {
        const approved = clears.filter(({ accountId, outcome }) => accountId === id && outcome.approved)
        expect(approved).toHaveLength(300)
        expect(approved.filter(({ turn }) => turn % 4 < 2).length).toBeLessThanOrEqual(250)
      }
      // Every hold is settled by all three at once, beside changes of the account row that are no decisions.
      const settlements = clears.flatMap(({ accountId, outcome, turn }) =>
        outcome.approved
          ? engines.map((engine) => engine.submit(accountId, settle(turn % 4 < 2 ? 'a' : 'b', outcome.holdId, 3)))
          : [],
      )
      const emails = Array.from({ length: 100 }, (_, index) =>
        database!.sql.unsafe('update accounts set notification_email = $1 where account_id = $2::uuid', [
          `${index}@example.com`,
          accounts[index % 2]!,
        ]),
      )
      const settled = await Promise.all(settlements)
      await Promise.all(emails)
      expect(settled.filter((outcome) => 'drift' in outcome && !outcome.replayed)).toHaveLength(600)
      expect(settled.filter((outcome) => 'drift' in outcome && outcome.replayed)).toHaveLength(1200)
      for (const id of accounts) {
        const grant = await engines[2]!.submit(id, {
          kind: 'grant',
          id: newId(),
          resumed: false,
          entry: 'grant',
          ops: 1n,
          detail: '',
        })
        expect(grant).toEqual({ ops: 701n })
        expect(await engines[1]!.submit(id, setEnvelope('*', 1000n))).toMatchObject({ tightest: { spent: 900n } })
      }
      expect(await verifyBalances(database!)).toMatchObject({ accounts: 2, differences: [] })
      expect(engines.map(({ stats }) => stats.failures)).toEqual([0, 0, 0])
    } finally {
      for (const each of databases) await each.close()
      await home.drop()
    }
  })
})
