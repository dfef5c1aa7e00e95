import { chmodSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { Client } from '../../test/support/client.ts'
import { type PostgresServer, startPostgres } from '../../test/support/postgres.ts'
import { makeSynchronous, PRIMARY_SETTINGS } from '../../test/support/standby.ts'
import { startSwitch, type TcpSwitch } from '../../test/support/tcp-switch.ts'
import { type Cleanup, startProvider } from '../servers.ts'
import { type Link, startLink } from './link.ts'
import { type Pooler, startPooler } from './pooler.ts'
import { ServerProcess } from './server-process.ts'

/** What a fault needs between the servers and the database. */
export type Needs = {
  /** A synchronous standby that can take over, behind one address. */
  readonly standby?: boolean
  /** A switch that delays and drops. */
  readonly switch?: boolean
  readonly pooler?: boolean
  /** A network of its own, where this machine allows one. */
  readonly network?: boolean
  /** A wall clock that can be set. */
  readonly clock?: boolean
  readonly postgres?: Readonly<Record<string, string | number>>
}

/** Everything that is under load, and the handles that faults pull. */
export type Stage = {
  readonly servers: readonly ServerProcess[]
  readonly clients: readonly Client[]
  /** The database of the moment, and its address without anything in between. */
  postgres: PostgresServer
  standby: PostgresServer | null
  readonly address: TcpSwitch | null
  readonly pooler: Pooler | null
  readonly link: Link | null
  readonly clockFile: string
  /** Keys with an op each time, for asking whether decisions are made again. */
  probeKey: string
  addPostgres(options: Parameters<typeof startPostgres>[0]): Promise<PostgresServer>
}

const FAKETIME = [
  '/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1',
  '/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1',
]

export async function openStage(
  cleanup: Cleanup,
  options: { entry: string; folder: string; servers: number; needs: Needs },
): Promise<Stage> {
  const { entry, folder, needs } = options
  const addPostgres: Stage['addPostgres'] = async (settings) =>
    cleanup.add(await startPostgres(settings), (server) => server.remove())
  const provider = cleanup.add(await startProvider(), (server) => server.stop())
  const sockets = join(folder, 'sockets')
  if (needs.network) {
    // PostgreSQL runs as another user than root.
    mkdirSync(sockets)
    chmodSync(sockets, 0o777)
    chmodSync(folder, 0o711)
  }
  const primary = await addPostgres({
    settings: {
      ...(needs.standby && PRIMARY_SETTINGS),
      ...(needs.network && { unix_socket_directories: sockets }),
      ...needs.postgres,
    },
  })
  const standby = needs.standby ? await addPostgres({ standbyOf: primary, settings: PRIMARY_SETTINGS }) : null
  if (standby !== null) await makeSynchronous(primary)
  const address = needs.standby || needs.switch ? cleanup.add(await startSwitch(primary.port), (one) => one.close()) : null
  const pooler = needs.pooler ? cleanup.add(await startPooler(folder, primary.port), (one) => one.stop()) : null
  const link = needs.network ? cleanup.add(await startLink(sockets, primary.port), (one) => one.remove()) : null
  const clockFile = join(folder, 'clock')
  writeFileSync(clockFile, '+0')
  const databaseUrl =
    link?.url ?? `postgres://postgres@127.0.0.1:${(pooler ?? address ?? primary).port}/postgres${pooler ? '?pgbouncer=true' : ''}`
  const environment = {
    UPSTREAM_OPENAI_URL: `http://127.0.0.1:${provider.port}`,
    UPSTREAM_OPENAI_KEY: 'sk-soak',
    PROXY_OPERATOR_KEYS: 'on',
    // The streams are all alike, which is otherwise taken for an agent that runs in circles.
    PROXY_MAX_REPEATS: '0',
    ...(needs.clock && fakeClock(clockFile)),
  }
  const servers: ServerProcess[] = []
  for (let index = 0; index < options.servers; index++) {
    const server = await ServerProcess.start(index, { entry, folder, databaseUrl, environment })
    servers.push(cleanup.add(server, (one) => one.stop('SIGTERM')))
  }
  const clients = servers.map((server) => cleanup.add(new Client(server.origin, { sockets: 256 }), (client) => client.close()))
  const [first] = clients
  if (first === undefined) throw new Error('a soak needs a server')
  const { key: probeKey } = await first.createAccount(1_000_000)
  await first.setEnvelope(probeKey, { agent_id: 'probe', limit_usd: 1_000_000, window: 'session' })
  return { servers, clients, postgres: primary, standby, address, pooler, link, clockFile, probeKey, addPostgres }
}

function fakeClock(file: string): Record<string, string> {
  const library = FAKETIME.find((path) => existsSync(path))
  if (library === undefined) throw new Error('libfaketime is missing: install the package "faketime"')
  return {
    LD_PRELOAD: library,
    FAKETIME_TIMESTAMP_FILE: file,
    FAKETIME_CACHE_DURATION: '1',
    FAKETIME_DONT_FAKE_MONOTONIC: '1',
  }
}

/** A connection of the harness's own, past everything that is in between. */
export async function onDatabase<T>(stage: Stage, work: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(stage.postgres.url, { max: 1, onnotice: () => {} })
  try {
    return await work(sql)
  } finally {
    await sql.end({ timeout: 5 })
  }
}

const DECIDES_WITHIN_MS = 120_000

/** How long from now until a server decides, milliseconds. */
export async function untilDecides(stage: Stage, client: Client): Promise<number> {
  const began = performance.now()
  for (;;) {
    const input = { agent_id: 'probe', model: 'gpt-4o', estimated_tokens: 1 }
    const isDecided = await client.clear(stage.probeKey, input).then(
      ({ status }) => status === 200,
      () => false,
    )
    const took_ms = performance.now() - began
    if (isDecided) return took_ms
    if (took_ms > DECIDES_WITHIN_MS) throw new Error('a server does not decide any more')
    await sleep(5)
  }
}

/** The same for every server, the slowest. */
export const untilAllDecide = async (stage: Stage): Promise<number> =>
  Math.max(...(await Promise.all(stage.clients.map((client) => untilDecides(stage, client)))))
