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
  /** A data-modifying CTE (`name as (…)`) that touches only accounts in the CTE `locked (account_id)`. */
  readonly sql: string
  /** Called after the statement with the accounts whose changes took effect; the others are decided again. */
  stored?(accountIds: ReadonlySet<string>): void
}
