import { describe, expect, it } from 'vitest'
import { Histogram } from '../../../bench/soak/histogram.ts'

describe('a histogram of durations', () => {
  it('gives quantiles to two percent, upwards', () => {
    const histogram = new Histogram()
    for (let duration_ms = 1; duration_ms <= 1000; duration_ms++) histogram.add(duration_ms)
    for (const [share, exact_ms] of [
      [0.5, 500],
      [0.99, 990],
      [0.999, 999],
    ] as const) {
      expect(histogram.quantile_ms(share)).toBeGreaterThanOrEqual(exact_ms)
      expect(histogram.quantile_ms(share)).toBeLessThanOrEqual(exact_ms * 1.021)
    }
    expect(histogram.quantile_ms(1)).toBe(1000)
    expect([histogram.count, histogram.max_ms]).toEqual([1000, 1000])
  })

  it('takes durations of any length', () => {
    const histogram = new Histogram()
    for (const duration_ms of [0, 0.0001, 86_400_000]) histogram.add(duration_ms)
    expect(histogram.quantile_ms(0.5)).toBeLessThan(0.01)
    expect(histogram.max_ms).toBe(86_400_000)
  })

  it('says nothing about nothing', () => {
    expect(new Histogram().quantile_ms(0.5)).toBeNaN()
  })
})
