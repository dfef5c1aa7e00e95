import type { Nanousd } from '../core/money.ts'
import type { PolicyRefusal } from './policy.ts'
import type { ClearCommand, Denial } from './state.ts'

/** What a call creates is named by its operation id, so that a resumed call finds what the first one made. */
export type CallId = { readonly operationId: string; readonly resumed: boolean }

export type ClearRequest = Pick<ClearCommand, 'agentId' | 'model' | 'hold_ms' | 'holdKind' | 'fingerprint' | 'loop'> & {
  readonly estimatedTokens: number
  readonly estimatedInputTokens: number
}
/** Set when no price list knows the model. */
export type Priced = { readonly isModelUnknown?: true }
/** A call that is about to be forwarded. */
export type Reservation = Pick<ClearCommand, 'agentId' | 'model' | 'estimate' | 'rates' | 'hold_ms' | 'fingerprint' | 'loop'>
/** Something bought that is no model call, at a known price. */
export type Purchase = {
  readonly agentId: string
  /** What is stored where a clearance has its model. */
  readonly label: string
  /** What the governance file's `allowed_tools` are compared with; nothing is compared when absent. */
  readonly tool?: string
  readonly cost: Nanousd
  /** JSON, kept with the booking. */
  readonly detail: string
}
/** A denial with what its caller needs to go on. */
export type Refusal = Omit<Denial, 'unrecorded'> & {
  /** What the governance file allows, when it refused. */
  readonly policy?: PolicyRefusal
  readonly affordableTokens: number
  /** How much more the tightest limit would have to have left. */
  readonly shortfall: Nanousd
}
