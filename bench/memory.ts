import { setTimeout as sleep } from 'node:timers/promises'
import { type Context, preparePglite, preparePostgres, startServer } from './context.ts'
import { accountStatements, fillAccounts } from './fill.ts'
import { residentBytes } from './machine.ts'
import { short } from './report.ts'
import type { RunningServer } from './servers.ts'
import type { Workload } from './workload.ts'

const RANGE = { first: 0, accounts: 1000, agents: 10 }
const WORKLOAD: Workload = {
  kind: 'clear_reconcile',
  transport: 'rest',
  firstAccount: 0,
  accounts: 1000,
  agents: 10,
  distribution: 'zipf',
}
const SAMPLE_MS = 500
const LONGEST_MS = 1_800_000
const LIMIT_MIB = 300
/** The last quarter may need this much more than the second one and still be flat. */
const FLAT = 1.1
const MIB = 1 << 20

/** Resident memory of the server over many clearances and reconciles, sampled as they go. */
export async function memory(context: Context): Promise<void> {
  const { report, effort } = context
  const clearances = effort.memoryClearances
  const url = await preparePostgres(context, 'bench_memory', (sql) => fillAccounts(sql, RANGE))
  const onPostgres = await watch(context, await startServer(context, { url, dataDir: context.folder }))
  // PGlite keeps PostgreSQL's own memory and its WASM code inside the process: shown beside, no target.
  const dataDir = await preparePglite(context, 'pglite-memory', accountStatements(RANGE))
  const onPglite = await watch(context, await startServer(context, { dataDir }))
  report.table({
    title: 'Resident memory',
    note: `MiB of the server process over ${clearances.toLocaleString('en-US')} clearances, each reconciled, 64 connections, 1,000 accounts × 10 agents.`,
    columns: ['', 'at start', 'at 25 %', 'at 50 %', 'at 75 %', 'at end', 'most', 'req/s'],
    rows: [
      ['PostgreSQL', ...onPostgres.cells],
      ['PGlite', ...onPglite.cells],
    ],
  })
  report.target({
    what: `resident memory after ${clearances.toLocaleString('en-US')} clearances, PostgreSQL`,
    wanted: `under ${LIMIT_MIB} MiB`,
    measured: `${short(onPostgres.most)} MiB`,
    isMet: onPostgres.most < LIMIT_MIB,
  })
  report.target({
    what: 'resident memory, last quarter ÷ second quarter, PostgreSQL',
    wanted: `at most ${FLAT}`,
    measured: short(onPostgres.growth),
    isMet: onPostgres.growth <= FLAT,
  })
}

type Course = { readonly cells: string[]; readonly most: number; readonly growth: number }

async function watch({ measure, effort, report }: Context, server: RunningServer): Promise<Course> {
  const read = (): number => residentBytes(server.pid) / MIB
  const atStart = read()
  const course: number[] = []
  let isDone = false
  const sampling = (async () => {
    for (; !isDone; await sleep(SAMPLE_MS)) course.push(read())
  })()
  const sample = await measure.load(
    {
      ports: [server.port],
      connections: 64,
      workload: WORKLOAD,
      warmup_ms: 0,
      duration_ms: LONGEST_MS,
      maxRequests: 2 * effort.memoryClearances,
      rate_per_s: null,
    },
    [server.pid],
  )
  isDone = true
  await sampling
  await server.stop()
  if (sample.answers < 2 * effort.memoryClearances) report.note(`memory: stopped after ${sample.answers} requests`)
  const at = (share: number): number => course[Math.min(course.length - 1, Math.floor(course.length * share))] ?? Number.NaN
  const mean = (from: number, to: number): number => {
    const part = course.slice(Math.floor(course.length * from), Math.ceil(course.length * to))
    return part.reduce((sum, value) => sum + value, 0) / part.length
  }
  const most = Math.max(...course)
  return {
    most,
    growth: mean(0.75, 1) / mean(0.25, 0.5),
    cells: [atStart, at(0.25), at(0.5), at(0.75), at(1), most, sample.rate_per_s].map(short),
  }
}
