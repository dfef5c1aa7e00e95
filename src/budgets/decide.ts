import type { Nanousd } from '../core/money.ts'
import { isWithin } from '../core/operation.ts'
import { actualNanousd } from '../prices/cost.ts'
import {
  extraAt,
  mapWindows,
  NO_LIMITS,
  NO_SPEND,
  spentAt,
  termsOf,
  tighter,
  tightestOf,
  windowAt,
  withRaise,
} from './envelope.ts'
import { decodeLevels, encodeLevels, pathOf } from './path.ts'
import type {
  AccountChange,
  AccountState,
  Approval,
  ApprovalDecision,
  ClearCommand,
  Command,
  DecideCommand,
  DecisionEntry,
  DeleteEnvelopeCommand,
  Denial,
  DenialEntry,
  DenialReason,
  EnvelopeState,
  GrantCommand,
  HoldState,
  LedgerEntry,
  LimitView,
  Outcome,
  OutcomeOf,
  ReleaseCommand,
  Resolved,
  SetEnvelopeCommand,
  SettleCommand,
  Unresolved,
} from './state.ts'
import { HOLD_KIND, HOLD_STATE } from './tables.ts'
import { instanceStart, nextReset, WINDOW_COUNT, WINDOWS } from './windows.ts'

/**
 * The rules of contract section 3 and nothing else: given an account's state, commands in arrival order and the time,
 * returns each command's outcome and what changes. Integers only, no I/O; the state handed in is left as it was.
 *
 * The account's clock never runs backwards: a process whose clock is behind decides at the latest time already used.
 * Every envelope and hold that a command may read must be in `state` (null for an envelope without a row).
 */
export function decide(
  state: AccountState,
  commands: readonly Command[],
  now_ms: number,
): { outcomes: Outcome[]; change: AccountChange } {
  const draft = new Draft(state, now_ms)
  const outcomes: Outcome[] = []
  for (const [index, command] of inFairOrder(commands)) outcomes[index] = draft.apply(command)
  return { outcomes, change: draft }
}

/**
 * The order of arrival, but clearances last when a settlement of "the most recent" is among the commands: that must not overlook a hold
 * which this very batch makes. The commands of a batch are all under way at once, so any order of them is a fair one.
 * @returns each command with its place in the batch
 */
function inFairOrder(commands: readonly Command[]): Iterable<[number, Command]> {
  if (!commands.some((command) => command.kind === 'settle' && command.holdId === null)) return commands.entries()
  const entries = [...commands.entries()]
  const isClear = ([, { kind }]: [number, Command]): boolean => kind === 'clear'
  return [...entries.filter((entry) => !isClear(entry)), ...entries.filter(isClear)]
}

/** Whether a hold was decided after another of the same account. */
const isLater = (a: HoldState, b: HoldState): boolean =>
  a.takenVersion === b.takenVersion ? a.holdId > b.holdId : a.takenVersion > b.takenVersion

class Draft implements AccountChange {
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
  readonly #resolved = new Map<string, HoldState>()

  constructor(account: AccountState, now_ms: number) {
    this.account = account
    this.ops = account.ops
    this.clockMs = Math.max(now_ms, account.clockMs)
  }

  get resolvedHolds(): HoldState[] {
    return [...this.#resolved.values()]
  }

  apply(command: Command): Outcome {
    switch (command.kind) {
      case 'clear':
        return this.#clear(command)
      case 'settle':
        return this.#settle(command)
      case 'release':
        return this.#release(command)
      case 'set_envelope':
        return this.#setEnvelope(command)
      case 'delete_envelope':
        return this.#deleteEnvelope(command)
      case 'grant':
        return this.#grant(command)
      case 'decide':
        return this.#decide(command)
    }
  }

  #envelope(agentId: string): EnvelopeState | null {
    return this.limited.get(agentId) ?? this.charged.get(agentId) ?? this.account.envelopes.get(agentId) ?? null
  }

