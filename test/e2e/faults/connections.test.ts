import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { underLoad, untilDecides, wrongAfter } from '../../support/faults.ts'
import { type Fleet, startFleet } from '../../support/fleet.ts'
import { type PostgresServer, startPostgres } from '../../support/postgres.ts'

const MAX_CONNECTIONS = 24
const RESUMED_WITHIN_MS = 10_000

describe('a PostgreSQL without a free connection', () => {
  let server: PostgresServer
  let fleet: Fleet

  beforeAll(async () => {
    server = await startPostgres({ settings: { max_connections: MAX_CONNECTIONS, superuser_reserved_connections: 0 } })
    fleet = await startFleet(server.url, 2, { env: { DB_POOL_SIZE: '4' } })
  })
  afterAll(async () => {
    await fleet?.stop()
    await server?.remove()
  })

  /** Takes every connection there is, also those that the servers lose, until the returned function gives them back. */
  async function takeAll(): Promise<() => Promise<void>> {
    const taken: postgres.Sql[] = []
    let isDone = false
    const take = async (): Promise<boolean> => {
      const sql = postgres(server.url, { max: 1, idle_timeout: 0, onnotice: () => {} })
      try {
        await sql`select 1`
        taken.push(sql)
        return true
      } catch (error) {
        await sql.end()
        if (error instanceof postgres.PostgresError && error.code === '53300') return false
        throw error
      }
    }
    while (await take());
    const taking = (async () => {
      while (!isDone) if (!(await take())) await sleep(5)
    })()
    await taken[0]!`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'gvnr'`
    return async () => {
      isDone = true
      await taking
      await Promise.all(taken.map((sql) => sql.end()))
    }
  }

  it('answers 503 while others have them all, and goes on when they are given back', async () => {
    const { key } = await fleet.clients[0]!.createAccount(1000)
    const loaded = await underLoad(fleet, async () => {
      await sleep(1000)
      const giveBack = await takeAll()
      await sleep(2000)
      await giveBack()
      console.log(`decides again after ${await untilDecides(fleet, key, RESUMED_WITHIN_MS)} ms`)
      await sleep(1000)
    })
    const { workload } = loaded
    expect(workload.faults).toEqual([])
    expect(workload.unanswered).toBe(0)
    expect(workload.refused).toBeGreaterThan(0)
    expect(workload.approved.size).toBeGreaterThan(20)
    expect(await wrongAfter(loaded, server.url)).toEqual([])
    for (const one of fleet.servers) expect(one.logs()).not.toContain('unexpected failure')
  })

  it('works, if slowly, with fewer connections than its pools would like', async () => {
    const others = Array.from({ length: MAX_CONNECTIONS - 14 }, () => postgres(server.url, { max: 1, onnotice: () => {} }))
    const loaded = await underLoad(fleet, async () => {
      await Promise.allSettled(others.map((sql) => sql`select 1`))
      await others[0]!`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'gvnr'`
      await sleep(4000)
      await Promise.all(others.map((sql) => sql.end()))
    })
    expect(loaded.workload.unanswered).toBe(0)
    expect(loaded.workload.answered).toBeGreaterThan(loaded.workload.refused)
    expect(await wrongAfter(loaded, server.url)).toEqual([])
  })
})
