import { outputIn } from './output.ts'
import type { RouteKind } from './routes.ts'
import { type SseEvent, SseSplitter } from './sse.ts'
import { terminalEvents } from './terminal.ts'
import { mergeUsage, type RawUsage } from './usage.ts'

/** What an answer has told about itself so far. */
export type Seen = {
  usage: RawUsage | null
  /** The usage is the last word on the call. */
  isFinal: boolean
  /** Pieces of output, and the length of their text: what an output whose count never came is estimated from. */
  pieces: number
  textBytes: number
  /** The part of it that is not words, and may have fewer tokens than its length says. */
  opaqueBytes: number
  /** Other passes or models worked on it, whose tokens only the final usage has. */
  hasOtherPasses: boolean
  /** The service tier that the provider says it used. */
  tier: string | null
  /** The provider reported an error inside its answer. */
  failed: boolean
  /** Everything it has to say has been said, also when the connection breaks afterwards. */
  isComplete: boolean
}

/** Reads an answer while it is forwarded. */
export type AnswerReader = {
  readonly seen: Seen
  /** @returns what goes to the client now; null for nothing */
  push(chunk: Buffer): Buffer | null
  end(): Buffer | null
  /** What makes the stream end properly for the client's parser when it is cut here. */
  terminal(): Buffer
}

type Json = Readonly<Record<string, unknown>>
const isObject = (value: unknown): value is Json => typeof value === 'object' && value !== null && !Array.isArray(value)
/** What is known of an answer before its first byte. */
export const nothingSeen = (): Seen => ({
  usage: null,
  isFinal: false,
  pieces: 0,
  textBytes: 0,
  opaqueBytes: 0,
  hasOtherPasses: false,
  tier: null,
  failed: false,
  isComplete: false,
})

/** What the terminal events of a cut stream are made from. */
export type StreamState = { readonly kind: RouteKind; first: Json | null; sequence: number; openBlocks: Set<number> }

/**
 * Reads a server-sent event stream. Bytes go on as they come, unless whole events are needed: to hide the event that only we asked for,
 * or to be able to end between two.
 */
export class StreamReader implements AnswerReader {
  readonly seen = nothingSeen()
  readonly #state: StreamState
  readonly #hidesUsage: boolean
  readonly #wholeEvents: boolean
  readonly #splitter = new SseSplitter()
  /** Of `responses`, by the item's place: how many bytes of it came in pieces. */
  readonly #inPieces = new Map<unknown, number>()

  constructor(kind: RouteKind, options: { hidesUsage: boolean; wholeEvents: boolean }) {
    this.#state = { kind, first: null, sequence: 0, openBlocks: new Set() }
    this.#hidesUsage = options.hidesUsage
    this.#wholeEvents = options.wholeEvents || options.hidesUsage
  }

  push(chunk: Buffer): Buffer | null {
    const events = this.#splitter.push(chunk)
    if (this.#wholeEvents) return this.#keep(events)
    for (const event of events) this.#readEvent(event)
    return chunk
  }

  end(): Buffer | null {
    const last = this.#splitter.end()
    if (last === null) return null
    const isOurs = this.#readEvent(last) && this.#hidesUsage
    // Without whole events its bytes have gone on already.
    return this.#wholeEvents && !isOurs ? last.bytes : null
  }

  terminal(): Buffer {
    return terminalEvents(this.#state)
  }

  /** @returns those events of these that are the client's, in one piece again */
  #keep(events: readonly SseEvent[]): Buffer | null {
    let kept: Buffer | null = null
    let more: Buffer[] | null = null
    for (const event of events) {
      if (this.#readEvent(event) && this.#hidesUsage) continue
      if (kept === null) kept = event.bytes
      else if (more === null) more = [kept, event.bytes]
      else more.push(event.bytes)
    }
    return more === null ? kept : Buffer.concat(more)
  }

  /** @returns true for the event that exists only because usage was asked for */
  #readEvent({ data }: SseEvent): boolean {
    if (data === null || data.length === 0) return false
    const { seen } = this
    if (data[0] !== 0x7b) {
      if (data.includes('[DONE]')) seen.isComplete = true
      else this.#countText(data.length)
      return false
    }
    const event = parse(data)
    if (event === null) {
      this.#countText(data.length)
      return false
    }
    this.#state.first ??= event
    if (this.#state.kind === 'messages') this.#readMessages(event)
    else if (this.#state.kind === 'responses') this.#readResponses(event)
    else return this.#readChat(event)
    return false
  }

  #countText(bytes: number, opaque = 0): void {
    this.seen.pieces++
    this.seen.textBytes += bytes
    this.seen.opaqueBytes += opaque
  }

  /** @returns how long it is */
  #countOutput(piece: unknown): number {
    const { bytes, opaque } = outputIn(piece)
    if (bytes > 0) this.#countText(bytes, opaque)
    return bytes
  }

  #readChat(event: Json): boolean {
    const { seen } = this
    if (event.error !== undefined && event.error !== null) seen.failed = true
    seen.usage = mergeUsage(seen.usage, event.usage)
    const choices = Array.isArray(event.choices) ? event.choices : []
    if (typeof event.service_tier === 'string') seen.tier = event.service_tier
    for (const choice of choices) if (isObject(choice)) this.#countOutput(choice.delta)
    const isUsageOnly = Array.isArray(event.choices) && choices.length === 0 && isObject(event.usage)
    if (isUsageOnly) seen.isFinal = true
    return isUsageOnly
  }

