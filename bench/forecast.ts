import { paceOf } from '../src/usage/forecast.ts'
import type { SpendPoint } from '../src/usage/service.ts'
import type { Context } from './context.ts'
import { randomSource } from './statistics.ts'

const HOUR = 3_600_000
const STEP_MS = 300_000
const STEPS_PER_HOUR = HOUR / STEP_MS
const LOOKBACK_HOURS = 6
const DAYS = 14

type Shape = (hour: number, random: () => number) => number
const calls = (mean: number, random: () => number): number => {
  // Poisson by waiting times; the mean is small.
  let count = -1
  for (let waited = 0; waited < mean; count++) waited += -Math.log(1 - random())
  return Math.max(0, count)
}
const working = (hour: number): number => Math.max(0, Math.sin(((hour % 24) - 6) * (Math.PI / 12)))

/** Dollars of one step at an hour since the start. */
const SHAPES: Record<string, Shape> = {
  steady: (_, random) => 0.02 * calls(5, random),
  'rare large calls': (_, random) => 0.9 * calls(0.06, random),
  bursty: (hour, random) => (Math.floor(hour * 2) % 7 === 0 ? 0.05 * calls(20, random) : 0.01 * calls(0.5, random)),
  ramp: (hour, random) => 0.01 * calls(1 + (hour % 48) * 0.6, random),
  'daily cycle': (hour, random) => 0.02 * calls(12 * working(hour), random),
  'batch jobs': (hour, random) => (hour % 24 >= 2 && hour % 24 < 5 ? 0.04 * calls(15, random) : 0),
  'stops and starts': (hour, random) => (Math.floor(hour / 5) % 2 === 0 ? 0.03 * calls(6, random) : 0),
  // As recorded of coding agents: sessions of turns whose context, and so whose cost, grows until it is compacted.
  'agent sessions': (hour, random) =>
    working(hour) > 0.2 && Math.floor(hour * 1.3) % 3 !== 0 ? 0.012 * (1 + ((hour * 60) % 40) / 8) * calls(3, random) : 0,
}

type Guess = (past: readonly SpendPoint[], now_ms: number) => number
const dollars = (points: readonly SpendPoint[]): number => points.reduce((sum, { spent }) => sum + Number(spent), 0) / 1e9
const GUESSES: Record<string, Guess> = {
  ours: (past, now_ms) => Number(paceOf(past, now_ms, HOUR).rate) / 1e9,
  'last hour': (past) => dollars(past.slice(-STEPS_PER_HOUR)),
  'mean of window': (past) => dollars(past) / LOOKBACK_HOURS,
}

/**
 * How far the pace that a prediction goes by is from what is really spent in the hours that follow, against two naive ones. Every half hour of two
 * weeks of each shape is predicted from the six hours before it. The error is the mean absolute difference in parts of the mean spend: 0 is
 * perfect, and always saying 0 has an error of 1.
 */
export async function forecast({ report }: Pick<Context, 'report'>): Promise<void> {
  const rows: string[][] = []
  const totals = new Map<string, number[]>()
  for (const [name, shape] of Object.entries(SHAPES)) {
    for (const horizon of [1, 4]) {
      const errors = errorsOf(seriesOf(shape, name), horizon)
      rows.push([name, `${horizon} h`, ...Object.values(errors).map((error) => error.toFixed(3))])
      for (const [guess, error] of Object.entries(errors)) totals.set(guess, [...(totals.get(guess) ?? []), error])
    }
  }
  const mean = (values: readonly number[]): string => (values.reduce((sum, value) => sum + value, 0) / values.length).toFixed(3)
  rows.push(['all', '', ...Object.keys(GUESSES).map((guess) => mean(totals.get(guess) ?? []))])
  report.table({
    title: 'Forecast',
    note: 'Mean absolute error of the predicted pace against what was spent in the hours ahead, in parts of the mean spend; always saying 0 has an error of 1.',
    columns: ['series', 'ahead', ...Object.keys(GUESSES)],
    rows,
  })
  const best = Math.min(...[...totals].filter(([guess]) => guess !== 'ours').map(([, errors]) => Number(mean(errors))))
  const ours = Number(mean(totals.get('ours') ?? []))
  report.target({
    what: 'forecast error, all series, against the better of last hour and mean of the window',
    wanted: `at most ${best.toFixed(3)}`,
    measured: ours.toFixed(3),
    isMet: ours <= best,
  })
}

function seriesOf(shape: Shape, name: string): SpendPoint[] {
  const random = randomSource([...name].reduce((seed, letter) => seed * 31 + letter.charCodeAt(0), 7))
  return Array.from({ length: DAYS * 24 * STEPS_PER_HOUR }, (_, index) => {
    const usd = shape(index / STEPS_PER_HOUR, random)
    return { at_ms: index * STEP_MS, spent: BigInt(Math.round(usd * 1e9)), calls: usd > 0 ? 1 : 0 }
  })
}

function errorsOf(series: readonly SpendPoint[], horizon_hours: number): Record<string, number> {
  const sums = Object.fromEntries(Object.keys(GUESSES).map((guess) => [guess, 0]))
  const window = LOOKBACK_HOURS * STEPS_PER_HOUR
  const ahead = horizon_hours * STEPS_PER_HOUR
  let spent = 0
  for (let at = window; at + ahead <= series.length; at += STEPS_PER_HOUR / 2) {
    const actual = dollars(series.slice(at, at + ahead)) / horizon_hours
    spent += actual
    const past = series.slice(at - window, at)
    for (const [name, guess] of Object.entries(GUESSES))
      sums[name] = (sums[name] ?? 0) + Math.abs(guess(past, at * STEP_MS) - actual)
  }
  return Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / spent]))
}