  #hold(holdId: string): HoldState | undefined {
    return this.#resolved.get(holdId) ?? this.account.holds.get(holdId)
  }

  /** Reasons in the contract's order: no_credits, no_envelope, envelope_exceeded. All limits on the path fit, or none is charged. */
  #clear(command: ClearCommand): Approval | Denial {
    const existing = command.resumed ? this.#hold(command.id) : undefined
    if (existing)
      return {
        approved: true,
        holdId: existing.holdId,
        remaining: this.#remaining(command.path),
        ops: this.ops,
        expiresMs: existing.expiresMs,
      }
    if (this.ops < 1n) return this.#deny(command, 'no_credits', null)

    let tightest: LimitView | null = null
    let fits = true
    for (const agentId of command.path) {
      const envelope = this.#envelope(agentId)
      if (envelope === null) continue
      const spent = spentAt(envelope, this.clockMs)
      for (let index = 0; index < WINDOW_COUNT; index++) {
        const limit = envelope.limits[index] ?? null
        if (limit === null) continue
        const extra = envelope.extra ? extraAt(envelope.extra, index, this.clockMs) : 0n
        const left = limit + extra - (spent[index] ?? 0n)
        if (command.estimate > left) fits = false
        if (tightest === null || left < tightest.remaining)
          tightest = { agentId, window: windowAt(index), limit, extra, spent: limit + extra - left, remaining: left, resetMs: 0 }
      }
    }
    if (tightest === null) return this.#deny(command, 'no_envelope', null)
    if (!fits) return this.#deny(command, 'envelope_exceeded', { ...tightest, resetMs: nextReset(tightest.window, this.clockMs) })

    const charged = this.#charge(command.path, command.estimate)
    const hold: HoldState = {
      holdId: command.id,
      agentId: command.agentId,
      kind: HOLD_KIND.clearance,
      state: HOLD_STATE.open,
      model: command.model,
      estimate: command.estimate,
      rates: command.rates,
      charged,
      takenMs: this.clockMs,
      takenVersion: this.account.version + 1n,
      expiresMs: this.clockMs + command.hold_ms,
      resolvedMs: null,
      actual: null,
      outcome: null,
    }
    this.ops -= 1n
    this.changed = true
    this.newHolds.push(hold)
    return {
      approved: true,
      holdId: hold.holdId,
      remaining: tightest.remaining - command.estimate,
      ops: this.ops,
      expiresMs: hold.expiresMs,
    }
  }

  #deny(command: ClearCommand, reason: DenialReason, tightest: LimitView | null): Denial {
    this.denials.push({
      id: command.id,
      agentId: command.agentId,
      model: command.model,
      estimate: command.estimate,
      reason,
      tightest,
      atMs: this.clockMs,
    })
    const left = tightest?.remaining ?? 0n
    return { approved: false, reason, remaining: left < 0n ? 0n : left, tightest }
  }

  /** Adds to every envelope of the path that has a row, deleted ones too. @returns the levels charged */
  #charge(path: readonly string[], amount: Nanousd): string {
    const levels: number[] = []
    for (const [level, agentId] of path.entries()) {
      const envelope = this.#envelope(agentId)
      if (envelope === null) continue
      levels.push(level)
      const spent = spentAt(envelope, this.clockMs)
      this.#write(agentId, { ...envelope, spent: mapWindows(spent, (value) => value + amount), clockMs: this.clockMs })
    }
    return encodeLevels(levels)
  }

  #write(agentId: string, envelope: EnvelopeState): void {
    if (this.limited.has(agentId)) this.limited.set(agentId, envelope)
    else this.charged.set(agentId, envelope)
  }

  /** What the tightest limit on a path has left, never below 0; 0 where nothing caps it. */
  #remaining(path: readonly string[]): Nanousd {
    const tightest = this.#tightest(path)
    return tightest === null ? 0n : tightest.remaining
  }

  #tightest(path: readonly string[]): LimitView | null {
    let tightest: LimitView | null = null
    for (const agentId of path) {
      const envelope = this.#envelope(agentId)
      const own = envelope && tightestOf(agentId, envelope, this.clockMs)
      if (own) tightest = tighter(tightest, own)
    }
    return tightest
  }

  #settle(command: SettleCommand): Resolved | Unresolved {
    const hold = command.holdId === null ? this.#latestOpen(command.agentId) : this.#hold(command.holdId)
    if (hold === undefined || hold.kind !== HOLD_KIND.clearance || hold.agentId !== command.agentId) {
      return { error: this.#tightest(command.path) === null ? 'no_envelope' : 'no_pending_clearance', expired: false }
    }
    if (hold.state !== HOLD_STATE.open) return this.#repeat(hold, HOLD_STATE.settled)
    if (hold.expiresMs <= this.clockMs) return { error: 'no_pending_clearance', expired: true }
    return this.#resolve(command.id, hold, HOLD_STATE.settled, actualNanousd(hold.rates, command.usage))
  }

  #release(command: ReleaseCommand): Resolved | Unresolved {
    const hold = this.#hold(command.holdId)
    const visible =
      hold !== undefined &&
      hold.kind === HOLD_KIND.clearance &&
      (command.boundTo === null || isWithin(hold.agentId, command.boundTo))
    if (!visible) return { error: 'no_pending_clearance', expired: false }
    if (hold.state !== HOLD_STATE.open) return this.#repeat(hold, HOLD_STATE.released)
    if (hold.expiresMs <= this.clockMs) return { error: 'no_pending_clearance', expired: true }
    return this.#resolve(command.id, hold, HOLD_STATE.released, 0n)
  }

  /** A hold is resolved once: the same resolution again answers the stored figures, a different one finds nothing open. */
  #repeat(hold: HoldState, wanted: HoldState['state']): Resolved | Unresolved {
    if (hold.state !== wanted || hold.outcome === null) return { error: 'no_pending_clearance', expired: false }
    return { ...hold.outcome, hold, replayed: true }
  }

  #latestOpen(agentId: string): HoldState | undefined {
    let latest: HoldState | undefined
    for (const held of this.account.holds.values()) {
      const hold = this.#hold(held.holdId) ?? held
      const open =
        hold.agentId === agentId &&
        hold.kind === HOLD_KIND.clearance &&
        hold.state === HOLD_STATE.open &&
        hold.expiresMs > this.clockMs
      if (open && (latest === undefined || isLater(hold, latest))) latest = hold
    }
    return latest
  }

  /** Moves the difference into the window instances in which the hold was taken; an instance that has passed is left alone. */
  #resolve(entryId: string, hold: HoldState, state: HoldState['state'], actual: Nanousd): Resolved {
    const path = pathOf(hold.agentId)
    const drift = actual - hold.estimate
    for (const level of decodeLevels(hold.charged)) {
      const agentId = path[level]
      const envelope = agentId === undefined ? null : this.#envelope(agentId)
      if (agentId === undefined || envelope === null)
        throw new Error(`hold ${hold.holdId} was charged to an envelope that is not there`)
      const spent = mapWindows(spentAt(envelope, this.clockMs), (value, index) => {
        const sameInstance = instanceStart(windowAt(index), hold.takenMs) === instanceStart(windowAt(index), this.clockMs)
        return sameInstance ? value + drift : value
      })
      this.#write(agentId, { ...envelope, spent, clockMs: this.clockMs })
    }
    this.changed = true
    const outcome = { drift, remaining: this.#remaining(path), ops: this.ops }
    const resolved: HoldState = { ...hold, state, resolvedMs: this.clockMs, actual, outcome }
    this.#resolved.set(hold.holdId, resolved)
    const kind = state === HOLD_STATE.settled ? 'settle' : 'release'
    this.ledger.push({
      id: entryId,
      kind,
      agentId: hold.agentId,
      holdId: hold.holdId,
      ops: 0n,
      amount: drift,
      detail: '',
      atMs: this.clockMs,
    })
    return { ...outcome, hold: resolved, replayed: false }
  }

  #setEnvelope(command: SetEnvelopeCommand): OutcomeOf['set_envelope'] {
    const before = this.#envelope(command.agentId)
    const envelope: EnvelopeState = {
      limits: command.limits,
      spent: before === null ? NO_SPEND : spentAt(before, this.clockMs),
      clockMs: this.clockMs,
      createdMs: before?.createdMs ?? this.clockMs,
    }
    if (!command.resumed) this.#limit(command, envelope)
    const tightest = tightestOf(command.agentId, envelope, this.clockMs)
    if (tightest === null) throw new Error('an envelope needs at least one limit')
    return { tightest }
  }

  #deleteEnvelope(command: DeleteEnvelopeCommand): OutcomeOf['delete_envelope'] {
    if (command.resumed) return { existed: true }
    const before = this.#envelope(command.agentId)
    if (before === null || before.limits.every((limit) => limit === null)) return { existed: false }
    const spent = spentAt(before, this.clockMs)
    this.#limit(command, { ...before, limits: NO_LIMITS, spent, clockMs: this.clockMs, extra: null })
    return { existed: true }
  }

  #limit(command: SetEnvelopeCommand | DeleteEnvelopeCommand, envelope: EnvelopeState): void {
    this.charged.delete(command.agentId)
    this.limited.set(command.agentId, envelope)
    this.changed = true
    const detail = JSON.stringify(
      Object.fromEntries(WINDOWS.map((window, index) => [window, envelope.limits[index]?.toString()])),
    )
    this.ledger.push({
      id: command.id,
      kind: 'limit',
      agentId: command.agentId,
      holdId: null,
      ops: 0n,
      amount: 0n,
      detail,
      atMs: this.clockMs,
    })
  }

  #grant(command: GrantCommand): OutcomeOf['grant'] {
    // Two of one batch may name the same entry: a payment found by a request and by the follower at once.
    if (!command.resumed && !this.ledger.some((entry) => entry.id === command.id)) {
      const isMoreThanThere = command.ops < -this.ops
      const ops = isMoreThanThere ? -this.ops : command.ops
      this.ops += ops
      this.changed = true
      this.ledger.push({
        id: command.id,
        kind: command.entry ?? 'grant',
        agentId: null,
        holdId: null,
        ops,
        amount: 0n,
        detail: command.detail,
        atMs: this.clockMs,
      })
    }
    return { ops: this.ops }
  }

  /** The first decision stands. Past the expiry every decision is a timeout. A raise applies with the approval, or neither does. */
  #decide(command: DecideCommand): OutcomeOf['decide'] {
    const earlier = this.decisions.find(({ approvalId }) => approvalId === command.id) ?? this.account.decisions?.get(command.id)
    if (earlier) return { decided: earlier }
    const isLate = command.expiresMs <= this.clockMs
    if (command.decision === 'timeout' && !isLate) return { refused: 'pending' }
    const decision = isLate ? 'timeout' : command.decision
    const raise = decision === 'approved' ? command.raise : null
    if (raise) {
      const before = this.#envelope(raise.agentId)
      if (termsOf(raise, before, this.clockMs) !== command.terms) return { refused: 'changed' }
      const after = withRaise(raise, before, this.clockMs)
      if (after) {
        this.charged.delete(raise.agentId)
        this.limited.set(raise.agentId, after)
      }
    }
    const responder = decision === 'timeout' ? null : command.responder
    const decided: ApprovalDecision = { approvalId: command.id, decision, responder, decidedMs: this.clockMs }
    this.changed = true
    this.decisions.push({ ...decided, agentId: command.agentId, actionSummary: command.actionSummary })
    this.ledger.push({
      id: command.id,
      kind: 'approval',
      agentId: raise?.agentId ?? command.agentId,
      holdId: null,
      ops: 0n,
      amount: raise?.kind === 'extra' ? raise.amount : 0n,
      detail: JSON.stringify({
        decision,
        responder,
        ...(raise && { window: raise.window, [raise.kind]: raise.amount.toString() }),
      }),
      atMs: this.clockMs,
    })
    return { decided }
  }
}
