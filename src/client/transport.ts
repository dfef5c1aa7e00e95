import { GvnrError, isObject, parsed } from './errors.ts'

export type TransportOptions = {
  readonly baseUrl: string
  readonly apiKey: string
  readonly fetch: typeof globalThis.fetch
  /** How often a call is sent at most. */
  readonly maxAttempts: number
  /** How long one attempt may take. */
  readonly timeout_ms: number
}

export type Request = {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly body?: unknown
  readonly idempotencyKey?: string | undefined
  readonly signal?: AbortSignal | undefined
  /** How long the server may hold the answer on purpose. */
  readonly wait_ms?: number
  /** A status besides 2xx that carries an answer. */
  readonly answers?: number
}

type Answer = { readonly status: number; readonly body: unknown; readonly retryAfter_ms: number | null }

const FIRST_PAUSE_MS = 200
const LONGEST_PAUSE_MS = 5_000
/** A server that asks for a longer pause than this is not waited for. */
const LONGEST_RETRY_AFTER_MS = 30_000

/**
 * Sends a request until it is answered: again after a broken connection and after what the server calls retryable, with growing pauses or
 * as long as Retry-After says. Every attempt carries the same idempotency key, so the work is done once.
 * @throws GvnrError; the signal's reason when it is aborted
 */
export async function send(options: TransportOptions, request: Request): Promise<Record<string, unknown>> {
  for (let attempt = 1; ; attempt++) {
    const outcome = await attemptOnce(options, request)
    if (!(outcome.error instanceof GvnrError)) return outcome.body
    const pause_ms = outcome.retryAfter_ms ?? backoff_ms(attempt)
    if (!outcome.error.retryable || attempt >= options.maxAttempts || pause_ms > LONGEST_RETRY_AFTER_MS) throw outcome.error
    await pause(pause_ms, request.signal)
  }
}

type Outcome = { readonly body: Record<string, unknown>; readonly error: GvnrError | null; readonly retryAfter_ms: number | null }

async function attemptOnce(options: TransportOptions, request: Request): Promise<Outcome> {
  let answer: Answer
  try {
    answer = await exchange(options, request)
  } catch (cause) {
    request.signal?.throwIfAborted()
    const hint = `No answer from ${options.baseUrl}: ${cause instanceof Error ? cause.message : String(cause)}`
    return { body: {}, error: new GvnrError(0, { error: 'unreachable', hint, retryable: true }, { cause }), retryAfter_ms: null }
  }
  const { status, body, retryAfter_ms } = answer
  const isAnswer = (status >= 200 && status < 300) || status === request.answers
  if (isAnswer && isObject(body) && body.error === undefined) return { body, error: null, retryAfter_ms }
  const shown = isObject(body) ? body : {}
  // What a balancer says while the server restarts has no body of ours.
  const isGateway = typeof shown.error !== 'string' && (status === 502 || status === 503 || status === 504)
  return { body: {}, error: new GvnrError(status, isGateway ? { ...shown, retryable: true } : shown), retryAfter_ms }
}

async function exchange(options: TransportOptions, request: Request): Promise<Answer> {
  const timeout = AbortSignal.timeout(options.timeout_ms + (request.wait_ms ?? 0))
  const response = await options.fetch(options.baseUrl + request.path, {
    method: request.method,
    headers: {
      authorization: `Bearer ${options.apiKey}`,
      ...(request.body !== undefined && { 'content-type': 'application/json' }),
      ...(request.idempotencyKey !== undefined && { 'idempotency-key': request.idempotencyKey }),
    },
    ...(request.body !== undefined && { body: JSON.stringify(request.body) }),
    signal: request.signal === undefined ? timeout : AbortSignal.any([request.signal, timeout]),
  })
  const seconds = Number(response.headers.get('retry-after') ?? Number.NaN)
  return {
    status: response.status,
    body: parsed(await response.text()),
    retryAfter_ms: Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : null,
  }
}

/** Doubles, with up to half of it left out so that clients of one outage do not return together. */
const backoff_ms = (attempt: number): number =>
  Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (attempt - 1)) * (1 - Math.random() / 2)

function pause(duration_ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort)
      resolve()
    }, duration_ms)
    if (signal?.aborted) abort()
    else signal?.addEventListener('abort', abort, { once: true })
  })
}
