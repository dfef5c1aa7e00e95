import { z } from 'zod'
import { defineOperation } from '../core/operation.ts'
import type { Catalogue } from './catalogue.ts'

export type PriceDeps = { readonly catalogue: Catalogue }

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

export const priceOperations = [listModels]
