import { lookup as resolve } from 'node:dns'
import { isIP, type LookupFunction } from 'node:net'
import ipaddr from 'ipaddr.js'
import { Agent, request } from 'undici'
import type { Priority } from './events.ts'

export type OutboundResponse = { readonly status: number; readonly retryAfter_ms: number | null }
export type OutboundOptions = {
  /** For tests and for whoever runs the receiver on the same private network: also http, and addresses that are not public. */
  readonly allowPrivate: boolean
  readonly timeout_ms?: number
}

const TIMEOUT_MS = 10_000
/** Answers are read to free the connection, and no further than this. */
const MAX_RESPONSE_BYTES = 64 * 1024
const MAX_URL_LENGTH = 2048

/** The address may not be called. Final: trying again cannot help unless the address changes. */
export class BlockedAddressError extends Error {
  override readonly name = 'BlockedAddressError'
}

/** All that IANA has given out of IPv6 for use between networks. */
const GLOBAL_IPV6 = ipaddr.IPv6.parseCIDR('2000::/3')

/** True for an address on the public internet: not loopback, private, link-local, shared, multicast, or a way around to one of those. */
export function isPublicAddress(address: string): boolean {
  // A zone index ("fe80::1%eth0") only makes sense for addresses that are refused anyway.
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.process(address)
  // Old spellings of IPv4 ("::127.0.0.1") lie outside of it.
  const isGlobal = !(parsed instanceof ipaddr.IPv6) || parsed.match(GLOBAL_IPV6)
  return isGlobal && parsed.range() === 'unicast'
}

/**
 * The URL when it may be called: https, no credentials in it, and a host that is not the literal of a non-public address. Names are
 * checked when they are resolved.
 */
export function allowedUrl(text: string, allowPrivate: boolean): URL | null {
  // What the URL parser would quietly drop or escape: the address is stored and shown as it was given.
  if (text.length > MAX_URL_LENGTH || /[\s\p{Cc}\p{Cs}]/u.test(text) || !URL.canParse(text)) return null
  const url = new URL(text)
  if (url.protocol !== 'https:' && !(allowPrivate && url.protocol === 'http:')) return null
  if (url.username !== '' || url.password !== '') return null
  const host = url.hostname.replace(/^\[|\]$/g, '')
  if (host === '' || (isIP(host) !== 0 && !allowPrivate && !isPublicAddress(host))) return null
  return url
}

/** Resolves a name and refuses it when any of its addresses is not public: a mixed answer is how such a check is got around. */
const lookupPublic: LookupFunction = (hostname, options, callback) => {
  resolve(hostname, { ...options, all: true }, (error, addresses) => {
    if (error) return callback(error, '', 0)
    const [first] = addresses
    if (first === undefined || !addresses.every(({ address }) => isPublicAddress(address)))
      return callback(new BlockedAddressError('the host name does not lead to a public address'), '', 0)
    if (options.all) callback(null, addresses)
    else callback(null, first.address, first.family)
  })
}

/**
 * The one way out to addresses that customers choose (notes on SSRF: literals checked before, resolved addresses at connect, so a name
 * that changes in between gains nothing; no redirects; bounded answers).
 */
export class Outbound {
  readonly allowPrivate: boolean
  readonly #agents: Readonly<Record<Priority, Agent>>
  readonly #timeout_ms: number

  constructor(options: OutboundOptions) {
    this.allowPrivate = options.allowPrivate
    this.#timeout_ms = options.timeout_ms ?? TIMEOUT_MS
    const agent = () =>
      new Agent({
        connect: { timeout: this.#timeout_ms, ...(!options.allowPrivate && { lookup: lookupPublic }) },
        headersTimeout: this.#timeout_ms,
        bodyTimeout: this.#timeout_ms,
        keepAliveTimeout: 4_000,
        connections: 8,
        pipelining: 1,
      })
    // Connections of their own: many receivers share a host, and a request waits for one of its connections.
    this.#agents = { urgent: agent(), ordinary: agent() }
  }

  /**
   * Posts a JSON text. Resolves with whatever status comes; redirects are not followed.
   * @throws BlockedAddressError when the address may not be called, else the socket's error
   */
  async postJson(
    target: string,
    body: string,
    options: { priority: Priority; headers?: Readonly<Record<string, string>> },
  ): Promise<OutboundResponse> {
    const url = allowedUrl(target, this.allowPrivate)
    if (url === null) throw new BlockedAddressError('the address is not an https URL of a public host')
    const response = await request(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'user-agent': 'gvnr', ...options.headers },
      body,
      dispatcher: this.#agents[options.priority],
      signal: AbortSignal.timeout(this.#timeout_ms),
    })
    // A receiver that trickles its answer does not fail the delivery: the status has come.
    await response.body.dump({ limit: MAX_RESPONSE_BYTES }).catch(() => {})
    return { status: response.statusCode, retryAfter_ms: retryAfter(response.headers['retry-after']) }
  }

  async close(): Promise<void> {
    await Promise.all(Object.values(this.#agents).map((agent) => agent.destroy()))
  }
}

function retryAfter(header: string | string[] | undefined): number | null {
  const seconds = typeof header === 'string' && /^\d{1,6}$/.test(header) ? Number(header) : null
  return seconds === null ? null : seconds * 1000
}
