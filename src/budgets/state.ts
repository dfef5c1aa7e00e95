import type { Nanousd } from '../core/money.ts'
import type { TokenRates } from '../prices/cost.ts'
import type { HOLD_STATE, HoldKind, LEDGER_KINDS } from './tables.ts'
import type { Window } from './windows.ts'

/** One value per window, in the order of WINDOWS. */
export type PerWindow<T> = readonly [hourly: T, daily: T, weekly: T, monthly: T, session: T]

/** One-off raises: each adds to its window's limit in the instance that contains `clockMs`, and is gone with it. */
export type Extra = { readonly amounts: PerWindow<Nanousd>; readonly clockMs: number }

export type EnvelopeState = {
  /** null: no limit in that window. All null: a deleted envelope that still counts. */
  readonly limits: PerWindow<Nanousd | null>
  /** Spent in the instance of each window that contains `clockMs`. */
  readonly spent: PerWindow<Nanousd>
  readonly clockMs: number
  readonly createdMs: number
  readonly extra?: Extra | null
  /** The account version at which a window was last set back to 0; holds taken before it no longer count there. */
  readonly resets?: PerWindow<bigint | null> | null
  /** Set while nothing is approved at or below this path. */
  readonly suspendedMs?: number | null
  /** Stops identical clearances; absent like null: off. */
  readonly loop?: LoopLimit | null
}

/** More than `maxRepeats` identical clearances within `window_ms` are a loop. */
export type LoopLimit = { readonly maxRepeats: number; readonly window_ms: number }
/** What was seen of one agent's identical clearances. */
export type LoopState = {
  readonly count: number
  /** How many of them were denied for a reason that asking again does not change. */
  readonly denials: number
  readonly startedMs: number
  readonly lastMs: number
}

export type HoldState = {
  readonly holdId: string
  readonly agentId: string
  readonly kind: HoldKind
  readonly state: (typeof HOLD_STATE)[keyof typeof HOLD_STATE]
  readonly model: string
  readonly estimate: Nanousd
  readonly rates: TokenRates
  /** Levels of `pathOf(agentId)` that counted it (path.ts). */
  readonly charged: string
  readonly takenMs: number
  /** The account version that it made; within one version, ids are in order. */
  readonly takenVersion: bigint
  readonly expiresMs: number
  readonly resolvedMs: number | null
  readonly actual: Nanousd | null
  /** The first resolution's figures; every repeat answers these. */
  readonly outcome: Resolution | null
  /** What was booked, as JSON. Written with the hold, not read back. */
  readonly detail?: string | null
}

export type Resolution = { readonly drift: Nanousd; readonly remaining: Nanousd; readonly ops: bigint }

/** Everything a decision of one account reads, as of `version`. */
export type AccountState = {
  readonly accountId: string
  readonly version: bigint
  readonly ops: bigint
  readonly clockMs: number
  /** null: known to have no row. Absent: not loaded. */
  readonly envelopes: ReadonlyMap<string, EnvelopeState | null>
  readonly holds: ReadonlyMap<string, HoldState>
  /** Decisions already taken on approvals that the commands name, by approval id. */
  readonly decisions?: ReadonlyMap<string, ApprovalDecision>
  /** Of the identical clearances that a loop limit counts, by `loopKey`. */
  readonly loops?: ReadonlyMap<string, LoopState>
  /** Bit set of the events that somebody wants to hear of (notifications room); 0 or absent for none. */
  readonly events?: number
}

export type Usage = {
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cachedInputTokens: number
  readonly cacheWriteInputTokens: number
  readonly cacheWrite1hInputTokens: number
}

/** `id` names what the command creates: the hold, the denial or the ledger entry. */
type CommandBase = { readonly id: string; readonly resumed: boolean }

