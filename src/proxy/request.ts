import { limitsFor } from '../prices/limits.ts'
import { ProxyError } from './answers.ts'
import { type Body, type Bound, boundOf } from './bound.ts'
import { type Edit, notJson, scanObject, splice } from './json.ts'
import type { Route } from './routes.ts'
import type { Choice, Upstreams } from './upstreams.ts'

/** A call as it will be forwarded. */
export type PlannedCall = {
  /** The model as the caller names it. */
  readonly model: string
  /** Further models that the provider may fall back to; they may be dearer. */
  readonly alternatives: readonly string[]
  readonly choice: Choice
  readonly isStream: boolean
  readonly bytes: Buffer
  /** The stream's usage is asked for by us and its extra event is none of the client's business. */
  readonly hidesUsage: boolean
  readonly bound: Bound
}

const MAX_MODEL_LENGTH = 128
const MAX_ALTERNATIVES = 16

/**
 * Reads a request and prepares what is forwarded: the same bytes, but for the model's prefix and the wish for usage.
 * @throws ProxyError when it cannot be understood well enough to be priced
 */
export function planCall(route: Route, bytes: Buffer, upstreams: Upstreams): PlannedCall {
  const { fields } = scanObject(bytes)
  const body = parseBody(bytes)
  if (fields === null) throw invalid('A field occurs twice in the body. Send each once.')
  const { model } = body
  if (typeof model !== 'string' || model === '') throw invalid('model is required: the id of the model to call.')
  if (!isStorable(model)) throw invalid(`model must be at most ${MAX_MODEL_LENGTH} characters of valid text.`)
  const choice = upstreams.choose(route, model)
  const edits: Edit[] = []
  const at = fields.get('model')
  if (choice.model !== model && at !== undefined) edits.push({ ...at, text: JSON.stringify(choice.model) })
  const isStream = body.stream === true
  const asksForUsage = route.kind === 'chat' && isStream && choice.upstream.takesUsageOption && !hasUsage(body)
  if (asksForUsage) edits.push(usageEdit(body, fields, bytes))
  return {
    model,
    alternatives: alternativesOf(body),
    choice,
    isStream,
    bytes: splice(bytes, edits),
    hidesUsage: asksForUsage,
    bound: boundOf(route.kind, body, bytes.length, model, limitsFor(model)),
  }
}

function parseBody(bytes: Buffer): Body {
  let body: unknown
  try {
    body = JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw notJson(cause)
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw invalid('The body must be a JSON object.')
  return body as Body
}

const invalid = (message: string): ProxyError => new ProxyError(400, 'invalid_params', message)

const isStorable = (model: string): boolean => model.length <= MAX_MODEL_LENGTH && !model.includes('\0') && model.isWellFormed()

function hasUsage(body: Body): boolean {
  const options = body.stream_options
  return typeof options === 'object' && options !== null && 'include_usage' in options && options.include_usage === true
}

function usageEdit(body: Body, fields: ReadonlyMap<string, { start: number; end: number }>, bytes: Buffer): Edit {
  const at = fields.get('stream_options')
  const options = typeof body.stream_options === 'object' ? body.stream_options : {}
  if (at !== undefined) return { ...at, text: JSON.stringify({ ...options, include_usage: true }) }
  const end = bytes.lastIndexOf(0x7d)
  return { start: end, end, text: ',"stream_options":{"include_usage":true}' }
}

/** OpenRouter's `models` and Anthropic's `fallbacks`. */
function alternativesOf(body: Body): string[] {
  const named = [body.models, body.fallbacks].flatMap((list) => (Array.isArray(list) ? (list as unknown[]) : []))
  const models = named.map((item) => (typeof item === 'object' && item !== null && 'model' in item ? item.model : item))
  if (models.length > MAX_ALTERNATIVES) throw invalid(`At most ${MAX_ALTERNATIVES} fallback models can be named.`)
  return models.filter((model): model is string => typeof model === 'string').filter(isStorable)
}
