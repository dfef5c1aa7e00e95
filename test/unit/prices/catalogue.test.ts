import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createCatalogue, operatorPricesSchema } from '../../../src/prices/catalogue.ts'
import { bundledProviders, createDataset } from '../../../src/prices/dataset.ts'
import { readModelId } from '../../../src/prices/normalise.ts'
import { PINNED_PRICES } from '../../../src/prices/pinned.ts'

const NOW = new Date('2026-11-22T12:00:00Z')
const catalogue = createCatalogue({ now: NOW })
const usd = (picousd: bigint) => Number(picousd) / 1_000_000

/** CONTRACT.md section 3, typed in again: a slip in pinned.ts must not pass unnoticed. */
const CONTRACT: [id: string, input: number, output: number, inputOnly: boolean][] = [
  ['claude-opus-4-8', 5, 25, false],
  ['claude-opus-4-7', 5, 25, false],
  ['claude-opus-4-6', 5, 25, false],
  ['claude-sonnet-4-6', 3, 15, false],
  ['claude-haiku-4-5', 1, 5, false],
  ['gpt-4o', 2.5, 10, false],
  ['gpt-4o-mini', 0.15, 0.6, false],
  ['gpt-4-turbo', 10, 30, false],
  ['text-embedding-3-small', 0.02, 0.02, true],
  ['text-embedding-3-large', 0.13, 0.13, true],
  ['gemini-embedding-001', 0.15, 0.15, true],
  ['gemini-embedding-2', 0.2, 0.2, true],
]

describe('the contract table', () => {
  it.each(CONTRACT)('%s costs %d/%d', (id, input, output, inputOnly) => {
    const rate = catalogue.rateFor(id)
    expect(rate).toMatchObject({ source: 'pinned', model: id, inputOnly })
    expect([usd(rate.input), usd(rate.output)]).toEqual([input, output])
    expect(catalogue.rateFor(id, 1_000_000)).toBe(rate)
  })

  it('has nothing else, and the data set agrees with it', () => {
    expect(PINNED_PRICES.map(({ id }) => id)).toEqual(CONTRACT.map(([id]) => id))
    const dataset = createDataset(bundledProviders(), NOW)
    for (const { id, provider } of PINNED_PRICES) {
      const { source: _, model: __, ...pinned } = catalogue.rateFor(id)
      expect(dataset.findAt(provider, id)?.base).toMatchObject(pinned)
    }
  })

  it('has the cache rates of the data set', () => {
    const { cachedInput, cacheWrite, cacheWrite1h } = catalogue.rateFor('claude-sonnet-4-6')
    expect([cachedInput, cacheWrite, cacheWrite1h].map(usd)).toEqual([0.3, 3.75, 6])
    const gpt = catalogue.rateFor('gpt-4o')
    expect([gpt.cachedInput, gpt.cacheWrite, gpt.cacheWrite1h].map(usd)).toEqual([1.25, 2.5, 2.5])
  })

  it.each([
    ['claude-haiku-4-5-20251001', 'claude-haiku-4-5'],
    ['gpt-4o-mini-2024-07-18', 'gpt-4o-mini'],
    ['gpt-4o-2024-08-06', 'gpt-4o'],
    ['gpt-4o-evil-finetune', 'gpt-4o'],
    ['gpt-4o-audio-preview', 'gpt-4o'],
    ['anthropic/claude-sonnet-4-6', 'claude-sonnet-4-6'],
    ['openrouter/anthropic/claude-sonnet-4.6', 'claude-sonnet-4-6'],
    ['Anthropic/Claude-Sonnet-4.6:thinking', 'claude-sonnet-4-6'],
    ['claude-4.6-sonnet-20260217', 'claude-sonnet-4-6'],
    ['us.anthropic.claude-sonnet-4-6-v1:0', 'claude-sonnet-4-6'],
    ['bedrock/us.anthropic.claude-haiku-4-5-20251001-v1:0', 'claude-haiku-4-5'],
    ['vertex_ai/claude-opus-4-8@20260601', 'claude-opus-4-8'],
    ['claude-opus-4-8[1m]', 'claude-opus-4-8'],
    ['openai/gpt-4o-mini:free', 'gpt-4o-mini'],
    ['azure/gpt-4o', 'gpt-4o'],
    ['github-copilot/gpt-4o', 'gpt-4o'],
    ['quicksilverpro/claude-opus-4-6', 'claude-opus-4-6'],
    ['models/gemini-embedding-001', 'gemini-embedding-001'],
    [' \tGPT-4o\n', 'gpt-4o'],
    ['gpt-4o-2024-05-13', 'gpt-4o'],
  ])('prices %j as %s', (model, id) => {
    expect(catalogue.rateFor(model)).toBe(catalogue.rateFor(id))
  })

  it.each([
    ['claude-opus-4-8-fast', 10, 50],
    ['anthropic/claude-opus-4.6-fast', 30, 150],
    ['gpt-4o-realtime-preview-2025-06-03', 5, 20],
    ['gpt-4o-mini-tts', 0.6, 12],
    ['openrouter/openai/gpt-4o:extended', 6, 18],
    ['gpt-4o-mini-2024-07-18.ft-abc', 0.3, 1.2],
  ])('prices the dearer variant %s at %d/%d', (model, input, output) => {
    const rate = catalogue.rateFor(model)
    expect([rate.source, usd(rate.input), usd(rate.output)]).toEqual(['dataset', input, output])
  })

  it('is undercut by no spelling of any model in the data set', () => {
    let checked = 0
    for (const { spelling } of createDataset(bundledProviders(), NOW).spellings()) {
      const pinned = CONTRACT.filter(([id]) => readModelId(spelling).canonical.startsWith(id)).sort(
        ([a], [b]) => b.length - a.length,
      )[0]
      if (!pinned) continue
      const rate = catalogue.rateFor(spelling)
      expect(usd(rate.input)).toBeGreaterThanOrEqual(pinned[1])
      expect(usd(rate.output)).toBeGreaterThanOrEqual(pinned[2])
      checked += 1
    }
    expect(checked).toBeGreaterThan(100)
  })
})

