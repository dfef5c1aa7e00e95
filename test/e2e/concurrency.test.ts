import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { type Fleet, startFleet } from '../support/fleet.ts'
import {
  deadlocksIn,
  findDifferences,
  findWrongBalances,
  openSql,
  pick,
  randomFrom,
  runSeed,
  spread,
  type TestSql,
  watchOvershoot,
} from '../support/load.ts'
import { Workload } from '../support/workload.ts'

const PROCESSES = 3
const REQUESTS = Number(process.env.E2E_REQUESTS ?? 20_000)
const WIDTH = 192

describe('three server processes on one PostgreSQL', () => {
  let home: TestDatabase
  let sql: TestSql
  let fleet: Fleet

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    fleet = await startFleet(home.url!, PROCESSES, { sockets: WIDTH })
  })
  afterAll(async () => {
    await fleet?.stop()
    await sql?.end()
    await home?.drop()
  })

  it(`decides ${REQUESTS} mixed requests as one process would`, async () => {
    const seed = runSeed()
    const random = randomFrom(seed)
    const overshoots = await watchOvershoot(sql)
    const workload = new Workload(() => pick(random, fleet.clients), random)
    await workload.prepare()

    const started = performance.now()
    await spread(REQUESTS, WIDTH, () => workload.step())
    const rate = Math.round(REQUESTS / ((performance.now() - started) / 1000))
    console.log(
      `seed ${seed}: ${rate} requests/s, ${workload.approved.size} approved, ${workload.denied.length} denied, ${workload.resolved.size} resolved, slowest ${Math.round(workload.slowest_ms)} ms`,
    )

    expect(await workload.disagreements(sql, true)).toEqual([])
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
    expect(await overshoots(workload.accountId('changing'))).toEqual([])
    expect(await deadlocksIn(sql)).toBe(0)
    // The limits were reached, and exactly reached.
    for (const account of ['exact', 'quota'] as const) {
      expect(workload.denials(account)).toBeGreaterThan(0)
      expect(workload.approvals(account)).toBe(workload.expectedApprovals[account])
    }
    expect(workload.denials('team')).toBeGreaterThan(0)
    const [changing] =
      await sql`select spent_session_nanousd as spent from envelopes where account_id = ${workload.accountId('changing')}`
    expect(changing?.spent).toBeLessThanOrEqual(workload.highestChangingLimit_nanousd)
    for (const server of fleet.servers) expect(server.logs()).not.toMatch(/"level":(50|60)/)
  })
})
