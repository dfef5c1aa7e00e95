import { LRUCache } from 'lru-cache'
import { DomainError } from '../core/errors.ts'

const MAX_ROWS = 1_000_000
const ROWS_PER_OP = 10
/** Rows are counted anew after so many more. */
const STEP = 10_000
const REMEMBERED_ACCOUNTS = 20_000
const RETRY_MS = 60_000

/** An account's ops (null: it is the operator's), and how many rows it has, of `most` at most. */
type CountRows = (accountId: string, most: number) => Promise<{ ops: bigint | null; rows: number }>

/**
 * How many rows of one kind an account may have: each costs it nothing. Counted in the database now and then and by this process in between, so
 * that the usual call pays nothing for it.
 */
export class Room {
  readonly #left = new LRUCache<string, number>({ max: REMEMBERED_ACCOUNTS })
  readonly #base: number
  readonly #count: CountRows

  /** @param base how many an account without ops may have */
  constructor(base: number, count: CountRows) {
    this.#base = base
    this.#count = count
  }

  /** Whether one more fits, as far as is known without looking. */
  has(accountId: string): boolean {
    return (this.#left.get(accountId) ?? 0) > 0
  }

  /** Looks. @returns whether one more fits */
  async look(accountId: string): Promise<boolean> {
    const { ops, rows } = await this.#count(accountId, MAX_ROWS)
    const left = (ops === null ? MAX_ROWS : Math.min(MAX_ROWS, this.#base + ROWS_PER_OP * Number(ops))) - rows
    this.#left.set(accountId, Math.min(STEP, left))
    return left > 0
  }

  took(accountId: string): void {
    this.#left.set(accountId, (this.#left.get(accountId) ?? 0) - 1)
  }
}

export const noRoom = (hint: string): DomainError =>
  new DomainError('rate_limited', { hint, details: { retry_after_ms: RETRY_MS }, retryAfterSeconds: RETRY_MS / 1_000 })
