import type { Nanousd } from '../core/money.ts'
import { decideApproval, deleteEnvelope, grant, reset, setEnvelope, suspend } from './changes.ts'
import { Draft } from './draft.ts'
import { addSpend, extraAt, mapWindows, NO_ENVELOPE, NO_LIMITS, NO_SPEND, spentAt, windowAt } from './envelope.ts'
import { LoopWatch } from './loops.ts'
import { encodeLevels } from './path.ts'
import type { Policy } from './policy.ts'
import { release, renew, settle } from './settlement.ts'
import type {
  AccountChange,
  AccountState,
  Approval,
  ClearCommand,
  Command,
  Denial,
  DenialReason,
  HoldState,
  LimitView,
  Outcome,
} from './state.ts'
import { HOLD_KIND, HOLD_STATE } from './tables.ts'
import { nextReset, WINDOW_COUNT } from './windows.ts'

/**
 * The rules of contract section 3 and nothing else: given an account's state, commands in arrival order and the time,
 * returns each command's outcome and what changes. Integers only, no I/O; the state handed in is left as it was.
 *
 * The account's clock never runs backwards: a process whose clock is behind decides at the latest time already used.
 * Every envelope and hold that a command may read must be in `state` (null for an envelope without a row).
 * @param policy further limits, which hold beside those of the envelopes
 * @param maxDenials those beyond are answered `unrecorded` and leave nothing behind
 */
export function decide(
  state: AccountState,
  commands: readonly Command[],
  now_ms: number,
  policy: Policy | null = null,
  maxDenials = Number.POSITIVE_INFINITY,
): { outcomes: Outcome[]; change: AccountChange } {
  const draft = new Draft(state, now_ms, policy, maxDenials)
  const outcomes: Outcome[] = []
  for (const [index, command] of inFairOrder(commands)) outcomes[index] = apply(draft, command)
  return { outcomes, change: draft }
}

/**
 * The order of arrival, but clearances last when one of the others concerns all of the account's holds: a settlement of "the most recent"
 * must not overlook one which this very batch makes, and a reset must not forget it. The commands of a batch are all under way at once,
 * so any order of them is a fair one.
 * @returns each command with its place in the batch
 */
function inFairOrder(commands: readonly Command[]): Iterable<[number, Command]> {
  if (!commands.some(concernsAllHolds)) return commands.entries()
  const entries = [...commands.entries()]
  const isClear = ([, { kind }]: [number, Command]): boolean => kind === 'clear'
  return [...entries.filter((entry) => !isClear(entry)), ...entries.filter(isClear)]
}

const concernsAllHolds = (command: Command): boolean =>
  command.kind === 'reset' || (command.kind === 'settle' && command.holdId === null)

function apply(draft: Draft, command: Command): Outcome {
  switch (command.kind) {
    case 'clear':
      return clear(draft, command)
    case 'settle':
      return settle(draft, command)
    case 'release':
      return release(draft, command)
    case 'renew':
      return renew(draft, command)
    case 'set_envelope':
      return setEnvelope(draft, command)
    case 'delete_envelope':
      return deleteEnvelope(draft, command)
    case 'reset':
      return reset(draft, command)
    case 'suspend':
      return suspend(draft, command)
    case 'grant':
      return grant(draft, command)
    case 'decide':
      return decideApproval(draft, command)
  }
}

/**
 * Reasons in the contract's order: no_credits, no_envelope, envelope_exceeded; before them what more credits would not help against: the kill
 * switch, the governance file's rules, a loop. All limits on the path fit, or none is charged.
 */
