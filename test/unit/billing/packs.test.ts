import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { opsFromUnits, PACKS, unitsFromAmount, unitsOfPack, usdFromUnits } from '../../../src/billing/packs.ts'

describe('amounts', () => {
  it('reads whole cents from $1 to $100, as text or number', () => {
    expect(unitsFromAmount('5')).toBe(5_000_000n)
    expect(unitsFromAmount(5)).toBe(5_000_000n)
    expect(unitsFromAmount('7.5')).toBe(7_500_000n)
    expect(unitsFromAmount('1')).toBe(1_000_000n)
    expect(unitsFromAmount('100.00')).toBe(100_000_000n)
    expect(unitsFromAmount(19.99)).toBe(19_990_000n)
  })

  it('says what is wrong with the others', () => {
    for (const amount of [
      undefined,
      '',
      'five',
      '-1',
      '+5',
      '1.005',
      '1,50',
      '0x5',
      '1e1',
      Number.NaN,
      Number.POSITIVE_INFINITY,
      '5 5',
    ])
      expect([amount, unitsFromAmount(amount)]).toEqual([amount, 'invalid_amount'])
    for (const amount of ['0', '0.99', 0.5, '00.01']) expect(unitsFromAmount(amount)).toBe('below_minimum')
    for (const amount of ['100.01', 101, '999999999999']) expect(unitsFromAmount(amount)).toBe('above_maximum')
  })

  it('agrees with cents for every amount', () => {
    fc.assert(
      fc.property(fc.integer({ min: 100, max: 10_000 }), (cents) => {
        expect(unitsFromAmount((cents / 100).toFixed(2))).toBe(BigInt(cents) * 10_000n)
        expect(unitsFromAmount(cents / 100)).toBe(BigInt(cents) * 10_000n)
        expect(usdFromUnits(BigInt(cents) * 10_000n)).toBe(cents / 100)
        expect(opsFromUnits(BigInt(cents) * 10_000n)).toBe(BigInt(cents) * 10n)
      }),
    )
  })

  it('buys floor(usd × 1,000)', () => {
    expect(opsFromUnits(999n)).toBe(0n)
    expect(opsFromUnits(1_000n)).toBe(1n)
    expect(opsFromUnits(1_999_999n)).toBe(1_999n)
    expect(Object.keys(PACKS).map((pack) => opsFromUnits(unitsOfPack(pack as keyof typeof PACKS)))).toEqual([
      19_000n,
      39_000n,
      79_000n,
    ])
  })
})
