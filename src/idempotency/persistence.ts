import { setTimeout as sleep } from 'node:timers/promises'
import type { Clock } from '../core/clock.ts'

const RETRY_MS = 250

type Task = { readonly until_ms: number; work(): Promise<unknown> }

/**
 * Tells the database how requests of this process ended, again until it hears: a database that is away when a request ends is mostly
 * what ended it, and without being told it holds a retry off until the request's lease is over.
 */
export class Persistence {
  readonly #clock: Clock
  readonly #most: number
  readonly #waiting = new Set<Task>()

  /** @param most how many wait for the database; what is beyond is given up */
  constructor(deps: { clock: Clock }, most: number) {
    this.#clock = deps.clock
    this.#most = most
  }

  /**
   * Returns after the first attempt, and never rejects. Further ones are made by themselves.
   * @param until_ms when it no longer matters @param work may be done twice
   * @returns what the first attempt gave; undefined when it failed
   */
  async attempt<T>(until_ms: number, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work()
    } catch {
      if (this.#waiting.size >= this.#most) return undefined
      this.#waiting.add({ until_ms, work })
      if (this.#waiting.size === 1) void this.#retry()
      return undefined
    }
  }

  async #retry(): Promise<void> {
    while (this.#waiting.size > 0) {
      await sleep(RETRY_MS, undefined, { ref: false })
      for (const task of this.#waiting) {
        if (task.until_ms > this.#clock.now() && !(await succeeds(task))) break
        this.#waiting.delete(task)
      }
    }
  }
}

const succeeds = ({ work }: Task): Promise<boolean> =>
  work().then(
    () => true,
    () => false,
  )
