import { createHash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { z } from 'zod'
import { rateFromUsdPerMtok } from '../core/money.ts'
import type { Rate, RateTiers } from './cost.ts'
import { bundledProviders, createDataset, type Dataset, GENAI_PRICES_VERSION, isDearer, type TieredRate } from './dataset.ts'
import {
  canonicalName,
  createPrefixTable,
  dashedClaude,
  type ModelNames,
  readModelId,
  withoutDate,
  withoutVariant,
} from './normalise.ts'
import { DEFAULT_PRICE, PINNED_PRICES } from './pinned.ts'

export type { Rate } from './cost.ts'

const usdPerMtokSchema = z.number().min(0).max(1_000_000)

/**
 * The operator's price file: model id to USD per million tokens. An id stands for everything that begins with it; the
 * longest one wins. One with a provider prefix (`openrouter/x`, `us.anthropic.x`) stands for that provider's ids only.
 */
export const operatorPricesSchema = z.record(
  z.string().min(1).max(128),
  z.strictObject({
    input_usd_per_mtok: usdPerMtokSchema,
    output_usd_per_mtok: usdPerMtokSchema,
    cached_input_usd_per_mtok: usdPerMtokSchema.optional(),
    cache_write_usd_per_mtok: usdPerMtokSchema.optional(),
    cache_write_1h_usd_per_mtok: usdPerMtokSchema.optional(),
    input_only: z.boolean().optional(),
  }),
)

export type OperatorPrices = z.infer<typeof operatorPricesSchema>

export type CatalogueOptions = {
  readonly operatorPrices?: OperatorPrices
  /** A newer list for what the contract's table does not fix; ranks above the data set for the models that it names. */
  readonly refreshedPrices?: OperatorPrices
  /** When the prices have to be in force; default: now. */
  readonly now?: Date
}

/** One model for `GET /v1/models`. `rateFor(id)` gives this rate. */
export type CatalogueEntry = { readonly id: string; readonly ownedBy: string; readonly rate: Rate }

export type Catalogue = {
  /**
   * The rate of any model id, known or not (CONTRACT.md section 3, "Prices"). Never fails, never waits.
   *
   * @param inputTokens the request's input tokens, if known: some models cost more once it is long.
   */
  rateFor(model: string, inputTokens?: number): Rate
  list(): readonly CatalogueEntry[]
  /** Names the price list; changes with any of its sources. */
  readonly version: string
}

/** Ids come from callers: a flood of invented ones must not grow memory. */
const MAX_REMEMBERED_IDS = 4_096
/** The contract allows 128 characters; this leaves room for a provider prefix that the proxy adds. */
const MAX_ID_LENGTH = 256

const DEFAULT: TieredRate = untiered({
  ...rateOf(DEFAULT_PRICE.input_usd_per_mtok, DEFAULT_PRICE.output_usd_per_mtok),
  source: 'default',
  model: 'default',
})

/**
 * Compiles all price sources into one lookup: operator's file, the contract's table, the data set, the default. The
 * first lookup of an id takes microseconds, the next ones tens of nanoseconds.
 */
export function createCatalogue(options: CatalogueOptions = {}): Catalogue {
  const operatorPrices = operatorPricesSchema.parse(options.operatorPrices ?? {})
  const dataset = createDataset(bundledProviders(), options.now ?? new Date())
  const refreshedPrices = operatorPricesSchema.parse(options.refreshedPrices ?? {})
  const findOperator = compileOperatorPrices(operatorPrices, 'operator')
  const findRefreshed = compileOperatorPrices(refreshedPrices, 'refreshed')
  const findPinned = compilePinnedPrices(dataset)
  const remembered = new LRUCache<string, TieredRate>({ max: MAX_REMEMBERED_IDS })

  function resolve(model: string): TieredRate {
    if (model.length > MAX_ID_LENGTH) return DEFAULT
    const names = readModelId(model)
    const operator = findOperator(names)
    const pinned = findPinned(names.canonical)
    // A price that the operator set for `gpt-4o` is not meant for `gpt-4o-mini`.
    if (operator && operator.key.length >= (pinned?.id.length ?? 0)) return operator.value
    if (pinned) return pinned.price
    const listed = dataset.find(names.segments)
    const refreshed = findRefreshed(names)
    // What stands for all that begins with it says nothing of a model that has a price of its own.
    if (refreshed && (listed === undefined || isNamed(refreshed.key, names))) return refreshed.value
    return listed ?? DEFAULT
  }

  const known = new WeakMap<TieredRate, TieredRate>()
  function tiered(rate: TieredRate): TieredRate {
    const found = known.get(rate) ?? withTiers(rate)
    known.set(rate, found)
    return found
  }

  function lookUp(model: string): TieredRate {
    const before = remembered.get(model)
    if (before) return before
    const found = tiered(resolve(model))
    if (model.length <= MAX_ID_LENGTH) remembered.set(model, found)
    return found
  }

  let entries: readonly CatalogueEntry[] | undefined
  return {
    rateFor(model, inputTokens = 0) {
      const { base, tiers } = lookUp(model)
      return tiers.findLast(({ aboveInputTokens }) => inputTokens > aboveInputTokens)?.rate ?? base
    },
    list() {
      entries ??= listModels(
        [...Object.keys(operatorPrices), ...Object.keys(refreshedPrices)],
        dataset,
        (model) => tiered(resolve(model)).base,
      )
      return entries
    },
    version: `genai-prices@${GENAI_PRICES_VERSION}+${fingerprint([operatorPrices, refreshedPrices, PINNED_PRICES, DEFAULT_PRICE])}`,
  }
}

function compileOperatorPrices(prices: OperatorPrices, source: 'operator' | 'refreshed') {
  const table = createPrefixTable(
    Object.entries(prices).map(([id, price]) => {
      const key = dashedClaude(id.trim().toLowerCase())
      return [key, untiered({ ...operatorRate(price), source, model: id })] as const
    }),
  )
  return ({ segments, canonical }: ModelNames) => {
    const tails = segments.map((_, position) => dashedClaude(segments.slice(position).join('/')))
    return [...tails, canonical]
      .flatMap((name) => table.find(name) ?? [])
      .reduce<ReturnType<typeof table.find>>(
        (best, found) => (best && best.key.length >= found.key.length ? best : found),
        undefined,
      )
  }
}

/** Whether a key is the model itself, in any spelling, and not only what its name begins with. */
function isNamed(key: string, { segments, canonical }: ModelNames): boolean {
  const tails = segments.map((_, position) => dashedClaude(segments.slice(position).join('/')))
  return [...tails, canonical].some((name) => withoutDate(withoutVariant(name)) === withoutDate(key) || name === key)
}

/**
 * The contract's table plus those models of the data set that extend one of its ids and cost more (`claude-opus-4-8-fast`,
 * `gpt-4o-realtime`): a prefix must not under-count them. A cheaper or equal one changes nothing: the table stays exact.
 */
function compilePinnedPrices(dataset: Dataset) {
  const pinnedTable = createPrefixTable(
    PINNED_PRICES.map((pinned) => [pinned.id, untiered(pinnedRate(pinned, dataset))] as const),
  )
  const variants = new Map<string, TieredRate>()
  for (const { provider, spelling, price } of dataset.spellings()) {
    // Bedrock lists the same models under longer ids with a regional surcharge; those are not models of their own.
    if (provider === 'aws') continue
    const key = canonicalName(spelling.slice(spelling.lastIndexOf('/') + 1))
    const pinned = pinnedTable.find(key)
    // A dated version of a pinned model costs what the table says, whatever an old snapshot cost (contract: dated versions resolve).
    if (!pinned || withoutDate(key) === pinned.key) continue
    const variant = price()
    if (variant && isDearer(variant.base, variants.get(key)?.base ?? pinned.value.base)) variants.set(key, variant)
  }
  const variantTable = createPrefixTable(variants)
  return (canonical: string) => {
    const pinned = pinnedTable.find(canonical)
    return pinned && { id: pinned.key, price: variantTable.find(canonical)?.value ?? pinned.value }
  }
}

function listModels(operatorIds: readonly string[], dataset: Dataset, rateFor: (model: string) => Rate): CatalogueEntry[] {
  const entries = new Map<string, CatalogueEntry>()
  const add = (id: string, ownedBy: string, rate = rateFor(id)) => {
    if (!entries.has(id)) entries.set(id, { id, ownedBy, rate })
  }
  for (const { id, provider } of PINNED_PRICES) add(id, provider)
  for (const id of operatorIds) add(id, 'operator')
  for (const { provider, id, price } of dataset.models()) {
    // A bare id where it means this provider's model, as its own API has it; otherwise with the prefix that makes it so.
    const bare = rateFor(id)
    if (bare.model === price.base.model) add(id, provider, bare)
    else if (bare.source !== 'pinned') add(`${provider}/${id}`, provider)
  }
  return [...entries.values()]
}

function pinnedRate(
  { id, provider, input_usd_per_mtok, output_usd_per_mtok }: (typeof PINNED_PRICES)[number],
  dataset: Dataset,
): Rate {
  const known = dataset.findAt(provider, id)?.base
  return {
    ...rateOf(input_usd_per_mtok, output_usd_per_mtok ?? input_usd_per_mtok),
    ...(known && { cachedInput: known.cachedInput, cacheWrite: known.cacheWrite, cacheWrite1h: known.cacheWrite1h }),
    inputOnly: output_usd_per_mtok === undefined,
    source: 'pinned',
    model: id,
  }
}

function operatorRate(price: OperatorPrices[string]): Omit<Rate, 'source' | 'model'> {
  const inputOnly = price.input_only ?? false
  const outputUsdPerMtok = inputOnly ? price.input_usd_per_mtok : price.output_usd_per_mtok
  const plain = rateOf(price.input_usd_per_mtok, outputUsdPerMtok)
  const cacheWrite = optionalRate(price.cache_write_usd_per_mtok) ?? plain.input
  return {
    ...plain,
    cachedInput: optionalRate(price.cached_input_usd_per_mtok) ?? plain.input,
    cacheWrite,
    cacheWrite1h: optionalRate(price.cache_write_1h_usd_per_mtok) ?? cacheWrite,
    inputOnly,
  }
}

function rateOf(inputUsdPerMtok: number, outputUsdPerMtok: number): Omit<Rate, 'source' | 'model'> {
  const input = rateFromUsdPerMtok(inputUsdPerMtok)
  const output = rateFromUsdPerMtok(outputUsdPerMtok)
  return { input, output, cachedInput: input, cacheWrite: input, cacheWrite1h: input, inputOnly: false }
}

const optionalRate = (usdPerMtok: number | undefined) => (usdPerMtok === undefined ? undefined : rateFromUsdPerMtok(usdPerMtok))

/** Each rate with all of its model's tiers, since a clearance is priced before anybody knows how long its request was. */
function withTiers({ base, tiers }: TieredRate): TieredRate {
  if (tiers.length === 0) return { base, tiers }
  const all: RateTiers = [{ aboveInputTokens: -1, rate: base }, ...tiers].map(({ aboveInputTokens, rate }) => {
    const { input, output, cachedInput, cacheWrite, cacheWrite1h } = rate
    return { aboveInputTokens, rates: { input, output, cachedInput, cacheWrite, cacheWrite1h } }
  })
  return {
    base: { ...base, tiers: all },
    tiers: tiers.map(({ aboveInputTokens, rate }) => ({ aboveInputTokens, rate: { ...rate, tiers: all } })),
  }
}

function untiered(base: Rate): TieredRate {
  return { base, tiers: [] }
}

const fingerprint = (sources: unknown): string => createHash('sha256').update(JSON.stringify(sources)).digest('hex').slice(0, 8)
