import type { Nanousd } from '../core/money.ts'
import { limitsOf, NO_ENVELOPE, tighter, tightestOf } from './envelope.ts'
import type { Policy } from './policy.ts'
import type {
  AccountChange,
  AccountState,
  DecisionEntry,
  DenialEntry,
  EnvelopeState,
  HoldState,
  LedgerEntry,
  LimitView,
  LoopEntry,
  LoopState,
} from './state.ts'

type Entry = Pick<LedgerEntry, 'id' | 'kind'> & Partial<LedgerEntry>

/** An account's state while a batch is decided: what was handed in, under what the commands before have changed. */
export class Draft implements AccountChange {
  readonly account: AccountState
  changed = false
  ops: bigint
  readonly clockMs: number
  readonly charged = new Map<string, EnvelopeState>()
  readonly limited = new Map<string, EnvelopeState>()
  readonly newHolds: HoldState[] = []
  readonly denials: DenialEntry[] = []
  readonly ledger: LedgerEntry[] = []
  readonly decisions: DecisionEntry[] = []
  readonly policy: Policy | null
  readonly #maxDenials: number
  loops?: Map<string, LoopEntry>
  readonly #resolved = new Map<string, HoldState>()
  /** None that is also resolved: one statement writes both, and of two updates of a row PostgreSQL makes only one. */
  readonly #renewed = new Map<string, HoldState>()

  constructor(account: AccountState, now_ms: number, policy: Policy | null, maxDenials: number) {
    this.account = account
    this.policy = policy
    this.#maxDenials = maxDenials
    this.ops = account.ops
    this.clockMs = Math.max(now_ms, account.clockMs)
  }

  /** The version that this batch makes of the account. */
  get version(): bigint {
    return this.account.version + 1n
  }

  /** Whether one more denial may be stored. */
  get recordsDenials(): boolean {
    return this.denials.length < this.#maxDenials
  }

  get resolvedHolds(): HoldState[] {
    return [...this.#resolved.values()]
  }

  get renewedHolds(): HoldState[] {
    return [...this.#renewed.values()]
  }

  envelope(agentId: string): EnvelopeState | null {
    return this.limited.get(agentId) ?? this.charged.get(agentId) ?? this.account.envelopes.get(agentId) ?? null
  }

  hold(holdId: string): HoldState | undefined {
    return this.#resolved.get(holdId) ?? this.#renewed.get(holdId) ?? this.account.holds.get(holdId)
  }

  resolve(hold: HoldState): void {
    this.#resolved.set(hold.holdId, hold)
    this.#renewed.delete(hold.holdId)
  }

  /** Moves the expiry of an open hold. */
  renew(hold: HoldState): void {
    this.#renewed.set(hold.holdId, hold)
    this.changed = true
  }

  /** Stores the spend of an envelope that has a row. */
  charge(agentId: string, envelope: EnvelopeState): void {
    if (this.limited.has(agentId)) this.limited.set(agentId, envelope)
    else this.charged.set(agentId, envelope)
  }

  /** Stores the whole of an envelope, which may be new. */
  limit(agentId: string, envelope: EnvelopeState): void {
    this.charged.delete(agentId)
    this.limited.set(agentId, envelope)
    this.changed = true
  }

  /** Adds to the ledger, at this batch's time. */
  record(entry: Entry): void {
    this.changed = true
    this.ledger.push({ agentId: null, holdId: null, ops: 0n, amount: 0n, detail: '', atMs: this.clockMs, ...entry })
  }

  tightest(path: readonly string[]): LimitView | null {
    let tightest: LimitView | null = null
    for (const agentId of path) {
      const envelope = this.envelope(agentId)
      const further = this.policy?.limits(agentId) ?? null
      if (envelope === null && further === null) continue
      const own = tightestOf(agentId, envelope ?? NO_ENVELOPE, this.clockMs, further)
      if (own) tightest = tighter(tightest, own)
    }
    return tightest
  }

  /** Every limit on a path, widest level first. */
  limits(path: readonly string[]): LimitView[] {
    return path.flatMap((agentId) => {
      const envelope = this.envelope(agentId)
      const further = this.policy?.limits(agentId) ?? null
      return envelope === null && further === null ? [] : limitsOf(agentId, envelope ?? NO_ENVELOPE, this.clockMs, further)
    })
  }

  loop(key: string): LoopState | undefined {
    return this.loops?.get(key)?.state ?? this.account.loops?.get(key)
  }

  /** What was counted is part of what the next decision reads: it moves the account. */
  countLoop(key: string, entry: LoopEntry): void {
    this.loops ??= new Map()
    this.loops.set(key, entry)
    this.changed = true
  }

  /** What the tightest limit on a path has left, never below 0; 0 where nothing caps it. */
  remaining(path: readonly string[]): Nanousd {
    return this.tightest(path)?.remaining ?? 0n
  }
}
