import { isObject } from './errors.ts'
import type { Usage } from './types.ts'

const count = (value: unknown): number | undefined =>
  typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 ? value : undefined
const inside = (object: unknown, ...names: string[]): number | undefined =>
  isObject(object) ? names.map((name) => count(object[name])).find((value) => value !== undefined) : undefined

/**
 * What a provider's answer says it used, in the words of OpenAI (chat, responses, embeddings), Anthropic (messages, with its cache
 * fields), the AI SDK or LangChain. Takes the answer or its usage object. Null where nothing is said.
 */
export function usageOf(answer: unknown): Usage | null {
  if (!isObject(answer)) return null
  // An agent's run of several steps has a total beside the usage of its last step.
  for (const holder of [answer.totalUsage, answer.usage, answer.usage_metadata]) if (isObject(holder)) return usageOf(holder)
  if (isObject(answer.response) && isObject(answer.response.usage)) return usageOf(answer.response)
  return (
    aiSdkUsage(answer) ??
    ('prompt_tokens' in answer || 'input_tokens' in answer
      ? isAnthropic(answer)
        ? anthropicUsage(answer)
        : openaiUsage(answer)
      : null)
  )
}

/** Anthropic counts what was cached beside `input_tokens`; the others count it in. */
const isAnthropic = (usage: Record<string, unknown>): boolean =>
  'cache_read_input_tokens' in usage || 'cache_creation_input_tokens' in usage || 'cache_creation' in usage

function anthropicUsage(usage: Record<string, unknown>): Usage | null {
  const plain = count(usage.input_tokens)
  const outputTokens = count(usage.output_tokens)
  if (plain === undefined || outputTokens === undefined) return null
  const read = count(usage.cache_read_input_tokens) ?? 0
  const hour = inside(usage.cache_creation, 'ephemeral_1h_input_tokens') ?? 0
  const written =
    inside(usage.cache_creation, 'ephemeral_5m_input_tokens') ??
    Math.max(0, (count(usage.cache_creation_input_tokens) ?? 0) - hour)
  return withParts({ inputTokens: plain + read + written + hour, outputTokens }, read, written, hour)
}

function openaiUsage(usage: Record<string, unknown>): Usage | null {
  const inputTokens = count(usage.prompt_tokens) ?? count(usage.input_tokens)
  if (inputTokens === undefined) return null
  const stated = count(usage.completion_tokens) ?? count(usage.output_tokens)
  // Some compatible endpoints leave the thinking out of the completion and have it in the total only. Embeddings have a total alone.
  const total = count(usage.total_tokens) ?? 0
  const outputTokens = Math.max(stated ?? 0, total - inputTokens)
  if (stated === undefined && usage.total_tokens === undefined) return null
  const details = usage.prompt_tokens_details ?? usage.input_tokens_details ?? usage.input_token_details
  const read = inside(details, 'cached_tokens', 'cache_read') ?? 0
  const written = inside(details, 'cache_write_tokens', 'cache_creation') ?? 0
  return withParts({ inputTokens, outputTokens }, read, written, 0)
}

function aiSdkUsage(usage: Record<string, unknown>): Usage | null {
  const inputTokens = count(usage.inputTokens) ?? inside(usage.inputTokens, 'total') ?? count(usage.tokens)
  if (inputTokens === undefined) return null
  const outputTokens =
    count(usage.outputTokens) ?? inside(usage.outputTokens, 'total') ?? (usage.tokens === undefined ? undefined : 0)
  if (outputTokens === undefined) return null
  const read =
    inside(usage.inputTokens, 'cacheRead') ??
    inside(usage.inputTokenDetails, 'cacheReadTokens') ??
    count(usage.cachedInputTokens) ??
    0
  const written = inside(usage.inputTokens, 'cacheWrite') ?? inside(usage.inputTokenDetails, 'cacheWriteTokens') ?? 0
  return withParts({ inputTokens, outputTokens }, read, written, 0)
}

/** Parts that exceed the whole are no parts: the whole is then charged at its full price. */
function withParts(usage: Usage, read: number, written: number, hour: number): Usage {
  if (read + written + hour > usage.inputTokens) return usage
  return {
    ...usage,
    ...(read > 0 && { cachedInputTokens: read }),
    ...(written > 0 && { cacheWriteInputTokens: written }),
    ...(hour > 0 && { cacheWrite1hInputTokens: hour }),
  }
}

/** Collects the usage of a streamed answer from its events. */
export class StreamUsage {
  readonly #read: (event: unknown) => Usage | null
  #anthropic: Record<string, unknown> = {}
  #last: Usage | null = null
  #isComplete = false

  /** @param read what the caller knows better; the last event for which it is not null counts */
  constructor(read?: (event: unknown) => Usage | null) {
    this.#read = read ?? ((event) => this.#builtIn(event))
  }

  add(event: unknown): void {
    const usage = this.#read(event)
    if (usage === null) return
    this.#last = usage
    this.#isComplete = isLast(event)
  }

  /** @param ended whether the stream came to its end; where it was left earlier, figures that may still grow are none */
  result(ended: boolean): Usage | null {
    return ended || this.#isComplete ? this.#last : null
  }

  #builtIn(event: unknown): Usage | null {
    if (!isObject(event)) return null
    if (event.type === 'message_start' && isObject(event.message)) this.#keep(event.message.usage)
    else if (event.type === 'message_delta') this.#keep(event.usage)
    else return usageOf(event)
    return anthropicUsage(this.#anthropic)
  }

  /** Cumulative wherever it is repeated: the last value of a field stands. */
  #keep(usage: unknown): void {
    if (!isObject(usage)) return
    for (const [name, value] of Object.entries(usage)) if (value !== null) this.#anthropic[name] = value
  }
}

/** Whether an event that carries usage is the one that carries all of it. */
function isLast(event: unknown): boolean {
  if (!isObject(event)) return false
  if (event.type === 'message_start') return false
  if (event.type === 'message_delta') return isObject(event.delta) && typeof event.delta.stop_reason === 'string'
  if (!Array.isArray(event.choices)) return true
  return (
    event.choices.length === 0 || event.choices.some((choice) => isObject(choice) && typeof choice.finish_reason === 'string')
  )
}
