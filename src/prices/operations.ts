import { z } from 'zod'
import { defineOperation } from '../core/operation.ts'
import { text } from '../core/text.ts'
import type { Catalogue, Rate } from './catalogue.ts'
import type { PriceChange, PriceService } from './service.ts'

export type PriceDeps = { readonly catalogue: Catalogue; readonly prices: PriceService }

const MICRO = 1_000_000
const usdPerMtok = z.number().describe('US dollars per million tokens')
/** Rates are integer micro-dollars per million tokens. */
const usdOf = (rate: bigint): number => Number(rate) / MICRO

export const listModels = defineOperation({
  name: 'list_models',
  title: 'List models and prices',
  description:
    "Models in OpenAI's shape, with the prices that clearances use. A model that is not listed costs 15/75 per million tokens.",
  tag: 'Models',
  method: 'get',
  path: '/v1/models',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'] },
  input: z.object({}),
  output: z.object({
    object: z.literal('list'),
    data: z.array(
      z.object({
        id: z.string(),
        object: z.literal('model'),
        created: z.number().int().describe('Unix seconds; 0, as price lists do not say'),
        owned_by: z.string(),
        pricing: z.object({
          input_usd_per_mtok: usdPerMtok,
          output_usd_per_mtok: usdPerMtok.optional(),
          cached_input_usd_per_mtok: usdPerMtok,
          input_only: z.boolean(),
        }),
      }),
    ),
    price_version: z.string(),
  }),
  async run({ catalogue }: PriceDeps) {
    const data = catalogue.list().map(({ id, ownedBy, rate }) => ({
      id,
      object: 'model' as const,
      created: 0,
      owned_by: ownedBy,
      pricing: {
        input_usd_per_mtok: usdOf(rate.input),
        ...(!rate.inputOnly && { output_usd_per_mtok: usdOf(rate.output) }),
        cached_input_usd_per_mtok: usdOf(rate.cachedInput),
        input_only: rate.inputOnly,
      },
    }))
    return { object: 'list' as const, data, price_version: catalogue.version }
  },
})

const priceView = z.object({ input_usd_per_mtok: usdPerMtok, output_usd_per_mtok: usdPerMtok })
const changeView = z.object({
  model: z.string(),
  before: priceView.nullable().describe('null for a model that was not known'),
  after: priceView,
})
const priceJson = (rate: Rate) => ({ input_usd_per_mtok: usdOf(rate.input), output_usd_per_mtok: usdOf(rate.output) })
const changeJson = ({ model, before, after }: PriceChange) => ({
  model,
  before: before === null ? null : priceJson(before),
  after: priceJson(after),
})

export const refreshPrices = defineOperation({
  name: 'admin_refresh_prices',
  title: 'Refresh prices (operator)',
  description:
    "Reads PRICES_URL and puts its prices in force on every process within seconds, below the contract's table and the operator's file. A price that changes by more than 2×, also because the list no longer names its model, is quarantined: reported, not applied, unless accept names its model.",
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/price-cache/refresh',
  access: { kind: 'admin' },
  input: z.object({ accept: z.array(text(1, 128)).max(1000).optional().describe('Models whose change is wanted however large') }),
  output: z.object({
    ok: z.literal(true),
    models: z.number().int().describe('Prices in the list now in force'),
    applied: z.array(changeView),
    removed: z
      .array(changeView)
      .describe(
        'Models that the list no longer names, with what they cost from here on; those by more than 2× are in quarantined',
      ),
    quarantined: z.array(changeView),
    overruled: z.array(z.string()).describe("Models whose price the contract's table or the operator's file sets"),
    price_version: z.string(),
  }),
  errors: ['price_source_unconfigured', 'price_source_failed'],
  async run({ prices }: PriceDeps, input) {
    const { models, applied, removed, quarantined, overruled } = await prices.refresh(input.accept ?? [])
    return {
      ok: true as const,
      models,
      applied: applied.map(changeJson),
      removed: removed.map(changeJson),
      quarantined: quarantined.map(changeJson),
      overruled: [...overruled],
      price_version: prices.version,
    }
  },
})

export const priceOperations = [listModels, refreshPrices]
