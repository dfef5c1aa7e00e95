import { bundledProviders } from './dataset.ts'
import { canonicalName, readModelId, withoutDate, withoutVariant } from './normalise.ts'

/** What bounds one call to a model. Absent: nobody has said. */
export type ModelLimits = {
  /** Most tokens the model reads, input and output together. */
  readonly contextTokens?: number
  /** Most tokens one answer may have. */
  readonly maxOutputTokens?: number
}

/**
 * Most output tokens of one answer, as the providers' model pages say. No price list has it. A model that is missing here is not limited by
 * less than its context window.
 */
const MAX_OUTPUT_TOKENS: Readonly<Record<string, number>> = {
  'claude-opus-4-8': 128_000,
  'claude-opus-4-7': 128_000,
  'claude-opus-4-6': 128_000,
  'claude-opus-4-5': 64_000,
  'claude-opus-4-1': 32_000,
  'claude-opus-4-0': 32_000,
  'claude-opus-4': 32_000,
  'claude-sonnet-4-6': 64_000,
  'claude-sonnet-4-5': 64_000,
  'claude-sonnet-4-0': 64_000,
  'claude-sonnet-4': 64_000,
  'claude-haiku-4-5': 64_000,
  'claude-3-7-sonnet': 128_000,
  'claude-3-5-sonnet': 8192,
  'claude-3-5-haiku': 8192,
  'claude-3-opus': 4096,
  'claude-3-haiku': 4096,
  'gpt-3.5-turbo': 4096,
  'gpt-4': 8192,
  'gpt-4-turbo': 4096,
  'gpt-4o': 16_384,
  'gpt-4o-mini': 16_384,
  'gpt-4.1': 32_768,
  'gpt-4.1-mini': 32_768,
  'gpt-4.1-nano': 32_768,
  'gpt-5': 128_000,
  'gpt-5-mini': 128_000,
  'gpt-5-nano': 128_000,
  'gpt-5.1': 128_000,
  'gpt-5.2': 128_000,
  o1: 100_000,
  o3: 100_000,
  'o3-mini': 100_000,
  'o4-mini': 100_000,
  'gemini-2.0-flash': 8192,
  'gemini-2.5-flash': 65_536,
  'gemini-2.5-pro': 65_536,
}

/** Models that read more than their window where a beta header or another host says so. */
const LONG_CONTEXT = new Set(['claude-sonnet-4-5', 'claude-sonnet-4-0', 'claude-sonnet-4'])
const LONG_CONTEXT_TOKENS = 1_000_000

/** OpenRouter's variants that choose a host or a price and leave the model what it is. Others may read or write more. */
const HARMLESS_VARIANTS = new Set(['free', 'nitro', 'floor', 'thinking', 'exacto', 'beta'])

/** The makers, whose entries state what the model itself can do; a reseller may offer less, never more. */
const MAKERS = ['anthropic', 'openai', 'google']

let windows: ReadonlyMap<string, number> | undefined

/**
 * The limits of exactly this model, whatever its prefix and date. A model that only begins like a known one has none, and so has one with a
 * variant that may change them: it may be able to do more.
 */
export function limitsFor(model: string): ModelLimits {
  windows ??= contextWindows()
  const { canonical } = readModelId(model)
  const name = withoutVariant(canonical)
  const variants = canonical.slice(name.length).split(':').slice(1)
  if (!variants.every((variant) => HARMLESS_VARIANTS.has(variant))) return {}
  const known = windows.has(name) || Object.hasOwn(MAX_OUTPUT_TOKENS, name) ? name : withoutDate(name)
  const contextTokens = windows.get(known)
  const maxOutputTokens = Object.hasOwn(MAX_OUTPUT_TOKENS, known) ? MAX_OUTPUT_TOKENS[known] : undefined
  return { ...(contextTokens !== undefined && { contextTokens }), ...(maxOutputTokens !== undefined && { maxOutputTokens }) }
}

/**
 * The limits where the model's long context can be had.
 * @param isAskedFor true when the caller asks for it by name, which is believed of any model
 */
export function longLimitsFor(model: string, isAskedFor: boolean): ModelLimits {
  const limits = limitsFor(model)
  const name = withoutDate(withoutVariant(readModelId(model).canonical))
  if (limits.contextTokens === undefined || !(isAskedFor || LONG_CONTEXT.has(name))) return limits
  return { ...limits, contextTokens: Math.max(limits.contextTokens, LONG_CONTEXT_TOKENS) }
}

function contextWindows(): Map<string, number> {
  const found = new Map<string, number>()
  for (const provider of bundledProviders()) {
    if (!MAKERS.includes(provider.id)) continue
    for (const model of provider.models) {
      const name = canonicalName(model.id.toLowerCase()).replace(/-latest$/, '')
      if (model.context_window !== undefined) found.set(name, Math.max(model.context_window, found.get(name) ?? 0))
    }
  }
  return found
}
