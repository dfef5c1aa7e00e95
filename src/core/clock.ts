/** Where the time comes from, in Unix milliseconds. */
export type Clock = { now(): number }

export const systemClock: Clock = { now: () => Date.now() }

/** A clock that a test moves by hand. */
export class ManualClock implements Clock {
  #now: number
  constructor(now_ms: number) {
    this.#now = now_ms
  }
  now(): number {
    return this.#now
  }
  advance(by_ms: number): void {
    this.#now += by_ms
  }
}

/**
 * The database's time, carried forward by this process's monotonic clock. All processes of one
 * database then agree on windows and expiry, and a wall clock that jumps moves nothing.
 */
export class SyncedClock implements Clock {
  #base_ms = Date.now()
  #at_ms = performance.now()

  now(): number {
    return Math.floor(this.#base_ms + performance.now() - this.#at_ms)
  }

  /** Adopts the time that `read` returns (Unix ms), taken to be the middle of its round trip. */
  async sync(read: () => Promise<number>): Promise<void> {
    const sent = performance.now()
    const database_ms = await read()
    const received = performance.now()
    this.#base_ms = database_ms
    this.#at_ms = (sent + received) / 2
  }
}
