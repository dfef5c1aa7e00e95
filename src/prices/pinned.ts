/** One row of the contract's own price table, in USD per million tokens. */
export type PinnedPrice = {
  readonly id: string
  /** The provider whose entry in the data set supplies the cache rates, which the contract leaves open. */
  readonly provider: 'anthropic' | 'openai' | 'google'
  readonly input_usd_per_mtok: number
  /** Absent for input-only models (embeddings). */
  readonly output_usd_per_mtok?: number
}

/** CONTRACT.md section 3, "Prices". These are promises: neither a new data set nor a variant may lower them. */
export const PINNED_PRICES: readonly PinnedPrice[] = [
  { id: 'claude-opus-4-8', provider: 'anthropic', input_usd_per_mtok: 5, output_usd_per_mtok: 25 },
  { id: 'claude-opus-4-7', provider: 'anthropic', input_usd_per_mtok: 5, output_usd_per_mtok: 25 },
  { id: 'claude-opus-4-6', provider: 'anthropic', input_usd_per_mtok: 5, output_usd_per_mtok: 25 },
  { id: 'claude-sonnet-4-6', provider: 'anthropic', input_usd_per_mtok: 3, output_usd_per_mtok: 15 },
  { id: 'claude-haiku-4-5', provider: 'anthropic', input_usd_per_mtok: 1, output_usd_per_mtok: 5 },
  { id: 'gpt-4o', provider: 'openai', input_usd_per_mtok: 2.5, output_usd_per_mtok: 10 },
  { id: 'gpt-4o-mini', provider: 'openai', input_usd_per_mtok: 0.15, output_usd_per_mtok: 0.6 },
  { id: 'gpt-4-turbo', provider: 'openai', input_usd_per_mtok: 10, output_usd_per_mtok: 30 },
  { id: 'text-embedding-3-small', provider: 'openai', input_usd_per_mtok: 0.02 },
  { id: 'text-embedding-3-large', provider: 'openai', input_usd_per_mtok: 0.13 },
  { id: 'gemini-embedding-001', provider: 'google', input_usd_per_mtok: 0.15 },
  { id: 'gemini-embedding-2', provider: 'google', input_usd_per_mtok: 0.2 },
]

/** What a model costs that nobody knows, so that a typo never under-counts (CONTRACT.md section 3). USD per million tokens. */
export const DEFAULT_PRICE = { input_usd_per_mtok: 15, output_usd_per_mtok: 75 } as const
