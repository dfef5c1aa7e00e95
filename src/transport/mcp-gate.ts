import { DomainError } from '../core/errors.ts'

export type GateOptions = {
  /** The address the server listens on (HOST). */
  readonly bindHost: string
  /** PUBLIC_URL, when set. */
  readonly publicUrl: string | undefined
}

/** Decides by Host and Origin, before any key is looked at. */
export type Gate = { refusal(host: string, origin: string | undefined): DomainError | null }

const LOOPBACK = /^(?:localhost|127(?:\.\d{1,3}){3}|\[?::1\]?)$/

/**
 * Keeps web pages away from `/mcp` (MCP specification, Streamable HTTP, security: servers must validate Origin against DNS rebinding).
 *
 * - Host: loopback names and the host of PUBLIC_URL, with any port. A page that has rebound its own name to this server sends that
 *   name and gets 403. Only a server that listens beyond loopback without PUBLIC_URL cannot know its names and takes every Host; what
 *   then stands between a page and an account is the key, which no browser adds by itself. Set PUBLIC_URL to close that as well.
 * - Origin: absent passes (no browser, or no page); else it must be a loopback page (MCP Inspector), PUBLIC_URL itself, or, where the
 *   names are unknown, the very host that was asked. Hosted MCP clients call from their servers and send none.
 */
export function createGate({ bindHost, publicUrl }: GateOptions): Gate {
  const own = publicUrl === undefined ? null : new URL(publicUrl)
  const anyHost = own === null && !LOOPBACK.test(bindHost)
  const isOwnHost = (host: string): boolean => {
    const name = hostname(host)
    return LOOPBACK.test(name) || name === own?.hostname
  }
  const isOwnOrigin = (origin: string, host: string): boolean => {
    const page = URL.canParse(origin) ? new URL(origin) : null
    if (page === null || (page.protocol !== 'http:' && page.protocol !== 'https:')) return false
    return LOOPBACK.test(page.hostname) || page.origin === own?.origin || (anyHost && page.host === host.toLowerCase())
  }
  const hostHint = own === null ? 'localhost or 127.0.0.1' : `${own.host}, as in PUBLIC_URL, or localhost`
  return {
    refusal(host, origin) {
      if (!anyHost && !isOwnHost(host)) {
        return new DomainError('forbidden', {
          hint: `This server answers to ${hostHint}, and the Host header names another. Use that address, or set PUBLIC_URL; a proxy must pass the Host header on.`,
        })
      }
      if (origin === undefined || isOwnOrigin(origin, host)) return null
      return new DomainError('forbidden', {
        hint: "Web pages of this Origin may not call the MCP endpoint. Call it from a server or a desktop client, or from a page on localhost or on the server's own address (PUBLIC_URL).",
      })
    },
  }
}

const hostname = (host: string): string => host.replace(/:\d*$/, '').toLowerCase()

const REQUEST_HEADERS =
  'Authorization, X-API-Key, Content-Type, Accept, Mcp-Protocol-Version, Mcp-Method, Mcp-Name, Mcp-Session-Id, Last-Event-ID, X-Request-Id'
const RESPONSE_HEADERS = 'WWW-Authenticate, Retry-After, X-Request-Id, Mcp-Protocol-Version'
const PREFLIGHT_MAX_AGE_SECONDS = 7200
const NO_HEADERS: Readonly<Record<string, string>> = {}

/** Lets a page of an origin that passed the gate read the answer. Nothing for callers that are no page. */
export const corsHeaders = (origin: string | undefined): Readonly<Record<string, string>> =>
  origin === undefined
    ? NO_HEADERS
    : { 'Access-Control-Allow-Origin': origin, 'Access-Control-Expose-Headers': RESPONSE_HEADERS, Vary: 'Origin' }

/** What an OPTIONS request is told; a browser asks before it sends a key. */
export const preflightHeaders = (origin: string | undefined): Record<string, string> => ({
  Allow: 'POST, OPTIONS',
  ...(origin !== undefined && {
    ...corsHeaders(origin),
    'Access-Control-Allow-Methods': 'POST',
    'Access-Control-Allow-Headers': REQUEST_HEADERS,
    'Access-Control-Max-Age': String(PREFLIGHT_MAX_AGE_SECONDS),
  }),
})
