/**
 * Prices from `@pydantic/genai-prices`: its bundled data, never the network. We use its data and its matching rules but
 * not its arithmetic (floats, 22–56 µs a call); tests hold `calcPrice` against the rates compiled here.
 */
import { type MatchLogic, type ModelInfo, type ModelPrice, type Provider, waitForUpdate } from '@pydantic/genai-prices'
import { type PicousdPerToken, rateFromUsdPerMtok } from '../core/money.ts'
import type { Rate } from './cost.ts'
import { canonicalName, withoutDate, withoutVariant } from './normalise.ts'

/** A model's price, and the dearer ones that apply to a whole request once its input is longer than a threshold. */
export type TieredRate = {
  readonly base: Rate
  /** Ascending. */
  readonly tiers: readonly { readonly aboveInputTokens: number; readonly rate: Rate }[]
}

type DatasetModel = { readonly provider: string; readonly id: string; readonly price: TieredRate }

export type Dataset = {
  /** The price of the model that these path segments name, or undefined if the data set has no token price for it. */
  find(segments: readonly string[]): TieredRate | undefined
  /** The price that one provider's own entry for exactly this id or pattern states. */
  findAt(providerId: string, id: string): TieredRate | undefined
  /** Every model with a token price, with each literal spelling that the data set gives it. Compiles all: not for a hot path. */
  models(): Iterable<DatasetModel>
  /** The spellings, each with a way to compile its price only when it is of interest. */
  spellings(): Iterable<{ readonly provider: string; readonly spelling: string; price(): TieredRate | undefined }>
}

/** The version in our package.json; part of the catalogue's version. A test compares it with the installed one. */
export const GENAI_PRICES_VERSION = '0.1.8'

// The only documented way to the whole list; it resolves at once with the bundled data as long as nobody updates it.
const bundled = await waitForUpdate()

/** The bundled data, as the library ships it. */
export function bundledProviders(): readonly Provider[] {
  if (bundled === null || bundled.length === 0) throw new Error('@pydantic/genai-prices has no bundled data')
  return bundled
}

/**
 * Compiles the data set. Prices in force at `now` count; where they vary by time of day, or a later change is announced,
 * the highest counts, since a process outlives both.
 */
export function createDataset(providers: readonly Provider[], now: Date): Dataset {
  const indexes = providers.map(indexProvider)
  const compiled = new Map<ModelInfo, TieredRate | undefined>()

  function priceOf(provider: Provider, model: ModelInfo): TieredRate | undefined {
    if (!compiled.has(model)) compiled.set(model, compilePrice(`${provider.id}/${model.id}`, pricesInForce(model, now)))
    return compiled.get(model)
  }

  function findIn(index: ProviderIndex, name: string): TieredRate | undefined {
    const model = index.find(name)
    const price = model && priceOf(index.provider, model)
    // A price of zero must be stated for this very id; a pattern that happens to match does not make a model free.
    return price && (!isFree(price.base) || name === model.id.toLowerCase()) ? price : undefined
  }

  // `llama-3.3-70b-instruct`, which every host lists under a maker's prefix of its own.
  const byOwnName = new Map<string, { provider: Provider; model: ModelInfo }[]>()
  for (const provider of providers) {
    for (const model of provider.models) {
      const name = model.id.slice(model.id.lastIndexOf('/') + 1).toLowerCase()
      byOwnName.set(name, [...(byOwnName.get(name) ?? []), { provider, model }])
    }
  }

  function findByOwnName(name: string): TieredRate | undefined {
    const prices = byOwnName.get(name)?.map(({ provider, model }) => priceOf(provider, model)) ?? []
    return dearest(prices.filter((price) => price && !isFree(price.base)))
  }

  function findAnywhere(name: string): TieredRate | undefined {
    for (const index of indexes) {
      const price = index.serves(name) ? findIn(index, name) : undefined
      if (price) return price
    }
    return dearest(indexes.map((index) => findIn(index, name)))
  }

  return {
    find(segments) {
      for (const [position, segment] of segments.slice(0, -1).entries()) {
        const index = indexes.find(({ provider }) => provider.id === segment) ?? indexes.find(({ isCalled }) => isCalled(segment))
        const price = index && firstOf(spellingsOf(segments.slice(position + 1).join('/')), (name) => findIn(index, name))
        if (price) return price
      }
      const own = segments.at(-1) ?? ''
      const names = new Set([segments.join('/'), own, canonicalName(own)].flatMap(spellingsOf))
      return firstOf(names, findAnywhere) ?? firstOf(names, findByOwnName)
    },
    findAt(providerId, id) {
      const index = indexes.find(({ provider }) => provider.id === providerId)
      return index && findIn(index, id)
    },
    *models() {
      for (const { provider } of indexes) {
        for (const model of provider.models) {
          const price = priceOf(provider, model)
          if (price) yield { provider: provider.id, id: model.id, price }
        }
      }
    },
    *spellings() {
      for (const { provider } of indexes) {
        for (const model of provider.models) {
          for (const spelling of new Set([model.id, ...literalsOf(model.match)])) {
            yield { provider: provider.id, spelling: spelling.toLowerCase(), price: () => priceOf(provider, model) }
          }
        }
      }
    },
  }
}

