import { Allowance } from '../core/allowance.ts'
import { DomainError } from '../core/errors.ts'
import type { Denial } from './state.ts'

/** How many denials of an account are still recorded. Approvals neither ask for it nor use it up. */
export const createDenialAllowance = (): Allowance => new Allowance({ atOnce: 1_000, perMinute: 1 })

/** What a request is answered that would be denied but is not recorded any more. */
export function denialNotRecorded(reason: Denial['reason'], retry_after_ms: number): DomainError {
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
