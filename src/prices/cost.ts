import { costNanousd, type Nanousd, type PicousdPerToken } from '../core/money.ts'

/** Where a rate comes from, in the order in which sources are asked (CONTRACT.md section 3, "Prices"). */
type RateSource = 'operator' | 'pinned' | 'refreshed' | 'dataset' | 'default'

/** The price of one model's tokens, in integer pico-dollars per token. */
export type Rate = {
  readonly input: PicousdPerToken
  readonly output: PicousdPerToken
  /** Input tokens read from the provider's prompt cache. */
  readonly cachedInput: PicousdPerToken
  /** Input tokens written to the cache for the default time (Anthropic: 5 minutes). */
  readonly cacheWrite: PicousdPerToken
  /** Input tokens written to the cache for an hour. */
  readonly cacheWrite1h: PicousdPerToken
  /** Embeddings: estimates are priced at `input`, and `output` equals it, so no reported token is ever free. */
  readonly inputOnly: boolean
  readonly source: RateSource
  /** The catalogue's id that matched, or `default`. */
  readonly model: string
  /** Set where the rates depend on how many input tokens a request has. */
  readonly tiers?: RateTiers
}

type PlainRates = Pick<Rate, 'input' | 'output' | 'cachedInput' | 'cacheWrite' | 'cacheWrite1h'>

/** Which rates hold for requests with more than so many input tokens; ascending, the first one for all (-1). */
export type RateTiers = readonly { readonly aboveInputTokens: number; readonly rates: PlainRates }[]

/** The rates a settlement needs; what a hold remembers of its price. */
export type TokenRates = PlainRates & Pick<Rate, 'tiers'>

/** The rates of the tier that a request of this length falls into, whatever was estimated. */
export const ratesAt = (rates: TokenRates, inputTokens: number): TokenRates =>
  rates.tiers?.findLast(({ aboveInputTokens }) => inputTokens > aboveInputTokens)?.rates ?? rates

/** What a provider reports. All cached and written tokens are part of `inputTokens` (OpenAI's convention). */
export type TokenUsage = {
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cachedInputTokens?: number
  readonly cacheWriteInputTokens?: number
  readonly cacheWrite1hInputTokens?: number
}

/** The largest `estimated_tokens` that the contract allows (section 3). */
export const MAX_ESTIMATED_TOKENS = 1_000_000_000

/**
 * What a clearance holds, in nano-dollars (CONTRACT.md section 3, "Estimate"): the output rate for chat models, the input
 * rate for input-only ones, plus known input tokens at the input rate; rounded up once.
 */
export function estimateNanousd(rate: Rate, estimatedTokens: number, estimatedInputTokens = 0): Nanousd {
  return costNanousd([
    { tokens: estimatedTokens, rate: estimateRate(rate) },
    { tokens: estimatedInputTokens, rate: rate.input },
  ])
}

/**
 * What a call really cost, in nano-dollars, rounded up once.
 *
 * @throws RangeError if cached and written tokens exceed `inputTokens`; callers validate that first.
 */
export function actualNanousd(rate: TokenRates, usage: TokenUsage): Nanousd {
  const { cachedInputTokens = 0, cacheWriteInputTokens = 0, cacheWrite1hInputTokens = 0 } = usage
  const plainInputTokens = usage.inputTokens - cachedInputTokens - cacheWriteInputTokens - cacheWrite1hInputTokens
  return costNanousd([
    { tokens: plainInputTokens, rate: rate.input },
    { tokens: usage.outputTokens, rate: rate.output },
    { tokens: cachedInputTokens, rate: rate.cachedInput },
    { tokens: cacheWriteInputTokens, rate: rate.cacheWrite },
    { tokens: cacheWrite1hInputTokens, rate: rate.cacheWrite1h },
  ])
}

/**
 * The largest `estimated_tokens` (0 to 1,000,000,000) whose estimate fits into the remaining nano-dollars, exactly as
 * `estimateNanousd` rounds; 0 also when not even the input tokens fit.
 */
export function affordableTokens(rate: Rate, remainingNanousd: Nanousd, estimatedInputTokens = 0): number {
  // ceil(cost / 1000) <= remaining is the same as cost <= 1000 × remaining.
  const leftPicousd = remainingNanousd * 1_000n - BigInt(estimatedInputTokens) * rate.input
  if (leftPicousd < 0n) return 0
  const perToken = estimateRate(rate)
  if (perToken === 0n) return MAX_ESTIMATED_TOKENS
  const tokens = leftPicousd / perToken
  return tokens < BigInt(MAX_ESTIMATED_TOKENS) ? Number(tokens) : MAX_ESTIMATED_TOKENS
}

function estimateRate(rate: Rate): PicousdPerToken {
  return rate.inputOnly ? rate.input : rate.output
}