/** Of two prices for what may be the same model, the one with the dearer output, then input. */
export function isDearer(a: Rate, b: Rate): boolean {
  return a.output === b.output ? a.input > b.input : a.output > b.output
}

const isFree = (rate: Rate): boolean => rate.input === 0n && rate.output === 0n

function dearest(prices: readonly (TieredRate | undefined)[]): TieredRate | undefined {
  return prices.reduce((best, price) => (price && (!best || isDearer(price.base, best.base)) ? price : best), undefined)
}

/** The id itself, then without its `:variant`, then without its date too: a known variant or snapshot has its own price. */
function spellingsOf(name: string): string[] {
  const plain = withoutVariant(name)
  return [name, plain, withoutDate(plain)]
}

function firstOf<T, R>(items: Iterable<T>, find: (item: T) => R | undefined): R | undefined {
  for (const item of items) {
    const found = find(item)
    if (found !== undefined) return found
  }
  return undefined
}

// ---- matching ----

type Predicate = (id: string) => boolean

type ProviderIndex = {
  readonly provider: Provider
  /** Whether the data set knows this provider by that name (`together_ai`, `vertex`). */
  readonly isCalled: Predicate
  /** Whether a bare id of this shape belongs to this provider (`gpt-…` to OpenAI). */
  readonly serves: Predicate
  /** The first model in the provider's order whose rule matches, as in genai-prices. */
  find(id: string): ModelInfo | undefined
}

/** Most rules are lists of literal ids: those go to a map, so that an unknown id is compared with the few others only. */
function indexProvider(provider: Provider): ProviderIndex {
  const exact = new Map<string, number>()
  const byId = new Map(provider.models.map((model) => [model.id.toLowerCase(), model]))
  const patterns: { position: number; matches: Predicate }[] = []
  for (const [position, { match }] of provider.models.entries()) {
    for (const rule of 'or' in match ? match.or : [match]) {
      if (!('equals' in rule)) patterns.push({ position, matches: compileMatch(rule) })
      else if (!exact.has(rule.equals.toLowerCase())) exact.set(rule.equals.toLowerCase(), position)
    }
  }
  return {
    provider,
    isCalled: provider.provider_match ? compileMatch(provider.provider_match) : () => false,
    serves: provider.model_match ? compileMatch(provider.model_match) : () => false,
    find(id) {
      const exactAt = exact.get(id) ?? provider.models.length
      const pattern = patterns.find(({ position, matches }) => position >= exactAt || matches(id))
      // A few models' rules do not match their own id, which is what our list shows.
      return provider.models[Math.min(exactAt, pattern?.position ?? exactAt)] ?? byId.get(id)
    },
  }
}

/** The rule as a function of a lower-case id. */
function compileMatch(match: MatchLogic): Predicate {
  if ('or' in match) {
    const rules = match.or.map(compileMatch)
    return (id) => rules.some((matches) => matches(id))
  }
  if ('and' in match) {
    const rules = match.and.map(compileMatch)
    return (id) => rules.every((matches) => matches(id))
  }
  if ('regex' in match) {
    const regex = new RegExp(match.regex)
    return (id) => regex.test(id)
  }
  if ('equals' in match) return equalTo(match.equals.toLowerCase())
  if ('starts_with' in match) return startingWith(match.starts_with.toLowerCase())
  if ('ends_with' in match) return endingWith(match.ends_with.toLowerCase())
  return containing(match.contains.toLowerCase())
}