  #readResponses(event: Json): void {
    const { seen } = this
    const { type, response, output_index } = event
    if (isObject(response) && typeof response.service_tier === 'string') seen.tier = response.service_tier
    if (typeof event.sequence_number === 'number') this.#state.sequence = event.sequence_number
    if (type === 'response.completed' || type === 'response.incomplete' || type === 'response.failed') {
      seen.isComplete = true
      if (type === 'response.failed') seen.failed = true
      if (isObject(response) && isObject(response.usage)) {
        seen.usage = mergeUsage(seen.usage, response.usage)
        seen.isFinal = true
      }
    } else if (type === 'error') seen.failed = true
    else if (type === 'response.output_item.done') this.#countRest(event.item, output_index)
    else if (event.delta !== undefined) {
      const bytes = this.#countOutput(event.delta)
      this.#inPieces.set(output_index, (this.#inPieces.get(output_index) ?? 0) + bytes)
    }
  }

  /** What of an item did not come in pieces: some kinds come whole. */
  #countRest(item: unknown, place: unknown): void {
    const rest = outputIn(item).bytes - (this.#inPieces.get(place) ?? 0)
    this.#inPieces.delete(place)
    if (rest > 0) this.#countText(rest, rest)
  }

  #readMessages(event: Json): void {
    const { seen } = this
    const { type, index } = event
    if (type === 'message_start' && isObject(event.message)) seen.usage = mergeUsage(seen.usage, event.message.usage)
    else if (type === 'content_block_start') {
      if (typeof index === 'number') this.#state.openBlocks.add(index)
      this.#readBlock(event.content_block)
    } else if (type === 'content_block_stop' && typeof index === 'number') this.#state.openBlocks.delete(index)
    else if (type === 'content_block_delta') this.#countOutput(event.delta)
    else if (type === 'message_delta') {
      seen.usage = mergeUsage(seen.usage, event.usage)
      if (isObject(event.usage)) seen.isFinal = true
    } else if (type === 'message_stop') seen.isComplete = true
    else if (type === 'error') seen.failed = true
  }

  /** A block may start with some of its content. Of one that the model does not write itself in one go, other passes are billed too. */
  #readBlock(block: unknown): void {
    if (!isObject(block)) return
    if (WRITTEN_BLOCKS.has(block.type)) this.#countOutput(block)
    else this.seen.hasOtherPasses = true
  }
}

const WRITTEN_BLOCKS: ReadonlySet<unknown> = new Set(['text', 'thinking', 'redacted_thinking', 'tool_use'])

/** Longest plain answer that is read as a whole; of a longer one only the end, where the usage stands. */
const MAX_PLAIN_BYTES = 16 * 1024 * 1024
const TAIL_BYTES = 16 * 1024

/** Reads an answer that is one JSON document. */
export class PlainReader implements AnswerReader {
  readonly seen = nothingSeen()
  readonly #isTailEnough: boolean
  #chunks: Buffer[] = []
  #bytes = 0

  /** The answer to an embeddings call is numbers and, at its end, the usage: nothing before can be mistaken for it. */
  constructor(kind: RouteKind) {
    this.#isTailEnough = kind === 'embeddings'
  }

  push(chunk: Buffer): Buffer {
    this.#chunks.push(chunk)
    this.#bytes += chunk.length
    if (this.#bytes > (this.#isTailEnough ? 4 * TAIL_BYTES : MAX_PLAIN_BYTES)) {
      const tail = Buffer.from(Buffer.concat(this.#chunks).subarray(-TAIL_BYTES))
      this.#chunks = [tail]
      this.#bytes = tail.length
    }
    return chunk
  }

  end(): null {
    const bytes = Buffer.concat(this.#chunks)
    const answer: Json = parse(bytes) ?? { usage: usageAtEnd(bytes) }
    this.#chunks = []
    // A response that is still to be made has used nothing yet.
    const isPending = answer.status === 'queued' || answer.status === 'in_progress'
    this.seen.usage = isPending ? null : mergeUsage(null, answer.usage)
    if (typeof answer.service_tier === 'string') this.seen.tier = answer.service_tier
    this.seen.isFinal = this.seen.usage !== null
    this.seen.isComplete = true
    return null
  }

  terminal(): Buffer {
    return Buffer.alloc(0)
  }
}

function parse(bytes: Buffer): Json | null {
  try {
    const value: unknown = JSON.parse(bytes.toString('utf8'))
    return isObject(value) ? value : null
  } catch {
    return null
  }
}

function usageAtEnd(bytes: Buffer): unknown {
  const text = bytes.toString('utf8')
  const start = text.lastIndexOf('"usage"')
  const [, found] = /^"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})/.exec(start === -1 ? '' : text.slice(start)) ?? []
  return found === undefined ? null : parse(Buffer.from(found))
}
