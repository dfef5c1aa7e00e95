import type { Parameters } from '../db/array-literal.ts'
import type { AccountChange } from './state.ts'

/**
 * Rows of another room that must be stored together with a decision or not at all: one more part of the engine's write statement.
 * It must cost nothing where there is nothing to store.
 */
export type Companion = {
  /** null when these changes do not concern it. Values go into `p`. */
  part(changes: readonly AccountChange[], p: Parameters): CompanionPart | null
}
export type CompanionPart = {
  /** A data-modifying CTE (`name as (…)`) that is filtered by `IN_LOCKED`. */
  readonly sql: string
  /** Called after the statement with the accounts whose changes took effect; the others are decided again. */
  stored?(accountIds: ReadonlySet<string>): void
}

/**
 * The filter of each part of the write statement: rows `u` of accounts in the CTE `locked (account_id)` only. `is true` makes it a hashed
 * lookup; the planner would otherwise turn it into a join whose cost grows with the square of the batch.
 */
export const IN_LOCKED = '(u.account_id in (select account_id from locked)) is true'