describe('the data set', () => {
  it.each([
    ['gemini-2.5-pro', 'google/gemini-2.5-pro'],
    ['models/gemini-2.5-pro', 'google/gemini-2.5-pro'],
    ['google/gemini-2.5-pro:free', 'google/gemini-2.5-pro'],
    ['deepseek-chat', 'deepseek/deepseek-chat'],
    ['openrouter/deepseek/deepseek-chat', 'openrouter/deepseek/deepseek-chat'],
    ['openrouter/deepseek/deepseek-chat:free', 'openrouter/deepseek/deepseek-chat'],
    ['openrouter/anthropic/claude-opus-4-1', 'anthropic/claude-opus-4-1'],
    ['anthropic/claude-3.5-sonnet', 'anthropic/claude-3-5-sonnet'],
    ['ft:gpt-4o-mini-2024-07-18:acme::abc', 'openai/ft:gpt-4o-mini'],
    ['gpt-5-20250807', 'openai/gpt-5'],
    ['GPT-5-2099-01-01', 'openai/gpt-5'],
    ['o1-pro', 'openai/o1-pro'],
  ])('prices %s as %s', (model, id) => {
    expect(catalogue.rateFor(model)).toMatchObject({ source: 'dataset', model: id })
  })

  it('knows a model by its bare name where hosts list it under a prefix', () => {
    expect(catalogue.rateFor('llama-3.3-70b-instruct').source).toBe('dataset')
  })

  it('prices by time of day at the maximum', () => {
    const rate = catalogue.rateFor('deepseek-chat')
    expect([usd(rate.input), usd(rate.output)]).toEqual([0.27, 1.1])
  })

  it.each([
    ['gemini-2.5-pro', 200_000, 1.25, 10],
    ['gemini-2.5-pro', 200_001, 2.5, 15],
    ['anthropic/claude-sonnet-4.5', 200_000, 3, 15],
    ['anthropic/claude-sonnet-4.5', 200_001, 6, 22.5],
  ])('prices %s with %d input tokens at %d/%d', (model, inputTokens, input, output) => {
    const rate = catalogue.rateFor(model, inputTokens)
    expect([usd(rate.input), usd(rate.output)]).toEqual([input, output])
  })

  it('prices embeddings on input only, and never gives output away', () => {
    const rate = catalogue.rateFor('voyage-3')
    expect(rate).toMatchObject({ inputOnly: true, output: rate.input })
  })
})

