import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { openDatabase } from '../src/db/client.ts'
import { migrateDatabase } from '../src/db/migrate.ts'
import type { PostgresServer } from '../test/support/postgres.ts'
import { createDatabase, onDatabase } from './fill.ts'
import type { Measure, Sample } from './measure.ts'
import type { Report } from './report.ts'
import { type Cleanup, type GvnrOptions, type RunningServer, startGvnr } from './servers.ts'
import type { Workload } from './workload.ts'

const MIGRATIONS = join(import.meta.dirname, '../migrations')

/** How much is measured. */
export type Effort = {
  readonly name: 'quick' | 'normal' | 'full'
  readonly rounds: number
  readonly burst_ms: number
  readonly warmup_ms: number
  readonly storedClearances: number
  readonly memoryClearances: number
  readonly starts: number
}

/** What every section of the benchmark is given. */
export type Context = {
  readonly effort: Effort
  /** Only variants whose name contains this. */
  readonly filter: string
  readonly entry: string
  readonly folder: string
  readonly postgres: PostgresServer
  readonly measure: Measure
  readonly report: Report
  readonly cleanup: Cleanup
}

type Fill = (sql: Parameters<Parameters<typeof onDatabase<void>>[1]>[0]) => Promise<void>

/** A migrated database of its own on the benchmark's PostgreSQL. @returns its URL */
export async function preparePostgres(context: Context, name: string, fill: Fill): Promise<string> {
  const url = await createDatabase(context.postgres.url, name)
  const database = await openDatabase({ url, dataDir: context.folder })
  try {
    await migrateDatabase(database, MIGRATIONS)
  } finally {
    await database.close()
  }
  await onDatabase(url, fill)
  return url
}

/** A migrated PGlite folder. */
export async function preparePglite(context: Context, name: string, statements: readonly string[]): Promise<string> {
  const dataDir = join(context.folder, name)
  await mkdir(dataDir)
  const database = await openDatabase({ dataDir })
  try {
    await migrateDatabase(database, MIGRATIONS)
    for (const statement of statements) await database.sql.unsafe(statement)
  } finally {
    await database.close()
  }
  return dataDir
}

/** A server that is stopped at the latest when the benchmark ends. */
export async function startServer(context: Context, options: Omit<GvnrOptions, 'entry'>): Promise<RunningServer> {
  if (!existsSync(context.entry)) throw new Error('the server is not built: run `npm run build`')
  const server = await startGvnr({ entry: context.entry, ...options })
  return context.cleanup.add(server, (running) => running.stop())
}

const WARM_MS = 3000
const WARM_REQUESTS = 20_000

/** Load enough for the compiler to have seen a fresh server's code before anything is measured. */
export async function warmUp(context: Context, servers: readonly RunningServer[], workload: Workload): Promise<void> {
  for (const { port, pid } of servers) {
    const request = {
      ports: [port],
      connections: 64,
      workload,
      warmup_ms: 0,
      duration_ms: WARM_MS,
      maxRequests: WARM_REQUESTS,
      rate_per_s: null,
    }
    await context.measure.load(request, [pid])
  }
}

/** One line of a comparison: traffic of one kind on some servers. */
export type Variant = {
  readonly name: string
  readonly workload: Workload
  readonly servers: readonly RunningServer[]
  readonly connections: number
  /** Open loop at this rate instead of as fast as possible. */
  readonly rate_per_s?: number
}

export type Contender = { readonly name: string; run(): Promise<Sample> }

export const contenderOf = (context: Context, variant: Variant): Contender => ({
  name: variant.name,
  run: () =>
    context.measure.load(
      {
        ports: variant.servers.map((server) => server.port),
        connections: variant.connections,
        workload: variant.workload,
        warmup_ms: context.effort.warmup_ms,
        duration_ms: context.effort.burst_ms,
        maxRequests: null,
        rate_per_s: variant.rate_per_s ?? null,
      },
      variant.servers.map((server) => server.pid),
    ),
})

/** Durable commits of one small row each, on so many connections: as fast as they go, or at a rate. */
export const commitsOf = (
  { measure, effort }: Context,
  { name, ...asked }: { name: string; url: string; connections: number; rate_per_s?: number },
): Contender => ({
  name,
  run: () => measure.commits({ rate_per_s: null, ...asked, warmup_ms: effort.warmup_ms, duration_ms: effort.burst_ms }),
})

/**
 * Runs every contender once per round in short bursts, beginning at another one in each round, so that what disturbs the machine for a
 * while disturbs them alike: figures of one round may be compared, and medians are taken over rounds.
 * @returns for each contender its samples, one per round
 */
export async function interleave(context: Context, contenders: readonly Contender[]): Promise<Map<string, Sample[]>> {
  const samples = new Map<string, Sample[]>(contenders.map(({ name }) => [name, []]))
  const { rounds } = context.effort
  // The first burst of each warms caches, prepared statements and the compiler; it is thrown away.
  for (const contender of contenders) await contender.run()
  for (let round = 0; round < rounds; round++) {
    const start = Math.floor((round * contenders.length) / rounds)
    for (let index = 0; index < contenders.length; index++) {
      const contender = contenders[(start + index) % contenders.length]
      if (contender === undefined) continue
      const sample = await contender.run()
      samples.get(contender.name)?.push(sample)
      context.report.progress(round, rounds, contender.name, sample)
    }
  }
  return samples
}
