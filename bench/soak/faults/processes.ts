import { setTimeout as sleep } from 'node:timers/promises'
import { makeSynchronous, PRIMARY_SETTINGS, promote } from '../../../test/support/standby.ts'
import { processCpu_us } from '../../machine.ts'
import { untilAllDecide, untilDecides } from '../stage.ts'
import type { Fault } from './fault.ts'

/** Always the first server, so that the others show whether memory stays flat. */
export const kill: Fault = {
  name: 'kill',
  what: 'kill -9 of one server, which is started again at once',
  needs: {},
  every_s: 20,
  async strike(stage) {
    const [server] = stage.servers
    const [client] = stage.clients
    if (server === undefined || client === undefined) throw new Error('there is no server to kill')
    await server.stop('SIGKILL')
    const began = performance.now()
    await server.start()
    await untilDecides(stage, client)
    const recovered_ms = performance.now() - began
    const cpu_s = processCpu_us(server.pid) / 1_000_000
    return { recovered_ms, since: 'its start', note: `${cpu_s.toFixed(2)} s of CPU for it` }
  },
}

export const restart: Fault = {
  name: 'restart',
  what: 'PostgreSQL is restarted (fast shutdown)',
  needs: {},
  every_s: 30,
  async strike(stage) {
    await stage.postgres.restart('fast')
    return { recovered_ms: await untilAllDecide(stage), since: 'the database was ready' }
  },
}

export const crash: Fault = {
  name: 'crash',
  what: 'kill -9 of every process of PostgreSQL, which is started again after a second and recovers from its log',
  needs: {},
  every_s: 30,
  async strike(stage) {
    await stage.postgres.stop('kill')
    await sleep(1000)
    await stage.postgres.restart()
    return { recovered_ms: await untilAllDecide(stage), since: 'the database was ready' }
  },
}

const DETECTED_MS = 1000

export const failover: Fault = {
  name: 'failover',
  what: 'kill -9 of the primary; its synchronous standby is promoted and takes over the address; then it gets a standby of its own',
  needs: { standby: true },
  every_s: 60,
  async strike(stage) {
    const { standby, address } = stage
    if (standby === null || address === null) throw new Error('there is no standby to fail over to')
    await stage.postgres.stop('kill')
    // What a supervisor takes to notice.
    await sleep(DETECTED_MS)
    await promote(standby)
    const promoted = performance.now()
    address.target(standby.port)
    stage.postgres = standby
    await untilAllDecide(stage)
    const recovered_ms = performance.now() - promoted
    stage.standby = await stage.addPostgres({ standbyOf: standby, settings: PRIMARY_SETTINGS })
    await makeSynchronous(standby)
    return { recovered_ms, since: 'the promotion' }
  },
}

const FOLLOWERLESS_MS = 8000

export const standby: Fault = {
  name: 'standby',
  what: `the only synchronous standby is killed (kill -9) and away for ${FOLLOWERLESS_MS / 1000} s: no commit is acknowledged meanwhile`,
  needs: { standby: true },
  every_s: 15,
  async strike(stage) {
    await stage.standby?.stop('kill')
    await sleep(FOLLOWERLESS_MS)
    await stage.standby?.restart()
    return { recovered_ms: await untilAllDecide(stage), since: 'the standby was ready' }
  },
}

export const pooler: Fault = {
  name: 'pooler',
  what: 'PgBouncer in transaction mode in between, which is killed (kill -9) and started again',
  needs: { pooler: true },
  every_s: 20,
  async strike(stage) {
    await stage.pooler?.restart()
    return { recovered_ms: await untilAllDecide(stage), since: 'PgBouncer was ready', note: stage.pooler?.version ?? '' }
  },
}
