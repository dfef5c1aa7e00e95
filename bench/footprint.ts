import { type Context, preparePostgres, startServer, warmUp } from './context.ts'
import { fillAccounts, onDatabase, settleDatabase } from './fill.ts'
import { short } from './report.ts'
import type { Workload } from './workload.ts'

const CALLS = 40_000
const TABLES = ['holds', 'ledger', 'accounts', 'envelopes'] as const
const clear: Workload = { kind: 'clear', transport: 'rest', firstAccount: 1, accounts: 1_000, agents: 10, distribution: 'zipf' }
const hot: Workload = { ...clear, firstAccount: 0, accounts: 1, agents: 1 }
const LINES = [
  { name: 'clear, one hot agent, 64 connections', workload: hot, connections: 64 },
  { name: 'clear, 1,000 accounts, 64 connections', workload: clear, connections: 64 },
  { name: 'clear, 1,000 accounts, 8 connections', workload: clear, connections: 8 },
  { name: 'clear, 1,000 accounts, 1 connection', workload: clear, connections: 1 },
  {
    name: 'clear + reconcile, 1,000 accounts, 64 connections',
    workload: { ...clear, kind: 'clear_reconcile' },
    connections: 64,
  },
] as const

type Sizes = Readonly<Record<(typeof TABLES)[number], { readonly rows: number; readonly heap: number; readonly indexes: number }>>

/** What one call costs PostgreSQL: log, CPU, commits, and room on disk. */
export async function footprint(context: Context): Promise<void> {
  const url = await preparePostgres(context, 'bench_footprint', async (sql) => {
    await fillAccounts(sql, { first: 0, accounts: 1, agents: 1 })
    await fillAccounts(sql, { first: 1, accounts: 1_000, agents: 10 })
    await settleDatabase(sql)
  })
  const server = await startServer(context, { url, dataDir: context.folder, environment: { LOG_LEVEL: 'warn' } })
  await warmUp(context, [server], clear)
  const rows: string[][] = []
  const first = await sizesOf(url)
  for (const { name, workload, connections } of LINES) {
    // Pages that are written for the first time since a checkpoint go to the log whole: say how much of it that is.
    await onDatabase(url, (sql) => sql.unsafe('checkpoint'))
    const before = await walOf(url)
    const request = { ports: [server.port], connections, workload, warmup_ms: 0, duration_ms: 120_000, maxRequests: CALLS }
    const sample = await context.measure.load({ ...request, rate_per_s: null }, [server.pid])
    const after = await walOf(url)
    rows.push([
      name,
      short((after.bytes - before.bytes) / sample.answers),
      short((after.images - before.images) / sample.answers),
      short((after.records - before.records) / sample.answers),
      short((after.commits - before.commits) / sample.answers),
      short(sample.cpu.database_us / sample.answers),
      short(sample.cpu.server_us / sample.answers),
      short(sample.rate_per_s),
    ])
  }
  context.report.table({
    title: 'What one answer costs PostgreSQL',
    note: `${CALLS.toLocaleString('en-US')} answers each, right after a checkpoint. WAL bytes with its full page images; a reconcile is an answer of its own.`,
    columns: ['', 'WAL bytes', 'page images', 'WAL records', 'commits', 'database µs', 'server µs', 'req/s'],
    rows,
  })
  await onDatabase(url, (sql) => sql.unsafe('vacuum analyze'))
  const last = await sizesOf(url)
  context.report.table({
    title: 'Room on disk',
    note: 'Bytes per row that came: the table, and all of its indexes. accounts and envelopes are updated in place: their size after all of the above.',
    columns: ['', 'rows', 'table bytes', 'index bytes'],
    rows: TABLES.map((table) => {
      const [was, is] = [first[table], last[table]]
      const added = is.rows - was.rows
      return added > 0
        ? [`${table}, per row`, short(added), short((is.heap - was.heap) / added), short((is.indexes - was.indexes) / added)]
        : [`${table}, all`, short(is.rows), short(is.heap), short(is.indexes)]
    }),
  })
  await server.stop()
}

async function walOf(url: string): Promise<{ bytes: number; images: number; records: number; commits: number }> {
  return await onDatabase(url, async (sql) => {
    const [row] = await sql.unsafe(
      `select wal_bytes::float8 as bytes, wal_fpi::float8 as images, wal_records::float8 as records,
         (select xact_commit::float8 from pg_stat_database where datname = current_database()) as commits from pg_stat_wal`,
    )
    return {
      bytes: Number(row?.bytes),
      images: Number(row?.images),
      records: Number(row?.records),
      commits: Number(row?.commits),
    }
  })
}

async function sizesOf(url: string): Promise<Sizes> {
  return await onDatabase(url, async (sql) => {
    const sizes = []
    for (const table of TABLES) {
      const [row] = await sql.unsafe(
        `select (select count(*)::float8 from ${table}) as rows, pg_table_size('${table}')::float8 as heap, pg_indexes_size('${table}')::float8 as indexes`,
      )
      sizes.push([table, row])
    }
    return Object.fromEntries(sizes) as Sizes
  })
}
