import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { canonicalName, createPrefixTable, readModelId, withoutDate, withoutVariant } from '../../../src/prices/normalise.ts'
import { PINNED_PRICES } from '../../../src/prices/pinned.ts'

describe('readModelId', () => {
  it.each([
    ['claude-sonnet-4-6', 'claude-sonnet-4-6'],
    ['  Claude-Sonnet-4.6 \n', 'claude-sonnet-4-6'],
    ['openrouter/anthropic/claude-sonnet-4.6', 'claude-sonnet-4-6'],
    ['us.anthropic.claude-sonnet-4-6-v1:0', 'claude-sonnet-4-6-v1:0'],
    ['us-gov.anthropic.claude-sonnet-4-6', 'claude-sonnet-4-6'],
    ['arn:aws:bedrock:us-east-1:1:inference-profile/global.anthropic.claude-opus-4-8', 'claude-opus-4-8'],
    ['claude-4.6-sonnet-20260217', 'claude-sonnet-4-6-20260217'],
    ['models/gemini-2.5-pro', 'gemini-2.5-pro'],
    ['gpt-4.1', 'gpt-4.1'],
    ['gpt-4o/', 'gpt-4o'],
    ['', ''],
    ['///', ''],
  ])('reads %j as %j', (model, canonical) => {
    expect(readModelId(model).canonical).toBe(canonical)
  })

  it('looks at a bounded number of segments', () => {
    expect(readModelId('a/'.repeat(100)).segments).toHaveLength(8)
  })
})

describe('withoutVariant', () => {
  it.each([
    ['deepseek-r1:free', 'deepseek-r1'],
    ['a:free/b:thinking', 'a:free/b'],
    ['x:free:thinking', 'x'],
    ['ft:gpt-4o-mini-2024-07-18:acme::abc', 'ft:gpt-4o-mini-2024-07-18:acme::abc'],
    ['openai/ft:gpt-4o:acme::abc', 'openai/ft:gpt-4o:acme::abc'],
    ['gpt-4o', 'gpt-4o'],
  ])('%j → %j', (name, plain) => {
    expect(withoutVariant(name)).toBe(plain)
  })
})

describe('withoutDate', () => {
  it.each([
    ['gpt-5-2025-08-07', 'gpt-5'],
    ['claude-x-20251001-v1', 'claude-x-v1'],
    ['claude-x@20251001', 'claude-x'],
    ['gemini-2.5-flash-preview-04-17', 'gemini-2.5-flash-preview-04-17'],
    ['x-202510011', 'x-202510011'],
  ])('%j → %j', (name, plain) => {
    expect(withoutDate(name)).toBe(plain)
  })
})

describe('canonicalName', () => {
  it('leaves the names of the contract as they are', () => {
    for (const { id } of PINNED_PRICES) expect(canonicalName(id)).toBe(id)
  })
})

describe('createPrefixTable', () => {
  it('finds the longest key that the id starts with', () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', '-'), minLength: 1, maxLength: 6 })
    fc.assert(
      fc.property(fc.array(word), word, (keys, id) => {
        const expected = keys.filter((key) => id.startsWith(key)).sort((a, b) => b.length - a.length)[0]
        expect(createPrefixTable(keys.map((key) => [key, key])).find(id)?.value).toBe(expected)
      }),
      { numRuns: 1_000 },
    )
  })
})
