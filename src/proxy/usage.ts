import type { Usage } from '../budgets/state.ts'
import type { RouteKind } from './routes.ts'

/** A usage object as a provider sends it. */
export type RawUsage = Readonly<Record<string, unknown>>

/** What is known of a call's usage. Absent: not reported. */
export type KnownUsage = {
  readonly input?: Omit<Usage, 'outputTokens'>
  readonly outputTokens?: number
  /** What the provider says it charges, in US dollars (OpenRouter). */
  readonly cost_usd?: number
  readonly webSearches?: number
}

const isObject = (value: unknown): value is RawUsage => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Field by field the last value that is one. Usage is cumulative wherever it is repeated: adding it up would count it twice. */
export function mergeUsage(known: RawUsage | null, update: unknown): RawUsage | null {
  if (!isObject(update)) return known
  const merged: Record<string, unknown> = { ...known }
  for (const [name, value] of Object.entries(update)) {
    if (value === null || value === undefined) continue
    const before = merged[name]
    merged[name] = isObject(value) && isObject(before) ? mergeUsage(before, value) : value
  }
  return merged
}

const MAX_TOKENS = 1_000_000_000
const count = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= MAX_TOKENS ? value : undefined
const field = (object: unknown, name: string): number | undefined => (isObject(object) ? count(object[name]) : undefined)

/** Reads a provider's figures into ours: cached and written tokens are part of the input, reasoning is part of the output. */
export function readUsage(kind: RouteKind, raw: RawUsage | null): KnownUsage {
  if (raw === null) return {}
  return kind === 'messages' ? anthropicUsage(raw) : openaiUsage(raw)
}

function anthropicUsage(raw: RawUsage): KnownUsage {
  const plain = count(raw.input_tokens)
  const outputTokens = count(raw.output_tokens)
  const cachedInputTokens = count(raw.cache_read_input_tokens) ?? 0
  const cacheWrite1hInputTokens = field(raw.cache_creation, 'ephemeral_1h_input_tokens') ?? 0
  const cacheWriteInputTokens =
    field(raw.cache_creation, 'ephemeral_5m_input_tokens') ??
    Math.max(0, (count(raw.cache_creation_input_tokens) ?? 0) - cacheWrite1hInputTokens)
  const written = cacheWriteInputTokens + cacheWrite1hInputTokens
  const webSearches = field(raw.server_tool_use, 'web_search_requests')
  return {
    ...(plain !== undefined && {
      input: {
        inputTokens: plain + cachedInputTokens + written,
        cachedInputTokens,
        cacheWriteInputTokens,
        cacheWrite1hInputTokens,
      },
    }),
    ...(outputTokens !== undefined && { outputTokens }),
    ...(webSearches !== undefined && { webSearches }),
  }
}

function openaiUsage(raw: RawUsage): KnownUsage {
  const inputTokens = count(raw.prompt_tokens) ?? count(raw.input_tokens)
  const stated = count(raw.completion_tokens) ?? count(raw.output_tokens)
  const total = count(raw.total_tokens)
  // Some compatible endpoints leave the thinking out of the completion and have it in the total only.
  const outputTokens = inputTokens === undefined || total === undefined ? stated : Math.max(stated ?? 0, total - inputTokens)
  const details = raw.prompt_tokens_details ?? raw.input_tokens_details
  const cached = field(details, 'cached_tokens') ?? count(raw.prompt_cache_hit_tokens) ?? 0
  const written = field(details, 'cache_write_tokens') ?? 0
  const cost_usd = costOf(raw)
  return {
    ...(inputTokens !== undefined && { input: withinInput(inputTokens, cached, written) }),
    ...(outputTokens !== undefined && { outputTokens }),
    ...(cost_usd !== undefined && { cost_usd }),
  }
}

/** Parts that exceed the whole are no parts: the whole is then charged at its full price. */
function withinInput(inputTokens: number, cached: number, written: number): Omit<Usage, 'outputTokens'> {
  const fits = cached + written <= inputTokens
  return {
    inputTokens,
    cachedInputTokens: fits ? cached : 0,
    cacheWriteInputTokens: fits ? written : 0,
    cacheWrite1hInputTokens: 0,
  }
}

/** OpenRouter: what it charges, and with the caller's own provider key also what that provider charges. */
function costOf(raw: RawUsage): number | undefined {
  const { cost, is_byok, cost_details } = raw
  if (typeof cost !== 'number' || !(cost >= 0) || cost > 1_000_000) return undefined
  const upstream = is_byok === true && isObject(cost_details) ? cost_details.upstream_inference_cost : 0
  return typeof upstream === 'number' && upstream > 0 ? cost + upstream : cost
}
