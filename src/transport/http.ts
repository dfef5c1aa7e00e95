import type { HttpBindings } from '@hono/node-server'
import type { Context } from 'hono'
import { DomainError } from '../core/errors.ts'
import { requestId } from '../core/ids.ts'
import { type Log, redact } from '../core/log.ts'
import type { TraceHeaders } from '../core/operation.ts'

export type HttpEnv = { Bindings: Partial<HttpBindings> }
export type HttpContext = Context<HttpEnv>

/**
 * A header as Node has already parsed it. The web Headers object would be built anew for every request, for ten times the price.
 * @param name in lower case
 */
export function headerOf(c: HttpContext, name: string): string | undefined {
  const incoming = c.env?.incoming
  if (incoming === undefined) return c.req.header(name)
  const value = incoming.headers[name]
  return typeof value === 'object' ? value.join(', ') : value
}

/** What continues the caller's trace, when it sent something. */
export function traceOf(c: HttpContext): TraceHeaders | undefined {
  const traceparent = headerOf(c, 'traceparent')
  return traceparent === undefined ? undefined : { traceparent, tracestate: headerOf(c, 'tracestate') }
}

const REQUEST_ID = /^[\w.-]{8,64}$/

/** The caller's X-Request-Id when it is harmless to repeat, else a new one. */
export function requestIdOf(c: HttpContext): string {
  const given = headerOf(c, 'x-request-id')
  return given !== undefined && REQUEST_ID.test(given) ? given : requestId()
}

/**
 * A JSON answer. Headers go in as a plain object and nothing touches the response afterwards: the server then writes it without
 * building web Headers, which would cost more than the decision itself.
 */
export const jsonResponse = (status: number, body: unknown, id: string, headers: Record<string, string> = {}): Response =>
  new Response(JSON.stringify(body), {
    status,
    headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store', 'X-Request-Id': id, ...headers },
  })

/** The answer to a failure: a DomainError says what it is, anything else is a bug and answers 500 without its message. */
export function errorResponse(error: unknown, id: string, log: Log): Response {
  if (error instanceof DomainError) {
    const headers: Record<string, string> = {}
    if (error.retryAfterSeconds !== undefined) headers['Retry-After'] = String(Math.max(1, error.retryAfterSeconds))
    if (error.status === 401)
      headers['WWW-Authenticate'] =
        error.code === 'invalid_api_key' ? 'Bearer realm="gvnr", error="invalid_token"' : 'Bearer realm="gvnr"'
    return jsonResponse(error.status, error.toBody(), id, headers)
  }
  log.error({ err: error, request_id: id }, 'unexpected failure')
  return jsonResponse(500, new DomainError('internal_error', { details: { request_id: id } }).toBody(), id)
}

/**
 * The body as JSON; `{}` when there is none.
 * @param limit_bytes longest body accepted, also when its length is not declared
 * @throws DomainError `payload_too_large`, `unsupported_media_type`, `invalid_json`
 */
export async function readJson(c: HttpContext, limit_bytes: number): Promise<unknown> {
  let text: string
  try {
    text = await readText(c, limit_bytes)
  } catch (cause) {
    // The peer left in the middle of its body: not our failure, and nobody is there to read the answer.
    throw cause instanceof DomainError ? cause : new DomainError('invalid_json', { cause })
  }
  if (text === '') return {}
  const type = headerOf(c, 'content-type')
  if (type !== undefined && !/^application\/(?:[\w.+-]+\+)?json\b/i.test(type)) throw new DomainError('unsupported_media_type')
  try {
    return JSON.parse(text) as unknown
  } catch {
    throw new DomainError('invalid_json')
  }
}

function readText(c: HttpContext, limit_bytes: number): string | Promise<string> {
  const declared = headerOf(c, 'content-length')
  if (declared !== undefined) {
    if (Number(declared) > limit_bytes) throw new DomainError('payload_too_large')
    if (Number(declared) === 0) return ''
    // Node's parser holds the body to its declared length, so the fast path needs no counting.
    return c.req.text()
  }
  if (headerOf(c, 'transfer-encoding') === undefined && c.env?.incoming !== undefined) return ''
  return readCounted(c, limit_bytes)
}

async function readCounted(c: HttpContext, limit_bytes: number): Promise<string> {
  const body = c.req.raw.body
  if (body === null) return ''
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of body as unknown as AsyncIterable<Uint8Array>) {
    bytes += chunk.length
    if (bytes > limit_bytes) throw new DomainError('payload_too_large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/**
 * The peer's address: with `trustedProxies` > 0 the entry that many places from the right of X-Forwarded-For, as the outermost
 * proxy we trust wrote it. IPv6 peers count by their /64, which one customer holds whole.
 */
export function clientAddress(c: HttpContext, trustedProxies: number): string {
  let address = c.env?.incoming?.socket.remoteAddress ?? 'unknown'
  if (trustedProxies > 0) {
    const hops = (headerOf(c, 'x-forwarded-for') ?? '')
      .split(',')
      .map((hop) => hop.trim())
      .filter((hop) => hop !== '')
    address = hops[Math.max(0, hops.length - trustedProxies)] ?? address
  }
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, '').slice(0, 64)
  return plain.includes(':') ? `${expandIpv6(plain).slice(0, 4).join(':')}::/64` : plain
}

function expandIpv6(address: string): string[] {
  const [head = '', tail] = address.toLowerCase().split('::')
  const left = head === '' ? [] : head.split(':')
  const right = tail === undefined || tail === '' ? [] : tail.split(':')
  const zeros = tail === undefined ? 0 : Math.max(0, 8 - left.length - right.length)
  return [...left, ...Array.from({ length: zeros }, () => '0'), ...right]
}

/** Path and query as they may appear in a log. */
export const loggedPath = (url: string): string => redact(url.slice(url.indexOf('/', url.indexOf('//') + 2)))
