import { NIL_UUID } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import { Pace } from '../core/pace.ts'
import type { Database } from '../db/client.ts'
import { databaseFailure } from '../db/failure.ts'
import { LeasedWork } from '../db/leased-work.ts'
import { type Behind, listHeads, nextStep, sumUp } from './rollup.store.ts'

/** What is not summed up yet is read from the holds themselves, so nothing is missing meanwhile. */
const INTERVAL_MS = 30_000
const LEASE_MS = 30_000
const ACCOUNTS_PER_PAGE = 500
/** About how many events are summed up in one step. */
const STEP_EVENTS = 4_000
/** Nobody waits for a sum: what is left while many decide is summed up when they have stopped. */
const RESTS = { whenBusy: 49, otherwise: 3 }
const FAILURE = 'summing up usage failed, will try again'

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
  readonly #work: LeasedWork
  readonly #stepEvents: number

  constructor(deps: RollupDeps, options: RollupOptions = {}) {
    this.#database = deps.database
    this.#log = deps.log
    this.#pace = new Pace(deps.commands ?? (() => 0), RESTS)
    const { lease_ms = LEASE_MS, interval_ms = INTERVAL_MS } = options
    this.#work = new LeasedWork(deps, { name: 'usage.rollup', lease_ms, interval_ms, failure: FAILURE }, () => this.pass())
    this.#stepEvents = options.stepEvents ?? STEP_EVENTS
  }

  start(): void {
    this.#work.start()
  }

  /** Ends after the step under way and lets another process take over. */
  stop(): Promise<void> {
    return this.#work.stop()
  }

  get #stopped(): boolean {
    return this.#work.ending.aborted
  }

  /** Sums up what is complete of every account. @returns how many steps; null when another process is at it */
  async pass(): Promise<number | null> {
    if (!(await this.#work.take())) return null
    let steps = 0
    for (let after = NIL_UUID; ; ) {
      const page = await this.#atRest(() => listHeads(this.#database, after, ACCOUNTS_PER_PAGE))
      for (const account of page) {
        if (account.done >= account.version) continue
        const taken = await this.#bringUp(account).catch((error: unknown) => {
          if (databaseFailure(error) !== null) throw error
          // One account that cannot be summed up must not keep the others from it.
          this.#log.warn({ err: error, account_id: account.accountId }, FAILURE)
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
      if (!(await this.#work.keep())) return { steps, goOn: false }
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
    await this.#pace.rest(piece, this.#work.ending)
    return result
  }
}
