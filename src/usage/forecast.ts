import type { Nanousd } from '../core/money.ts'
import type { SpendPoint } from './service.ts'

const HOUR_MS = 3_600_000

export type Pace = {
  /** Spend per hour of the newest step, of the whole series, and what to go by. */
  readonly short: Nanousd
  readonly long: Nanousd
  readonly rate: Nanousd
}

/**
 * How fast money goes: the rate of the last `short_ms` and of the whole series, and the mean of both, so that a burst counts at once and a
 * pause is not taken for the end.
 * @param series steps in order, the last one ending at `now_ms` or after it
 */
export function paceOf(series: readonly SpendPoint[], now_ms: number, short_ms: number): Pace {
  const [first] = series
  if (first === undefined || now_ms <= first.at_ms) return { short: 0n, long: 0n, rate: 0n }
  const since = (from_ms: number): Nanousd => {
    const start_ms = Math.max(from_ms, first.at_ms)
    const steps = series.filter(({ at_ms }) => at_ms >= start_ms)
    const [oldest] = steps
    if (oldest === undefined) return 0n
    const spent = steps.reduce((sum, point) => sum + point.spent, 0n)
    return (spent * BigInt(HOUR_MS)) / BigInt(Math.max(1, Math.floor(now_ms - oldest.at_ms)))
  }
  const [short, long] = [since(now_ms - short_ms), since(first.at_ms)]
  return { short, long, rate: (short + long) / 2n }
}

export type Forecast = {
  /** Spent by `until_ms` at this rate. */
  readonly spentThen: Nanousd
  /** When the cap is reached at this rate; `now_ms` when it is, null when not before `until_ms`, or never. */
  readonly reachedMs: number | null
}

/** Goes on in a straight line from what is spent now. @param rate nano-dollars per hour @param cap null: nothing to reach */
export function forecast(from: {
  now_ms: number
  until_ms: number
  spent: Nanousd
  rate: Nanousd
  cap: Nanousd | null
}): Forecast {
  const { now_ms, until_ms, spent, rate, cap } = from
  const left_ms = BigInt(Math.max(0, Math.floor(until_ms - now_ms)))
  const spentThen = spent + (rate * left_ms) / BigInt(HOUR_MS)
  if (cap === null) return { spentThen, reachedMs: null }
  if (spent >= cap) return { spentThen, reachedMs: now_ms }
  if (rate <= 0n || spentThen < cap) return { spentThen, reachedMs: null }
  return { spentThen, reachedMs: now_ms + Number(((cap - spent) * BigInt(HOUR_MS)) / rate) }
}
