import { EventEmitter } from 'node:events'
import { drizzle, type PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { startPglite } from './pglite.ts'
import { createRenewedPool } from './pool.ts'
import { watchForSilence } from './watch.ts'

/** Types beyond the driver's own. Arrays of bigint or boolean must name theirs: `sql.types.bigintArray([1n])` (the driver takes the first item's). */
export type SqlTypes = {
  bigint: bigint
  json: postgres.JSONValue
  bigintArray: readonly (bigint | null)[]
  booleanArray: readonly (boolean | null)[]
  smallintArray: readonly (number | null)[]
  intArray: readonly (number | null)[]
  textArray: readonly (string | null)[]
  uuidArray: readonly (string | null)[]
}
export type Sql = postgres.Sql<SqlTypes>
/** A pool or an open transaction: stores accept either and never ask which. */
export type QuerySql = Pick<postgres.ISql<SqlTypes>, 'unsafe'>

/**
 * One database, either kind, behind the same driver and wire protocol. int8 is `bigint` both ways (`count(*)` too); json and jsonb come back parsed,
 * and go in as an object or as JSON text (a string is taken for JSON text, as drizzle sends it); arrays of strings or numbers, or their literal `{…}`.
 * On PGlite all of it is ONE connection: inside `sql.begin` use only the transaction's own handle, the outer one would wait for ever.
 */
export type Database = {
  readonly kind: 'pglite' | 'postgres'
  /** Raw SQL. On the hot path: `sql.unsafe(text, params, { prepare: database.prepare })`. */
  readonly sql: Sql
  /** Separate small pool for the decision lanes, so that nothing else makes them queue (the same client as `sql` on PGlite). */
  readonly laneSql: Sql
  /** A connection that nothing else keeps busy, for what must be said in time (the same client as `sql` on PGlite). */
  readonly promptSql: Sql
  /** Whether statements may be prepared by name; false behind a transaction pooler. */
  readonly prepare: boolean
  /** drizzle over `sql`, for everything off the hot path. */
  readonly orm: PostgresJsDatabase
  /**
   * Calls `onPayload` for each notification and `onReady` each time the subscription is (re)established; what was sent in between is lost. A loss of the
   * connection, or a pooler that forbids LISTEN, is logged and never thrown: callers poll as well. In-process on PGlite. Resolves to unsubscribe.
   */
  listen(channel: string, onPayload: (payload: string) => void, onReady?: () => void): Promise<() => Promise<void>>
  notify(channel: string, payload: string): Promise<void>
  /** Throws when the database does not answer. */
  ping(): Promise<void>
  /** Lets running statements end (5 s at most), then closes everything. */
  close(): Promise<void>
}

export type DatabaseOptions = {
  /** A PostgreSQL server; without it PGlite runs in `dataDir`. Understands `?pgbouncer=true` and `?prepare=false`. */
  url?: string | undefined
  dataDir: string
  poolSize?: number | undefined
  laneConnections?: number | undefined
  /** False behind a transaction pooler: no named statements, no session timeouts, no LISTEN. Default: from the URL, else found out. */
  prepare?: boolean | undefined
  log?: ((message: string) => void) | undefined
  /** How often it is looked whether the server still answers, and how long that may take; for tests. */
  silence?: { interval_ms: number; timeout_ms: number }
}

type Log = (message: string) => void

const POOL_SIZE = 10
const LANE_CONNECTIONS = 2
const CONNECT_TIMEOUT_SECONDS = 5
const CLOSE_TIMEOUT_SECONDS = 5
const STATEMENT_TIMEOUT_MS = 10_000
const LOCK_TIMEOUT_MS = 5_000
const IDLE_IN_TRANSACTION_TIMEOUT_MS = 10_000
/**
 * The few statements of the lanes are planned once: planning each batch anew costs more than running it (docs/decisions/0003). They look rows up
 * by key in the order in which they are given, so that processes that lock the same rows never wait for each other in a circle.
 */
const LANE_SETTINGS = { plan_cache_mode: 'force_generic_plan', enable_hashjoin: 'off', enable_mergejoin: 'off' }
const RETRY_SECONDS = { first: 0.05, most: 0.5 }
/** protocol_violation: how PgBouncer refuses a startup parameter it does not know. */
const CODE_PROTOCOL_VIOLATION = '08P01'
const PGLITE_NOTICE =
  'no DATABASE_URL: using the embedded PGlite database, which is for trying gvnr out: one process only, and as it never calls fsync a power cut can lose the last seconds'

/**
 * Opens the database and proves that it answers; throws the driver's error when it does not, `FolderLockedError` when another process has the PGlite folder.
 * Statements are limited to 10 s, lock waits to 5 s, idle transactions to 10 s by startup parameters. A pooler such as PgBouncer in transaction mode
 * refuses those; then (or with `prepare: false`) they are not sent, and belong on the role: `alter role gvnr set statement_timeout = '10s'`.
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const log = options.log ?? (() => {})
  if (options.url === undefined) return await openPglite(options.dataDir, log)
  const address = readUrl(options.url)
  const prepare = options.prepare ?? address.prepare
  const database = connectPostgres(address.url, prepare, options, log)
  try {
    await database.ping()
    return database
  } catch (error) {
    await database.close()
    const isRefusedByPooler = error instanceof postgres.PostgresError && error.code === CODE_PROTOCOL_VIOLATION
    if (!prepare || !isRefusedByPooler) throw error
  }
  log('a connection pooler refused session parameters: going on without prepared statements, timeouts and LISTEN')
  const pooled = connectPostgres(address.url, false, options, log)
  try {
    await pooled.ping()
    return pooled
  } catch (error) {
    await pooled.close()
    throw error
  }
}

function connectPostgres(url: string, prepare: boolean, options: DatabaseOptions, log: Log): Database {
  const timeouts = {
    statement_timeout: STATEMENT_TIMEOUT_MS,
    lock_timeout: LOCK_TIMEOUT_MS,
    idle_in_transaction_session_timeout: IDLE_IN_TRANSACTION_TIMEOUT_MS,
    // Every lookup is by key. A plan made while the tables were small must not scan them when they have grown.
    enable_seqscan: 'off',
  }
  const client = (max: number, onclose?: () => void, settings = {}): Sql =>
    postgres(url, {
      ...commonOptions(),
      max,
      prepare,
      ...(onclose && { onclose }),
      max_lifetime: null, // a connection that closes retires its pool: no reason to close one that works
      connect_timeout: CONNECT_TIMEOUT_SECONDS,
      backoff: (attempt) => Math.min(RETRY_SECONDS.first * 2 ** attempt, RETRY_SECONDS.most),
      connection: { application_name: 'gvnr', ...(prepare ? { ...timeouts, ...settings } : {}) },
    })
  const pool = createRenewedPool((onClose) => {
    const sql = client(options.poolSize ?? POOL_SIZE, onClose)
    createOrm(sql) // for what it changes in the client
    return sql
  })
  const lanes = createRenewedPool((onClose) => client(options.laneConnections ?? LANE_CONNECTIONS, onClose, LANE_SETTINGS))
  // Subscriptions end with the client they were made on, which opens their connection again by itself.
  const listener = client(1)
  const { sql } = pool
  const watch = createRenewedPool((onClose) => client(1, onClose))
  const unwatch = watchForSilence(
    {
      ping: () => ping(watch.sql),
      onSilent: () => {
        log('the database has not answered for seconds: opening new connections')
        for (const one of [pool, lanes, watch]) one.renew()
      },
    },
    options.silence,
  )
  const close = async () => {
    unwatch()
    await Promise.all([pool, lanes, watch, listener].map((one) => one.end({ timeout: CLOSE_TIMEOUT_SECONDS })))
  }
  return {
    kind: 'postgres',
    sql,
    laneSql: lanes.sql,
    promptSql: watch.sql,
    prepare,
    orm: createOrm(sql),
    listen: prepare ? listenOn(listener, log) : listenNowhere(log),
    notify: async (channel, payload) => {
      await sql.unsafe('select pg_notify($1, $2)', [channel, payload], { prepare })
    },
    ping: () => ping(sql),
    close: onceOnly(close),
  }
}

async function openPglite(dataDir: string, log: Log): Promise<Database> {
  const pglite = await startPglite(dataDir, log)
  log(PGLITE_NOTICE)
  // `socket` is missing in the driver's types, not in the driver.
  const options = {
    ...commonOptions(),
    socket: () => pglite.connect(),
    max: 1,
    max_lifetime: null,
    host: 'pglite',
    user: 'postgres',
    database: 'postgres',
    ssl: false,
    prepare: true,
    keep_alive: null,
    target_session_attrs: undefined,
  }
  const pool = createRenewedPool((onclose) => {
    const sql: Sql = postgres({ ...options, onclose })
    createOrm(sql) // for what it changes in the client
    return sql
  })
  const { sql } = pool
  const events = new EventEmitter().setMaxListeners(0)
  const close = async () => {
    await pool.end({ timeout: CLOSE_TIMEOUT_SECONDS })
    await pglite.close()
  }
  const database: Database = {
    kind: 'pglite',
    sql,
    laneSql: sql,
    promptSql: sql,
    prepare: true,
    orm: createOrm(sql),
    listen: async (channel, onPayload, onReady) => {
      events.on(channel, onPayload)
      onReady?.()
      return async () => {
        events.off(channel, onPayload)
      }
    },
    notify: async (channel, payload) => {
      events.emit(channel, payload)
    },
    ping: () => ping(sql),
    close: onceOnly(close),
  }
  try {
    await database.ping()
    return database
  } catch (error) {
    await database.close()
    throw error
  }
}

/**
 * The driver keeps one direct connection for all channels and subscribes again by itself after a loss, also when the first attempt failed; it calls
 * listeners of a failed first attempt too, hence `isActive`.
 */
function listenOn(sql: Sql, log: Log): Database['listen'] {
  let isLogged = false
  return async (channel, onPayload, onReady) => {
    let isActive = true
    try {
      const subscription = await sql.listen(
        channel,
        (payload) => isActive && onPayload(payload),
        () => isActive && onReady?.(),
      )
      return async () => {
        isActive = false
        await subscription.unlisten().catch(() => {}) // without a connection there is nothing to end
      }
    } catch (error) {
      if (!isLogged)
        log(`LISTEN does not work here, changes are found by polling: ${error instanceof Error ? error.message : error}`)
      isLogged = true
      return async () => {
        isActive = false
      }
    }
  }
}

/** Behind a transaction pooler LISTEN would subscribe a server connection that belongs to everyone. */
function listenNowhere(log: Log): Database['listen'] {
  let isLogged = false
  return async () => {
    if (!isLogged) log('no LISTEN behind a transaction pooler: changes are found by polling')
    isLogged = true
    return async () => {}
  }
}

async function ping(sql: Sql): Promise<void> {
  await sql.unsafe('select 1')
}

/** drizzle replaces the client's json serializers by ones that take text only: put ours, which take text as well, back. */
function createOrm(sql: Sql): PostgresJsDatabase {
  const orm = drizzle(sql)
  for (const oid of JSON_TYPE.from) sql.options.serializers[oid] = JSON_TYPE.serialize
  return orm
}

const JSON_TYPE = {
  to: 3802,
  from: [114, 3802],
  serialize: (value: postgres.JSONValue): string => (typeof value === 'string' ? value : JSON.stringify(value)),
  parse: (text: string): postgres.JSONValue => JSON.parse(text),
}

function commonOptions() {
  const types: { [Name in keyof SqlTypes]: postgres.PostgresType<SqlTypes[Name]> } = {
    bigint: postgres.BigInt,
    json: JSON_TYPE,
    bigintArray: arrayType(1016, BigInt),
    booleanArray: arrayType(1000, (item) => item === 't'),
    smallintArray: arrayType(1005, Number),
    intArray: arrayType(1007, Number),
    textArray: arrayType(1009, String),
    uuidArray: arrayType(2951, String),
  }
  return { types, fetch_types: false, onnotice: () => {} }
}

/** One-dimensional arrays. The driver would learn them from the catalogue (`fetch_types`), one query more on every new connection. */
function arrayType<Item>(oid: number, parseItem: (text: string) => Item) {
  return {
    to: oid,
    from: [oid],
    serialize: (value: string | readonly unknown[]): string => (typeof value === 'string' ? value : arrayLiteral(value)),
    parse: (text: string): (Item | null)[] =>
      [...text.matchAll(ARRAY_ITEM)].map(([whole, quoted]) => {
        if (quoted !== undefined) return parseItem(quoted.replace(/\\(.)/gs, '$1'))
        return whole === 'NULL' ? null : parseItem(whole)
      }),
  }
}

const ARRAY_ITEM = /"((?:[^"\\]|\\.)*)"|[^{},]+/gs

function arrayLiteral(items: readonly unknown[]): string {
  const escaped = items.map((item) => (item === null ? 'null' : `"${String(item).replace(/["\\]/g, '\\$&')}"`))
  return `{${escaped.join(',')}}`
}

/** Takes out what is meant for clients, and what the driver would hand to the server as an unknown setting. */
function readUrl(url: string): { url: string; prepare: boolean } {
  const [base = '', query = ''] = url.split(/\?(.*)/s)
  const parameters = new URLSearchParams(query)
  const prepare = parameters.get('pgbouncer') !== 'true' && parameters.get('prepare') !== 'false'
  for (const name of ['pgbouncer', 'prepare', 'channel_binding']) parameters.delete(name)
  const rest = parameters.toString()
  return { url: rest === '' ? base : `${base}?${rest}`, prepare }
}

function onceOnly(run: () => Promise<void>): () => Promise<void> {
  let result: Promise<void> | null = null
  return () => {
    result ??= run()
    return result
  }
}
