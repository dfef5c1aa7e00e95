import type { Nanousd } from '../core/money.ts'
import { isWithin } from '../core/operation.ts'
import { actualNanousd, ratesAt } from '../prices/cost.ts'
import type { Draft } from './draft.ts'
import { addSpend, mapWindows, spentAt, storable, windowAt } from './envelope.ts'
import { decodeLevels, pathOf } from './path.ts'
import type {
  EnvelopeState,
  HoldState,
  OutcomeOf,
  ReleaseCommand,
  RenewCommand,
  Resolved,
  SettleCommand,
  Unresolved,
} from './state.ts'
import { HOLD_KIND, HOLD_STATE } from './tables.ts'
import { instanceStart } from './windows.ts'

export function settle(draft: Draft, command: SettleCommand): Resolved | Unresolved {
  const kind = command.holdKind ?? HOLD_KIND.clearance
  const hold = command.holdId === null ? latestOpen(draft, command.agentId) : draft.hold(command.holdId)
  if (hold === undefined || hold.kind !== kind || hold.agentId !== command.agentId) {
    return { error: draft.tightest(command.path) === null ? 'no_envelope' : 'no_pending_clearance', expired: false }
  }
  if (hold.state !== HOLD_STATE.open) return repeat(hold, HOLD_STATE.settled)
  if (isExpired(hold, draft.clockMs)) return { error: 'no_pending_clearance', expired: true }
  const actual = command.cost ?? actualNanousd(ratesAt(hold.rates, command.usage.inputTokens), command.usage)
  return resolve(draft, command.id, hold, HOLD_STATE.settled, storable(actual), usageDetail(command))
}

/** What was used, for the ledger; who forwards calls says it himself. */
function usageDetail({ usage, detail }: SettleCommand): string {
  if (detail !== undefined) return detail
  const { inputTokens, outputTokens, cachedInputTokens } = usage
  const cached = cachedInputTokens > 0 ? `,"cached_input_tokens":${cachedInputTokens}` : ''
  return `{"input_tokens":${inputTokens},"output_tokens":${outputTokens}${cached}}`
}

export function release(draft: Draft, command: ReleaseCommand): Resolved | Unresolved {
  const kind = command.holdKind ?? HOLD_KIND.clearance
  const hold = draft.hold(command.holdId)
  const visible =
    hold !== undefined && hold.kind === kind && (command.boundTo === null || isWithin(hold.agentId, command.boundTo))
  if (!visible) return { error: 'no_pending_clearance', expired: false }
  if (hold.state !== HOLD_STATE.open) return repeat(hold, HOLD_STATE.released)
  if (isExpired(hold, draft.clockMs)) return { error: 'no_pending_clearance', expired: true }
  return resolve(draft, command.id, hold, HOLD_STATE.released, 0n)
}

export function renew(draft: Draft, command: RenewCommand): OutcomeOf['renew'] {
  const hold = draft.hold(command.holdId)
  if (hold?.kind !== HOLD_KIND.reservation || hold.state !== HOLD_STATE.open) return { renewed: false }
  draft.renew({ ...hold, expiresMs: Math.max(hold.expiresMs, draft.clockMs + command.hold_ms) })
  return { renewed: true }
}

/** A clearance stands at its estimate once it has expired. Only the process that forwards a call ends its reservation, however late. */
const isExpired = (hold: HoldState, at_ms: number): boolean => hold.kind !== HOLD_KIND.reservation && hold.expiresMs <= at_ms

/** A hold is resolved once: the same resolution again answers the stored figures, a different one finds nothing open. */
function repeat(hold: HoldState, wanted: HoldState['state']): Resolved | Unresolved {
  if (hold.state !== wanted || hold.outcome === null) return { error: 'no_pending_clearance', expired: false }
  return { ...hold.outcome, hold, replayed: true }
}

function latestOpen(draft: Draft, agentId: string): HoldState | undefined {
  let latest: HoldState | undefined
  for (const held of draft.account.holds.values()) {
    const hold = draft.hold(held.holdId) ?? held
    const open =
      hold.agentId === agentId &&
      hold.kind === HOLD_KIND.clearance &&
      hold.state === HOLD_STATE.open &&
      hold.expiresMs > draft.clockMs
    if (open && (latest === undefined || isLater(hold, latest))) latest = hold
  }
  return latest
}

/** Whether a hold was decided after another of the same account. */
const isLater = (a: HoldState, b: HoldState): boolean =>
  a.takenVersion === b.takenVersion ? a.holdId > b.holdId : a.takenVersion > b.takenVersion

/** Moves the difference into the window instances in which the hold was taken; an instance that has passed is left alone. */
function resolve(
  draft: Draft,
  entryId: string,
  hold: HoldState,
  state: HoldState['state'],
  actual: Nanousd,
  detail = '',
): Resolved {
  const path = pathOf(hold.agentId)
  const drift = actual - hold.estimate
  for (const level of decodeLevels(hold.charged)) {
    const agentId = path[level]
    const envelope = agentId === undefined ? null : draft.envelope(agentId)
    if (agentId === undefined || envelope === null)
      throw new Error(`hold ${hold.holdId} was charged to an envelope that is not there`)
    const spent = mapWindows(spentAt(envelope, draft.clockMs), (value, index) =>
      countsIn(hold, envelope, index, draft.clockMs) ? addSpend(value, drift) : value,
    )
    draft.charge(agentId, { ...envelope, spent, clockMs: draft.clockMs })
  }
  draft.changed = true
  const outcome = { drift, remaining: draft.remaining(path), ops: draft.ops }
  const resolved: HoldState = { ...hold, state, resolvedMs: draft.clockMs, actual, outcome }
  draft.resolve(resolved)
  const kind = state === HOLD_STATE.settled ? 'settle' : 'release'
  draft.record({ id: entryId, kind, agentId: hold.agentId, holdId: hold.holdId, amount: drift, detail })
  return { ...outcome, hold: resolved, replayed: false }
}

/** Whether a hold is part of what an envelope has spent in the window instance of `at_ms`. */
function countsIn(hold: HoldState, envelope: EnvelopeState, index: number, at_ms: number): boolean {
  const window = windowAt(index)
  return (
    instanceStart(window, hold.takenMs) === instanceStart(window, at_ms) && hold.takenVersion >= (envelope.resets?.[index] ?? 0n)
  )
}
