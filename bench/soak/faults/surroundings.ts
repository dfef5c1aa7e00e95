import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { onDatabase, untilAllDecide } from '../stage.ts'
import { burst } from './burst.ts'
import type { Fault } from './fault.ts'

const EXHAUSTED_MS = 3000

export const connections: Fault = {
  name: 'connections',
  what: `others take every connection of PostgreSQL (max_connections 40) for ${EXHAUSTED_MS / 1000} s, also those that the servers lose`,
  needs: { postgres: { max_connections: 40 } },
  every_s: 20,
  async strike(stage) {
    const taken: postgres.Sql[] = []
    const take = async (): Promise<boolean> => {
      const sql = postgres(stage.postgres.url, { max: 1, onnotice: () => {} })
      const isTaken = await sql`select 1`.then(
        () => true,
        () => false,
      )
      if (isTaken) taken.push(sql)
      else await sql.end()
      return isTaken
    }
    while (await take());
    const [ours] = taken
    if (ours === undefined) throw new Error('there was no connection to take')
    await ours`select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'gvnr'`
    for (const until = Date.now() + EXHAUSTED_MS; Date.now() < until; ) if (!(await take())) await sleep(5)
    await Promise.all(taken.map((sql) => sql.end()))
    return { recovered_ms: await untilAllDecide(stage), since: 'the connections were free again', note: `${taken.length} taken` }
  },
}

const SLOW_MS = 10_000

export const slowDisk: Fault = {
  name: 'slow-disk',
  what: `every commit takes 100 ms more for ${SLOW_MS / 1000} s (commit_delay), and every answer of the database 20 ms`,
  needs: { switch: true },
  every_s: 20,
  async strike(stage) {
    const setDelay = (delay_us: number): Promise<unknown> =>
      onDatabase(stage, async (sql) => {
        await sql.unsafe(`alter system set commit_delay = ${delay_us}`)
        await sql.unsafe('alter system set commit_siblings = 0')
        await sql.unsafe('select pg_reload_conf()')
      })
    await setDelay(100_000)
    stage.address?.delay(20)
    await sleep(SLOW_MS)
    stage.address?.delay(0)
    await setDelay(0)
    return { recovered_ms: await untilAllDecide(stage), since: 'the disk was fast again' }
  },
}

export const clock: Fault = {
  name: 'clock',
  what: "the servers' wall clock is set 40 days ahead, 40 days back and right again (libfaketime), 5 s each",
  needs: { clock: true },
  every_s: 5,
  async strike(stage) {
    for (const shift of ['+40d', '-40d', '+0']) {
      writeFileSync(stage.clockFile, shift)
      await sleep(5000)
    }
    return { recovered_ms: await untilAllDecide(stage), since: 'the clock was right again' }
  },
}

const STALL_MS = 4000

export const lanes: Fault = {
  name: 'lanes',
  what: `the database stands still for ${STALL_MS / 1000} s while one account sends more than a lane's queue holds (10,000)`,
  needs: { switch: true },
  every_s: 20,
  async strike(stage, books) {
    const [server] = stage.servers
    const [client] = stage.clients
    if (server === undefined || client === undefined) throw new Error('there is no server to fill')
    stage.address?.partition()
    const filled = burst(server.port, stage.probeKey)
    await sleep(STALL_MS)
    stage.address?.heal()
    const recovered_ms = await untilAllDecide(stage)
    const { approved, overloaded, other } = await filled
    if (other > 0) books.fault(`burst: ${other} answers other than an approval or "overloaded"`)
    const note = `${approved} approved later, ${overloaded} answered 503 overloaded`
    return { recovered_ms, since: 'the database went on', note }
  },
}

export const loss: Fault = {
  name: 'loss',
  what: 'packets between servers and database are lost for 10 s',
  needs: { network: true },
  every_s: 10,
  async strike(stage) {
    await stage.link?.lose()
    return { recovered_ms: await untilAllDecide(stage), since: 'no packet was lost any more', note: stage.link?.how ?? '' }
  },
}

const CUT_S = [3, 15] as const

export const partition: Fault = {
  name: 'partition',
  what: `nothing passes between servers and database, for ${CUT_S.join(' and for ')} s`,
  needs: { network: true },
  every_s: 10,
  async strike(stage) {
    let recovered_ms = 0
    for (const seconds of CUT_S) {
      stage.link?.cut()
      await sleep(seconds * 1000)
      stage.link?.restore()
      recovered_ms = Math.max(recovered_ms, await untilAllDecide(stage))
      await sleep(3000)
    }
    return { recovered_ms, since: 'the network was back', note: stage.link?.how ?? '' }
  },
}
