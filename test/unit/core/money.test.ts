import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ceilDiv, costNanousd, nanousdFromUsd, rateFromUsdPerMtok, usdFromNanousd } from '../../../src/core/money.ts'

/** A decimal as callers write it, with up to 12 places, and its exact value in pico-dollars. */
const decimalUsd = fc
  .tuple(fc.integer({ min: 0, max: 999 }), fc.bigInt(0n, 999_999_999_999n), fc.boolean())
  .map(([whole, fraction, negative]) => {
    const text = `${negative ? '-' : ''}${whole}.${fraction.toString().padStart(12, '0')}`
    const picousd = (BigInt(whole) * 10n ** 12n + fraction) * (negative ? -1n : 1n)
    return { text, picousd }
  })
  // 15 significant digits survive a float; beyond that JSON itself loses them.
  .filter(({ text }) => text.replace(/^-?0*\.?0*|\D/g, '').replace(/0+$/, '').length <= 15)

describe('nanousdFromUsd', () => {
  it.each([
    [0, 0n],
    [-0, 0n],
    [0.1, 100_000_000n],
    [0.29, 290_000_000n],
    [1.005, 1_005_000_000n],
    [4.35, 4_350_000_000n],
    [1e-9, 1n],
    [1.5e-8, 15n],
    [123_456.789_012_345, 123_456_789_012_345n],
    [1_000_000, 1_000_000_000_000_000n],
    [1e21, 10n ** 30n],
    [-0.25, -250_000_000n],
  ])('reads %d exactly', (usd, nanousd) => {
    for (const round of ['down', 'up', 'nearest'] as const) expect(nanousdFromUsd(usd, round)).toBe(nanousd)
  })

  it.each([
    [1.5e-9, 1n, 2n, 2n],
    [1.4e-9, 1n, 2n, 1n],
    [-1.5e-9, -2n, -1n, -2n],
    [-1.4e-9, -2n, -1n, -1n],
    [5e-324, 0n, 1n, 0n],
  ])('rounds %d down, up and to the nearest', (usd, down, up, nearest) => {
    expect([nanousdFromUsd(usd, 'down'), nanousdFromUsd(usd, 'up'), nanousdFromUsd(usd, 'nearest')]).toEqual([down, up, nearest])
  })

  it('equals exact decimal arithmetic', () => {
    fc.assert(
      fc.property(decimalUsd, ({ text, picousd }) => {
        const usd = Number(text)
        const up = nanousdFromUsd(usd, 'up')
        const down = nanousdFromUsd(usd, 'down')
        expect(up).toBe(ceilDiv(picousd, 1_000n))
        expect(down).toBe(-ceilDiv(-picousd, 1_000n))
        expect([down, up]).toContain(nanousdFromUsd(usd, 'nearest'))
      }),
      { numRuns: 2_000 },
    )
  })

  it.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('refuses %d', (usd) => {
    expect(() => nanousdFromUsd(usd, 'up')).toThrow(RangeError)
  })
})

describe('usdFromNanousd', () => {
  it.each([
    [0n, 0],
    [499n, 0],
    [500n, 0.000_001],
    [-499n, 0],
    [-500n, -0.000_001],
    [-1_500n, -0.000_002],
    [1_499n, 0.000_001],
    [2_980_000_000n, 2.98],
    [9_007_199_254_740_991n, 9_007_199.254_741],
    [9_007_199_254_740_993n, 9_007_199.254_741],
    [9_223_372_036_854_775_807n, 9_223_372_036.854_776],
    [-9_223_372_036_854_775_808n, -9_223_372_036.854_776],
  ])('shows %d nano-dollars as %d', (nanousd, usd) => {
    expect(Object.is(usdFromNanousd(nanousd), usd)).toBe(true)
  })

  it('is the float nearest to the 6-place decimal, for every int8', () => {
    fc.assert(
      fc.property(fc.oneof(fc.bigInt(-(2n ** 63n), 2n ** 63n), fc.bigInt(-(10n ** 13n), 10n ** 13n)), (nanousd) => {
        const magnitude = nanousd < 0n ? -nanousd : nanousd
        const digits = ((magnitude + 500n) / 1_000n).toString().padStart(7, '0')
        const expected = Number(`${nanousd < 0n ? '-' : ''}${digits.slice(0, -6)}.${digits.slice(-6)}`)
        const usd = usdFromNanousd(nanousd)
        expect(usd).toBe(expected === 0 ? 0 : expected)
        expect(JSON.stringify(usd)).toMatch(/^-?\d+(\.\d{1,6})?(e-6)?$|^-?\d(\.\d+)?e-[67]$/)
      }),
      { numRuns: 5_000 },
    )
  })

  it('takes back what nanousdFromUsd gave, to 6 places', () => {
    fc.assert(
      fc.property(fc.integer({ min: -1e12, max: 1e12 }), (microusd) => {
        const usd = Number(`${microusd}e-6`)
        expect(usdFromNanousd(nanousdFromUsd(usd, 'nearest'))).toBe(usd === 0 ? 0 : usd)
      }),
    )
  })
})

describe('costNanousd', () => {
  const tokens = fc.oneof(fc.integer({ min: 0, max: 1_000_000_000 }), fc.integer({ min: 0, max: 10_000 }))
  const rate = fc.oneof(fc.bigInt(0n, 600_000_000n), fc.bigInt(0n, 10n ** 12n))

  it('is the exact sum, rounded up once', () => {
    fc.assert(
      fc.property(fc.array(fc.record({ tokens, rate }), { maxLength: 5 }), (parts) => {
        const picousd = parts.reduce((sum, part) => sum + BigInt(part.tokens) * part.rate, 0n)
        const nanousd = costNanousd(parts)
        expect(nanousd * 1_000n >= picousd).toBe(true)
        expect((nanousd - 1n) * 1_000n < picousd).toBe(true)
      }),
      { numRuns: 5_000 },
    )
  })

  it('rounds the sum, not its terms', () => {
    const part = { tokens: 1, rate: 1n }
    expect(costNanousd([part, part])).toBe(1n)
    expect(costNanousd([])).toBe(0n)
  })

  it.each([-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53])('refuses %d tokens', (count) => {
    expect(() => costNanousd([{ tokens: count, rate: 1n }])).toThrow(RangeError)
  })
})

describe('rateFromUsdPerMtok', () => {
  it.each([
    [15, 15_000_000n],
    [0.15, 150_000n],
    [0.003_625, 3_625n],
    [0.180_000_000_000_000_02, 180_000n],
    [0.083_333_333_333_333_34, 83_334n],
    [0.000_000_1, 1n],
    [0, 0n],
  ])('reads %d USD per million tokens, rounding up beyond a pico-dollar', (usd, picousd) => {
    expect(rateFromUsdPerMtok(usd)).toBe(picousd)
  })

  it.each([-1, Number.NaN, Number.POSITIVE_INFINITY])('refuses %d', (usd) => {
    expect(() => rateFromUsdPerMtok(usd)).toThrow(RangeError)
  })
})

describe('ceilDiv', () => {
  it('is the smallest integer not below the quotient', () => {
    fc.assert(
      fc.property(fc.bigInt(-(10n ** 20n), 10n ** 20n), fc.bigInt(1n, 10n ** 10n), (dividend, divisor) => {
        const quotient = ceilDiv(dividend, divisor)
        expect(quotient * divisor >= dividend && (quotient - 1n) * divisor < dividend).toBe(true)
      }),
    )
  })

  it('refuses a divisor that is not positive', () => {
    expect(() => ceilDiv(1n, 0n)).toThrow(RangeError)
  })
})
