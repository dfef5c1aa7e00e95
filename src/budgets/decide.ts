import type { Nanousd } from '../core/money.ts'
import { decideApproval, deleteEnvelope, grant, reset, setEnvelope, suspend } from './changes.ts'
import { Draft } from './draft.ts'
import { extraAt, mapWindows, spentAt, windowAt } from './envelope.ts'
import { encodeLevels } from './path.ts'
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
 */
export function decide(
  state: AccountState,
  commands: readonly Command[],
  now_ms: number,
): { outcomes: Outcome[]; change: AccountChange } {
  const draft = new Draft(state, now_ms)
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
 * Reasons in the contract's order: no_credits, no_envelope, envelope_exceeded; before them the operator's kill switch. All limits on the path
 * fit, or none is charged.
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
  for (const agentId of command.path) {
    const envelope = draft.envelope(agentId)
    if (envelope === null) continue
    if (envelope.suspendedMs) suspendedPath ??= agentId
    const spent = spentAt(envelope, draft.clockMs)
    for (let index = 0; index < WINDOW_COUNT; index++) {
      const limit = envelope.limits[index] ?? null
      if (limit === null) continue
      const extra = envelope.extra ? extraAt(envelope.extra, index, draft.clockMs) : 0n
      const left = limit + extra - (spent[index] ?? 0n)
      if (command.estimate > left) fits = false
      if (tightest === null || left < tightest.remaining)
        tightest = { agentId, window: windowAt(index), limit, extra, spent: limit + extra - left, remaining: left, resetMs: 0 }
    }
  }
  if (suspendedPath !== undefined) return { ...deny(draft, command, 'suspended', null), suspendedPath }
  if (draft.ops < 1n) return deny(draft, command, 'no_credits', null)
  if (tightest === null) return deny(draft, command, 'no_envelope', null)
  if (!fits) return deny(draft, command, 'envelope_exceeded', { ...tightest, resetMs: nextReset(tightest.window, draft.clockMs) })

  const remaining = tightest.remaining - command.estimate
  draft.ops -= 1n
  draft.changed = true
  const hold = holdOf(draft, command, charge(draft, command.path, command.estimate), remaining)
  draft.newHolds.push(hold)
  return { approved: true, holdId: hold.holdId, remaining, ops: draft.ops, expiresMs: hold.expiresMs }
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
  return { approved: false, reason, remaining: left < 0n ? 0n : left, tightest }
}

/** Adds to every envelope of the path that has a row, deleted ones too. @returns the levels charged */
function charge(draft: Draft, path: readonly string[], amount: Nanousd): string {
  const levels: number[] = []
  for (const [level, agentId] of path.entries()) {
    const envelope = draft.envelope(agentId)
    if (envelope === null) continue
    levels.push(level)
    const spent = spentAt(envelope, draft.clockMs)
    draft.charge(agentId, { ...envelope, spent: mapWindows(spent, (value) => value + amount), clockMs: draft.clockMs })
  }
  return encodeLevels(levels)
}
