import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import type { Machine } from './machine.ts'
import type { Sample } from './measure.ts'
import { median } from './statistics.ts'

/** Medians over rounds. */
export type Summary = {
  readonly rate_per_s: number
  readonly p50_ms: number
  readonly p99_ms: number
  /** CPU microseconds per request. */
  readonly server_us: number
  readonly database_us: number
  readonly client_us: number
  readonly otherCores: number
  readonly failures: number
}

export function summarize(samples: readonly Sample[]): Summary {
  const of = (value: (sample: Sample) => number) => median(samples.map(value))
  return {
    rate_per_s: of((sample) => sample.rate_per_s),
    p50_ms: of((sample) => sample.p50_us / 1000),
    p99_ms: of((sample) => sample.p99_us / 1000),
    server_us: of((sample) => sample.cpu.server_us / sample.answers),
    database_us: of((sample) => sample.cpu.database_us / sample.answers),
    client_us: of((sample) => sample.client_us / sample.answers),
    otherCores: of((sample) => sample.cpu.otherCores),
    failures: samples.reduce((sum, sample) => sum + sample.failures, 0),
  }
}

/** The median over rounds of one contender's rate to another's in the same round. */
export const ratioOf = (samples: readonly Sample[] | undefined, base: readonly Sample[] | undefined): number =>
  median((samples ?? []).map((sample, round) => sample.rate_per_s / (base?.[round]?.rate_per_s ?? Number.NaN)))

/** Something the product promises, and whether this run kept it. */
export type Target = { readonly what: string; readonly wanted: string; readonly measured: string; readonly isMet: boolean }

export type Table = {
  readonly title: string
  readonly note: string
  readonly columns: readonly string[]
  readonly rows: readonly (readonly string[])[]
}

/** Collects tables and targets, prints them as they come, and writes them as Markdown and JSON. */
export class Report {
  readonly #tables: Table[] = []
  readonly #targets: Target[] = []
  readonly #notes: string[] = []
  readonly #samples: Record<string, Record<string, readonly Sample[]>> = {}
  readonly #isVerbose: boolean

  constructor(options: { isVerbose: boolean }) {
    this.#isVerbose = options.isVerbose
  }

  /** A line that belongs to the result: what was left out and why, what went wrong. */
  note(line: string): void {
    this.#notes.push(line)
    console.log(line)
  }

  progress(round: number, rounds: number, name: string, sample: Sample): void {
    if (sample.failures > 0) this.note(`${name}: ${sample.failures} answers were no approvals, the first: ${sample.firstFailure}`)
    if (!this.#isVerbose) return
    const noise = sample.cpu.otherCores.toFixed(2)
    console.log(`  ${round + 1}/${rounds} ${name}: ${sample.rate_per_s.toFixed(0)}/s, others used ${noise} cores`)
  }

  samples(section: string, samples: ReadonlyMap<string, readonly Sample[]>): void {
    this.#samples[section] = Object.fromEntries(samples)
  }

  table(table: Table): void {
    this.#tables.push(table)
    console.log(`\n${textOf(table)}`)
  }

  target(target: Target): void {
    this.#targets.push(target)
  }

  /** Prints the targets and writes them with all tables. @param file path without the endings .md and .json; null writes nothing */
  finish(machine: Machine, run: { command: string; rounds: number; startedAt: Date }, file: string | null): void {
    const targets: Table = {
      title: 'Targets',
      note: '',
      columns: ['what', 'at least', 'measured', ''],
      rows: this.#targets.map(({ what, wanted, measured, isMet }) => [what, wanted, measured, isMet ? 'met' : 'MISSED']),
    }
    if (this.#targets.length > 0) console.log(`\n${textOf(targets)}`)
    if (file === null) return
    mkdirSync(dirname(file), { recursive: true })
    const head = [
      '# Benchmark results',
      '',
      `${run.startedAt.toISOString().slice(0, 10)}, \`${run.command}\`, ${run.rounds} rounds. ${machine.cpu}, ${machine.cores} cores, ${machine.memory_gib} GiB, ${machine.platform}; Node ${machine.node}, PostgreSQL ${machine.postgres}, PGlite ${machine.pglite}.`,
      'The load generator, the servers and the database share these cores. Trust ratios: each compares bursts of the same round, and is the median over rounds.',
      '',
    ]
    const tables = this.#targets.length > 0 ? [targets, ...this.#tables] : this.#tables
    const notes = this.#notes.length > 0 ? ['## Notes', '', ...this.#notes.map((note) => `- ${note}`), ''] : []
    writeFileSync(`${file}.md`, [...head, ...tables.map(markdownOf), ...notes].join('\n'))
    const json = {
      machine,
      command: run.command,
      rounds: run.rounds,
      date: run.startedAt.toISOString(),
      targets: this.#targets,
      notes: this.#notes,
      tables: this.#tables,
      samples: this.#samples,
    }
    writeFileSync(`${file}.json`, `${JSON.stringify(json, rounded, 1)}\n`)
  }
}

const rounded = (_key: string, value: unknown): unknown => (typeof value === 'number' ? Number(value.toPrecision(6)) : value)

/** Three significant digits, or whole thousands. */
export const short = (value: number): string =>
  Number.isNaN(value) ? '–' : value >= 1000 ? Math.round(value).toLocaleString('en-US') : String(Number(value.toPrecision(3)))

export const SUMMARY_COLUMNS = ['req/s', 'p50 ms', 'p99 ms', 'server µs', 'database µs', 'client µs', 'others'] as const
export const SUMMARY_NOTE =
  'server, database and client µs: CPU time per request of the server processes (PGlite runs inside of them), of all PostgreSQL processes and of the load generator. others: cores that programs other than the benchmark used meanwhile.'

export const summaryCells = (summary: Summary): string[] => [
  short(summary.rate_per_s),
  short(summary.p50_ms),
  short(summary.p99_ms),
  short(summary.server_us),
  short(summary.database_us),
  short(summary.client_us),
  summary.otherCores.toFixed(2),
]

function textOf({ title, columns, rows }: Table): string {
  const widths = columns.map((column, index) => Math.max(column.length, ...rows.map((row) => row[index]?.length ?? 0)))
  const line = (cells: readonly string[]) =>
    cells.map((cell, index) => (index === 0 ? cell.padEnd(widths[index] ?? 0) : cell.padStart(widths[index] ?? 0))).join('  ')
  return [title, line(columns), ...rows.map(line)].join('\n')
}

function markdownOf({ title, note, columns, rows }: Table): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  const rule = columns.map((_, index) => (index === 0 ? '---' : '---:'))
  return [`## ${title}`, '', ...(note === '' ? [] : [note, '']), line(columns), line(rule), ...rows.map(line), ''].join('\n')
}
