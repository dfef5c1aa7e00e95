import fc from 'fast-check'
import { expect, it } from 'vitest'
import { forecast, paceOf } from '../../../src/usage/forecast.ts'

const HOUR = 3_600_000
const USD = 1_000_000_000n
const from = { now_ms: 10 * HOUR, until_ms: 24 * HOUR, spent: 2n * USD, rate: USD, cap: 5n * USD }

it('reaches the cap where a straight line does', () => {
  expect(forecast(from)).toEqual({ spentThen: 16n * USD, reachedMs: 13 * HOUR })
  expect(forecast({ ...from, cap: 16n * USD }).reachedMs).toBe(24 * HOUR)
  expect(forecast({ ...from, cap: 16n * USD + 1n }).reachedMs).toBeNull()
  expect(forecast({ ...from, cap: null })).toEqual({ spentThen: 16n * USD, reachedMs: null })
  expect(forecast({ ...from, rate: 0n })).toEqual({ spentThen: 2n * USD, reachedMs: null })
  expect(forecast({ ...from, spent: 5n * USD }).reachedMs).toBe(10 * HOUR)
  expect(forecast({ ...from, until_ms: 0, cap: 3n * USD })).toEqual({ spentThen: 2n * USD, reachedMs: null })
})

it('never reaches a cap before now or after the end, whatever the figures', () => {
  const amount = fc.bigInt({ min: 0n, max: 10n ** 18n })
  const time = fc.integer({ min: 0, max: 1e13 })
  fc.assert(
    fc.property(time, time, amount, amount, amount, (now_ms, ahead_ms, spent, rate, cap) => {
      const { reachedMs, spentThen } = forecast({ now_ms, until_ms: now_ms + ahead_ms, spent, rate, cap })
      expect(spentThen).toBeGreaterThanOrEqual(spent)
      if (reachedMs === null) expect(spentThen < cap || rate === 0n).toBe(true)
      else expect(reachedMs >= now_ms && reachedMs <= now_ms + ahead_ms).toBe(true)
    }),
  )
})

it('weighs the last hour as much as all of it', () => {
  const series = Array.from({ length: 6 }, (_, hour) => ({ at_ms: hour * HOUR, spent: hour === 5 ? 6n * USD : 0n, calls: 1 }))
  expect(paceOf(series, 6 * HOUR, HOUR)).toEqual({ short: 6n * USD, long: USD, rate: (7n * USD) / 2n })
  expect(paceOf([], 6 * HOUR, HOUR)).toEqual({ short: 0n, long: 0n, rate: 0n })
})
