import { setTimeout as sleep } from 'node:timers/promises'
import type { Client } from './client.ts'
import type { Fleet } from './fleet.ts'
import {
  deadlocksIn,
  findDifferences,
  findWrongBalances,
  keepBusy,
  openSql,
  pick,
  randomFrom,
  runSeed,
  type TestSql,
  untilAnswered,
} from './load.ts'
import { Workload } from './workload.ts'

const INPUT = { agent_id: 'worker', model: 'gpt-4o', estimated_tokens: 100 }
const KEYED_OPS = 1_000_000
const KEYED_LIMIT_USD = 1_000_000

/** Clearances with an Idempotency-Key, each sent again until it is answered: whatever happens, each is there once. */
export class KeyedClears {
  readonly #client: () => Client
  readonly #ids = new Map<string, string>()
  readonly #wrong: string[] = []
  #key = ''
  #accountId = ''
  #started = 0
  /** Tries beyond the first ones. */
  retries = 0

  constructor(client: () => Client) {
    this.#client = client
  }

  async prepare(): Promise<void> {
    const { key, accountId } = await this.#client().createAccount(KEYED_OPS)
    this.#key = key
    this.#accountId = accountId
    await this.#client().setEnvelope(key, { agent_id: INPUT.agent_id, limit_usd: KEYED_LIMIT_USD, window: 'session' })
  }

  async step(): Promise<void> {
    const idempotencyKey = `clear-${this.#started++}`
    const { body } = await untilAnswered((attempt) => {
      if (attempt > 0) this.retries++
      return this.#client().clear(this.#key, INPUT, { idempotencyKey })
    })
    if (body.clearance_id === undefined) this.#wrong.push(`${idempotencyKey} was answered ${JSON.stringify(body)}`)
    else this.#ids.set(idempotencyKey, body.clearance_id)
  }

  /** Compares with the database once every step has ended. @returns what disagrees */
  async disagreements(sql: TestSql): Promise<string[]> {
    const wrong = [...this.#wrong]
    const answered = new Set(this.#ids.values())
    if (answered.size !== this.#started) wrong.push(`${this.#started} requests, ${answered.size} clearances`)
    const holds = await sql<{ hold_id: string }[]>`select hold_id from holds where account_id = ${this.#accountId}`
    for (const { hold_id } of holds) if (!answered.delete(hold_id)) wrong.push(`clearance ${hold_id} was answered to nobody`)
    for (const id of answered) wrong.push(`clearance ${id} was approved and forgotten`)
    const [account] = await sql`select ops from accounts where account_id = ${this.#accountId}`
    if (Number(account?.ops) !== KEYED_OPS - this.#started) wrong.push(`${account?.ops} ops after ${this.#started} clearances`)
    for (const [idempotencyKey, id] of [...this.#ids].slice(0, 20)) {
      const again = await this.#client().clear(this.#key, INPUT, { idempotencyKey })
      if (again.body.clearance_id !== id || again.headers['idempotent-replayed'] !== 'true')
        wrong.push(`${idempotencyKey} was answered ${id}, and then ${JSON.stringify(again.body)}`)
    }
    return wrong
  }
}

export type Loaded = { readonly workload: Workload; readonly keyed: KeyedClears }
/** Requests under way at once that carry no Idempotency-Key. */
export const LOAD_WIDTH = 40
const KEYED_WIDTH = 8

/** Runs every kind of request while `during` does its damage, and says what came of it in one line. */
export async function underLoad(fleet: Fleet, during: (loaded: Loaded) => Promise<void>): Promise<Loaded> {
  const seed = runSeed()
  const random = randomFrom(seed)
  const client = () => pick(random, fleet.clients)
  const loaded = { workload: new Workload(client, random), keyed: new KeyedClears(client) }
  const { workload, keyed } = loaded
  await workload.prepare()
  await keyed.prepare()
  const stop = keepBusy(LOAD_WIDTH, async () => {
    const bad = workload.refused + workload.unanswered
    await workload.step()
    if (workload.refused + workload.unanswered > bad) await sleep(20)
  })
  const stopKeyed = keepBusy(KEYED_WIDTH, () => keyed.step())
  try {
    await during(loaded)
  } catch (error) {
    // The load may fail for it too, and says less about it.
    await Promise.allSettled([stop(), stopKeyed()])
    throw error
  }
  await stop()
  await stopKeyed()
  console.log(
    `seed ${seed}: ${workload.answered} answered, ${workload.refused} refused, ${workload.unanswered} not answered, ${keyed.retries} tries again, slowest ${Math.round(workload.slowest_ms)} ms`,
  )
  return loaded
}

/**
 * Everything that is wrong after a fault: a lost or doubled clearance, a second first call, a balance that is not the sum of its parts.
 * @param url the database as it is now
 */
export async function wrongAfter({ workload, keyed }: Loaded, url: string): Promise<string[]> {
  const sql = openSql(url)
  try {
    const differences = (await findDifferences(url)).map((difference) => JSON.stringify(difference, bigintAsText))
    const deadlocks = await deadlocksIn(sql)
    return [
      ...(await workload.disagreements(sql, false)),
      ...(await keyed.disagreements(sql)),
      ...(await findWrongBalances(sql)),
      ...differences,
      ...(deadlocks > 0 ? [`${deadlocks} deadlocks`] : []),
    ]
  } finally {
    await sql.end()
  }
}

const bigintAsText = (_name: string, value: unknown): unknown => (typeof value === 'bigint' ? String(value) : value)

/** From now to the first decision of each server; fails after `limit_ms`. */
export async function untilDecides(fleet: Fleet, key: string, limit_ms: number): Promise<number[]> {
  const began = performance.now()
  return Promise.all(
    fleet.clients.map(async (client) => {
      for (;;) {
        const input = { agent_id: 'probe', model: 'gpt-4o', estimated_tokens: 1 }
        const status = await client.clear(key, input).then(
          (answer) => answer.status,
          () => 0,
        )
        const took_ms = Math.round(performance.now() - began)
        if (status === 200) return took_ms
        if (took_ms > limit_ms) throw new Error(`no decision within ${limit_ms} ms, the last answer was ${status}`)
        await sleep(20)
      }
    }),
  )
}
