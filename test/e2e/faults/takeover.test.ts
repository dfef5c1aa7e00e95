import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Answer, Client, type Fields } from '../../support/client.ts'
import { createTestDatabase, DATABASE_KINDS, type TestDatabase } from '../../support/databases.ts'
import { type Fleet, startFleet } from '../../support/fleet.ts'
import { findDifferences, findWrongBalances, openSql, type TestSql, untilAnswered } from '../../support/load.ts'
import { type PriceSource, startPriceSource } from '../../support/price-source.ts'
import { startServer } from '../../support/server.ts'
import { startSwitch, type TcpSwitch } from '../../support/tcp-switch.ts'

/** What a process that is gone had begun is taken up after some 5 s. One that is thought to live has 30 s. */
const TAKEN_UP_MS = 15_000
/** After so long without a sign a process is gone. */
const GONE_MS = 5_000

/** A request that runs until the source of prices answers. */
const refresh = (client: Client, idempotencyKey: string): Promise<Answer> =>
  client.send({ method: 'POST', path: '/v1/admin/price-cache/refresh', admin: true, body: {}, idempotencyKey })

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 10_000; !(await condition()); await sleep(10))
    if (Date.now() > deadline) throw new Error('waited too long')
}

/** Sends a request again and again that must not be carried out meanwhile. @returns the status of each answer */
async function askFor(duration_ms: number, send: () => Promise<Answer>): Promise<Set<number>> {
  const statuses = new Set<number>()
  for (const end = Date.now() + duration_ms; Date.now() < end; await sleep(100)) statuses.add((await send()).status)
  return statuses
}

let source: PriceSource
beforeAll(async () => {
  source = await startPriceSource()
})
afterAll(() => source.close())
beforeEach(() => source.hold())
afterEach(() => source.answer())

describe('two server processes on one database', () => {
  let home: TestDatabase
  let sql: TestSql
  let gates: TestSql
  let fleet: Fleet
  let clients: readonly [Client, Client]

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    gates = openSql(home.url!)
    fleet = await startFleet(home.url!, 2, { env: { PRICES_URL: source.url } })
    clients = [fleet.clients[0]!, fleet.clients[1]!]
  })
  afterAll(async () => {
    await fleet?.stop()
    await sql?.end()
    await gates?.end()
    await home?.drop()
  })

  it('leave to each other what takes long in one that lives', async () => {
    const before = source.asked
    const first = refresh(clients[0], 'long')
    await until(() => source.asked > before)
    expect(await askFor(GONE_MS + 2_000, () => refresh(clients[1], 'long'))).toEqual(new Set([409]))
    source.answer()
    const { status, body } = await first
    expect(status).toBe(200)
    expect((await refresh(clients[1], 'long')).body).toEqual(body)
    expect(source.asked).toBe(before + 1)
  })

  /** As many clearances and grants as make a batch and wait for it, sent to the first server and begun there, but not done. */
  async function inFlight(pairs: number) {
    const { key, accountId } = await clients[1].createAccount(1_000)
    await clients[1].setEnvelope(key, { agent_id: 'a', limit_usd: 1_000 })
    const input = { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 100 }
    const grant = { method: 'POST', path: '/v1/admin/seed', admin: true, body: { api_key: key, operations: 7 } } as const
    const sends = Array.from({ length: pairs }, (_, index) => [
      (client: Client): Promise<Answer<Fields>> => client.clear(key, input, { idempotencyKey: `clear-${index}` }),
      (client: Client): Promise<Answer<Fields>> => client.send({ ...grant, idempotencyKey: `grant-${index} ${key}` }),
    ]).flat()
    const begun = async () => {
      const [row] = await sql`select count(*) from idempotent_requests where status is null and key ~ '^(clear|grant)-'`
      return Number(row?.count) >= sends.length
    }
    let open = (): void => {}
    const opened = new Promise<void>((resolve) => (open = resolve))
    let lock: Promise<unknown> = Promise.resolve()
    await new Promise<void>((locked) => {
      lock = gates.begin(async (tx) => {
        await tx`select 1 from accounts where account_id = ${accountId} for update`
        locked()
        await opened
      })
    })
    const first = sends.map((send) => send(clients[0]))
    for (const one of first) one.catch(() => {})
    await until(begun)
    const release = async () => {
      open()
      await lock
    }
    const wrong = async (answers: readonly Answer<Fields>[]): Promise<unknown[]> => {
      const ids = answers.flatMap(({ body }) => (body.clearance_id === undefined ? [] : [String(body.clearance_id)])).sort()
      expect(ids).toHaveLength(pairs)
      const holds = await sql`select hold_id from holds where account_id = ${accountId}`
      expect(holds.map(({ hold_id }) => String(hold_id)).sort()).toEqual(ids)
      const [account] = await sql`select ops from accounts where account_id = ${accountId}`
      expect(account?.ops).toBe(BigInt(1_000 + 7 * pairs - pairs))
      return [...(await findWrongBalances(sql)), ...(await findDifferences(home.url!))]
    }
    return { sends, first, release, wrong }
  }

  it('finish within seconds what one that is killed had begun, once', async () => {
    const before = source.asked
    const running = refresh(clients[0], 'killed')
    running.catch(() => {})
    await until(() => source.asked > before)
    const { sends, release, wrong } = await inFlight(16)
    await fleet.servers[0]!.kill('SIGKILL')
    await release()
    source.answer()
    const again = await Promise.all(
      [(client: Client) => refresh(client, 'killed'), ...sends].map((send) => untilAnswered(() => send(clients[1]), TAKEN_UP_MS)),
    )
    expect(new Set(again.map(({ status }) => status))).toEqual(new Set([200]))
    expect(await wrong(again.slice(1))).toEqual([])
    expect(source.asked).toBe(before + 2)
    await fleet.servers[0]!.restart()
  })

  it('do nothing twice and give one answer when one stands still for ten seconds', async () => {
    // A gate between taking an idempotency key and doing the work.
    await sql.unsafe(`create function pass_gate() returns trigger language plpgsql as
      $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$`)
    await sql`create trigger gate before insert on idempotent_requests for each row execute function pass_gate()`
    source.answer()
    const before = source.asked
    const { sends, first, release, wrong } = await inFlight(16)
    const keyed = [(client: Client) => refresh(client, 'stopped'), ...sends]
    const late = await sql.begin(async (tx) => {
      await tx`select pg_advisory_xact_lock(1)`
      const waiting = refresh(clients[0], 'stopped')
      waiting.catch(() => {})
      await until(async () => (await sql`select 1 from pg_stat_activity where wait_event = 'advisory'`).length > 0)
      await fleet.servers[0]!.kill('SIGSTOP')
      return { answers: Promise.all([waiting, ...first]) }
    })
    const stopped_ms = Date.now()
    try {
      await release()
      await until(async () => (await sql`select 1 from idempotent_requests where key = 'stopped'`).length > 0)
      const answers = await Promise.all(keyed.map((send) => untilAnswered(() => send(clients[1]), TAKEN_UP_MS)))
      await sleep(Math.max(0, stopped_ms + 10_000 - Date.now()))
      await fleet.servers[0]!.kill('SIGCONT')
      const lateAnswers = await late.answers
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]))
      expect(lateAnswers.map(({ body }) => body)).toEqual(answers.map(({ body }) => body))
      expect(await wrong(answers.slice(1))).toEqual([])
      expect(source.asked).toBe(before + 1)
    } finally {
      await fleet.servers[0]!.kill('SIGCONT')
    }
  })
})

