import type { Transform } from 'node:stream'
import type { Dispatcher } from 'undici'
import type { Nanousd } from '../core/money.ts'
import { usdFromNanousd } from '../core/money.ts'
import { ProxyError } from './answers.ts'
import { decoderOf } from './body.ts'
import { writtenTokens } from './charge.ts'
import { downstreamHeaders, type Headers } from './headers.ts'
import { type AnswerReader, nothingSeen, PlainReader, type Seen, StreamReader } from './reader.ts'
import type { PlannedCall } from './request.ts'
import type { Route } from './routes.ts'

/** Where the answer goes: the client's connection. */
export type Sink = {
  start(status: number, headers: Record<string, string | string[]>, isStream: boolean): void
  /** @returns false when the client does not keep up; `onceDrained` then says when it has */
  write(chunk: Buffer): boolean
  onceDrained(go: () => void): void
  end(): void
  /** Breaks the connection off, so that the client does not take what it has got for the whole. */
  destroy(): void
  /** Called when the connection is gone, whether or not everything was sent. */
  onClosed(gone: () => void): void
  readonly isClosed: boolean
}

/** How a call ended. */
export type End =
  /** The provider sent everything. */
  | 'complete'
  /** The provider refused it; nothing was produced. */
  | 'refused'
  /** It never reached the provider. */
  | 'unreachable'
  /** The provider closed the connection without a word. */
  | 'reset'
  /** The provider's answer cannot be read as HTTP. */
  | 'garbled'
  /** The provider kept silent for too long. */
  | 'stalled'
  /** The answer broke off. */
  | 'broken'
  /** The client left. */
  | 'client_left'
  /** It was cut at its reservation. */
  | 'cut'
  /** This server stopped. */
  | 'stopped'

export type Ended = {
  readonly end: End
  readonly seen: Seen | null
  /** Whether the answer came as a stream whose pieces could be counted. */
  readonly isStream: boolean
  /** What to tell a client that has got nothing yet. */
  readonly failure: ProxyError | null
}

export type Target = {
  readonly origin: string
  /** With the query. */
  readonly path: string
  readonly headers: Record<string, string | string[]>
  readonly route: Route
  readonly plan: PlannedCall
}
export type CallOptions = { readonly dispatcher: Dispatcher; readonly cutoff: boolean }

/** Headers of a forwarded answer (docs/proxy.md). Absent for a call that is not charged. */
export type Reserved = {
  readonly id: string
  readonly estimate: Nanousd
  /** null: the database is away, and it is booked when it is back. */
  readonly remaining: Nanousd | null
}

/**
 * One forwarded call, from its request to the provider to the last byte for the client. Money is its caller's business.
 *
 * It is undici's handler itself: bytes go from the provider's parser to the client's connection without a stream between them, which would
 * cost more than the reading does (docs/decisions/0015).
 */
export class Call implements Dispatcher.DispatchHandler {
  readonly #target: Target
  readonly #sink: Sink
  readonly #options: CallOptions
  #reserved: Reserved | null = null
  #settle: { resolve(ended: Ended): void; reject(bug: unknown): void } | null = null
  /** Of the request under way: stops it, holds it up. */
  #provider: Dispatcher.DispatchController | null = null
  #answer: StartedAnswer | null = null
  /** Why it was given up, once it was. */
  #givenUp: 'client_left' | 'cut' | 'stopped' | null = null
  /** When the client stopped reading, on the process's own clock; null while it keeps up. */
  #blockedSince_ms: number | null = null

  constructor(target: Target, sink: Sink, options: CallOptions) {
    this.#target = target
    this.#sink = sink
    this.#options = options
  }

  /** For how long the client has not read what there is for it. */
  get blocked_ms(): number {
    return this.#blockedSince_ms === null ? 0 : performance.now() - this.#blockedSince_ms
  }

  /** Ends it from this side. */
  stop(): void {
    this.#giveUp('stopped')
    this.#sink.destroy()
  }

  /** Breaks the connection to a client that does not read. */
  dropClient(): void {
    this.#sink.destroy()
  }