export type ClearCommand = CommandBase & {
  readonly kind: 'clear'
  readonly agentId: string
  readonly path: readonly string[]
  readonly model: string
  readonly estimate: Nanousd
  readonly rates: TokenRates
  readonly hold_ms: number
  /** A clearance when absent. A booking is settled at once, at its estimate. */
  readonly holdKind?: HoldKind
  /** What is booked, as JSON. */
  readonly detail?: string
  /** Set when the governance file does not allow it, whatever the account's limits say. */
  readonly refused?: DenialReason
  /** It has happened already, while the database was away: stored whatever the limits say. */
  readonly forced?: true
  /** What makes two requests the same for loop limits, e.g. a hash of the call's bytes; model and estimate when absent. */
  readonly fingerprint?: string
  /** The loop limit where no envelope on the path sets one; none when absent. */
  readonly loop?: LoopLimit
}
export type SettleCommand = CommandBase & {
  readonly kind: 'settle'
  readonly agentId: string
  readonly path: readonly string[]
  /** null: the agent's most recent open hold. */
  readonly holdId: string | null
  readonly usage: Usage
  /** What it costs, where the usage at the hold's prices does not say it. */
  readonly cost?: Nanousd
  /** The kind that may be settled; a clearance when absent. A reservation can be settled after its expiry too. */
  readonly holdKind?: HoldKind
  /** For the ledger: how the usage is known. */
  readonly detail?: string
}
export type ReleaseCommand = CommandBase & {
  readonly kind: 'release'
  readonly holdId: string
  /** Set for a key bound to a path: holds outside it do not exist for this caller. */
  readonly boundTo: string | null
  /** The kind that may be released; a clearance when absent. */
  readonly holdKind?: HoldKind
}
/** Keeps the reservation of a call that still runs from expiring. */
export type RenewCommand = CommandBase & { readonly kind: 'renew'; readonly holdId: string; readonly hold_ms: number }
export type SetEnvelopeCommand = CommandBase & {
  readonly kind: 'set_envelope'
  readonly agentId: string
  readonly limits: PerWindow<Nanousd | null>
  readonly loop?: LoopLimit | null
}
export type DeleteEnvelopeCommand = CommandBase & { readonly kind: 'delete_envelope'; readonly agentId: string }
/** Sets what an agent path has spent in some windows back to 0. Holds taken before no longer count there. */
export type ResetCommand = CommandBase & {
  readonly kind: 'reset'
  readonly agentId: string
  readonly windows: readonly Window[]
  /** For the ledger: who did it and why. */
  readonly detail: string
}
/** The kill switch: from now on nothing is approved at or below a path (`*`: in the account), until it is resumed. */
export type SuspendCommand = CommandBase & {
  readonly kind: 'suspend'
  readonly agentId: string
  readonly suspended: boolean
  readonly detail: string
}
export type GrantCommand = CommandBase & {
  readonly kind: 'grant'
  /** How the ledger calls it; `grant` when absent. */
  readonly entry?: GrantKind
  /** Only a correction may be negative; it takes what is there and never goes below 0. */
  readonly ops: bigint
  readonly detail: string
}
/** What changes the quota from outside: the trial and the operator, payments, and payments that were undone. */
export type GrantKind = 'grant' | 'topup' | 'correction'

/** What approving a request changes: a new cap for one window, or a one-off addition to the window's current instance. */
export type Raise = {
  readonly agentId: string
  readonly window: Window
  readonly kind: 'limit' | 'extra'
  readonly amount: Nanousd
}
/** `id` is the approval's. The first decision stands; `timeout` is one, and the only one from `expiresMs` on. */
export type DecideCommand = CommandBase & {
  readonly kind: 'decide'
  readonly agentId: string
  readonly actionSummary: string
  readonly decision: ApprovalDecision['decision']
  readonly responder: string | null
  readonly expiresMs: number
  readonly raise: Raise | null
  /** What the decider was shown (`termsOf`). */
  readonly terms: string | null
}
export type ApprovalDecision = {
  readonly approvalId: string
  readonly decision: 'approved' | 'denied' | 'timeout'
  readonly responder: string | null
  readonly decidedMs: number
}

export type Command =
  | ClearCommand
  | SettleCommand
  | ReleaseCommand
  | RenewCommand
  | SetEnvelopeCommand
  | DeleteEnvelopeCommand
  | ResetCommand
  | SuspendCommand
  | GrantCommand
  | DecideCommand

/** One limit as it stands; the tightest of several is the one with the least left. */
export type LimitView = {
  readonly agentId: string
  readonly window: Window
  readonly limit: Nanousd
  /** One-off raise of the current instance, on top of `limit`. */
  readonly extra: Nanousd
  readonly spent: Nanousd
  readonly remaining: Nanousd
  readonly resetMs: number
  /** Set by the governance file, where that is stricter than the account's own limit (null: it has none). */
  readonly file?: { readonly ownLimit: Nanousd | null }
}

