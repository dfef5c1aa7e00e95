import type { Readable } from 'node:stream'
import { type Dispatcher, request } from 'undici'
import type { Nanousd } from '../core/money.ts'
import { usdFromNanousd } from '../core/money.ts'
import { ProxyError } from './answers.ts'
import { readable } from './body.ts'
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
  readonly url: string
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

/** One forwarded call, from its request to the provider to the last byte for the client. Money is its caller's business. */
export class Call {
  readonly #target: Target
  readonly #sink: Sink
  readonly #options: CallOptions
  readonly #abort = new AbortController()
  /** Why it was given up, once it was. */
  #givenUp: 'client_left' | 'cut' | 'stopped' | null = null
  #isAnswered = false
  /** When the client stopped reading, on the process's own clock; null while it keeps up. */
  #blockedSince_ms: number | null = null

  constructor(target: Target, sink: Sink, options: CallOptions) {
    this.#target = target
    this.#sink = sink
    this.#options = options
    sink.onClosed(() => this.#clientLeft())
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

  async run(reserved: Reserved | null): Promise<Ended> {
    const { url, headers, plan } = this.#target
    const { dispatcher } = this.#options
    let response: Dispatcher.ResponseData
    try {
      const { signal } = this.#abort
      response = await request(url, { method: 'POST', headers, body: plan.bytes, dispatcher, signal })
    } catch (error) {
      return this.#unanswered(error)
    }
    const { stream, isStream, isDecoded, reader } = this.#read(response)
    const isRefused = response.statusCode < 200 || response.statusCode > 299
    if (!this.#sink.isClosed) {
      const head = downstreamHeaders(response.headers as Headers, isDecoded || (plan.hidesUsage && isStream))
      this.#sink.start(response.statusCode, { ...head, ...reservedHeaders(reserved) }, isStream)
    }
    const end = await this.#pump(stream, isRefused ? null : reader)
    this.#isAnswered = true
    if (end === 'complete' || end === 'cut') this.#sink.end()
    else this.#sink.destroy()
    if (isRefused) return { end: 'refused', seen: null, isStream, failure: null }
    return { end, seen: reader.seen, isStream, failure: null }
  }

  #read(response: Dispatcher.ResponseData): { stream: Readable; isStream: boolean; isDecoded: boolean; reader: AnswerReader } {
    const { plan, route } = this.#target
    const encoding = String(response.headers['content-encoding'] ?? '')
      .trim()
      .toLowerCase()
    const type = response.headers['content-type']
    const { stream, isDecoded, isReadable } = readable(response.body, encoding)
    const isEvents = type === undefined ? plan.isStream : /^text\/event-stream\b/i.test(String(type))
    const isStream = isEvents && isReadable
    const reader = isStream
      ? new StreamReader(route.kind, { hidesUsage: plan.hidesUsage, wholeEvents: this.#cuts })
      : new PlainReader(route.kind)
    return { stream, isStream, isDecoded, reader }
  }

  /** Only an output that nobody else bounds can outrun its reservation. */
  get #cuts(): boolean {
    return this.#options.cutoff && this.#target.plan.bound.isOutputAssumed
  }

  /** Passes the body on as it comes, as fast as the client reads. */
  #pump(body: Readable, reader: AnswerReader | null): Promise<End> {
    return new Promise((resolve) => {
      const send = (pieces: readonly Buffer[]): void => {
        for (const piece of pieces) {
          if (this.#sink.isClosed || this.#sink.write(piece) || body.isPaused()) continue
          body.pause()
          this.#blockedSince_ms = performance.now()
          this.#sink.onceDrained(() => {
            this.#blockedSince_ms = null
            body.resume()
          })
        }
      }
      this.#onClientLeft = () => {
        this.#blockedSince_ms = null
        body.resume()
      }
      body.on('data', (chunk: Buffer) => {
        if (this.#givenUp === 'cut') return
        send(reader === null ? [chunk] : reader.push(chunk))
        if (reader !== null && this.#isAtItsCap(reader)) {
          send([reader.terminal()])
          this.#giveUp('cut')
        }
      })
      body.on('end', () => {
        if (reader !== null && this.#givenUp === null) send(reader.end())
        resolve(this.#givenUp ?? 'complete')
      })
      body.on('error', (error: unknown) => resolve(this.#givenUp ?? (isTimeout(error) ? 'stalled' : 'broken')))
    })
  }

  #isAtItsCap({ seen }: AnswerReader): boolean {
    if (!this.#cuts || seen.isComplete || seen.isFinal) return false
    return writtenTokens(this.#target.route.kind, seen) > this.#target.plan.bound.outputTokens
  }

  #onClientLeft: () => void = () => {}

  /** A stream ends with its client. A plain answer is paid for anyway: it is read to its end, so that what it cost is known. */
  #clientLeft(): void {
    if (this.#isAnswered || this.#givenUp !== null) return
    if (this.#target.plan.isStream) this.#giveUp('client_left')
    this.#onClientLeft()
  }

  #giveUp(why: 'client_left' | 'cut' | 'stopped'): void {
    this.#givenUp ??= why
    this.#abort.abort()
  }

  #unanswered(error: unknown): Ended {
    this.#isAnswered = true
    const ended = (end: End, failure: ProxyError | null): Ended => ({ end, seen: null, isStream: false, failure })
    // A stream that was given up before it began has produced nothing that could be seen.
    if (this.#givenUp !== null)
      return this.#target.plan.isStream
        ? { end: this.#givenUp, seen: nothingSeen(), isStream: true, failure: null }
        : ended(this.#givenUp, null)
    const options = { cause: error }
    if (isTimeout(error))
      return ended('stalled', new ProxyError(504, 'upstream_timeout', 'The provider did not answer in time.', options))
    if (isUnreachable(error))
      return ended('unreachable', new ProxyError(502, 'upstream_unreachable', 'The provider cannot be reached.', options))
    return ended('reset', new ProxyError(502, 'upstream_reset', 'The provider closed the connection without an answer.', options))
  }
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

/** Failures before a connection was there: what was to be sent has not left this machine. */
const UNREACHABLE =
  /^(ECONNREFUSED|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH|ENETUNREACH|UND_ERR_CONNECT_TIMEOUT|CERT_|ERR_TLS_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_)/
function isUnreachable(error: unknown): boolean {
  const causes = error instanceof AggregateError ? error.errors : [error]
  return causes.some((cause) => UNREACHABLE.test(codeOf(cause)))
}