  run(reserved: Reserved | null): Promise<Ended> {
    const { origin, path, headers, plan } = this.#target
    this.#reserved = reserved
    return new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
      this.#sink.onClosed(() => this.#clientLeft())
      this.#options.dispatcher.dispatch({ origin, path, method: 'POST', headers, body: plan.bytes }, this)
    })
  }

  onRequestStart(provider: Dispatcher.DispatchController): void {
    this.#provider = provider
    if (this.#givenUp !== null) this.#abort()
  }

  onResponseStart(_: unknown, status: number, headers: Headers): void {
    // What comes before the answer (103) is nobody's.
    if (status < 200) return
    try {
      const answer = this.#read(status, headers)
      this.#answer = answer
      const { isStream, decoder } = answer
      if (!this.#sink.isClosed) {
        const head = downstreamHeaders(headers, decoder !== null || (this.#target.plan.hidesUsage && isStream))
        this.#sink.start(status, { ...head, ...reservedHeaders(this.#reserved) }, isStream)
      }
      if (decoder !== null) this.#decode(decoder)
    } catch (bug) {
      this.#fail(bug)
    }
  }

  onResponseData(provider: Dispatcher.DispatchController, chunk: Buffer): void {
    const decoder = this.#answer?.decoder
    if (!decoder) this.#pass(chunk)
    else if (!decoder.write(chunk)) {
      provider.pause()
      decoder.once('drain', () => provider.resume())
    }
  }

  onResponseEnd(): void {
    const decoder = this.#answer?.decoder
    if (decoder) decoder.end()
    else this.#passEnd()
  }

  onResponseError(_: unknown, error: Error): void {
    if (this.#answer === null) this.#unanswered(error)
    else this.#finish(this.#givenUp ?? (isTimeout(error) ? 'stalled' : 'broken'))
  }

  #read(status: number, headers: Headers): StartedAnswer {
    const { plan, route } = this.#target
    const { decoder, isReadable } = decoderOf(headers['content-encoding'])
    const type = headers['content-type']
    const isEvents = type === undefined ? plan.isStream : /^text\/event-stream\b/i.test(String(type))
    const isStream = isEvents && isReadable
    if (status > 299) return { reader: null, isStream, decoder }
    const reader = isStream
      ? new StreamReader(route.kind, { hidesUsage: plan.hidesUsage, wholeEvents: this.#cuts })
      : new PlainReader(route.kind)
    return { reader, isStream, decoder }
  }

  #decode(decoder: Transform): void {
    decoder.on('data', (chunk: Buffer) => this.#pass(chunk))
    decoder.on('end', () => this.#passEnd())
    decoder.on('error', () => {
      this.#finish(this.#givenUp ?? 'broken')
      this.#abort()
    })
  }

  /** Only an output that nobody else bounds can outrun its reservation. */
  get #cuts(): boolean {
    return this.#options.cutoff && this.#target.plan.bound.isOutputAssumed
  }

  /** Passes a piece of the answer on as it comes. */
  #pass(chunk: Buffer): void {
    if (this.#settle === null || this.#answer === null) return
    const { reader } = this.#answer
    try {
      this.#send(reader === null ? chunk : reader.push(chunk))
      if (reader === null || !this.#isAtItsCap(reader)) return
      this.#send(reader.terminal())
      this.#giveUp('cut')
    } catch (bug) {
      this.#fail(bug)
    }
  }

  #passEnd(): void {
    if (this.#settle === null) return
    const reader = this.#answer?.reader
    try {
      if (reader && this.#givenUp === null) this.#send(reader.end())
      this.#finish(this.#givenUp ?? 'complete')
    } catch (bug) {
      this.#fail(bug)
    }
  }

  /** As fast as the client reads: what it does not take holds the provider up. */
  #send(piece: Buffer | null): void {
    const sink = this.#sink
    if (piece === null || sink.isClosed || sink.write(piece) || this.#blockedSince_ms !== null) return
    this.#blockedSince_ms = performance.now()
    // A decoder that is full holds the provider up by itself.
    this.#source?.pause()
    sink.onceDrained(() => this.#unblock())
  }

  #unblock(): void {
    if (this.#blockedSince_ms === null) return
    this.#blockedSince_ms = null
    this.#source?.resume()
  }

  get #source(): { pause(): void; resume(): void } | null {
    return this.#answer?.decoder ?? this.#provider
  }

  #isAtItsCap({ seen }: AnswerReader): boolean {
    if (!this.#cuts || seen.isComplete || seen.isFinal) return false
    return writtenTokens(this.#target.route.kind, seen) > this.#target.plan.bound.outputTokens
  }

  /** A stream ends with its client. A plain answer is paid for anyway: it is read to its end, so that what it cost is known. */
  #clientLeft(): void {
    if (this.#settle === null || this.#givenUp !== null) return
    if (this.#target.plan.isStream) this.#giveUp('client_left')
    this.#unblock()
  }

  #giveUp(why: 'client_left' | 'cut' | 'stopped'): void {
    this.#givenUp ??= why
    this.#abort()
  }

  /** The request's own error then ends it; one that waits for a connection is ended when it has one. */
  #abort(): void {
    this.#provider?.abort(new Error('the call was given up'))
  }

  #fail(bug: unknown): void {
    this.#settle?.reject(bug)
    this.#settle = null
    this.#abort()
  }

  #finish(end: End): void {
    const settle = this.#settle
    const answer = this.#answer
    if (settle === null || answer === null) return
    this.#settle = null
    if (end === 'complete' || end === 'cut') this.#sink.end()
    else this.#sink.destroy()
    const { reader, isStream, decoder } = answer
    decoder?.destroy()
    if (reader === null) settle.resolve({ end: 'refused', seen: null, isStream, failure: null })
    else settle.resolve({ end, seen: reader.seen, isStream, failure: null })
  }

  #unanswered(error: unknown): void {
    this.#settle?.resolve(this.#endedUnanswered(error))
    this.#settle = null
  }

  #endedUnanswered(error: unknown): Ended {
    const ended = (end: End, failure: ProxyError | null): Ended => ({ end, seen: null, isStream: false, failure })
    // A stream that was given up before it began has produced nothing that could be seen.
    if (this.#givenUp !== null)
      return this.#target.plan.isStream
        ? { end: this.#givenUp, seen: nothingSeen(), isStream: true, failure: null }
        : ended(this.#givenUp, null)
    const options = { cause: error }
    if (isTimeout(error))
      return ended(
        'stalled',
        new ProxyError(
          504,
          'upstream_timeout',
          'The provider did not answer in time. It may have worked all the while, so the call costs what was reserved.',
          options,
        ),
      )
    if (isUnreachable(error))
      return ended('unreachable', new ProxyError(502, 'upstream_unreachable', 'The provider cannot be reached.', options))
    if (isGarbled(error))
      return ended(
        'garbled',
        new ProxyError(
          502,
          'upstream_garbled',
          "The provider's answer cannot be read: its head is too long or is not HTTP. The call may have been used, and costs what was reserved.",
          options,
        ),
      )
    return ended('reset', new ProxyError(502, 'upstream_reset', 'The provider closed the connection without an answer.', options))
  }
}

/** An answer whose head has come. */
type StartedAnswer = {
  /** Null for a refusal, which costs nothing. */
  readonly reader: AnswerReader | null
  readonly isStream: boolean
  /** What unpacks its body; null when that goes on as it comes. */
  readonly decoder: Transform | null
}

function reservedHeaders(reserved: Reserved | null): Record<string, string> {
  if (reserved === null) return {}
  return {
    'x-gvnr-clearance-id': reserved.id,
    'x-gvnr-estimate-usd': decimal(reserved.estimate),
    ...(reserved.remaining === null ? { 'x-gvnr-deferred': 'true' } : { 'x-gvnr-remaining-usd': decimal(reserved.remaining) }),
  }
}

/** Dollars with six places at most, never in exponents. */
const decimal = (amount: Nanousd): string => String(Number(usdFromNanousd(amount).toFixed(6)))

const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
const TIMEOUTS = new Set(['UND_ERR_HEADERS_TIMEOUT', 'UND_ERR_BODY_TIMEOUT'])
const isTimeout = (error: unknown): boolean => TIMEOUTS.has(codeOf(error))

/** What came was an answer, for which the provider will bill, and the parser could not read it. */
/** undici gives a parser's error a code only where the parser has one. */
const isGarbled = (error: unknown): boolean =>
  error instanceof Error && (error.name === 'HTTPParserError' || codeOf(error) === 'UND_ERR_HEADERS_OVERFLOW')

/** Failures before a connection was there: what was to be sent has not left this machine. */
const UNREACHABLE =
  /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT|CERT_|ERR_TLS_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_)/
function isUnreachable(error: unknown): boolean {
  const causes = error instanceof AggregateError ? error.errors : [error]
  return causes.some((cause) => UNREACHABLE.test(codeOf(cause)))
}