export type Approval = {
  readonly approved: true
  readonly holdId: string
  readonly remaining: Nanousd
  readonly ops: bigint
  readonly expiresMs: number
  /** Of a booking: every limit on the path after it. */
  readonly limits?: readonly LimitView[]
}
export type Denial = {
  readonly approved: false
  readonly reason: DenialReason
  readonly remaining: Nanousd
  readonly tightest: LimitView | null
  /** The suspended path, when that is the reason. */
  readonly suspendedPath?: string
  /** Why it would be denied anyway, when repeating it is the reason. */
  readonly underlying?: DenialReason
  /** Of a booking: every limit on the path. */
  readonly limits?: readonly LimitView[]
  /** Set when nothing of it is stored, since the account was denied too often. */
  readonly unrecorded?: true
}
/** In the order in which they are tested. */
export const DENIAL_REASONS = [
  'suspended',
  'model_not_allowed',
  'max_tokens_exceeded',
  'tool_not_allowed',
  'loop_detected',
  'no_credits',
  'no_envelope',
  'envelope_exceeded',
] as const
export type DenialReason = (typeof DENIAL_REASONS)[number]

export type Resolved = Resolution & { readonly hold: HoldState; readonly replayed: boolean }
export type Unresolved = { readonly error: 'no_envelope' | 'no_pending_clearance'; readonly expired: boolean }

/** What each kind of command is answered. */
export type OutcomeOf = {
  clear: Approval | Denial
  settle: Resolved | Unresolved
  release: Resolved | Unresolved
  /** False when there is no such open hold any more. */
  renew: { readonly renewed: boolean }
  set_envelope: { readonly tightest: LimitView }
  delete_envelope: { readonly existed: boolean }
  /** False when the path never had an envelope, so that nothing was counted. */
  reset: { readonly existed: boolean }
  /** `changed`: it was not in that state already. */
  suspend: { readonly changed: boolean }
  grant: { readonly ops: bigint }
  /** `changed`: the raise no longer starts from what was shown. `pending`: not yet expired, so no timeout. */
  decide: { readonly decided: ApprovalDecision } | { readonly refused: 'changed' | 'pending' }
}
export type Outcome = OutcomeOf[Command['kind']]

export type DenialEntry = {
  readonly id: string
  readonly agentId: string
  readonly kind: HoldKind
  readonly model: string
  readonly estimate: Nanousd
  readonly reason: DenialReason
  readonly tightest: LimitView | null
  readonly atMs: number
}
export type LedgerEntry = {
  readonly id: string
  readonly kind: (typeof LEDGER_KINDS)[number]
  readonly agentId: string | null
  readonly holdId: string | null
  readonly ops: bigint
  readonly amount: Nanousd
  readonly detail: string
  readonly atMs: number
}

export type DecisionEntry = ApprovalDecision & { readonly agentId: string; readonly actionSummary: string }

/** What one account's share of a batch changes: everything the write statement needs, and nothing else. */
export type AccountChange = {
  readonly account: AccountState
  /** False when only denials were decided: the state, and so the version, stays as it is. */
  readonly changed: boolean
  readonly ops: bigint
  readonly clockMs: number
  /** Rows whose spend changed. */
  readonly charged: ReadonlyMap<string, EnvelopeState>
  /** Rows that are new or whose limits changed. */
  readonly limited: ReadonlyMap<string, EnvelopeState>
  readonly newHolds: readonly HoldState[]
  readonly resolvedHolds: readonly HoldState[]
  /** Holds whose expiry moved. */
  readonly renewedHolds: readonly HoldState[]
  readonly denials: readonly DenialEntry[]
  readonly ledger: readonly LedgerEntry[]
  readonly decisions: readonly DecisionEntry[]
  /** Counted for loop limits, by `loopKey`. */
  readonly loops?: ReadonlyMap<string, LoopEntry>
}
export type LoopEntry = {
  readonly agentId: string
  readonly fingerprint: string
  readonly state: LoopState
  readonly window_ms: number
}
