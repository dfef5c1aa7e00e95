import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { decodeLevels, pathOf } from '../../src/budgets/path.ts'
import { HOLD_STATE } from '../../src/budgets/tables.ts'
import { type Difference, verifyBalances } from '../../src/budgets/verify.ts'
import { instanceStart, WINDOWS } from '../../src/budgets/windows.ts'
import { openDatabase } from '../../src/db/client.ts'
import { type Answer, UnansweredError } from './client.ts'

/** A repeatable source of numbers in [0, 1) (mulberry32): a failing run is run again with the seed it printed. */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

export function pick<T>(random: () => number, items: readonly T[]): T {
  const item = items[Math.floor(random() * items.length)]
  if (item === undefined) throw new Error('nothing to pick from')
  return item
}

/** The seed of this run: `TEST_SEED`, or a new one. */
export const runSeed = (): number => Number(process.env.TEST_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** Runs `work(0)` … `work(count - 1)`, at most `width` at a time. The first failure stops the rest. */
export async function spread(count: number, width: number, work: (index: number) => Promise<void>): Promise<void> {
  let next = 0
  const worker = async () => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: Math.min(width, count) }, worker)).catch((error: unknown) => {
    next = count
    throw error
  })
}

/** Runs `work` again and again, `width` at a time, until the returned function is called and what is under way has ended. */
export function keepBusy(width: number, work: () => Promise<void>): () => Promise<void> {
  let stopped = false
  const worker = async () => {
    while (!stopped) await work()
  }
  const running = Promise.all(Array.from({ length: width }, worker))
  running.catch(() => {})
  return async () => {
    stopped = true
    await running
  }
}

/**
 * Sends a request until it is answered for good: an unanswered one, a conflict and a 503 are sent again, as a client with an
 * idempotency key does.
 */
export async function untilAnswered<B>(send: (attempt: number) => Promise<Answer<B>>, limit_ms = 60_000): Promise<Answer<B>> {
  const deadline = Date.now() + limit_ms
  for (let attempt = 0; ; attempt++) {
    try {
      const answer = await send(attempt)
      if (answer.status !== 409 && answer.status !== 503) return answer
      if (Date.now() > deadline) throw new Error(`still ${answer.status} after ${limit_ms} ms`)
    } catch (error) {
      if (!(error instanceof UnansweredError) || Date.now() > deadline) throw error
    }
    await sleep(Math.min(500, 50 * 2 ** attempt))
  }
}

/** A plain client of the test's own for looking into a database beside the servers. */
export function openSql(url: string) {
  return postgres(url, { max: 2, types: { bigint: postgres.BigInt }, onnotice: () => {} })
}
export type TestSql = ReturnType<typeof openSql>

/** Deadlocks that PostgreSQL has resolved in this database. Its statistics lag by up to a second. */
export async function deadlocksIn(sql: TestSql): Promise<number> {
  await sleep(1_100)
  await sql`select pg_stat_clear_snapshot()`
  const [row] = await sql`select deadlocks from pg_stat_database where datname = current_database()`
  return Number(row?.deadlocks)
}

/**
 * Recomputes every balance from holds and ledger, independently of the product's own code for it, and lists what disagrees:
 * ops are the grants less one per hold; a window's spend is the sum of the holds that were charged to it and taken in its current
 * instance, at their estimate while open and at their actual cost once resolved.
 */
export async function findWrongBalances(sql: TestSql): Promise<string[]> {
  const wrong: string[] = []
  const ops = await sql<{ account_id: string; ops: bigint; expected: bigint }[]>`
    select a.account_id, a.ops, coalesce((select sum(ops_delta) from ledger l where l.account_id = a.account_id), 0)::bigint
      - (select count(*) from holds h where h.account_id = a.account_id) as expected
    from accounts a`
  if (ops.length === 0) throw new Error('no account to check')
  for (const row of ops) if (row.ops !== row.expected) wrong.push(`${row.account_id}: ops ${row.ops}, should be ${row.expected}`)

  const envelopes = await sql`select * from envelopes`
  const clocks = new Map(envelopes.map((row) => [`${row.account_id} ${row.agent_id}`, Number(row.clock_ms)]))
  const expected = new Map<string, bigint>()
  const holds = await sql`select account_id, agent_id, state, charged, taken_ms, estimate_nanousd, actual_nanousd from holds`
  for (const hold of holds) {
    const amount: bigint = hold.state === HOLD_STATE.open ? hold.estimate_nanousd : hold.actual_nanousd
    const path = pathOf(hold.agent_id)
    for (const level of decodeLevels(hold.charged)) {
      const envelope = `${hold.account_id} ${path[level]}`
      const clock_ms = clocks.get(envelope)
      if (clock_ms === undefined) {
        wrong.push(`${envelope}: charged, but not there`)
        continue
      }
      for (const window of WINDOWS) {
        if (instanceStart(window, Number(hold.taken_ms)) !== instanceStart(window, clock_ms)) continue
        const name = `${envelope} ${window}`
        expected.set(name, (expected.get(name) ?? 0n) + amount)
      }
    }
  }
  for (const row of envelopes) {
    for (const window of WINDOWS) {
      const should = expected.get(`${row.account_id} ${row.agent_id} ${window}`) ?? 0n
      const is: bigint = row[`spent_${window}_nanousd`]
      if (is !== should) wrong.push(`${row.account_id} ${row.agent_id} ${window}: spent ${is}, should be ${should}`)
    }
  }
  return wrong
}

/** What the product's own verification finds, over a connection of its own. */
export async function findDifferences(url: string): Promise<readonly Difference[]> {
  const database = await openDatabase({ url, dataDir: '' })
  try {
    const { accounts, differences } = await verifyBalances(database)
    if (accounts === 0) throw new Error('no account to check')
    return differences
  } finally {
    await database.close()
  }
}

/**
 * Makes the database itself record every committed change of an envelope that raised a spend above the limit of its window. A sum
 * that was exceeded for a moment and given back would not show in the final state.
 * @returns reads the record, `from` a copy of the database where there is one
 */
export async function watchOvershoot(sql: TestSql): Promise<(exceptAccountId: string, from?: TestSql) => Promise<string[]>> {
  const checks = WINDOWS.map(
    (window) => `if new.spent_${window}_nanousd > old.spent_${window}_nanousd
      and new.spent_${window}_nanousd > greatest(old.limit_${window}_nanousd, new.limit_${window}_nanousd) then
      insert into overshoots values (new.account_id, new.agent_id, '${window}', new.spent_${window}_nanousd, new.limit_${window}_nanousd);
    end if;`,
  )
  await sql.unsafe(`create table overshoots (account_id uuid, agent_id text, window_name text, spent bigint, cap bigint)`)
  await sql.unsafe(
    `create function record_overshoot() returns trigger language plpgsql as $$ begin ${checks.join('\n')} return null; end $$`,
  )
  await sql.unsafe('create trigger overshoot after update on envelopes for each row execute function record_overshoot()')
  return async (exceptAccountId, from = sql) => {
    const rows = await from`select * from overshoots where account_id <> ${exceptAccountId}`
    return rows.map((row) => `${row.account_id} ${row.agent_id} ${row.window_name}: ${row.spent} of ${row.cap}`)
  }
}
