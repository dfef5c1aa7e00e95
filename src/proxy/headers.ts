import type { Protocol } from './routes.ts'
import { authorization, type Upstream } from './upstreams.ts'

export type Headers = Readonly<Record<string, string | readonly string[] | undefined>>

/** Of one connection (RFC 9110 section 7.6.1), or made anew. */
const HOP_BY_HOP = [
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]
/** What is between the caller and us: keys, cookies, and what proxies in front add. */
const OURS = new Set([
  ...HOP_BY_HOP,
  'host',
  'content-length',
  'content-type',
  'accept-encoding',
  'expect',
  'authorization',
  'x-api-key',
  'api-key',
  'cookie',
  'origin',
  'referer',
  'forwarded',
  'via',
  'x-real-ip',
  'x-request-id',
])
const OUR_PREFIXES = /^(x-gvnr-|x-resgov-|x-upstream-|x-admin-|x-forwarded-|sec-|cf-)/
/** Whose bill it is goes with whose key it is. */
const BILLING = new Set(['openai-organization', 'openai-project'])

/**
 * The caller's headers as the provider gets them.
 * @param callersKey what the caller sent in X-Upstream-Authorization; without it the operator's key goes out
 */
export function upstreamHeaders(
  headers: Headers,
  protocol: Protocol,
  upstream: Upstream,
  callersKey: string | undefined,
): Record<string, string | string[]> {
  // The body is JSON, whatever its sender calls it. Compressed answers would have to be unpacked here to be read.
  const out: Record<string, string | string[]> = { 'content-type': 'application/json', 'accept-encoding': 'identity' }
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || OURS.has(name) || OUR_PREFIXES.test(name)) continue
    if (callersKey === undefined && BILLING.has(name)) continue
    out[name] = typeof value === 'string' ? value : [...value]
  }
  const key = callersKey ?? upstream.key
  return key === undefined ? out : { ...out, ...authorization(protocol, key) }
}

const NOT_FORWARDED = new Set([...HOP_BY_HOP, 'set-cookie', 'set-cookie2', 'alt-svc', 'strict-transport-security'])

/** The provider's headers as the client gets them. @param isRewritten the body is not the provider's byte for byte */
export function downstreamHeaders(headers: Headers, isRewritten: boolean): Record<string, string | string[]> {
  const out: Record<string, string | string[]> = {}
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || NOT_FORWARDED.has(name)) continue
    if (isRewritten && (name === 'content-length' || name === 'content-encoding')) continue
    const values = (typeof value === 'string' ? [value] : value).filter((one) => SENDABLE.test(one))
    if (values.length > 0) out[name] = values.length === 1 ? values.join() : values
  }
  return out
}

/** What Node agrees to send in a header; one odd header must not cost the answer. */
const SENDABLE = /^[\t\x20-\x7e\x80-\xff]*$/
