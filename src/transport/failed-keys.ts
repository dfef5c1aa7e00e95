import { LRUCache } from 'lru-cache'
import { atMost } from '../core/bounded.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'

const WINDOW_MS = 60_000
/** Who sends from ever new addresses must not grow memory; the ones seen last are remembered. */
const MAX_ADDRESSES = 20_000

/**
 * Counts refused credentials per address and minute, in this process. Above the limit an address gets no further guess in that minute:
 * nothing it sends is looked up, and what it learns is the same for a right key as for a wrong one.
 */
export class FailedKeys {
  readonly #clock: Clock
  readonly #perMinute: number
  readonly #counts = new LRUCache<string, { startMs: number; count: number }>(atMost(MAX_ADDRESSES))

  /** @param perMinute 0 turns the limit off */
  constructor(deps: { clock: Clock }, options: { perMinute: number }) {
    this.#clock = deps.clock
    this.#perMinute = options.perMinute
  }

  /** How long the address has to wait; 0 when it may try. */
  wait_ms(address: string): number {
    const found = this.#perMinute === 0 ? undefined : this.#counts.get(address)
    if (found === undefined || found.count < this.#perMinute) return 0
    return Math.max(0, found.startMs + WINDOW_MS - this.#clock.now())
  }

  count(address: string): void {
    const now_ms = this.#clock.now()
    const found = this.#counts.get(address)
    if (found !== undefined && now_ms < found.startMs + WINDOW_MS) found.count++
    else this.#counts.set(address, { startMs: now_ms, count: 1 })
  }
}

export const tooManyFailures = (wait_ms: number): DomainError =>
  new DomainError('rate_limited', {
    hint: 'Too many refused keys came from this address. Wait retry_after_ms, and check the key for typos.',
    details: { retry_after_ms: wait_ms },
    retryAfterSeconds: Math.ceil(wait_ms / 1000),
  })
