import { describe, expect, it } from 'vitest'
import { AccountModel, impossibleBudget, impossibleOps, NOTHING } from '../../../bench/soak/account-model.ts'

const usd = (nanousd: number): number => nanousd / 1e9

describe('what the soak expects of an account', () => {
  it('is exact while one request is under way at a time', () => {
    const model = new AccountModel(10_000_000, 5)
    const clear = model.begin({ budgetDown: 4_000_000, opsDown: 1 })
    expect(impossibleBudget(clear, -4_000_000, usd(6_000_000))).toBeNull()
    expect(impossibleBudget(clear, -4_000_000, usd(6_010_000))).toContain('6010000')
    expect(impossibleBudget(clear, -4_000_000, usd(5_990_000))).not.toBeNull()
    expect(impossibleOps(clear, -1, 4)).toBeNull()
    expect(impossibleOps(clear, -1, 5)).not.toBeNull()
    model.end(clear, { budget: -4_000_000, ops: -1 })
    const next = model.begin()
    expect([next.budget.least, next.budget.most, next.ops.least, next.ops.most]).toEqual([6_000_000, 6_000_000, 4, 4])
  })

  it('reckons with every request that is under way at the same time, begun before or after', () => {
    const model = new AccountModel(10_000_000, 5)
    const before = model.begin({ budgetDown: 1_000_000, opsDown: 1 })
    const looked = model.begin()
    model.begin({ budgetUp: 2_000_000 })
    model.end(before, NOTHING)
    expect([looked.budget.least, looked.budget.most]).toEqual([9_000_000, 12_000_000])
    expect(impossibleBudget(looked, 0, usd(9_000_000))).toBeNull()
    expect(impossibleBudget(looked, 0, usd(12_000_000))).toBeNull()
    expect(impossibleBudget(looked, 0, usd(8_990_000))).not.toBeNull()
    expect(impossibleBudget(looked, 0, usd(12_010_000))).not.toBeNull()
  })

  it('reckons for ever with a request that nobody knows the outcome of, until the server has said', () => {
    const model = new AccountModel(10_000_000, 5)
    model.doubt(model.begin({ budgetDown: 3_000_000, opsDown: 1 }))
    const later = model.begin()
    expect([later.budget.least, later.budget.most, later.ops.least, later.ops.most]).toEqual([7_000_000, 10_000_000, 4, 5])
    // It may still be carried out: what the server says now is not the last word.
    model.settle(later, { budget: 10_000_000, ops: 5 })
    expect(model.begin().budget.least).toBe(7_000_000)
  })

  it('shows nothing below zero', () => {
    const model = new AccountModel(1_000_000, 1)
    const overrun = model.begin({ budgetDown: 4_000_000 })
    expect(impossibleBudget(overrun, -4_000_000, 0)).toBeNull()
    expect(impossibleBudget(overrun, -4_000_000, usd(10_000))).not.toBeNull()
  })
})
