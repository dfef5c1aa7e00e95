import type { ModelLimits } from '../prices/limits.ts'
import { type Body, type Content, isAbsent, isObject, toolsOf } from './content.ts'
import type { RouteKind } from './routes.ts'

/** The most a call can use; what its reservation is made of. */
export type Bound = {
  readonly inputTokens: number
  readonly outputTokens: number
  /** True when neither the caller nor the model sets a maximum: the output is then assumed, and may outrun it. */
  readonly isOutputAssumed: boolean
  /** True when the model may produce tokens that never show in the answer. */
  readonly mayReasonUnseen: boolean
  /** What the tokens cost more than the list price, in percent of it: priority processing, a region, a fast mode. */
  readonly premium_percent: number
  /** Searches at the provider, which it bills by the piece. */
  readonly webSearches: number
}

/** For a model of which nobody knows how much it writes or reads. More than almost all of them can. */
export const ASSUMED_OUTPUT_TOKENS = 131_072
export const ASSUMED_CONTEXT_TOKENS = 1_048_576
/** For a search tool without `max_uses`. */
export const ASSUMED_WEB_SEARCHES = 20

/** The dearest image of each model family (high detail, full size). */
const TOKENS_PER_IMAGE = 5_000
const TOKENS_PER_IMAGE_MINI = 50_000
const MAX_TOKENS = 1_000_000_000

/**
 * The worst case of a call to one model, without a tokenizer: hostile input makes those block for seconds. Input that the body only refers
 * to (files, earlier responses, what server-side tools read) may fill the context window.
 * @param body with what it sets for this model, where it names several
 */
export function boundOf(kind: RouteKind, body: Body, content: Content, model: string, limits: ModelLimits): Bound {
  const { contextTokens } = limits
  const perImage = /gpt-4o-mini/i.test(model) ? TOKENS_PER_IMAGE_MINI : TOKENS_PER_IMAGE
  const written = Math.min(content.textTokens + content.images * perImage, MAX_TOKENS)
  const isOpaque = content.isOpaque || searchesByName(model)
  const window = contextTokens ?? ASSUMED_CONTEXT_TOKENS
  const premium_percent = premiumOf(body)
  // An embeddings call has many inputs, each with a window of its own.
  if (kind === 'embeddings')
    return { ...NO_OUTPUT, inputTokens: isOpaque ? Math.max(written, window) : written, premium_percent, webSearches: 0 }
  if (kind === 'count_tokens') return { ...NO_OUTPUT, inputTokens: 0, premium_percent: 100, webSearches: 0 }
  const inputTokens = isOpaque ? window : Math.min(written, contextTokens ?? MAX_TOKENS)
  const asked = askedOutput(kind, body)
  const modelMax =
    limits.maxOutputTokens ?? (contextTokens === undefined ? undefined : Math.min(contextTokens, ASSUMED_OUTPUT_TOKENS))
  const perChoice = Math.min(asked ?? modelMax ?? ASSUMED_OUTPUT_TOKENS, limits.maxOutputTokens ?? MAX_TOKENS)
  const choices = kind === 'chat' ? Math.max(countOf(body.n) ?? 1, countOf(body.best_of) ?? 1) : 1
  return {
    inputTokens: inputTokens + (mayCompact(body) ? window : 0),
    outputTokens: Math.min(perChoice * choices, MAX_TOKENS),
    isOutputAssumed: asked === undefined && limits.maxOutputTokens === undefined,
    mayReasonUnseen: mayReasonUnseen(body, model),
    premium_percent,
    webSearches: kind === 'messages' ? webSearchesOf(body) : 0,
  }
}

/** What a call can use of whichever of its models answers. */
export function largestOf(bounds: readonly [Bound, ...Bound[]]): Bound {
  return bounds.reduce((a, b) => ({
    inputTokens: Math.max(a.inputTokens, b.inputTokens),
    outputTokens: Math.max(a.outputTokens, b.outputTokens),
    isOutputAssumed: a.isOutputAssumed || b.isOutputAssumed,
    mayReasonUnseen: a.mayReasonUnseen || b.mayReasonUnseen,
    premium_percent: Math.max(a.premium_percent, b.premium_percent),
    webSearches: Math.max(a.webSearches, b.webSearches),
  }))
}

const NO_OUTPUT = { outputTokens: 0, isOutputAssumed: false, mayReasonUnseen: false }

/** A positive whole number that JSON wrote as a number. */
export const countOf = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? Math.min(value, MAX_TOKENS) : undefined

function askedOutput(kind: RouteKind, body: Body): number | undefined {
  if (kind === 'responses') return countOf(body.max_output_tokens)
  const asked = [countOf(body.max_tokens), kind === 'chat' ? countOf(body.max_completion_tokens) : undefined]
  const known = asked.filter((value) => value !== undefined)
  return known.length === 0 ? undefined : Math.max(...known)
}

/** OpenRouter's `:online` puts what it finds into the prompt, `@preset/…` what was stored there. */
const searchesByName = (model: string): boolean => /:online(:|$)|@preset\//i.test(model)

/** A summary reads what there is once more. What only clears reads nothing. */
function mayCompact({ context_management: management }: Body): boolean {
  if (isAbsent(management)) return false
  const edits = isObject(management) ? management.edits : management
  return !Array.isArray(edits) || edits.some((edit) => !(isObject(edit) && /^clear_/.test(String(edit.type))))
}

function webSearchesOf(body: Body): number {
  const tools = toolsOf(body).filter(({ type }) => typeof type === 'string' && type.startsWith('web_search'))
  return Math.min(
    tools.reduce((sum, tool) => sum + (countOf(tool.max_uses) ?? ASSUMED_WEB_SEARCHES), 0),
    MAX_TOKENS,
  )
}

const REASONING_MODEL = /(^|\/)(o\d|gpt-[5-9]|gpt-oss|gemini-(2\.5|[3-9])|deepseek-r|grok-[3-9]|qwq|qwen3)|reason|think/i

function mayReasonUnseen(body: Body, model: string): boolean {
  if (body.reasoning !== undefined || body.reasoning_effort !== undefined) return true
  if (isObject(body.thinking) && body.thinking.type !== 'disabled') return true
  return REASONING_MODEL.test(model)
}

/** As the providers' price pages say; where the factor differs by model, the highest. */
export function premiumOf(body: Body): number {
  const tier = body.service_tier === 'priority' ? 2 : 1
  const speed = body.speed === 'fast' ? 6 : 1
  const region_percent = typeof body.inference_geo === 'string' && body.inference_geo !== 'global' ? 110 : 100
  return tier * speed * region_percent
}
