import type { Usage } from '../budgets/state.ts'
import { premiumOf } from './bound.ts'
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
  /** Anthropic: what each pass over the request used, at its own model where it names one. Their sum may be more than the figures above. */
  readonly passes?: readonly Pass[]
  /** Something is reported that cannot be read: the other figures are then not the whole. */
  readonly isUnreadable?: true
  /** Of the input and of the output; present where there are any. */
  readonly audio?: { readonly inputTokens: number; readonly outputTokens: number }
}
export type Pass = { readonly model: string | null; readonly usage: Usage }

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
  const webSearches = field(raw.server_tool_use, 'web_search_requests')
  const searches = webSearches !== undefined && { webSearches }
  const passes = passesOf(raw.iterations)
  if (passes === undefined) return { isUnreadable: true, ...searches }
  return { ...anthropicTokens(raw), ...searches, ...(passes.length > 0 && { passes }) }
}

function anthropicTokens(raw: RawUsage): Pick<KnownUsage, 'input' | 'outputTokens'> {
  const plain = count(raw.input_tokens)
  const outputTokens = count(raw.output_tokens)
  const cachedInputTokens = count(raw.cache_read_input_tokens) ?? 0
  const cacheWrite1hInputTokens = field(raw.cache_creation, 'ephemeral_1h_input_tokens') ?? 0
  const cacheWriteInputTokens =
    field(raw.cache_creation, 'ephemeral_5m_input_tokens') ??
    Math.max(0, (count(raw.cache_creation_input_tokens) ?? 0) - cacheWrite1hInputTokens)
  const written = cacheWriteInputTokens + cacheWrite1hInputTokens
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
  }
}

/**
 * `usage.iterations`: compaction and advisors are billed there and are not in the top-level figures.
 * @returns undefined when it is there and cannot be read
 */
function passesOf(iterations: unknown): Pass[] | undefined {
  if (iterations === undefined || iterations === null) return []
  if (!Array.isArray(iterations)) return undefined
  const passes: Pass[] = []
  for (const iteration of iterations as unknown[]) {
    if (!isObject(iteration)) return undefined
    const { input, outputTokens } = anthropicTokens(iteration)
    const { model } = iteration
    if (input === undefined || outputTokens === undefined) return undefined
    passes.push({ model: typeof model === 'string' ? model : null, usage: { ...input, outputTokens } })
  }
  return passes
}

/** What the figures say was dearer than the list price; field by field as in a request. Anthropic's tiers are paid in advance. */
export function reportedPremium(kind: RouteKind, { usage, tier }: { usage: RawUsage | null; tier: string | null }): number {
  if (kind !== 'messages') return premiumOf({ service_tier: tier })
  const { speed, inference_geo } = usage ?? {}
  return premiumOf({ speed, inference_geo: inference_geo === 'not_available' ? undefined : inference_geo })
}

function openaiUsage(raw: RawUsage): KnownUsage {
  const inputTokens = count(raw.prompt_tokens) ?? count(raw.input_tokens)
  const stated = count(raw.completion_tokens) ?? count(raw.output_tokens)
  const total = count(raw.total_tokens)
  // Some compatible endpoints leave the thinking out of the completion and have it in the total only. One that leaves no output says nothing.
  const left = inputTokens === undefined || total === undefined || total <= inputTokens ? undefined : total - inputTokens
  const outputTokens = left === undefined ? stated : Math.max(stated ?? 0, left)
  const details = raw.prompt_tokens_details ?? raw.input_tokens_details
  const cached = field(details, 'cached_tokens') ?? count(raw.prompt_cache_hit_tokens) ?? 0
  const written = field(details, 'cache_write_tokens') ?? 0
  const cost_usd = costOf(raw)
  return {
    ...(inputTokens !== undefined && { input: withinInput(inputTokens, cached, written) }),
    ...(outputTokens !== undefined && { outputTokens }),
    ...(cost_usd !== undefined && { cost_usd }),
    ...audioOf(details, raw.completion_tokens_details ?? raw.output_tokens_details, inputTokens ?? 0, outputTokens ?? 0),
  }
}

function audioOf(ofInput: unknown, ofOutput: unknown, inputTokens: number, outputTokens: number): Pick<KnownUsage, 'audio'> {
  const audio = { inputTokens: audioIn(ofInput, inputTokens), outputTokens: audioIn(ofOutput, outputTokens) }
  return audio.inputTokens + audio.outputTokens > 0 ? { audio } : {}
}

/** A figure that cannot be read may be all of them. */
function audioIn(details: unknown, whole: number): number {
  if (!isObject(details) || details.audio_tokens === undefined || details.audio_tokens === null) return 0
  return Math.min(count(details.audio_tokens) ?? whole, whole)
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