describe('two server processes that lose the database', () => {
  let home: TestDatabase
  const cables: TcpSwitch[] = []
  const fleets: Fleet[] = []

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    for (let number = 0; number < 2; number++) {
      const url = new URL(home.url!)
      const cable = await startSwitch(Number(url.port))
      url.port = String(cable.port)
      cables.push(cable)
      fleets.push(await startFleet(url.toString(), 1, { env: { PRICES_URL: source.url } }))
    }
  })
  afterAll(async () => {
    for (const fleet of fleets) await fleet.stop()
    for (const cable of cables) await cable.close()
    await home?.drop()
  })

  it('do not take each other for gone when they find it again one after the other', async () => {
    const [first, second] = fleets.map(({ clients }) => clients[0]!) as [Client, Client]
    const before = source.asked
    const running = refresh(first, 'outage')
    await until(() => source.asked > before)
    const away = new URL(home.url!)
    for (const cable of cables) {
      cable.target(1)
      cable.cut()
    }
    await sleep(GONE_MS + 1_000)
    cables[1]!.target(Number(away.port))
    const statuses = await askFor(1_500, () => refresh(second, 'outage'))
    cables[0]!.target(Number(away.port))
    for (const status of await askFor(1_000, () => refresh(second, 'outage'))) statuses.add(status)
    // It was asked while the other was still away.
    expect(statuses).toContain(409)
    expect([...statuses].filter((status) => status !== 409 && status !== 503)).toEqual([])
    source.answer()
    expect((await running).status).toBe(200)
    expect((await refresh(second, 'outage')).body).toEqual((await running).body)
    expect(source.asked).toBe(before + 1)
  })
})

describe.each(DATABASE_KINDS)('the only server process of a database [%s]', (kind) => {
  it('goes on with what it had begun when it is killed and started again', async () => {
    const home = await createTestDatabase(kind)
    const server = await startServer({ databaseUrl: home.url, dataDir: home.dataDir, env: { PRICES_URL: source.url } })
    const client = new Client(() => server.origin)
    try {
      const before = source.asked
      const running = refresh(client, 'alone')
      running.catch(() => {})
      await until(() => source.asked > before)
      await server.restart('SIGKILL')
      source.answer()
      expect((await untilAnswered(() => refresh(client, 'alone'), TAKEN_UP_MS)).status).toBe(200)
      expect(source.asked).toBe(before + 2)
    } finally {
      client.close()
      await server.stop()
      await home.drop()
    }
  })
})
