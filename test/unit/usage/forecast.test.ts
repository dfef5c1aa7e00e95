import { describe, expect, it } from 'vitest'
import { forecast, paceOf } from '../../../src/usage/forecast.ts'

const NOW = Date.UTC(2026, 0, 14, 12)
const STEP = 300_000
const HOUR = 3_600_000
const USD = 1_000_000_000n
/** Steps of five minutes up to now, dollars each. */
const series = (dollars: readonly number[]) =>
  dollars.map((usd, index) => ({
    at_ms: NOW - (dollars.length - index) * STEP,
    spent: BigInt(Math.round(usd * 1e9)),
    calls: usd > 0 ? 1 : 0,
  }))
const repeated = (count: number, usd: number): number[] => Array.from({ length: count }, () => usd)
const pace = (dollars: readonly number[]) => paceOf(series(dollars), NOW, HOUR)

describe('the pace of spending', () => {
  it('is nothing to go by when nothing was spent', () => {
    expect(pace([])).toMatchObject({ rate: 0n, confidence: 'none', trend: 'steady' })
    expect(pace(repeated(72, 0))).toMatchObject({ rate: 0n, short: 0n, long: 0n, confidence: 'none' })
  })

  it('of a steady flow is that flow, and can be relied on', () => {
    expect(pace(repeated(72, 0.1))).toEqual({
      short: (12n * USD) / 10n,
      long: (12n * USD) / 10n,
      rate: (12n * USD) / 10n,
      trend: 'steady',
      confidence: 'high',
    })
  })

  it('is measured from the first spend on: an agent that began an hour ago was not idle before', () => {
    const { rate, confidence } = pace([...repeated(60, 0), ...repeated(12, 0.1)])
    expect(rate).toBe((12n * USD) / 10n)
    expect(confidence).toBe('medium')
  })

  it('of a first spend a moment ago is not projected from that moment', () => {
    const now = { at_ms: NOW, spent: 3n * USD, calls: 10 }
    expect(paceOf([...series(repeated(72, 0)), now], NOW, HOUR)).toMatchObject({ rate: 6n * USD, confidence: 'low' })
  })

  it('believes an end at once', () => {
    const { rate, trend, short } = pace([...repeated(60, 0.1), ...repeated(12, 0)])
    expect({ rate, trend, short }).toEqual({ rate: 0n, trend: 'falling', short: 0n })
  })

  it('believes a rise at once', () => {
    const { rate, trend } = pace([...repeated(60, 0.1), ...repeated(12, 0.5)])
    expect({ rate, trend }).toEqual({ rate: 6n * USD, trend: 'rising' })
  })

  it('takes one burst among bursts for what it is', () => {
    const bursts = Array.from({ length: 72 }, (_, index) => (index % 18 === 5 ? 1.8 : 0))
    const { rate, long, trend, confidence } = pace(bursts)
    expect(trend).toBe('steady')
    expect(rate).toBe(long)
    expect(confidence).toBe('low')
  })
})

describe('a forecast', () => {
  const from = { now_ms: NOW, until_ms: NOW + 10 * HOUR, spent: USD, rate: USD, cap: 5n * USD }

  it('reaches the cap when the pace says so', () => {
    expect(forecast(from)).toEqual({ spentThen: 11n * USD, reachedMs: NOW + 4 * HOUR })
  })

  it('does not reach it when the window ends before, or nothing is spent, or there is none', () => {
    expect(forecast({ ...from, until_ms: NOW + 3 * HOUR }).reachedMs).toBeNull()
    expect(forecast({ ...from, rate: 0n }).reachedMs).toBeNull()
    expect(forecast({ ...from, cap: null }).reachedMs).toBeNull()
  })

  it('is now when it is reached already', () => {
    expect(forecast({ ...from, spent: 5n * USD }).reachedMs).toBe(NOW)
  })
})
