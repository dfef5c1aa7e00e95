import { readFileSync } from 'node:fs'
import { calcPrice, type ModelInfo, type ModelPrice, type Provider } from '@pydantic/genai-prices'
import { describe, expect, it } from 'vitest'
import { nanousdFromUsd } from '../../../src/core/money.ts'
import { actualNanousd, type TokenUsage } from '../../../src/prices/cost.ts'
import { bundledProviders, createDataset, GENAI_PRICES_VERSION } from '../../../src/prices/dataset.ts'

const NOW = new Date('2026-11-22T12:00:00Z')

/** Every moment at which the price may differ: each half hour of a day, and each announced change to come. */
const moments = [
  ...Array.from({ length: 48 }, (_, halfHour) => new Date(NOW.getTime() + halfHour * 30 * 60_000)),
  new Date('2027-01-02T00:00:00Z'),
]

/** genai-prices' own answer: the highest over time, in nano-dollars (its floats rounded to the nearest). */
function oracleNanousd(provider: Provider, model: ModelInfo, usage: TokenUsage): bigint {
  const times = Array.isArray(model.prices) ? moments : [NOW]
  const costs = times.map((timestamp) => {
    const written = (usage.cacheWriteInputTokens ?? 0) + (usage.cacheWrite1hInputTokens ?? 0)
    const libraryUsage = {
      input_tokens: usage.inputTokens,
      output_tokens: usage.outputTokens,
      cache_read_tokens: usage.cachedInputTokens,
      cache_write_tokens: written,
      cache_write_1h_tokens: usage.cacheWrite1hInputTokens,
    }
    const only: Provider = { ...provider, models: [{ ...model, match: { contains: '' } }] }
    const price = calcPrice(libraryUsage, model.id, { provider: only, timestamp })
    if (!price) throw new Error(`no price: ${provider.id}/${model.id}`)
    return nanousdFromUsd(price.input_price + price.output_price, 'nearest')
  })
  return costs.reduce((highest: bigint, cost: bigint) => (cost > highest ? cost : highest))
}

const pricesOf = (model: ModelInfo): ModelPrice[] =>
  Array.isArray(model.prices) ? model.prices.map(({ prices }) => prices) : [model.prices]
const baseOf = (price: ModelPrice[string]) => (typeof price === 'object' ? price.base : price)
const hasFeeOnlyWrites = (model: ModelInfo) =>
  pricesOf(model).some((price) => (baseOf(price.cache_write_mtok) ?? Number.POSITIVE_INFINITY) < (baseOf(price.input_mtok) ?? 0))

const models = bundledProviders().flatMap((provider) => provider.models.map((model) => ({ provider, model })))
const compiled = new Map(
  [...createDataset(bundledProviders(), NOW).models()].map((entry) => [`${entry.provider}/${entry.id}`, entry.price]),
)

describe('the compiled data set', () => {
  it('has every model that has a price per input token', () => {
    const priced = models.filter(({ model }) => pricesOf(model).some((price) => price.input_mtok !== undefined))
    expect(priced.length).toBeGreaterThan(1_200)
    expect(compiled.size).toBe(new Set(priced.map(({ provider, model }) => `${provider.id}/${model.id}`)).size)
  })

  // 1,000 tokens: where a price is finer than a pico-dollar, rounding it up adds less than a nano-dollar.
  it.each<[string, TokenUsage]>([
    ['input', { inputTokens: 1_000, outputTokens: 0 }],
    ['cached input', { inputTokens: 1_000, outputTokens: 0, cachedInputTokens: 700 }],
    ['cache writes', { inputTokens: 1_000, outputTokens: 0, cacheWriteInputTokens: 700 }],
    [
      'cache writes for an hour',
      { inputTokens: 1_000, outputTokens: 0, cacheWriteInputTokens: 300, cacheWrite1hInputTokens: 400 },
    ],
    ['input and output', { inputTokens: 600, outputTokens: 400 }],
  ])('agrees with calcPrice on %s within a nano-dollar, for every model', (_, usage) => {
    const wrong: string[] = []
    for (const { provider, model } of models) {
      const price = compiled.get(`${provider.id}/${model.id}`)
      if (!price) continue
      if (usage.cacheWriteInputTokens && hasFeeOnlyWrites(model)) continue
      if (usage.outputTokens && price.base.inputOnly) continue
      const difference = actualNanousd(price.base, usage) - oracleNanousd(provider, model, usage)
      if (difference < -1n || difference > 1n) wrong.push(`${provider.id}/${model.id}: ${difference}`)
    }
    expect(wrong).toEqual([])
  })

  it('agrees with calcPrice just below and above every tier', () => {
    const wrong: string[] = []
    let checked = 0
    for (const { provider, model } of models) {
      const price = compiled.get(`${provider.id}/${model.id}`)
      for (const [position, tier] of (price?.tiers ?? []).entries()) {
        const below = price?.tiers[position - 1]?.rate ?? price?.base
        for (const [inputTokens, rate] of [
          [tier.aboveInputTokens, below],
          [tier.aboveInputTokens + 1, tier.rate],
        ] as const) {
          if (!rate) continue
          const usage = { inputTokens, outputTokens: 1_000, cachedInputTokens: 1_000 }
          const difference = actualNanousd(rate, usage) - oracleNanousd(provider, model, usage)
          checked += 1
          if (difference < -1n || difference > 1n) wrong.push(`${provider.id}/${model.id} at ${inputTokens}: ${difference}`)
        }
      }
    }
    expect(checked).toBeGreaterThan(100)
    expect(wrong).toEqual([])
  })

  it('never charges a cache write less than the input it is', () => {
    for (const { base } of compiled.values()) {
      expect(base.cacheWrite >= base.input && base.cacheWrite1h >= base.cacheWrite).toBe(true)
    }
  })

  it('names the version that is installed', () => {
    const manifest = readFileSync(new URL('../../../node_modules/@pydantic/genai-prices/package.json', import.meta.url), 'utf8')
    expect(JSON.parse(manifest)).toMatchObject({ version: GENAI_PRICES_VERSION })
  })
})

