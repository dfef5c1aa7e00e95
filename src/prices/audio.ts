import type { ModelPrice } from '@pydantic/genai-prices'
import { type PicousdPerToken, rateFromUsdPerMtok } from '../core/money.ts'
import type { Rate } from './cost.ts'
import { bundledProviders } from './dataset.ts'
import { canonicalName, readModelId, withoutDate, withoutVariant } from './normalise.ts'

type AudioPrice = { readonly input_usd_per_mtok: number; readonly output_usd_per_mtok: number }
type AudioRates = { readonly input: PicousdPerToken; readonly output: PicousdPerToken }

/** Models with audio that the data set does not have, as OpenAI's model pages say; of several snapshots the dearest. */
const KNOWN: Readonly<Record<string, AudioPrice>> = {
  'gpt-4o-audio-preview': { input_usd_per_mtok: 40, output_usd_per_mtok: 80 },
  'gpt-4o-audio-preview-2024-10-01': { input_usd_per_mtok: 100, output_usd_per_mtok: 200 },
  'gpt-4o-mini-audio-preview': { input_usd_per_mtok: 10, output_usd_per_mtok: 20 },
}
/** Audio of a model whose audio price nobody knows, in multiples of its text: no known model's is dearer (gpt-4o-mini: 67 and 33, Nova Sonic: 57). */
const UNKNOWN_INPUT = 70n
const UNKNOWN_OUTPUT = 60n

let known: ReadonlyMap<string, AudioPrice> | undefined

/** What audio tokens of a model cost: its own price if it is known, otherwise a multiple of its text. Never less than its text. */
export function audioRatesFor(model: string, rate: Pick<Rate, 'input' | 'output'>): AudioRates {
  known ??= audioPrices()
  const name = withoutVariant(readModelId(model).canonical)
  const price = known.get(name) ?? known.get(withoutDate(name))
  if (price === undefined) return { input: rate.input * UNKNOWN_INPUT, output: rate.output * UNKNOWN_OUTPUT }
  const input = rateFromUsdPerMtok(price.input_usd_per_mtok)
  const output = rateFromUsdPerMtok(price.output_usd_per_mtok)
  return { input: larger(input, rate.input), output: larger(output, rate.output) }
}

const larger = (a: bigint, b: bigint): bigint => (a > b ? a : b)

function audioPrices(): Map<string, AudioPrice> {
  const found = new Map(Object.entries(KNOWN))
  for (const provider of bundledProviders()) {
    for (const { id, prices } of provider.models) {
      const name = canonicalName(id.slice(id.lastIndexOf('/') + 1).toLowerCase())
      for (const price of Array.isArray(prices) ? prices.map((entry) => entry.prices) : [prices]) {
        const input = highest(price.input_audio_mtok)
        const output = highest(price.output_audio_mtok)
        if (input === 0 && output === 0) continue
        const before = found.get(name)
        found.set(name, {
          input_usd_per_mtok: Math.max(input, before?.input_usd_per_mtok ?? 0),
          output_usd_per_mtok: Math.max(output, before?.output_usd_per_mtok ?? 0),
        })
      }
    }
  }
  return found
}

const highest = (price: ModelPrice[string]): number =>
  typeof price === 'object' ? Math.max(price.base, ...price.tiers.map((tier) => tier.price)) : (price ?? 0)
