import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decodeLevels, encodeLevels, pathOf } from '../../../src/budgets/path.ts'

describe('pathOf', () => {
  it.each([
    ['solo', ['*', 'solo']],
    ['team/crawler/run-7', ['*', 'team', 'team/crawler', 'team/crawler/run-7']],
    ['*', ['*']],
    ['*/x', ['*', '*/x']],
    ['a//b', ['*', 'a', 'a/', 'a//b']],
    ['/', ['*', '/']],
    ['/lead', ['*', '/lead']],
    ['trail/', ['*', 'trail', 'trail/']],
    ['**', ['*', '**']],
  ])('of %j', (agentId, path) => {
    expect(pathOf(agentId)).toEqual(path)
  })

  it('has at most 129 levels', () => {
    expect(pathOf('/'.repeat(128))).toHaveLength(129)
    expect(pathOf('*'.padEnd(128, '/'))).toHaveLength(128)
    expect(pathOf('a/'.repeat(64))).toHaveLength(66)
  })

  it('names each level once, widest first, and every level lies on the path of the next', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', 'b', '/', '*', 'ü'), minLength: 1, maxLength: 40 }), (agentId) => {
        const path = pathOf(agentId)
        expect(path[0]).toBe('*')
        expect(path.at(-1)).toBe(agentId)
        expect(new Set(path).size).toBe(path.length)
        for (const level of path.slice(1)) expect(level === agentId || agentId.startsWith(`${level}/`)).toBe(true)
        for (const level of path) expect(path.slice(0, path.indexOf(level) + 1)).toEqual(pathOf(level))
      }),
    )
  })
})

describe('charged levels', () => {
  it('come back as they went in, any set of 129', () => {
    fc.assert(
      fc.property(fc.subarray(Array.from({ length: 129 }, (_, level) => level)), (levels) => {
        const text = encodeLevels(levels)
        expect(text).toMatch(/^[0-9a-f]+$/)
        expect(decodeLevels(text)).toEqual(levels)
      }),
    )
  })

  it.each([
    [[], '0'],
    [[0], '1'],
    [[0, 1, 4], '13'],
    [[29], '20000000'],
    [[30], '40000000'],
    [[31], '80000000'],
    [[0, 128], '100000000000000000000000000000001'],
  ])('%j is %s', (levels, text) => {
    expect(encodeLevels(levels)).toBe(text)
  })

  it('of the whole of the deepest path', () => {
    const all = Array.from({ length: 129 }, (_, level) => level)
    expect(encodeLevels(all)).toBe((2n ** 129n - 1n).toString(16))
  })
})
