import { LRUCache } from 'lru-cache'
import { DomainError } from '../core/errors.ts'
import type { Denial } from './state.ts'

/** Denials that an account may have recorded at once, beside one for each op that it has. */
const BASE_DENIALS = 1_000
const MAX_DENIALS = 100_000
const BASE_PER_MS = 1 / 60_000
/** Ops for which one more denial a second is recorded. */
const OPS_PER_DENIAL_A_SECOND = 1_000
const MAX_PER_MS = 20 / 1_000
const REMEMBERED_ACCOUNTS = 20_000

type Entry = { left: number; atMs: number }

/**
 * How many denials of an account are still recorded. A denial burns no op, so without a bound whoever has no ops at all could make the server
 * store as much as it can write. What an account has paid for bounds it: 1,000 and one for each op at once, refilled by one a minute and one a
 * second for each 1,000 ops. In memory of this process; approvals neither ask for it nor use it up.
 */
export class DenialAllowance {
  readonly #accounts = new LRUCache<string, Entry>({ max: REMEMBERED_ACCOUNTS })

  /** @returns a whole number; the denials beyond it are answered `rate_limited` */
  left(accountId: string, ops: bigint, now_ms: number): number {
    const entry = this.#accounts.get(accountId)
    return entry === undefined ? capacityOf(ops) : Math.floor(refilled(entry, ops, now_ms))
  }

  /** Uses up the allowance for denials that were stored. */
  use(accountId: string, count: number, ops: bigint, now_ms: number): void {
    const entry = this.#accounts.get(accountId)
    const left = entry === undefined ? capacityOf(ops) : refilled(entry, ops, now_ms)
    this.#accounts.set(accountId, { left: Math.max(0, left - count), atMs: now_ms })
  }
}

const capacityOf = (ops: bigint): number => Math.min(MAX_DENIALS, BASE_DENIALS + Number(ops))

const perMs = (ops: bigint): number => Math.min(MAX_PER_MS, BASE_PER_MS + Number(ops) / OPS_PER_DENIAL_A_SECOND / 1_000)

const refilled = ({ left, atMs }: Entry, ops: bigint, now_ms: number): number =>
  Math.min(capacityOf(ops), left + Math.max(0, now_ms - atMs) * perMs(ops))

/** What a request is answered that would be denied but is not recorded any more. */
export function denialNotRecorded(reason: Denial['reason'], ops: bigint): DomainError {
  const retry_after_ms = Math.ceil(1 / perMs(ops))
  const why =
    reason === 'no_credits'
      ? 'This account has no operations left. Stop asking until it is topped up (POST /v1/account/topup; GET /v1/account/balance says what is left).'
      : `This request would be denied (${reason}). Stop asking until that has changed: see the hint of the denials before.`
  return new DomainError('rate_limited', {
    hint: `${why} So many of this account's requests were denied that further ones are neither recorded nor explained; what can be approved still is.`,
    details: { retry_after_ms, reason },
    retryAfterSeconds: Math.ceil(retry_after_ms / 1_000),
  })
}
