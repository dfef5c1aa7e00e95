import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { startPostgres } from '../test/support/postgres.ts'
import { startCommits } from './commits.ts'
import type { Context, Effort } from './context.ts'
import { onDatabase } from './fill.ts'
import { footprint } from './footprint.ts'
import { forecast } from './forecast.ts'
import { humans } from './humans.ts'
import { latency } from './latency.ts'
import { startLoad } from './load.ts'
import { canMeasureCpu, describeMachine } from './machine.ts'
import { Measure } from './measure.ts'
import { memory } from './memory.ts'
import { proxy } from './proxy.ts'
import { Report } from './report.ts'
import { scale } from './scale.ts'
import { scaleOut } from './scale-out.ts'
import { Cleanup } from './servers.ts'
import { start } from './start.ts'
import { throughput } from './throughput.ts'
import { topup } from './topup.ts'

const USAGE = `npm run bench -- [options]

  --quick           about two minutes: start, throughput and latency only, fewer variants, shorter bursts; not saved
  --full            ten million stored clearances, more rounds (an hour)
  --only NAMES      some sections (throughput, latency, proxy, scale, scale-out, footprint, humans, topup, start, memory, forecast), or the throughput variants whose name contains NAME
  --stored COUNT    how many clearances the "scale" section stores
  --clearances COUNT  over how many clearances the "memory" section watches
  --rounds COUNT    how often each variant is measured
  --verbose         every burst as it ends
  --no-build        use the dist folder as it is
  --save            keep the result of one section too, as bench/results/SECTION.md
  --no-save         leave bench/results as they are
`

const EFFORTS: Record<Effort['name'], Effort> = {
  quick: {
    name: 'quick',
    rounds: 3,
    burst_ms: 700,
    warmup_ms: 100,
    storedClearances: 100_000,
    memoryClearances: 40_000,
    starts: 1,
  },
  normal: {
    name: 'normal',
    rounds: 5,
    burst_ms: 2000,
    warmup_ms: 200,
    storedClearances: 1_000_000,
    memoryClearances: 1_000_000,
    starts: 3,
  },
  full: {
    name: 'full',
    rounds: 9,
    burst_ms: 2000,
    warmup_ms: 200,
    storedClearances: 10_000_000,
    memoryClearances: 1_000_000,
    starts: 5,
  },
}
const SECTIONS = {
  start,
  throughput,
  latency,
  proxy,
  scale,
  'scale-out': scaleOut,
  footprint,
  humans,
  topup,
  memory,
  forecast,
} as const
const QUICK_SECTIONS = ['start', 'throughput', 'latency'] as const
const ROOT = join(import.meta.dirname, '..')

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      quick: { type: 'boolean' },
      full: { type: 'boolean' },
      only: { type: 'string' },
      stored: { type: 'string' },
      clearances: { type: 'string' },
      rounds: { type: 'string' },
      verbose: { type: 'boolean' },
      'no-build': { type: 'boolean' },
      save: { type: 'boolean' },
      'no-save': { type: 'boolean' },
      help: { type: 'boolean' },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return
  }
  const preset = EFFORTS[values.full ? 'full' : values.quick ? 'quick' : 'normal']
  const effort: Effort = {
    ...preset,
    storedClearances: countOf(values.stored, preset.storedClearances),
    memoryClearances: countOf(values.clearances, preset.memoryClearances),
    rounds: countOf(values.rounds, preset.rounds),
  }
  const only = values.only ?? ''
  const names = Object.keys(SECTIONS) as (keyof typeof SECTIONS)[]
  const sections = only === '' ? (values.quick ? QUICK_SECTIONS : names) : names.filter((name) => only.split(',').includes(name))
  const isVariant = sections.length === 0
  const startedAt = new Date()
  if (!values['no-build']) execFileSync(process.execPath, [join(ROOT, 'scripts/build.mjs')], { cwd: ROOT, stdio: 'inherit' })

  const cleanup = new Cleanup()
  let isStopping = false
  const stopOn = (signal: NodeJS.Signals): void => {
    process.once(signal, () => {
      isStopping = true
      void cleanup.stopAll().finally(() => process.exit(1))
    })
  }
  stopOn('SIGINT')
  stopOn('SIGTERM')
  try {
    const folder = cleanup.add(mkdtempSync(join(tmpdir(), 'gvnr-bench-')), (path) =>
      rmSync(path, { recursive: true, force: true }),
    )
    const postgres = cleanup.add(await startPostgres(), (server) => server.remove())
    const load = cleanup.add(startLoad(), (worker) => worker.stop())
    const commits = cleanup.add(startCommits(), (worker) => worker.stop())
    const report = new Report({ isVerbose: values.verbose ?? false })
    if (!canMeasureCpu) report.note('no /proc here: CPU time, noise and memory read as 0')
    const context: Context = {
      effort,
      filter: isVariant ? only : '',
      entry: join(ROOT, 'dist/main.js'),
      folder,
      postgres,
      measure: new Measure({ load, commits, postgresPid: postgres.pid }),
      report,
      cleanup,
    }
    const version = await onDatabase(postgres.url, async (sql) => {
      const [row] = await sql.unsafe('show server_version')
      return String(row?.server_version)
    })
    for (const name of isVariant ? (['throughput'] as const) : sections) {
      console.log(`\n${name} …`)
      await SECTIONS[name](context)
    }
    const isWhole = !values['no-save'] && !values.quick && only === ''
    const isOneKept = values.save && only !== '' && !isVariant
    const results =
      isWhole || isOneKept ? join(import.meta.dirname, 'results', isWhole || sections.length > 1 ? 'latest' : only) : null
    report.finish(
      describeMachine(version),
      {
        command: ['npm run bench', ...(process.argv.length > 2 ? ['--', ...process.argv.slice(2)] : [])].join(' '),
        rounds: effort.rounds,
        startedAt,
      },
      results,
    )
  } catch (error) {
    // A signal ends what the section under way depends on: that it fails then says nothing.
    if (!isStopping) throw error
  } finally {
    await cleanup.stopAll()
  }
}

function countOf(given: string | undefined, fallback: number): number {
  const count = Number(given ?? fallback)
  if (!Number.isInteger(count) || count < 1) throw new Error(`"${given}" is no count`)
  return count
}

main().catch((error: unknown) => {
  console.error(error)
  process.exit(1)
})