const equalTo =
  (text: string): Predicate =>
  (id) =>
    id === text
const startingWith =
  (text: string): Predicate =>
  (id) =>
    id.startsWith(text)
const endingWith =
  (text: string): Predicate =>
  (id) =>
    id.endsWith(text)
const containing =
  (text: string): Predicate =>
  (id) =>
    id.includes(text)

function literalsOf(match: MatchLogic): string[] {
  if ('or' in match) return match.or.flatMap(literalsOf)
  if ('equals' in match) return [match.equals]
  return 'starts_with' in match ? [match.starts_with] : []
}

// ---- prices ----

/** Every price that can apply from `now` on: walks back to the one in force, as genai-prices does. */
function pricesInForce({ prices }: ModelInfo, now: Date): ModelPrice[] {
  if (!Array.isArray(prices)) return [prices]
  const found: ModelPrice[] = []
  for (const { constraint, prices: price } of prices.toReversed()) {
    found.push(price)
    const started = constraint?.type === 'start_date' && new Date(constraint.start_date) <= now
    if (constraint === undefined || started) break
  }
  return found
}

/**
 * Undefined if there is no price per input token. An empty price is not taken for "free": in this data set it also
 * stands for subscriptions, prices per song, and models whose price nobody entered.
 */
function compilePrice(model: string, prices: readonly ModelPrice[]): TieredRate | undefined {
  const priced = prices.filter(({ input_mtok }) => input_mtok !== undefined)
  if (priced.length === 0) return undefined
  const starts = new Set(priced.flatMap((price) => TOKEN_PRICES.flatMap((key) => tierStarts(price[key]))))
  const at = (inputTokens: number) => highest(priced.map((price) => rateAt(model, price, inputTokens)))
  return {
    base: at(0),
    tiers: [...starts].sort((a, b) => a - b).map((start) => ({ aboveInputTokens: start, rate: at(start + 1) })),
  }
}

const TOKEN_PRICES = ['input_mtok', 'output_mtok', 'cache_read_mtok', 'cache_write_mtok', 'cache_write_1h_mtok'] as const

const tierStarts = (price: ModelPrice[string]): number[] =>
  typeof price === 'object' ? price.tiers.map(({ start }) => start) : []

function rateAt(model: string, price: ModelPrice, inputTokens: number): Rate {
  const rate = (key: (typeof TOKEN_PRICES)[number]): PicousdPerToken | undefined => {
    const found = price[key]
    if (typeof found !== 'object') return found === undefined ? undefined : rateFromUsdPerMtok(found)
    const tiers = found.tiers.toSorted((a, b) => a.start - b.start)
    return rateFromUsdPerMtok(tiers.findLast(({ start }) => inputTokens > start)?.price ?? found.base)
  }
  const input = rate('input_mtok') ?? 0n
  const output = rate('output_mtok')
  // Some entries carry only the storage fee of a cache write; the tokens themselves are never cheaper than plain input.
  const cacheWrite = max(input, rate('cache_write_mtok') ?? input)
  return {
    input,
    output: output ?? input,
    cachedInput: rate('cache_read_mtok') ?? input,
    cacheWrite,
    cacheWrite1h: max(cacheWrite, rate('cache_write_1h_mtok') ?? cacheWrite),
    inputOnly: output === undefined,
    source: 'dataset',
    model,
  }
}

const max = (a: bigint, b: bigint): bigint => (a > b ? a : b)

/** Field by field: which of the prices applies is not known. */
function highest(rates: readonly Rate[]): Rate {
  return rates.reduce((a, b) => ({
    input: max(a.input, b.input),
    output: max(a.output, b.output),
    cachedInput: max(a.cachedInput, b.cachedInput),
    cacheWrite: max(a.cacheWrite, b.cacheWrite),
    cacheWrite1h: max(a.cacheWrite1h, b.cacheWrite1h),
    inputOnly: a.inputOnly && b.inputOnly,
    source: a.source,
    model: a.model,
  }))
}
