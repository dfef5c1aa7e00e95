import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import { LeasedWork } from '../db/leased-work.ts'
import { readFigures, writeFigures } from './store.ts'

/** Reads some figures from the database, in bounded time. Implemented by the rooms that own the tables. */
export type FigureSource = (ending: AbortSignal) => Promise<Readonly<Record<string, number>>>

const INTERVAL_MS = 15_000
const LEASE_MS = 60_000
/** How long a scrape may see the same figures. */
const CACHED_MS = 5_000

/**
 * Figures that only the database knows. One process at a time computes them on a timer and stores them; every process exports what is
 * stored, so scrapes cost one small read, however many there are.
 */
export class Figures {
  readonly #database: Database
  readonly #clock: Clock
  readonly #log: Log
  readonly #sources: readonly FigureSource[]
  readonly #work: LeasedWork
  #cached: { readonly until_ms: number; readonly values: Promise<ReadonlyMap<string, number>> } | null = null

  constructor(deps: { database: Database; clock: Clock; log: Log }, sources: readonly FigureSource[]) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#log = deps.log
    this.#sources = sources
    const failure = 'reading figures failed, will try again'
    const times = { lease_ms: LEASE_MS, interval_ms: INTERVAL_MS, first_ms: 0 }
    this.#work = new LeasedWork(deps, { name: 'metrics.figures', ...times, failure }, () => this.refresh())
  }

  start(): void {
    this.#work.start()
  }

  stop(): Promise<void> {
    return this.#work.stop()
  }

  /** Computes and stores all figures. @returns false when another process does */
  async refresh(): Promise<boolean> {
    if (!(await this.#work.take())) return false
    for (const source of this.#sources) {
      const values = Object.entries(await source(this.#work.ending))
      const atMs = this.#clock.now()
      if (values.length > 0)
        await writeFigures(
          this.#database,
          values.map(([name, value]) => ({ name, value, atMs })),
        )
    }
    this.#cached = null
    return true
  }

  /** What is stored, at most some seconds old; empty when the database does not answer. */
  current(): Promise<ReadonlyMap<string, number>> {
    const now_ms = performance.now()
    if (this.#cached === null || this.#cached.until_ms < now_ms)
      this.#cached = { until_ms: now_ms + CACHED_MS, values: this.#read() }
    return this.#cached.values
  }

  async #read(): Promise<ReadonlyMap<string, number>> {
    try {
      const figures = await readFigures(this.#database)
      const values = new Map(figures.map(({ name, value }) => [name, value]))
      const newest_ms = Math.max(...figures.map(({ atMs }) => atMs))
      if (figures.length > 0) values.set('age_seconds', Math.max(0, this.#clock.now() - newest_ms) / 1000)
      return values
    } catch (error) {
      this.#log.warn({ err: error }, 'stored figures could not be read')
      return new Map()
    }
  }
}
