import type { Log } from '../core/log.ts'
import { Pace } from '../core/pace.ts'
import type { Database } from '../db/client.ts'
import { databaseFailure } from '../db/failure.ts'
import { Lease } from '../db/lease.ts'
import { type Behind, listHeads, nextStep, sumUp } from './rollup.store.ts'

/** What is not summed up yet is read from the holds themselves, so nothing is missing meanwhile. */
const INTERVAL_MS = 30_000
const LEASE_MS = 30_000
/** A lease is renewed when this part of it is over. */
const RENEW_PART = 4
const ACCOUNTS_PER_PAGE = 500
/** About how many events are summed up in one step. */
const STEP_EVENTS = 4_000
/** Nobody waits for a sum: what is left while many decide is summed up when they have stopped. */
const RESTS = { whenBusy: 49, otherwise: 3 }
const NIL_UUID = '00000000-0000-0000-0000-000000000000'

export type RollupOptions = { readonly interval_ms?: number; readonly lease_ms?: number; readonly stepEvents?: number }
type RollupDeps = {
  readonly database: Database
  readonly log: Log
  /** How many commands this process has decided so far: summing up steps back while that number grows fast. */
  readonly commands?: () => number
}

/**
 * Sums up what was spent, behind the decisions and off their path, so that long ranges can be answered from few rows. Reads only what is
 * complete: all events of versions up to the one an account has reached. Each step is one statement, so a process may die anywhere; of two
 * at once one moves an account's head and the other finds it moved.
 */
export class Rollup {
  readonly #database: Database
  readonly #log: Log
  readonly #pace: Pace
  readonly #lease: Lease
  readonly #renew_ms: number
  readonly #interval_ms: number
  readonly #stepEvents: number
  #takenMs = 0
  #timer: NodeJS.Timeout | undefined
  #running: Promise<unknown> = Promise.resolve()
  #ending = new AbortController()

  constructor(deps: RollupDeps, options: RollupOptions = {}) {
    this.#database = deps.database
    this.#log = deps.log
    this.#pace = new Pace(deps.commands ?? (() => 0), RESTS)
    const lease_ms = options.lease_ms ?? LEASE_MS
    this.#lease = new Lease(deps.database, 'usage.rollup', lease_ms)
    this.#renew_ms = lease_ms / RENEW_PART
    this.#interval_ms = options.interval_ms ?? INTERVAL_MS
    this.#stepEvents = options.stepEvents ?? STEP_EVENTS
  }

  start(): void {
    this.#ending = new AbortController()
    this.#schedule()
  }

  /** Ends after the step under way and lets another process take over. */
  async stop(): Promise<void> {
    this.#ending.abort()
    clearTimeout(this.#timer)
    await this.#running
    await this.#lease.release().catch(() => {})
  }

  get #stopped(): boolean {
    return this.#ending.signal.aborted
  }

  #schedule(): void {
    if (this.#stopped) return
    this.#timer = setTimeout(() => {
      this.#running = this.pass()
        .catch((error: unknown) => this.#log.warn({ err: error }, 'summing up usage failed, will try again'))
        .then(() => this.#schedule())
    }, this.#interval_ms)
    this.#timer.unref()
  }

  /** Sums up what is complete of every account. @returns how many steps; null when another process is at it */
  async pass(): Promise<number | null> {
    if (!(await this.#lease.take())) return null
    this.#takenMs = performance.now()
    let steps = 0
    for (let after = NIL_UUID; ; ) {
      const page = await this.#atRest(() => listHeads(this.#database, after, ACCOUNTS_PER_PAGE))
      for (const account of page) {
        if (account.done >= account.version) continue
        const taken = await this.#bringUp(account).catch((error: unknown) => {
          if (databaseFailure(error) !== null) throw error
          // One account that cannot be summed up must not keep the others from it.
          this.#log.warn({ err: error, account_id: account.accountId }, 'summing up usage failed, will try again')
          return { steps: 0, goOn: true }
        })
        steps += taken.steps
        if (!taken.goOn) return steps
      }
      const last = page.at(-1)
      if (this.#stopped || last === undefined || page.length < ACCOUNTS_PER_PAGE) return steps
      after = last.accountId
    }
  }

  /** @returns `goOn` false when this process is to end, or has lost its lease */
  async #bringUp({ accountId, version, done }: Behind): Promise<{ steps: number; goOn: boolean }> {
    let steps = 0
    for (let from = done; from < version; steps++) {
      if (this.#stopped) return { steps, goOn: false }
      if (performance.now() - this.#takenMs >= this.#renew_ms) {
        if (!(await this.#lease.take())) return { steps, goOn: false }
        this.#takenMs = performance.now()
      }
      const at = from
      const through = await this.#atRest(async () => {
        const next = await nextStep(this.#database, { accountId, version, done: at }, this.#stepEvents)
        return (await sumUp(this.#database, accountId, at, next)) ? next : null
      })
      // Another process is at this account: it goes on from there.
      if (through === null) break
      from = through
    }
    return { steps, goOn: true }
  }

  async #atRest<T>(work: () => Promise<T>): Promise<T> {
    const piece = this.#pace.begin()
    const result = await work()
    await this.#pace.rest(piece, this.#ending.signal)
    return result
  }
}