describe('rules that the bundled data does not exercise', () => {
  const provider = (models: ModelInfo[], rest: Partial<Provider> = {}): Provider => ({
    id: 'host',
    name: 'Host',
    api_pattern: '',
    models,
    ...rest,
  })
  const find = (providers: Provider[], id: string) => createDataset(providers, NOW).find(id.split('/'))

  it('believes a price of zero only when it is stated for that very id', () => {
    const gift = provider([{ id: 'gift', match: { starts_with: 'gift' }, prices: { input_mtok: 0, output_mtok: 0 } }])
    expect(find([gift], 'gift')?.base.output).toBe(0n)
    expect(find([gift], 'host/gift')?.base.output).toBe(0n)
    expect(find([gift], 'gift-large')).toBeUndefined()
  })

  it('takes the highest of prices that vary by the clock or are announced', () => {
    const night = { type: 'time_of_date', start_time: '01:00:00Z', end_time: '02:00:00Z' } as const
    const soon = { type: 'start_date', start_date: '2026-12-01' } as const
    const past = { type: 'start_date', start_date: '2026-01-01' } as const
    const prices = [
      { prices: { input_mtok: 99, output_mtok: 99 } },
      { constraint: past, prices: { input_mtok: 2, output_mtok: 2 } },
      { constraint: soon, prices: { input_mtok: 3, output_mtok: 1 } },
      { constraint: night, prices: { input_mtok: 1, output_mtok: 4 } },
    ]
    const base = find([provider([{ id: 'm', match: { equals: 'm' }, prices }])], 'm')?.base
    expect([base?.input, base?.output]).toEqual([3_000_000n, 4_000_000n])
  })

  it('takes the dearest of several hosts when the id names none, and the host when it does', () => {
    const model = (price: number): ModelInfo => ({
      id: 'm',
      match: { equals: 'm' },
      prices: { input_mtok: price, output_mtok: price },
    })
    const hosts = [
      provider([model(1)], { id: 'cheap' }),
      provider([model(3)], { id: 'dear' }),
      provider([model(2)], { id: 'middle' }),
    ]
    expect(find(hosts, 'm')?.base.model).toBe('dear/m')
    expect(find(hosts, 'cheap/m')?.base.model).toBe('cheap/m')
    expect(find(hosts, 'elsewhere/m')?.base.model).toBe('dear/m')
  })

  it('follows every kind of matching rule, first model first', () => {
    const model = (id: string, match: ModelInfo['match']): ModelInfo => ({ id, match, prices: { input_mtok: 1, output_mtok: 1 } })
    const host = provider([
      model('regex', { regex: '^r\\d$' }),
      model('and', { and: [{ starts_with: 'A' }, { ends_with: 'Z' }] }),
      model('or', { or: [{ equals: 'One' }, { contains: 'two' }] }),
      model('later', { equals: 'one' }),
    ])
    const found = ['r1', 'r12', 'a-z', 'a-y', 'one', 'x-two-x', 'later'].map((id) => find([host], id)?.base.model)
    expect(found).toEqual(['host/regex', undefined, 'host/and', undefined, 'host/or', 'host/or', 'host/later'])
  })
})
