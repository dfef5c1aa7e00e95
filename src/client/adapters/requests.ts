import { isObject, parsed } from '../errors.ts'

/** A request to a provider that costs by the token. */
export type PricedRequest = {
  readonly surface: 'openai' | 'anthropic'
  readonly model: string
  readonly estimatedTokens: number
  readonly estimatedInputTokens?: number
  /** The body to send instead, where a stream has to be asked for its usage. */
  readonly body?: string
}

export type Estimates = {
  /** Most output tokens of a request that names no limit of its own; 4,096. */
  readonly maxTokens?: number
  /** Input tokens of a request body; by default its text in UTF-8 bytes, which the common tokenizers do not exceed. */
  readonly estimateInput?: (body: Record<string, unknown>) => number
}

export const DEFAULT_MAX_TOKENS = 4_096
/** A picture or file that travels as base64 says nothing by its length. */
const ATTACHMENT_TOKENS = 2_000
/** What the frame around each message costs, amply. */
export const MESSAGE_TOKENS = 20

/** Reads what a request would cost; null when it is none of the calls whose price is known by model and tokens. */
export function pricedRequest(url: string, method: string, body: unknown, estimates: Estimates): PricedRequest | null {
  if (method.toUpperCase() !== 'POST' || typeof body !== 'string') return null
  const kind = /\/(chat\/completions|completions|responses|embeddings|messages)\/?$/.exec(new URL(url).pathname)?.[1]
  const request = kind === undefined ? undefined : parsed(body)
  if (kind === undefined || !isObject(request) || typeof request.model !== 'string') return null
  const { model } = request
  const input = Math.max(1, Math.ceil((estimates.estimateInput ?? inputBound)(request)))
  if (kind === 'embeddings') return { surface: 'openai', model, estimatedTokens: input }
  const limit = request.max_completion_tokens ?? request.max_output_tokens ?? request.max_tokens
  const answers = kind !== 'responses' && typeof request.n === 'number' ? request.n : 1
  const most = typeof limit === 'number' ? limit : (estimates.maxTokens ?? DEFAULT_MAX_TOKENS)
  const asksForUsage = kind === 'chat/completions' || kind === 'completions'
  return {
    surface: kind === 'messages' ? 'anthropic' : 'openai',
    model,
    estimatedTokens: Math.max(1, Math.ceil(most * answers)),
    estimatedInputTokens: input,
    ...(asksForUsage && request.stream === true && !hasUsage(request) && { body: withUsage(request) }),
  }
}

const hasUsage = ({ stream_options }: Record<string, unknown>): boolean =>
  isObject(stream_options) && stream_options.include_usage === true

const withUsage = (request: Record<string, unknown>): string =>
  JSON.stringify({
    ...request,
    stream_options: { ...(isObject(request.stream_options) && request.stream_options), include_usage: true },
  })

/** A bound on the input: every text in it, a token a byte. */
function inputBound(request: Record<string, unknown>): number {
  const { messages, input, prompt, system, instructions, tools, functions, response_format, text } = request
  const parts = [messages, input, prompt, system, instructions, tools, functions, response_format, text]
  return parts.reduce<number>((sum, part) => sum + boundOf(part), Array.isArray(messages) ? messages.length * MESSAGE_TOKENS : 0)
}

/** The most tokens that any texts in a value can make. */
export function boundOf(value: unknown): number {
  // A number is a token of a prompt that was tokenized already.
  if (typeof value === 'number') return 1
  if (typeof value === 'string') return isAttachment(value) ? ATTACHMENT_TOKENS : bytesOf(value)
  if (Array.isArray(value)) return value.reduce<number>((sum, one) => sum + boundOf(one), 0)
  if (value instanceof Uint8Array) return ATTACHMENT_TOKENS
  if (!isObject(value)) return 0
  return Object.entries(value).reduce((sum, [name, one]) => sum + name.length + boundOf(one), 0)
}

const isAttachment = (text: string): boolean =>
  text.length > 1_000 && (text.startsWith('data:') || /^[A-Za-z0-9+/_=-]{1000}/.test(text))

const encoder = new TextEncoder()
const bytesOf = (text: string): number => encoder.encode(text).length
