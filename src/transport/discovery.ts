import { createHash } from 'node:crypto'
import type { Hono } from 'hono'
import { DomainError } from '../core/errors.ts'
import { lazily } from '../core/lazy.ts'
import type { Log } from '../core/log.ts'
import { type Operation, SCOPES } from '../core/operation.ts'
import { errorResponse, type HttpContext, type HttpEnv, jsonResponse, requestIdOf } from './http.ts'
import { llmsText } from './llms.ts'
import { type OpenApiDocument, openApiText } from './openapi.ts'

/** How long the database may take to show that it answers. */
const READY_TIMEOUT_MS = 1000

export type DiscoveryDeps<D> = {
  readonly operations: readonly Operation<D>[]
  /** Costs as much as a tenth of the start: made when somebody asks. */
  readonly document: () => OpenApiDocument
  /** Rejects, or does not settle, when the database does not answer. */
  readonly ping: () => Promise<void>
  /** Whether the governance file on disk is the one in force; null without one. */
  readonly governanceFile?: () => 'ok' | 'unusable' | null
  /** Whether this process is about to end: it still answers, and wants no new connections. */
  readonly isLeaving?: () => boolean
  readonly log: Log
}
export type DiscoveryOptions = { readonly version: string; readonly origin: (c: HttpContext) => string }

/** What machines read first: health, readiness, the OpenAPI document, llms.txt, robots.txt and `/.well-known` (contract section 10). */
export function mountDiscovery<D>(app: Hono<HttpEnv>, deps: DiscoveryDeps<D>, options: DiscoveryOptions): void {
  const { version, origin } = options
  const openApi = lazily(() => {
    const text = openApiText(deps.document())
    return { text, etag: `"${createHash('sha256').update(text).digest('hex').slice(0, 16)}"` }
  })
  const answers = within(deps.ping, READY_TIMEOUT_MS)

  app.get('/health', (c) => jsonResponse(200, { ok: true }, requestIdOf(c)))
  app.get('/ready', async (c) => {
    const id = requestIdOf(c)
    if (deps.isLeaving?.()) return errorResponse(new DomainError('stopping', { details: { ok: false } }), id, deps.log)
    const failure = await answers()
    const file = deps.governanceFile?.() ?? null
    if (failure === null)
      return jsonResponse(200, { ok: true, database: 'ok', ...(file && { governance_file: file }), version }, id)
    const details = { ok: false, database: 'unavailable', reason: failure }
    return errorResponse(new DomainError('database_unavailable', { details, retryAfterSeconds: 1 }), id, deps.log)
  })
  app.get('/openapi.json', (c) => {
    const { text, etag } = openApi()
    if (c.req.header('if-none-match') === etag) return document(c, null, JSON_TYPE, { status: 304, headers: { ETag: etag } })
    return document(c, text, JSON_TYPE, { headers: { ETag: etag } })
  })
  app.get('/llms.txt', (c) => document(c, llmsText(deps.operations, origin(c)), 'text/plain; charset=utf-8'))
  app.get('/robots.txt', (c) => document(c, ROBOTS, 'text/plain; charset=utf-8'))
  app.get('/.well-known/mcp.json', (c) => document(c, pretty(mcpCard(deps.operations, version, origin(c))), JSON_TYPE))
  // RFC 9728: a resource with a path has its metadata below the well-known path, so that `resource` equals what was asked about.
  app.get('/.well-known/oauth-protected-resource', (c) => document(c, pretty(protectedResource(origin(c), '')), JSON_TYPE))
  app.get('/.well-known/oauth-protected-resource/mcp', (c) =>
    document(c, pretty(protectedResource(origin(c), '/mcp')), JSON_TYPE),
  )
  app.get('/.well-known/api-catalog', (c) =>
    document(c, pretty(apiCatalog(origin(c))), 'application/linkset+json; profile="https://www.rfc-editor.org/info/rfc9727"', {
      headers: { Link: `<${origin(c)}/.well-known/api-catalog>; rel="api-catalog"` },
    }),
  )
}

/**
 * The origin that texts and links show: PUBLIC_URL, else that of the request, as the outermost trusted proxy saw it.
 * @param trustedProxies 0: forwarded headers are the caller's invention and ignored
 */
export function originOf(c: HttpContext, options: { publicUrl: string | undefined; trustedProxies: number }): string {
  if (options.publicUrl !== undefined) return options.publicUrl
  const { protocol, host } = new URL(c.req.url)
  if (options.trustedProxies === 0) return `${protocol}//${host}`
  const scheme = firstOf(c.req.header('x-forwarded-proto'))
  const forwardedHost = firstOf(c.req.header('x-forwarded-host'))
  const seen = `${scheme === 'http' || scheme === 'https' ? `${scheme}:` : protocol}//${forwardedHost ?? host}`
  return URL.canParse(seen) ? new URL(seen).origin : `${protocol}//${host}`
}

