import type { ServerResponse } from 'node:http'
import { Server as NetServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ServerType, serve } from '@hono/node-server'
import { createApp } from './app.ts'
import { ConfigError, readConfig } from './config.ts'
import { SyncedClock } from './core/clock.ts'
import { createLog, type Log } from './core/log.ts'
import { type Database, openDatabase } from './db/client.ts'
import { migrateDatabase } from './db/migrate.ts'
import { GovernanceFileError, GovernanceSource } from './governance/source.ts'
import { startTracing } from './metrics/tracing.ts'
import type { OperationDeps } from './operations.ts'
import { migrationsFolder } from './package-root.ts'
import { answerUnparsed } from './transport/unparsed.ts'
import { VERSION } from './version.ts'

const CLOCK_SYNC_MS = 10_000
/** What remains after the drain for settling what was cut and closing the database. */
const CLOSE_MS = 7_000
const SWEEP_MS = 250

/** Bounds on what a slow or hostile peer may hold open. */
const SERVER_LIMITS = {
  requestTimeout: 30_000,
  headersTimeout: 15_000,
  // How often the two above are looked at: with Node's 30 s a slow peer would hold its connection three times as long.
  connectionsCheckingInterval: 5_000,
  keepAliveTimeout: 65_000,
  maxHeaderSize: 16 * 1024,
}

async function main(): Promise<void> {
  const config = readConfig()
  const log = createLog(config.LOG_LEVEL)
  const clock = new SyncedClock()
  const governance = new GovernanceSource({ clock, log }, config.RGF_FILE ?? '.rgf', {
    journalFolder: config.RGF_JOURNAL_DIR,
  })
  await governance.load({ mustExist: config.RGF_FILE !== undefined })
  const database = await openDatabase({
    url: config.DATABASE_URL,
    dataDir: config.DATA_DIR,
    poolSize: config.DB_POOL_SIZE,
    laneConnections: config.LANES + 1,
    ...(config.DB_PREPARE ? {} : { prepare: false }),
    log: (message) => log.info(message),
  })
  await migrateDatabase(database, migrationsFolder())
  const syncClock = () => clock.sync(() => databaseTime(database))
  await syncClock()
  const clockTimer = setInterval(
    () =>
      void syncClock().catch((error: unknown) => log.warn({ err: error }, 'reading the database clock failed, will try again')),
    CLOCK_SYNC_MS,
  )
  clockTimer.unref()

  const endpoint = config.OTEL_EXPORTER_OTLP_ENDPOINT
  const tracing = endpoint === undefined ? undefined : await startTracing<OperationDeps>(endpoint, VERSION)
  const app = createApp(config, { database, clock, log, governance, ...(tracing && { tracing }) })
  await app.start()
  const server = serve(
    { fetch: app.fetch, port: config.PORT, hostname: config.HOST, serverOptions: SERVER_LIMITS },
    ({ port }) => {
      const origin = config.PUBLIC_URL ?? `http://${config.HOST.includes(':') ? `[${config.HOST}]` : config.HOST}:${port}`
      log.info({ origin, database: database.kind }, 'listening')
      if (process.stdout.isTTY || config.LOG_LEVEL !== 'silent') process.stdout.write(welcome(origin))
    },
  )

  if ('maxHeadersCount' in server) answerUnparsed(server)
  server.on('error', (error) => {
    process.stderr.write(
      `Cannot listen on ${config.HOST} port ${config.PORT}: ${error.message}. Set HOST and PORT to a free address.\n`,
    )
    process.exit(1)
  })

  const notice_ms = config.DRAIN_NOTICE_SECONDS * 1000
  const drain_ms = config.DRAIN_SECONDS * 1000
  const impatience = new AbortController()
  let stopping = false
  server.prependListener('request', (_request: unknown, response: ServerResponse) => {
    // A client that keeps its connection busy must not keep this process alive: its next answer is the last one there.
    if (stopping) response.shouldKeepAlive = false
  })
  const stop = async (signal: string): Promise<void> => {
    if (stopping) return impatience.abort()
    stopping = true
    log.info({ signal }, 'stopping: finishing requests under way')
    setTimeout(() => process.exit(1), notice_ms + drain_ms + CLOSE_MS).unref()
    app.leave()
    // Balancers look every few seconds: until they have, what they send is answered as ever. A second signal cuts this short.
    await sleep(notice_ms, undefined, { signal: impatience.signal }).catch(() => {})
    app.release()
    await drain(server, drain_ms)
    await app.stop()
    await database.close()
    process.exit(0)
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal))
}

/**
 * Answers what is under way and closes each connection after it; whoever has not sent all of a request by the end is cut off. Only the
 * listening socket closes at once: http's own `close` would also cut connections whose next request is on its way.
 */
async function drain(server: ServerType, limit_ms: number): Promise<void> {
  const closed = new Promise<void>((resolve) => NetServer.prototype.close.call(server, () => resolve()))
  if (!('closeIdleConnections' in server)) return closed
  const sweep = setInterval(() => server.closeIdleConnections(), SWEEP_MS)
  const cut = setTimeout(() => server.closeAllConnections(), limit_ms)
  await closed
  clearInterval(sweep)
  clearTimeout(cut)
}

const databaseTime = async (database: Database): Promise<number> => {
  const [row] = await database.sql.unsafe('select (extract(epoch from clock_timestamp()) * 1000)::float8 as now_ms', [], {
    prepare: database.prepare,
  })
  return Number(row?.now_ms)
}

const welcome = (origin: string): string => `
Gvnr answers at ${origin}

  Make an account   curl -X POST ${origin}/v1/account
  Add it to Claude  claude mcp add gvnr --transport http ${origin}/mcp --header "Authorization: Bearer bg_…"
  Reference         ${origin}/docs

`

main().catch((error: unknown) => {
  const log: Log = createLog('info')
  if (error instanceof ConfigError) process.stderr.write(`Cannot start: check the environment.\n${error.message}\n`)
  else if (error instanceof GovernanceFileError)
    process.stderr.write(`Cannot start: the governance file cannot be used.\n${error.message}\n`)
  else log.fatal({ err: error }, 'cannot start')
  process.exit(1)
})
