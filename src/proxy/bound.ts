import type { ModelLimits } from '../prices/limits.ts'
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
}

export type Body = Readonly<Record<string, unknown>>

/** For a model of which nobody knows how much it writes or reads. More than almost all of them can. */
export const ASSUMED_OUTPUT_TOKENS = 131_072
export const ASSUMED_CONTEXT_TOKENS = 1_048_576

/** What providers add around a message, and around tools and a whole request. */
const TOKENS_PER_MESSAGE = 16
const TOKENS_PER_REQUEST = 1024
/** The dearest image of each model family (high detail, full size). */
const TOKENS_PER_IMAGE = 5_000
const TOKENS_PER_IMAGE_MINI = 50_000
const MAX_TOKENS = 1_000_000_000

/**
 * The worst case of a call, without a tokenizer: hostile input makes those block for seconds. Byte-level BPE makes at most one token of a
 * byte, and the body is at least as long as the text in it; inline images count by the piece. Input that the body only refers to
 * (files, earlier responses, what server-side tools read) may fill the context window.
 */
export function boundOf(kind: RouteKind, body: Body, bytes: number, model: string, limits: ModelLimits): Bound {
  const contextTokens = limits.contextTokens
  const content = [body.messages, body.input, body.system]
  const media = mediaIn(content)
  const isOpaque = media.isOpaque || refersElsewhere(body)
  const perImage = /gpt-4o-mini/i.test(model) ? TOKENS_PER_IMAGE_MINI : TOKENS_PER_IMAGE
  const messages = content.reduce((sum: number, part) => sum + (Array.isArray(part) ? part.length : 0), 1)
  const written = bytes - media.bytes + media.images * perImage + messages * TOKENS_PER_MESSAGE + TOKENS_PER_REQUEST
  // An embeddings call has many inputs, each with a window of its own.
  if (kind === 'embeddings') return { ...NO_OUTPUT, inputTokens: Math.min(written, MAX_TOKENS), premium_percent: premiumOf(body) }
  if (kind === 'count_tokens') return { ...NO_OUTPUT, inputTokens: 0, premium_percent: 100 }
  const inputTokens = isOpaque ? (contextTokens ?? ASSUMED_CONTEXT_TOKENS) : Math.min(written, contextTokens ?? MAX_TOKENS)
  const asked = askedOutput(kind, body)
  const modelMax =
    limits.maxOutputTokens ?? (contextTokens === undefined ? undefined : Math.min(contextTokens, ASSUMED_OUTPUT_TOKENS))
  const perChoice = Math.min(asked ?? modelMax ?? ASSUMED_OUTPUT_TOKENS, limits.maxOutputTokens ?? MAX_TOKENS)
  const choices = kind === 'chat' ? (countOf(body.n) ?? 1) : 1
  return {
    inputTokens,
    outputTokens: Math.min(perChoice * choices, MAX_TOKENS),
    isOutputAssumed: asked === undefined && limits.maxOutputTokens === undefined,
    mayReasonUnseen: mayReasonUnseen(body, model),
    premium_percent: premiumOf(body),
  }
}

const NO_OUTPUT = { outputTokens: 0, isOutputAssumed: false, mayReasonUnseen: false }

/** A positive whole number that JSON wrote as a number. */
const countOf = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? Math.min(value, MAX_TOKENS) : undefined

function askedOutput(kind: RouteKind, body: Body): number | undefined {
  if (kind === 'responses') return countOf(body.max_output_tokens)
  const asked = [countOf(body.max_tokens), kind === 'chat' ? countOf(body.max_completion_tokens) : undefined]
  const known = asked.filter((value) => value !== undefined)
  return known.length === 0 ? undefined : Math.max(...known)
}

const isObject = (value: unknown): value is Body => typeof value === 'object' && value !== null && !Array.isArray(value)

const IMAGES = new Set(['image', 'image_url', 'input_image'])
/** Parts whose tokens their bytes do not bound. */
const OPAQUE = new Set([
  'document',
  'file',
  'input_file',
  'input_audio',
  'audio',
  'video',
  'video_url',
  'container_upload',
  'item_reference',
])

function mediaIn(content: readonly unknown[]): { images: number; bytes: number; isOpaque: boolean } {
  let images = 0
  let bytes = 0
  let isOpaque = false
  const open: unknown[] = [...content]
  while (open.length > 0) {
    const part = open.pop()
    if (Array.isArray(part)) {
      // An embeddings input can be a million numbers: only what can hold something is looked into.
      for (const item of part) if (typeof item === 'object' && item !== null) open.push(item)
      continue
    }
    if (!isObject(part)) continue
    const { type } = part
    if (typeof type === 'string' && IMAGES.has(type)) {
      images++
      bytes += inlineBytes(part)
    } else if (typeof type === 'string' && OPAQUE.has(type) && !isPlainText(part)) isOpaque = true
    else for (const value of Object.values(part)) if (typeof value === 'object' && value !== null) open.push(value)
  }
  return { images, bytes, isOpaque }
}

/** The longest text in an image part is its data: base64, so as many bytes in the body as it has characters. */
function inlineBytes(part: Body): number {
  const source = isObject(part.source) ? part.source.data : undefined
  const url = isObject(part.image_url) ? part.image_url.url : part.image_url
  const data = typeof source === 'string' ? source : typeof url === 'string' && url.startsWith('data:') ? url : ''
  return data.length
}

const isPlainText = (part: Body): boolean =>
  isObject(part.source) && (part.source.type === 'text' || part.source.type === 'content')

const REFERENCES = [
  'previous_response_id',
  'conversation',
  'prompt',
  'mcp_servers',
  'container',
  'web_search_options',
  'plugins',
] as const
/** Tools that the caller runs itself; every other kind runs at the provider and reads what it likes. */
const CALLERS_TOOL = /^(function|custom|bash_|text_editor_|computer_|memory_)/

function refersElsewhere(body: Body): boolean {
  if (REFERENCES.some((name) => body[name] !== undefined && body[name] !== null)) return true
  if (!Array.isArray(body.tools)) return false
  return body.tools.some((tool) => isObject(tool) && typeof tool.type === 'string' && !CALLERS_TOOL.test(tool.type))
}

const REASONING_MODEL = /(^|\/)(o\d|gpt-[5-9]|gpt-oss|gemini-(2\.5|[3-9])|deepseek-r|grok-[3-9]|qwq|qwen3)|reason|think/i

function mayReasonUnseen(body: Body, model: string): boolean {
  if (body.reasoning !== undefined || body.reasoning_effort !== undefined) return true
  if (isObject(body.thinking) && body.thinking.type !== 'disabled') return true
  return REASONING_MODEL.test(model)
}

/** As the providers' price pages say; where the factor differs by model, the highest. */
function premiumOf(body: Body): number {
  const tier = body.service_tier === 'priority' ? 2 : 1
  const speed = body.speed === 'fast' ? 6 : 1
  const region_percent = typeof body.inference_geo === 'string' && body.inference_geo !== 'global' ? 110 : 100
  return tier * speed * region_percent
}