const firstOf = (list: string | undefined): string | undefined => list?.split(',')[0]?.trim() || undefined

const JSON_TYPE = 'application/json'
const pretty = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/** Public and without secrets, so any page may read it; revalidated each time, because it names the origin of the request. */
function document(
  c: HttpContext,
  body: string | null,
  type: string,
  options: { status?: number; headers?: Record<string, string> } = {},
): Response {
  return new Response(body, {
    status: options.status ?? 200,
    headers: {
      'Content-Type': type,
      'Cache-Control': 'no-cache',
      'Access-Control-Allow-Origin': '*',
      'X-Content-Type-Options': 'nosniff',
      'X-Request-Id': requestIdOf(c),
      ...options.headers,
    },
  })
}

/**
 * Asks `ping` and gives up waiting after `timeout_ms`: null when it answered, else why not. Callers at the same time share one ping, also
 * one that hangs: a flood of them costs the database nothing.
 */
function within(ping: () => Promise<void>, timeout_ms: number): () => Promise<string | null> {
  let asked: Promise<string | null> | null = null
  return async () => {
    asked ??= ping()
      .then(
        () => null,
        () => 'the database refused',
      )
      .finally(() => {
        asked = null
      })
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<string>((resolve) => {
      timer = setTimeout(resolve, timeout_ms, `the database did not answer within ${timeout_ms} ms`)
    })
    try {
      return await Promise.race([asked, late])
    } finally {
      clearTimeout(timer)
    }
  }
}

const ROBOTS = `User-agent: *
Allow: /
Disallow: /v1/
Disallow: /api/
Disallow: /mcp
Disallow: /approve/
Disallow: /pay
Disallow: /dash
`

const DESCRIPTION = 'Spend authority for AI agents: clear the spend before the model call, reconcile after it.'

/**
 * The entry for the MCP registry (server.json). Who publishes it fills in the host; a public instance puts its address there.
 * @param url where the server answers; a template for whoever runs it when left out
 */
export function registryEntry(version: string, url?: string) {
  const key = {
    name: 'Authorization',
    description: 'Your key as a bearer token: "Bearer bg_…". POST /v1/account on the server makes one.',
    isRequired: true,
    isSecret: true,
    placeholder: 'Bearer bg_…',
  }
  const host = {
    description: 'Host name of the Gvnr server',
    isRequired: true,
    placeholder: 'gvnr.example.com',
  }
  return {
    $schema: 'https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json',
    name: 'io.github.gvnr/gvnr',
    title: 'Gvnr',
    description: DESCRIPTION,
    version,
    remotes: [
      {
        type: 'streamable-http',
        url: url ?? 'https://{host}/mcp',
        headers: [key],
        ...(url === undefined && { variables: { host } }),
      },
    ],
  }
}

function mcpCard<D>(operations: readonly Operation<D>[], version: string, origin: string) {
  return {
    ...registryEntry(version, `${origin}/mcp`),
    websiteUrl: `${origin}/`,
    documentation: `${origin}/docs`,
    authentication: {
      type: 'bearer',
      headers: ['Authorization', 'X-API-Key'],
      query: 'api_key',
      key: `POST ${origin}/v1/account`,
    },
    tools: operations
      .filter((operation) => operation.tool !== undefined)
      .map(({ name, title, description }) => ({ name, title, description })),
  }
}

/** RFC 9728. Keys are made at `/v1/account`; there is no authorization server to send clients to, so none is named. */
const protectedResource = (origin: string, path: string) => ({
  resource: `${origin}${path}`,
  resource_name: 'Gvnr',
  resource_documentation: `${origin}/docs#authentication`,
  bearer_methods_supported: ['header'],
  scopes_supported: SCOPES,
})

/** RFC 9727, in the linkset format of RFC 9264. */
const apiCatalog = (origin: string) => ({
  linkset: [
    {
      anchor: `${origin}/v1`,
      'service-desc': [{ href: `${origin}/openapi.json`, type: 'application/json' }],
      'service-doc': [
        { href: `${origin}/docs`, type: 'text/html' },
        { href: `${origin}/llms.txt`, type: 'text/plain' },
      ],
      status: [{ href: `${origin}/ready`, type: 'application/json' }],
    },
    {
      anchor: `${origin}/mcp`,
      'service-meta': [{ href: `${origin}/.well-known/mcp.json`, type: 'application/json' }],
      'service-doc': [{ href: `${origin}/docs#mcp`, type: 'text/html' }],
    },
  ],
})
