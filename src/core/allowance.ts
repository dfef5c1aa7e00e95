import { LRUCache } from 'lru-cache'

const MAX_AT_ONCE = 100_000
const MAX_PER_MS = 20 / 1_000
/** Ops for which one more entry a second is allowed. */
const OPS_PER_ENTRY_A_SECOND = 1_000
const REMEMBERED_ACCOUNTS = 20_000

type Entry = { left: number; atMs: number }

/**
 * How much an account may still make the server store for free. What burns no op would have no bound else: whoever has none at all could fill the
 * disk. What an account has bounds it: a base and one for each op at once (100,000 at most), refilled by the base and one a second for each 1,000
 * ops (20 at most). In memory of this process.
 */
export class Allowance {
  readonly #accounts = new LRUCache<string, Entry>({ max: REMEMBERED_ACCOUNTS })
  readonly #base: { readonly atOnce: number; readonly perMinute: number }

  constructor(base: { atOnce: number; perMinute: number }) {
    this.#base = base
  }

  /** @returns a whole number */
  left(accountId: string, ops: bigint, now_ms: number): number {
    return Math.floor(this.#left(accountId, ops, now_ms))
  }

  use(accountId: string, count: number, ops: bigint, now_ms: number): void {
    this.#accounts.set(accountId, { left: Math.max(0, this.#left(accountId, ops, now_ms) - count), atMs: now_ms })
  }

  /** As many as an account may have left at most. */
  atOnce(ops: bigint): number {
    return Math.min(MAX_AT_ONCE, this.#base.atOnce + Number(ops))
  }

  /** How long until there is one more. */
  wait_ms(ops: bigint): number {
    return Math.ceil(1 / this.#perMs(ops))
  }

  #left(accountId: string, ops: bigint, now_ms: number): number {
    const entry = this.#accounts.get(accountId)
    if (entry === undefined) return this.atOnce(ops)
    return Math.min(this.atOnce(ops), entry.left + Math.max(0, now_ms - entry.atMs) * this.#perMs(ops))
  }

  #perMs(ops: bigint): number {
    return Math.min(MAX_PER_MS, this.#base.perMinute / 60_000 + Number(ops) / OPS_PER_ENTRY_A_SECOND / 1_000)
  }
}
