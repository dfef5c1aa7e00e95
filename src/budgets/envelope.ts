import { MAX_NANOUSD, type Nanousd } from '../core/money.ts'
import type { EnvelopeState, Extra, LimitView, PerWindow, Raise } from './state.ts'
import { hasRolled, instanceStart, nextReset, WINDOW_COUNT, WINDOWS } from './windows.ts'

export const NO_SPEND: PerWindow<Nanousd> = [0n, 0n, 0n, 0n, 0n]
export const NO_LIMITS: PerWindow<null> = [null, null, null, null, null]
/** An envelope without a row: nothing is limited and nothing was spent. */
export const NO_ENVELOPE: EnvelopeState = { limits: NO_LIMITS, spent: NO_SPEND, clockMs: 0, createdMs: 0 }
const HOUR = 3_600_000

export const mapWindows = <T, R>(values: PerWindow<T>, f: (value: T, index: number) => R): PerWindow<R> => [
  f(values[0], 0),
  f(values[1], 1),
  f(values[2], 2),
  f(values[3], 3),
  f(values[4], 4),
]
export const windowAt = (index: number) => WINDOWS[index] ?? 'session'

/** `window` as it stands at `at_ms`: the spend of an instance that has passed reads as 0. */
export function spentAt(envelope: EnvelopeState, at_ms: number): PerWindow<Nanousd> {
  // Every boundary of every window is a boundary of an hour.
  if (Math.floor(envelope.clockMs / HOUR) >= Math.floor(at_ms / HOUR)) return envelope.spent
  return mapWindows(envelope.spent, (spent, index) => (hasRolled(windowAt(index), envelope.clockMs, at_ms) ? 0n : spent))
}

/** As much of an amount as can be stored. */
export function storable(amount: Nanousd): Nanousd {
  if (amount > MAX_NANOUSD) return MAX_NANOUSD
  return amount
}

/**
 * What was spent after one more amount. What is more than can be stored counts as just that, and as no less until its window is over: whatever
 * was spent beyond is not known any more, so nothing can be taken off it.
 */
export const addSpend = (spent: Nanousd, amount: Nanousd): Nanousd => {
  if (spent === MAX_NANOUSD) return spent
  return storable(spent + amount)
}

/** The one-off raise of a window as it stands at `at_ms`: gone with the instance it was given for. */
export function extraAt(extra: Extra | null | undefined, index: number, at_ms: number): Nanousd {
  if (!extra) return 0n
  return hasRolled(windowAt(index), extra.clockMs, at_ms) ? 0n : (extra.amounts[index] ?? 0n)
}

/**
 * Every limit of one envelope with what is left of it, never below 0.
 * @param further the governance file's limits: in each window the one that leaves less is shown
 */
export function limitsOf(
  agentId: string,
  envelope: EnvelopeState,
  at_ms: number,
  further: PerWindow<Nanousd | null> | null = null,
): LimitView[] {
  const spent = spentAt(envelope, at_ms)
  const limits: LimitView[] = []
  for (let index = 0; index < WINDOW_COUNT; index++) {
    const own = envelope.limits[index] ?? null
    const raised = own === null ? 0n : extraAt(envelope.extra, index, at_ms)
    const fileLimit = further?.[index] ?? null
    const isFile = fileLimit !== null && (own === null || fileLimit < own + raised)
    const limit = isFile ? fileLimit : own
    if (limit === null) continue
    const extra = isFile ? 0n : raised
    const left = limit + extra - (spent[index] ?? 0n)
    limits.push({
      agentId,
      window: windowAt(index),
      limit,
      extra,
      spent: spent[index] ?? 0n,
      remaining: left < 0n ? 0n : left,
      resetMs: nextReset(windowAt(index), at_ms),
      ...(isFile && { file: { ownLimit: own } }),
    })
  }
  return limits
}

export const tighter = (a: LimitView | null, b: LimitView): LimitView => (a === null || b.remaining < a.remaining ? b : a)

/** The limit of an envelope with the least left; null for a deleted one. */
export const tightestOf = (
  agentId: string,
  envelope: EnvelopeState,
  at_ms: number,
  further: PerWindow<Nanousd | null> | null = null,
): LimitView | null => limitsOf(agentId, envelope, at_ms, further).reduce<LimitView | null>(tighter, null)

/**
 * What a raise starts from, as one comparable line: the cap and the one-off raise it adds to, and for a one-off the window instance it would
 * count in. A person who was shown one thing cannot by that approve another (contract section 5).
 */
export function termsOf(raise: Raise, envelope: EnvelopeState | null, at_ms: number): string {
  const index = WINDOWS.indexOf(raise.window)
  const limit = envelope?.limits[index] ?? null
  const extra = limit === null ? 0n : extraAt(envelope?.extra, index, at_ms)
  const instance = raise.kind === 'extra' ? `.${instanceStart(raise.window, at_ms)}` : ''
  return `${limit ?? 'none'}.${extra}${instance}`
}

/**
 * The envelope with a raise applied: a new cap replaces cap and one-off raise of its window, a one-off adds to the current window instance.
 * null when there is nothing to raise: a one-off where no cap is set.
 */
export function withRaise(raise: Raise, envelope: EnvelopeState | null, at_ms: number): EnvelopeState | null {
  const raised = WINDOWS.indexOf(raise.window)
  const before: EnvelopeState = envelope ?? { limits: NO_LIMITS, spent: NO_SPEND, clockMs: at_ms, createdMs: at_ms }
  if (raise.kind === 'extra' && before.limits[raised] === null) return null
  const amounts = mapWindows(NO_SPEND, (_, index) => {
    const current = extraAt(before.extra, index, at_ms)
    if (index !== raised) return current
    return raise.kind === 'extra' ? addSpend(current, raise.amount) : 0n
  })
  return {
    ...before,
    limits: mapWindows(before.limits, (limit, index) => (index === raised && raise.kind === 'limit' ? raise.amount : limit)),
    spent: spentAt(before, at_ms),
    extra: amounts.some((amount) => amount > 0n) ? { amounts, clockMs: at_ms } : null,
    clockMs: at_ms,
  }
}
