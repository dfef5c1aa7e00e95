import type { Log } from '../core/log.ts'
import type { Database } from './client.ts'
import { Lease } from './lease.ts'

/** A lease is renewed when this part of it is over. */
const RENEW_PART = 4

export type LeasedWorkOptions = {
  /** Of the lease; one for each kind of work. */
  readonly name: string
  readonly lease_ms: number
  /** Between the end of one pass and the next. */
  readonly interval_ms: number
  /** Before the first pass; the interval when absent. */
  readonly first_ms?: number
  /** What is logged when a pass fails. */
  readonly failure: string
}

/** Work that is done again and again, by one process at a time, until the process stops. */
export class LeasedWork {
  readonly #log: Log
  readonly #options: LeasedWorkOptions
  readonly #pass: () => Promise<unknown>
  readonly #lease: Lease
  #takenMs = 0
  #timer: NodeJS.Timeout | undefined
  #running: Promise<unknown> = Promise.resolve()
  #ending = new AbortController()

  /** @param pass does the work once; it asks `take` first and `keep` as it goes on, and ends soon after `ending` */
  constructor(
    deps: { database: Pick<Database, 'sql' | 'prepare'>; log: Log },
    options: LeasedWorkOptions,
    pass: () => Promise<unknown>,
  ) {
    this.#log = deps.log
    this.#options = options
    this.#pass = pass
    this.#lease = new Lease(deps.database, options.name, options.lease_ms)
  }

  /** Aborted once the process is to stop. */
  get ending(): AbortSignal {
    return this.#ending.signal
  }

  start(): void {
    this.#ending = new AbortController()
    this.#schedule(this.#options.first_ms ?? this.#options.interval_ms)
  }

  /** Waits for the pass under way and lets another process take over. */
  async stop(): Promise<void> {
    this.#ending.abort()
    clearTimeout(this.#timer)
    await this.#running
    await this.#lease.release().catch(() => {})
  }

  /** @returns false while another process does it */
  async take(): Promise<boolean> {
    this.#takenMs = performance.now()
    return this.#lease.take()
  }

  /** Renews the lease in time. @returns false when it is lost */
  async keep(): Promise<boolean> {
    return performance.now() - this.#takenMs < this.#options.lease_ms / RENEW_PART || this.take()
  }

  #schedule(wait_ms: number): void {
    if (this.ending.aborted) return
    this.#timer = setTimeout(() => {
      this.#running = this.#pass()
        .catch((error: unknown) => this.#log.warn({ err: error }, this.#options.failure))
        .then(() => this.#schedule(this.#options.interval_ms))
    }, wait_ms)
    this.#timer.unref()
  }
}
