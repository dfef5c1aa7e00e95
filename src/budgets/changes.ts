import type { Nanousd } from '../core/money.ts'
import type { Draft } from './draft.ts'
import { mapWindows, NO_LIMITS, NO_SPEND, spentAt, termsOf, tightestOf, withRaise } from './envelope.ts'
import type {
  ApprovalDecision,
  DecideCommand,
  DeleteEnvelopeCommand,
  EnvelopeState,
  GrantCommand,
  OutcomeOf,
  PerWindow,
  ResetCommand,
  SetEnvelopeCommand,
  SuspendCommand,
} from './state.ts'
import { WINDOWS } from './windows.ts'

const NO_RESETS: PerWindow<bigint | null> = NO_LIMITS

/** Replaces the limits, and with them one-off raises. What was spent, set back or suspended stays as it is. */
export function setEnvelope(draft: Draft, command: SetEnvelopeCommand): OutcomeOf['set_envelope'] {
  const before = draft.envelope(command.agentId)
  const envelope: EnvelopeState = {
    ...(before ?? newEnvelope(draft.clockMs)),
    limits: command.limits,
    spent: before === null ? NO_SPEND : spentAt(before, draft.clockMs),
    clockMs: draft.clockMs,
    extra: null,
    loop: command.loop ?? null,
  }
  if (!command.resumed) limit(draft, command, envelope)
  const tightest = tightestOf(command.agentId, envelope, draft.clockMs)
  if (tightest === null) throw new Error('an envelope needs at least one limit')
  return { tightest }
}

export function deleteEnvelope(draft: Draft, command: DeleteEnvelopeCommand): OutcomeOf['delete_envelope'] {
  if (command.resumed) return { existed: true }
  const before = draft.envelope(command.agentId)
  if (before === null || before.limits.every((limit) => limit === null)) return { existed: false }
  const spent = spentAt(before, draft.clockMs)
  limit(draft, command, { ...before, limits: NO_LIMITS, spent, clockMs: draft.clockMs, extra: null, loop: null })
  return { existed: true }
}

function limit(draft: Draft, command: SetEnvelopeCommand | DeleteEnvelopeCommand, envelope: EnvelopeState): void {
  draft.limit(command.agentId, envelope)
  const { loop } = envelope
  const detail = {
    ...perWindow(envelope.limits),
    ...(loop && { loop: { max_repeats: loop.maxRepeats, window_seconds: loop.window_ms / 1000 } }),
  }
  draft.record({ id: command.id, kind: 'limit', agentId: command.agentId, detail: JSON.stringify(detail) })
}

/** Sets windows back to 0. Settling a hold taken before must not move them afterwards, so the version is remembered. */
export function reset(draft: Draft, command: ResetCommand): OutcomeOf['reset'] {
  if (command.resumed) return { existed: true }
  const before = draft.envelope(command.agentId)
  if (before === null) return { existed: false }
  const isReset = (index: number): boolean => command.windows.includes(WINDOWS[index] ?? 'session')
  const spentBefore = spentAt(before, draft.clockMs)
  draft.limit(command.agentId, {
    ...before,
    spent: mapWindows(spentBefore, (spent, index) => (isReset(index) ? 0n : spent)),
    resets: mapWindows(before.resets ?? NO_RESETS, (version, index) => (isReset(index) ? draft.version : version)),
    clockMs: draft.clockMs,
  })
  const spent = perWindow(mapWindows(spentBefore, (amount, index) => (isReset(index) ? amount : null)))
  draft.record({
    id: command.id,
    kind: 'reset',
    agentId: command.agentId,
    detail: JSON.stringify({ spent, note: command.detail }),
  })
  return { existed: true }
}

/** Suspends or resumes a path, with a row of its own if it has none: an envelope without limits, which counts from now on. */
export function suspend(draft: Draft, command: SuspendCommand): OutcomeOf['suspend'] {
  const before = draft.envelope(command.agentId)
  const isSuspended = (before?.suspendedMs ?? null) !== null
  if (command.resumed || isSuspended === command.suspended) return { changed: false }
  draft.limit(command.agentId, {
    ...(before ?? newEnvelope(draft.clockMs)),
    spent: before === null ? NO_SPEND : spentAt(before, draft.clockMs),
    clockMs: draft.clockMs,
    suspendedMs: command.suspended ? draft.clockMs : null,
  })
  const kind = command.suspended ? 'suspend' : 'resume'
  draft.record({ id: command.id, kind, agentId: command.agentId, detail: command.detail })
  return { changed: true }
}

const newEnvelope = (at_ms: number): EnvelopeState => ({
  limits: NO_LIMITS,
  spent: NO_SPEND,
  clockMs: at_ms,
  createdMs: at_ms,
})

const perWindow = (amounts: PerWindow<Nanousd | null>): Record<string, string | undefined> =>
  Object.fromEntries(WINDOWS.map((window, index) => [window, amounts[index]?.toString()]))

export function grant(draft: Draft, command: GrantCommand): OutcomeOf['grant'] {
  // Two of one batch may name the same entry: a payment found by a request and by the follower at once.
  if (!command.resumed && !draft.ledger.some((entry) => entry.id === command.id)) {
    const isMoreThanThere = command.ops < -draft.ops
    const ops = isMoreThanThere ? -draft.ops : command.ops
    draft.ops += ops
    draft.record({ id: command.id, kind: command.entry ?? 'grant', ops, detail: command.detail })
  }
  return { ops: draft.ops }
}

/** The first decision stands. Past the expiry every decision is a timeout. A raise applies with the approval, or neither does. */
export function decideApproval(draft: Draft, command: DecideCommand): OutcomeOf['decide'] {
  const earlier = draft.decisions.find(({ approvalId }) => approvalId === command.id) ?? draft.account.decisions?.get(command.id)
  if (earlier) return { decided: earlier }
  const isLate = command.expiresMs <= draft.clockMs
  if (command.decision === 'timeout' && !isLate) return { refused: 'pending' }
  const decision = isLate ? 'timeout' : command.decision
  const raise = decision === 'approved' ? command.raise : null
  if (raise) {
    const before = draft.envelope(raise.agentId)
    if (termsOf(raise, before, draft.clockMs) !== command.terms) return { refused: 'changed' }
    const after = withRaise(raise, before, draft.clockMs)
    if (after) draft.limit(raise.agentId, after)
  }
  const responder = decision === 'timeout' ? null : command.responder
  const decided: ApprovalDecision = { approvalId: command.id, decision, responder, decidedMs: draft.clockMs }
  draft.decisions.push({ ...decided, agentId: command.agentId, actionSummary: command.actionSummary })
  draft.record({
    id: command.id,
    kind: 'approval',
    agentId: raise?.agentId ?? command.agentId,
    amount: raise?.kind === 'extra' ? raise.amount : 0n,
    detail: JSON.stringify({
      decision,
      responder,
      ...(raise && { window: raise.window, [raise.kind]: raise.amount.toString() }),
    }),
  })
  return { decided }
}