describe('what nobody knows', () => {
  it.each([
    'my-unknown-model',
    '',
    ' ',
    '/',
    ':free',
    'claude-opus-9',
    'cerebras/qwen-3-coder-480b',
    'whisper-1',
    'x'.repeat(100_000),
    '__proto__',
  ])('costs 15/75: %.40j', (model) => {
    const rate = catalogue.rateFor(model)
    expect([rate.source, usd(rate.input), usd(rate.output), usd(rate.cachedInput)]).toEqual(['default', 15, 75, 15])
  })

  it('is never free, whatever the id', () => {
    const known = fc.constantFrom(
      ...bundledProviders().flatMap(({ id, models }) => models.flatMap((model) => [model.id, `${id}/${model.id}`])),
    )
    const suffix = fc.constantFrom('', ':free', ':thinking', '-2026-01-01', ':0')
    fc.assert(
      fc.property(fc.oneof(known, fc.string({ maxLength: 128 })), suffix, (id, end) => {
        const rate = catalogue.rateFor(id + end)
        expect(rate.input > 0n && rate.output > 0n).toBe(true)
      }),
      { numRuns: 2_000 },
    )
  })

  it('is the same the second time, after a flood of other ids', () => {
    const before = catalogue.rateFor('gemini-2.5-pro')
    for (let n = 0; n < 10_000; n += 1) catalogue.rateFor(`flood-${n}`)
    expect(catalogue.rateFor('gemini-2.5-pro')).toEqual(before)
  })
})

describe('operator prices', () => {
  const operatorPrices = {
    'gpt-4o': { input_usd_per_mtok: 2, output_usd_per_mtok: 8, cached_input_usd_per_mtok: 1, cache_write_usd_per_mtok: 3 },
    'us.anthropic.claude-sonnet-4.6': { input_usd_per_mtok: 3.3, output_usd_per_mtok: 16.5 },
    'openrouter/deepseek/': { input_usd_per_mtok: 7, output_usd_per_mtok: 7 },
    'house-': { input_usd_per_mtok: 0, output_usd_per_mtok: 0 },
    'House-Embed': { input_usd_per_mtok: 0.5, output_usd_per_mtok: 0, input_only: true },
  }
  const own = createCatalogue({ operatorPrices, now: NOW })

  it.each([
    ['gpt-4o', 'operator', 2, 8],
    ['openai/GPT-4o-2024-08-06', 'operator', 2, 8],
    ['gpt-4o-mini', 'pinned', 0.15, 0.6],
    ['us.anthropic.claude-sonnet-4-6-v1:0', 'operator', 3.3, 16.5],
    ['claude-sonnet-4-6', 'pinned', 3, 15],
    ['openrouter/deepseek/deepseek-chat', 'operator', 7, 7],
    ['deepseek-chat', 'dataset', 0.27, 1.1],
    ['house-llm', 'operator', 0, 0],
    ['house-embed-2', 'operator', 0.5, 0.5],
  ])('prices %s from the %s source at %d/%d', (model, source, input, output) => {
    const rate = own.rateFor(model)
    expect([rate.source, usd(rate.input), usd(rate.output)]).toEqual([source, input, output])
  })

  it('takes cache rates from the file, else the input rate', () => {
    const { cachedInput, cacheWrite, cacheWrite1h } = own.rateFor('gpt-4o')
    expect([cachedInput, cacheWrite, cacheWrite1h].map(usd)).toEqual([1, 3, 3])
    expect(own.rateFor('us.anthropic.claude-sonnet-4-6').cacheWrite1h).toBe(3_300_000n)
  })

  it('changes the version', () => {
    expect(own.version).not.toBe(catalogue.version)
    expect(createCatalogue({ operatorPrices, now: NOW }).version).toBe(own.version)
  })

  it.each([
    [{ m: { input_usd_per_mtok: 1 } }],
    [{ m: { input_usd_per_mtok: -1, output_usd_per_mtok: 1 } }],
    [{ m: { input_usd_per_mtok: '1', output_usd_per_mtok: 1 } }],
    [{ m: { input_usd_per_mtok: 1, output_usd_per_mtok: 1, ouput: 1 } }],
    [{ m: { input_usd_per_mtok: Number.POSITIVE_INFINITY, output_usd_per_mtok: 1 } }],
    [{ '': { input_usd_per_mtok: 1, output_usd_per_mtok: 1 } }],
  ])('refuses %j', (prices) => {
    expect(operatorPricesSchema.safeParse(prices).success).toBe(false)
  })

  it('lists its own ids', () => {
    expect(own.list().find(({ id }) => id === 'House-Embed')).toMatchObject({ ownedBy: 'operator', rate: { source: 'operator' } })
  })
})

describe('list', () => {
  it('shows each id once, with the rate that the id gets', () => {
    const entries = catalogue.list()
    expect(entries.length).toBeGreaterThan(1_200)
    expect(new Set(entries.map(({ id }) => id)).size).toBe(entries.length)
    for (const { id, rate } of entries) expect(catalogue.rateFor(id)).toBe(rate)
    expect(entries.filter(({ rate }) => rate.source === 'default')).toEqual([])
    expect(entries.slice(0, 12).map(({ id }) => id)).toEqual(CONTRACT.map(([id]) => id))
    expect(catalogue.list()).toBe(entries)
  })
})
