import type { Nanousd } from '../core/money.ts'
import type { TokenRates } from '../prices/cost.ts'
import type { PolicyRefusal } from './policy.ts'
import type { DenialReason, LimitView, LoopLimit, PerWindow, Raise } from './state.ts'
import type { HoldKind } from './tables.ts'

/** What a call creates is named by its operation id, so that a resumed call finds what the first one made. */
export type CallId = { readonly operationId: string; readonly resumed: boolean }

export type ClearRequest = {
  readonly agentId: string
  readonly model: string
  readonly estimatedTokens: number
  readonly estimatedInputTokens: number
  readonly hold_ms: number
  /** A clearance when absent. */
  readonly holdKind?: HoldKind
  /** What makes two requests the same for loop limits, e.g. a hash of the prompt; model and estimate when absent. */
  readonly fingerprint?: string
  /** The loop limit where no envelope on the path sets one; none when absent. */
  readonly loop?: LoopLimit
}
/** Set when no price list knows the model. */
export type Priced = { readonly isModelUnknown?: true }
/** A call that is about to be forwarded. */
export type Reservation = {
  readonly agentId: string
  readonly model: string
  readonly estimate: Nanousd
  readonly rates: TokenRates
  readonly hold_ms: number
  /** The same for calls that are the same byte for byte. */
  readonly fingerprint?: string
  /** The loop limit where no envelope on the path sets one; none when absent. */
  readonly loop?: LoopLimit
}
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
export type Refusal = {
  readonly approved: false
  readonly reason: DenialReason
  readonly remaining: Nanousd
  readonly tightest: LimitView | null
  readonly suspendedPath?: string
  readonly underlying?: DenialReason
  readonly limits?: readonly LimitView[]
  /** What the governance file allows, when it refused. */
  readonly policy?: PolicyRefusal
  readonly affordableTokens: number
  /** How much more the tightest limit would have to have left. */
  readonly shortfall: Nanousd
}

/** Where a raise starts from, as of now. `limit` is null when the window has no cap. */
export type RaiseView = {
  readonly raise: Raise
  readonly limit: Nanousd | null
  readonly extra: Nanousd
  readonly spent: Nanousd
  readonly resetMs: number
  readonly terms: string
}

export type EnvelopeView = {
  readonly agentId: string
  readonly tightest: LimitView
  readonly limits: readonly LimitView[]
  readonly loop: LoopLimit | null
}

export type Standing = {
  /** null: nothing counts here yet. */
  readonly spent: PerWindow<Nanousd> | null
  readonly limits: readonly LimitView[]
  readonly suspendedMs: number | null
}
