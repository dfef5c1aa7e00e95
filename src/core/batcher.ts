import { DomainError } from './errors.ts'

type Waiting<T, R> = {
  readonly item: T
  readonly isPatient: boolean
  resolve(result: R): void
  reject(error: unknown): void
}

export type BatcherOptions = {
  /** Most items that one run is given. */
  readonly maxBatch: number
  /** Most items that wait; one more is refused with `overloaded`. */
  readonly maxQueue: number
}

/** The answer to an item that has to be run again: it goes to the head of the queue, before those that came later. */
export const AGAIN = Symbol('again')
export type BatchResult<R> = PromiseSettledResult<R> | typeof AGAIN

/** Up to so many waiting items always go together. */
const MIN_SPLIT = 16
/** How long an item that nobody waits for looks for company. */
const PATIENCE_MS = 10

/**
 * Runs at most one batch at a time. An item that finds it idle goes at once; those that arrive meanwhile wait and go together in
 * the next run, but no more than half of all that are on their way: while the database works on one half, this process answers the
 * other and reads what comes next. No timers: load makes the batches. Only an item that nobody waits for may wait a little to go with others;
 * it keeps its place before those that come later.
 */
export class Batcher<T, R> {
  readonly #run: (items: T[]) => Promise<BatchResult<R>[]>
  readonly #options: BatcherOptions
  #queue: Waiting<T, R>[] = []
  /** How many of the queue somebody waits for. */
  #awaited = 0
  #busy = false
  #patience: NodeJS.Timeout | undefined
  #idle: (() => void)[] = []

  /** @param run answers its items in order; a run that throws fails all of them */
  constructor(run: (items: T[]) => Promise<BatchResult<R>[]>, options: BatcherOptions) {
    this.#run = run
    this.#options = options
  }

  /** Items waiting for the next run. */
  get depth(): number {
    return this.#queue.length
  }

  /**
   * @param options `isPatient`: nobody waits for the result, so that the item may go with the next that somebody waits for, or with more of its
   * kind; it goes after 10 ms at the latest
   * @throws DomainError `overloaded` when the queue is full
   */
  submit(item: T, { isPatient = false }: { readonly isPatient?: boolean } = {}): Promise<R> {
    if (this.#queue.length >= this.#options.maxQueue) {
      return Promise.reject(new DomainError('overloaded', { retryAfterSeconds: 1 }))
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ item, isPatient, resolve, reject })
      if (!isPatient) this.#awaited++
      if (!this.#busy) this.#begin()
    })
  }

  /** Resolves when nothing waits or runs. */
  settled(): Promise<void> {
    if (!this.#busy && this.#queue.length === 0) return Promise.resolve()
    return new Promise((resolve) => {
      this.#idle.push(resolve)
      if (!this.#busy) this.#begin()
    })
  }

  /** Whether the next run need not wait for more items. */
  get #isDue(): boolean {
    return this.#awaited > 0 || this.#queue.length >= MIN_SPLIT || (this.#idle.length > 0 && this.#queue.length > 0)
  }

  #begin(): void {
    if (!this.#isDue) {
      this.#patience ??= setTimeout(() => this.#go(), PATIENCE_MS)
      return
    }
    this.#go()
  }

  #go(): void {
    clearTimeout(this.#patience)
    this.#patience = undefined
    this.#busy = true
    // After the current turn of the event loop, so that requests read from the sockets together go together.
    setImmediate(() => void this.#drain())
  }

  async #drain(): Promise<void> {
    let last = 0
    do {
      // Those just answered are about to come back: they count as on their way.
      const half = Math.ceil((this.#queue.length + last) / 2)
      const size = Math.min(this.#options.maxBatch, Math.max(half, MIN_SPLIT))
      const batch = this.#queue.length <= size ? this.#queue : this.#queue.slice(0, size)
      this.#queue = batch === this.#queue ? [] : this.#queue.slice(size)
      for (const { isPatient } of batch) if (!isPatient) this.#awaited--
      last = batch.length
      try {
        const results = await this.#run(batch.map((waiting) => waiting.item))
        const again: Waiting<T, R>[] = []
        for (const [index, waiting] of batch.entries()) {
          const result = results[index]
          if (result === AGAIN) again.push({ ...waiting, isPatient: false })
          else if (result?.status === 'fulfilled') waiting.resolve(result.value)
          else waiting.reject(result?.reason ?? new Error('the batch left an item unanswered'))
        }
        this.#awaited += again.length
        if (again.length > 0) this.#queue = [...again, ...this.#queue]
      } catch (error) {
        for (const waiting of batch) waiting.reject(error)
      }
    } while (this.#isDue)
    this.#busy = false
    if (this.#queue.length > 0) this.#begin()
    else for (const done of this.#idle.splice(0)) done()
  }
}

/** The results of a run in which every item succeeded. */
export const allFulfilled = <R>(values: readonly R[]): PromiseSettledResult<R>[] =>
  values.map((value) => ({ status: 'fulfilled', value }))
