import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Machine } from '../machine.ts'
import { short } from '../report.ts'
import type { Verdict } from './audit.ts'
import type { Books } from './books.ts'
import type { Incident } from './faults/fault.ts'
import type { bloatedTables, DatabaseSize, Watch } from './watch.ts'

export type SoakRun = {
  readonly command: string
  readonly startedAt: Date
  readonly kind: string
  readonly what: readonly string[]
  readonly minutes: number
  readonly rate: number
  readonly tenants: number
  readonly servers: number
  readonly machine: Machine
}
export type SoakResult = {
  readonly books: Books
  readonly incidents: readonly Incident[]
  readonly verdict: Verdict
  readonly watch: Watch
  readonly sizes: { readonly before: DatabaseSize; readonly after: DatabaseSize }
  readonly tables: Awaited<ReturnType<typeof bloatedTables>>
  readonly flat: { readonly ratio: number; readonly of: string }
}

type Row = readonly (string | number)[]

const table = (columns: readonly string[], rows: readonly Row[]): string[] => [
  `| ${columns.join(' | ')} |`,
  `| ${columns.map((_, index) => (index === 0 ? '---' : '---:')).join(' | ')} |`,
  ...rows.map((row) => `| ${row.join(' | ')} |`),
  '',
]

/** Writes what a run has shown as Markdown and JSON, and prints the former. */
export function writeReport(folder: string | null, run: SoakRun, result: SoakResult): void {
  const { books, incidents, verdict, watch, sizes, tables, flat } = result
  const kinds = [...books.kinds].sort(([a], [b]) => (a < b ? -1 : 1))
  const latencies = kinds
    .filter(([, { took }]) => took.count > 0)
    .map(([name, { took }]) => ({
      kind: name,
      answers: took.count,
      p50_ms: took.quantile_ms(0.5),
      p99_ms: took.quantile_ms(0.99),
      p999_ms: took.quantile_ms(0.999),
      max_ms: took.max_ms,
    }))
  const errors = kinds.flatMap(([kind, { codes }]) => [...codes].map(([code, count]) => ({ kind, code, count })))
  const wrong = [...books.faults, ...verdict.wrong]
  const lines = [
    `# Soak: ${run.kind}`,
    '',
    `${run.startedAt.toISOString().slice(0, 10)}, \`${run.command}\`: ${run.minutes} minutes, ${run.rate} arrivals a second, ${run.tenants} accounts, ${run.servers} servers. ${run.machine.cpu}, ${run.machine.cores} cores, Node ${run.machine.node}, PostgreSQL ${run.machine.postgres}. Load, servers and databases share these cores with other programs.`,
    ...run.what.map((what) => `What happens: ${what}.`),
    '',
    '## Verdict',
    '',
    ...table(
      ['', ''],
      [
        ['answers that were wrong, lost or doubled', wrong.length],
        ['clearances approved and found again, once', verdict.approved],
        ['clearances denied, within what the model allows', books.denied],
        ['unknown at first, then known by asking again', books.unknown - books.unkeyed],
        ['unknown for good (sent without a key)', books.unkeyed],
        ['tries again', books.retries],
        ['arrivals left out', books.shed],
        ...Object.entries(verdict.figures),
        ['deadlocks', verdict.deadlocks],
        ['`gvnr verify`', verdict.verify],
        [`memory of ${flat.of}, last quarter ÷ second quarter`, short(flat.ratio)],
      ],
    ),
    ...(wrong.length > 0 ? ['```', ...wrong, '```', ''] : []),
    '## Latency',
    '',
    'Milliseconds from the moment a request was due to the answer for good: through outages, with all tries again.',
    '',
    ...table(
      ['', 'answers', 'p50', 'p99', 'p99.9', 'most'],
      latencies.map((one) => [one.kind, one.answers, ...[one.p50_ms, one.p99_ms, one.p999_ms, one.max_ms].map(short)]),
    ),
    ...(errors.length > 0
      ? [
          '## Errors',
          '',
          ...table(
            ['', 'code', 'count'],
            errors.map(({ kind, code, count }) => [kind, code, count]),
          ),
        ]
      : []),
    ...(incidents.length > 0 ? ['## Faults', '', ...faultTable(incidents)] : []),
    '## Memory and database',
    '',
    ...table(
      ['', 'second quarter', 'last quarter', 'most'],
      [
        ...watch.servers.map((course, index) => [
          `server ${index + 1}, MiB`,
          short(course.mean(0.25, 0.5)),
          short(course.mean(0.75, 1)),
          short(course.most),
        ]),
        ['the harness, MiB', short(watch.harness.mean(0.25, 0.5)), short(watch.harness.mean(0.75, 1)), short(watch.harness.most)],
        ['database, MiB', short(watch.database.mean(0.25, 0.5)), short(watch.database.mean(0.75, 1)), short(watch.database.most)],
        [
          'dead rows for each live one',
          short(watch.dead.mean(0.25, 0.5)),
          short(watch.dead.mean(0.75, 1)),
          short(watch.dead.most),
        ],
      ],
    ),
    `Database: ${short(sizes.before.mib)} MiB before, ${short(sizes.after.mib)} MiB after; ${short(sizes.after.live)} live rows, ${short(sizes.after.dead)} dead ones.`,
    '',
    ...table(
      ['', 'MiB', 'live rows', 'dead rows', 'autovacuums'],
      tables.map(({ name, mib, live, dead, vacuums }) => [name, short(mib), live, dead, vacuums]),
    ),
  ]
  console.log(`\n${lines.join('\n')}`)
  if (folder === null) return
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, `soak-${run.kind}.md`), lines.join('\n'))
  const json = { run, wrong, verdict, incidents, latencies, errors, sizes, tables, flat, memory: courses(watch) }
  writeFileSync(join(folder, `soak-${run.kind}.json`), `${JSON.stringify(json, rounded, 1)}\n`)
}

function faultTable(incidents: readonly Incident[]): string[] {
  const names = [...new Set(incidents.map(({ fault }) => fault))]
  const rows = names.map((name): Row => {
    const own = incidents.filter(({ fault }) => fault === name)
    const took = own.map(({ recovered_ms }) => recovered_ms).sort((a, b) => a - b)
    const notes = [...new Set(own.flatMap(({ note }) => note ?? []))].slice(0, 3)
    return [
      name,
      own.length,
      own[0]?.since ?? '',
      short(took[Math.floor(took.length / 2)] ?? Number.NaN),
      short(took.at(-1) ?? Number.NaN),
      notes.join('; '),
    ]
  })
  return table(['', 'times', 'first decision after', 'median ms', 'slowest ms', ''], rows)
}

const courses = (watch: Watch) => ({
  servers_mib: watch.servers.map(({ points }) => points),
  harness_mib: watch.harness.points,
  database_mib: watch.database.points,
  dead_per_live: watch.dead.points,
})

const rounded = (_key: string, value: unknown): unknown => (typeof value === 'number' ? Number(value.toPrecision(6)) : value)
