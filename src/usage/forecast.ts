import type { Nanousd } from '../core/money.ts'
import type { SpendPoint } from './service.ts'

const HOUR_MS = 3_600_000

export type Pace = {
  /** Spend per hour of the newest steps, of the whole series since the first spend in it, and what to go by. */
  readonly short: Nanousd
  readonly long: Nanousd
  readonly rate: Nanousd
  readonly trend: Trend
  /** How much the figures say: nothing was spent at all, or a handful of uneven steps, or a steady flow. */
  readonly confidence: Confidence
}
export type Trend = 'rising' | 'falling' | 'steady'
export type Confidence = 'none' | 'low' | 'medium' | 'high'

/** Below this many standard errors a difference between the last steps and all of them is noise, above the other one it is a change. */
const NOISE = 1
const CHANGE = 3

/**
 * How fast money goes. The whole series is the better guide while the last steps differ from it by no more than its own unevenness explains;
 * the more they do, the more they count. So a burst among bursts moves little, and a ramp or an end is believed at once. The thresholds are
 * those that did best against the last hour and the mean of the window in `bench/forecast.ts` (docs/decisions).
 * @param series steps of equal length in order, the last one ending at `now_ms` or after it
 */
export function paceOf(series: readonly SpendPoint[], now_ms: number, short_ms: number): Pace {
  // An agent that began an hour ago has not been idle for the five before.
  const began = series.findIndex(({ spent }) => spent > 0n)
  const active = began === -1 ? [] : series.slice(began).filter(({ at_ms }) => at_ms <= now_ms)
  const [first] = active
  if (first === undefined) return { short: 0n, long: 0n, rate: 0n, trend: 'steady', confidence: 'none' }
  const recent = active.filter(({ at_ms }) => at_ms >= now_ms - short_ms)
  // What came within minutes is no pace to project over hours.
  const least_ms = short_ms / 2
  const long = perHour(active, now_ms, least_ms)
  const short = recent.length === 0 ? long : perHour(recent, now_ms, least_ms)
  const { change, relativeError } = unevenness(active, recent)
  const trust = Math.min(1, Math.max(0, (Math.abs(change) - NOISE) / (CHANGE - NOISE)))
  const rate = long + ((short - long) * BigInt(Math.round(trust * 1000))) / 1000n
  const trend = Math.abs(change) < CHANGE ? 'steady' : change > 0 ? 'rising' : 'falling'
  return { short, long, rate, trend, confidence: confidenceOf(active.length, relativeError, trend) }
}

const perHour = (steps: readonly SpendPoint[], now_ms: number, least_ms: number): Nanousd => {
  const spent = steps.reduce((sum, point) => sum + point.spent, 0n)
  const passed_ms = Math.max(1, Math.floor(least_ms), Math.floor(now_ms - (steps[0]?.at_ms ?? now_ms)))
  return (spent * BigInt(HOUR_MS)) / BigInt(passed_ms)
}

/** How far the last steps lie from the rest in standard errors of their mean, and how uneven the steps are as a whole. */
function unevenness(all: readonly SpendPoint[], recent: readonly SpendPoint[]): { change: number; relativeError: number } {
  const values = all.map(({ spent }) => Number(spent))
  const mean = meanOf(values)
  const deviation = Math.sqrt(meanOf(values.map((value) => (value - mean) ** 2)))
  const relativeError = mean === 0 ? Number.POSITIVE_INFINITY : deviation / (mean * Math.sqrt(values.length))
  const earlier = values.slice(0, values.length - recent.length)
  if (recent.length === 0 || earlier.length < 2) return { change: 0, relativeError }
  const before = meanOf(earlier)
  const noise = Math.sqrt(meanOf(earlier.map((value) => (value - before) ** 2)))
  const difference = meanOf(values.slice(earlier.length)) - before
  // Steps that never differed at all: any difference is a change. A hundredth of the mean is no news.
  const error = Math.max(noise / Math.sqrt(recent.length), before / 100)
  return { change: error === 0 ? 0 : difference / error, relativeError }
}

const meanOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)

function confidenceOf(steps: number, relativeError: number, trend: Trend): Confidence {
  if (steps < 6 || relativeError > 0.4) return 'low'
  return steps >= 24 && relativeError < 0.15 && trend === 'steady' ? 'high' : 'medium'
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