function clear(draft: Draft, command: ClearCommand): Approval | Denial {
  const existing = command.resumed ? draft.hold(command.id) : undefined
  if (existing)
    return {
      approved: true,
      holdId: existing.holdId,
      remaining: draft.remaining(command.path),
      ops: draft.ops,
      expiresMs: existing.expiresMs,
    }

  let tightest: LimitView | null = null
  let suspendedPath: string | undefined
  let fits = true
  let hasLoopLimit = command.loop !== undefined
  for (const agentId of command.path) {
    const further = draft.policy === null ? null : draft.policy.limits(agentId)
    const envelope = draft.envelope(agentId) ?? (further && NO_ENVELOPE)
    if (envelope === null) continue
    if (envelope.suspendedMs) suspendedPath ??= agentId
    if (envelope.loop) hasLoopLimit = true
    const spent = spentAt(envelope, draft.clockMs)
    for (let index = 0; index < WINDOW_COUNT; index++) {
      let limit = envelope.limits[index] ?? null
      let extra = limit !== null && envelope.extra ? extraAt(envelope.extra, index, draft.clockMs) : 0n
      let file: LimitView['file']
      const fileLimit = further?.[index] ?? null
      if (fileLimit !== null && (limit === null || fileLimit < limit + extra)) {
        file = { ownLimit: limit }
        limit = fileLimit
        extra = 0n
      }
      if (limit === null) continue
      const left = limit + extra - (spent[index] ?? 0n)
      if (command.estimate > left) fits = false
      if (tightest === null || left < tightest.remaining) {
        tightest = { agentId, window: windowAt(index), limit, extra, spent: limit + extra - left, remaining: left, resetMs: 0 }
        if (file) tightest = { ...tightest, file }
      }
    }
  }
  const loop = hasLoopLimit ? LoopWatch.of(draft, command) : null
  if (!command.forced) {
    const reason = denialReason(draft, command, {
      isSuspended: suspendedPath !== undefined,
      isLoop: loop?.isLoop === true,
      isLimited: tightest !== null,
      fits,
    })
    if (reason !== null) {
      if (!draft.recordsDenials) return { approved: false, reason, remaining: 0n, tightest: null, unrecorded: true }
      const said = loop?.denied(reason) ? 'loop_detected' : reason
      const limit = reason === 'envelope_exceeded' || reason === 'loop_detected' ? tightest : null
      return {
        ...deny(draft, command, said, limit && { ...limit, resetMs: nextReset(limit.window, draft.clockMs) }),
        ...(said !== reason && { underlying: reason }),
        ...(suspendedPath !== undefined && { suspendedPath }),
      }
    }
  }

  loop?.approved()
  const remaining = (tightest?.remaining ?? command.estimate) - command.estimate
  if (draft.ops < 1n) repayOp(draft, command.id)
  draft.ops -= 1n
  draft.changed = true
  const hold = holdOf(draft, command, charge(draft, command.path, command.estimate), remaining)
  draft.newHolds.push(hold)
  const approval = { approved: true as const, holdId: hold.holdId, remaining, ops: draft.ops, expiresMs: hold.expiresMs }
  return hold.kind === HOLD_KIND.booking ? { ...approval, limits: draft.limits(command.path) } : approval
}

type Findings = {
  readonly isSuspended: boolean
  readonly isLoop: boolean
  readonly isLimited: boolean
  readonly fits: boolean
}

function denialReason(draft: Draft, command: ClearCommand, found: Findings): DenialReason | null {
  if (found.isSuspended) return 'suspended'
  if (command.refused !== undefined) return command.refused
  if (found.isLoop) return 'loop_detected'
  if (draft.ops < 1n) return 'no_credits'
  if (!found.isLimited) return 'no_envelope'
  return found.fits ? null : 'envelope_exceeded'
}

/** What was allowed while the database was away has to be counted also when the quota is empty by now: it is given the op it burns. */
function repayOp(draft: Draft, id: string): void {
  draft.ops += 1n
  draft.record({ id, kind: 'correction', ops: 1n, detail: 'allowed while the database was away, with an empty quota' })
}

function holdOf(draft: Draft, command: ClearCommand, charged: string, remaining: Nanousd): HoldState {
  const hold: HoldState = {
    holdId: command.id,
    agentId: command.agentId,
    kind: command.holdKind ?? HOLD_KIND.clearance,
    state: HOLD_STATE.open,
    model: command.model,
    estimate: command.estimate,
    rates: command.rates,
    charged,
    takenMs: draft.clockMs,
    takenVersion: draft.version,
    expiresMs: draft.clockMs + command.hold_ms,
    resolvedMs: null,
    actual: null,
    outcome: null,
  }
  if (hold.kind !== HOLD_KIND.booking) return hold
  return {
    ...hold,
    state: HOLD_STATE.settled,
    expiresMs: draft.clockMs,
    resolvedMs: draft.clockMs,
    actual: command.estimate,
    outcome: { drift: 0n, remaining, ops: draft.ops },
    detail: command.detail ?? null,
  }
}

function deny(draft: Draft, command: ClearCommand, reason: DenialReason, tightest: LimitView | null): Denial {
  draft.denials.push({
    id: command.id,
    agentId: command.agentId,
    kind: command.holdKind ?? HOLD_KIND.clearance,
    model: command.model,
    estimate: command.estimate,
    reason,
    tightest,
    atMs: draft.clockMs,
  })
  const left = tightest?.remaining ?? 0n
  const denial = { approved: false as const, reason, remaining: left < 0n ? 0n : left, tightest }
  return command.holdKind === HOLD_KIND.booking ? { ...denial, limits: draft.limits(command.path) } : denial
}

/** Adds to every envelope of the path that has a row, deleted ones too, or that the policy limits. @returns the levels charged */
function charge(draft: Draft, path: readonly string[], amount: Nanousd): string {
  const levels: number[] = []
  for (const [level, agentId] of path.entries()) {
    const envelope = draft.envelope(agentId)
    if (envelope === null) {
      // The first spend that the governance file counts here makes the row; its own limits are no part of it.
      if (!draft.policy?.limits(agentId)) continue
      levels.push(level)
      const spent = mapWindows(NO_SPEND, () => amount)
      draft.limit(agentId, { limits: NO_LIMITS, spent, clockMs: draft.clockMs, createdMs: draft.clockMs })
      continue
    }
    levels.push(level)
    const spent = spentAt(envelope, draft.clockMs)
    draft.charge(agentId, { ...envelope, spent: mapWindows(spent, (value) => addSpend(value, amount)), clockMs: draft.clockMs })
  }
  return encodeLevels(levels)
}
