import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Hono } from 'hono'
import { describe, expect, it } from 'vitest'
import { createLog } from '../../src/core/log.ts'
import { operations } from '../../src/operations.ts'
import { mountDiscovery, originOf, registryEntry } from '../../src/transport/discovery.ts'
import type { HttpEnv } from '../../src/transport/http.ts'
import { openApiDocument, openApiText } from '../../src/transport/openapi.ts'
import { VERSION } from '../../src/version.ts'

const ORIGIN = 'https://gvnr.example.com'
const document = openApiDocument(operations, { version: VERSION })

function appWith(ping: () => Promise<void>, options: { publicUrl?: string; trustedProxies?: number } = { publicUrl: ORIGIN }) {
  const app = new Hono<HttpEnv>()
  const origin = { publicUrl: options.publicUrl, trustedProxies: options.trustedProxies ?? 0 }
  mountDiscovery(
    app,
    { operations, document: () => document, ping, log: createLog('silent') },
    { version: VERSION, origin: (c) => originOf(c, origin) },
  )
  return app
}
const answering = async (): Promise<void> => {}
const json = async (response: Response) => (await response.json()) as Record<string, unknown>

describe('/health', () => {
  it('says ok without asking the database', async () => {
    let pings = 0
    const app = appWith(async () => {
      pings++
    })
    const response = await app.request('/health')
    expect([response.status, await json(response), pings]).toEqual([200, { ok: true }, 0])
  })
})

describe('/ready', () => {
  it('says ok when the database answers', async () => {
    const response = await appWith(answering).request('/ready')
    expect(response.status).toBe(200)
    expect(await json(response)).toEqual({ ok: true, database: 'ok', version: VERSION })
  })

  it('is 503 with a hint when the database refuses, and recovers', async () => {
    let isDown = true
    const app = appWith(async () => {
      if (isDown) throw new Error('connection refused on 10.0.0.7')
    })
    const response = await app.request('/ready')
    const text = await response.clone().text()
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toBe('1')
    expect(await json(response)).toMatchObject({
      ok: false,
      database: 'unavailable',
      error: 'database_unavailable',
      hint: expect.any(String),
      retryable: true,
    })
    expect(text).not.toContain('10.0.0.7')
    isDown = false
    expect((await app.request('/ready')).status).toBe(200)
  })

  it('is 503 without asking the database while the process is about to end', async () => {
    const app = new Hono<HttpEnv>()
    const ping = () => Promise.reject(new Error('asked'))
    const isLeaving = () => true
    mountDiscovery(
      app,
      { operations, document: () => document, ping, isLeaving, log: createLog('silent') },
      { version: VERSION, origin: () => ORIGIN },
    )
    const response = await app.request('/ready')
    expect(response.status).toBe(503)
    expect(await json(response)).toMatchObject({ ok: false, error: 'stopping', retryable: true })
    expect((await app.request('/health')).status).toBe(200)
  })

  it('gives up after a second when the database hangs, and never asks it twice at once', async () => {
    let pings = 0
    let answer = (): void => {}
    const app = appWith(() => {
      pings++
      return new Promise((resolve) => {
        answer = resolve
      })
    })
    const all = await Promise.all(Array.from({ length: 50 }, () => app.request('/ready')))
    expect(new Set(all.map(({ status }) => status))).toEqual(new Set([503]))
    expect((await json(all[0]!)).reason).toBe('the database did not answer within 1000 ms')
    expect(pings).toBe(1)
    const waiting = app.request('/ready')
    answer()
    expect((await waiting).status).toBe(200)
    expect(pings).toBe(1)
  })
})

describe('what is served for machines', () => {
  const app = appWith(answering)

  it('serves the OpenAPI document as it is committed, and 304 to who has it', async () => {
    const response = await app.request('/openapi.json')
    expect(await response.text()).toBe(openApiText(document))
    const again = await app.request('/openapi.json', { headers: { 'if-none-match': response.headers.get('etag') ?? '' } })
    expect([again.status, await again.text()]).toEqual([304, ''])
  })

  it('lists every operation in llms.txt, with a link to its place in the reference', async () => {
    const response = await app.request('/llms.txt')
    const text = await response.text()
    expect(response.headers.get('content-type')).toBe('text/plain; charset=utf-8')
    expect(text).toMatch(/^# Gvnr\n\n> /)
    for (const { name, method, path } of operations)
      expect(text).toContain(`[${method.toUpperCase()} ${path}](${ORIGIN}/docs#${name})`)
  })

  it('keeps crawlers from links that are credentials', async () => {
    const text = await (await app.request('/robots.txt')).text()
    expect(text.split('\n')).toEqual(expect.arrayContaining(['User-agent: *', 'Disallow: /approve/', 'Disallow: /v1/']))
  })

  it('describes the protected resource (RFC 9728), naming exactly what was asked about', async () => {
    const root = await json(await app.request('/.well-known/oauth-protected-resource'))
    const mcp = await json(await app.request('/.well-known/oauth-protected-resource/mcp'))
    expect(root).toMatchObject({
      resource: ORIGIN,
      bearer_methods_supported: ['header'],
      scopes_supported: ['owner', 'agent', 'read'],
    })
    expect(mcp).toMatchObject({ resource: `${ORIGIN}/mcp` })
    expect(root).not.toHaveProperty('authorization_servers')
  })

  it('links the API from its catalog (RFC 9727), and the catalog from a HEAD', async () => {
    const response = await app.request('/.well-known/api-catalog')
    expect(response.headers.get('content-type')).toMatch(
      /^application\/linkset\+json; profile="https:\/\/www.rfc-editor.org\/info\/rfc9727"$/,
    )
    const { linkset } = (await response.json()) as { linkset: Record<string, unknown>[] }
    expect(linkset[0]).toMatchObject({ anchor: `${ORIGIN}/v1`, 'service-desc': [{ href: `${ORIGIN}/openapi.json` }] })
    const head = await app.request('/.well-known/api-catalog', { method: 'HEAD' })
    expect(head.headers.get('link')).toBe(`<${ORIGIN}/.well-known/api-catalog>; rel="api-catalog"`)
    expect(await head.text()).toBe('')
  })

  it('describes the MCP server with its address and tools', async () => {
    const card = await json(await app.request('/.well-known/mcp.json'))
    expect(card).toMatchObject({ version: VERSION, remotes: [{ type: 'streamable-http', url: `${ORIGIN}/mcp` }] })
    const tools = operations.filter(({ tool }) => tool !== undefined).map(({ name }) => name)
    expect((card.tools as { name: string }[]).map(({ name }) => name)).toEqual(tools)
    expect(tools.length).toBeGreaterThan(5)
  })

  it('may be read by any page and carries a request id', async () => {
    for (const path of ['/openapi.json', '/llms.txt', '/.well-known/mcp.json', '/.well-known/oauth-protected-resource']) {
      const { headers } = await app.request(path, { headers: { 'x-request-id': 'from-caller-1' } })
      expect([headers.get('access-control-allow-origin'), headers.get('x-request-id')]).toEqual(['*', 'from-caller-1'])
    }
  })
})

describe('server.json', () => {
  const committed = JSON.parse(readFileSync(join(import.meta.dirname, '../../server.json'), 'utf8')) as unknown

  it('is the registry entry of this version', () => {
    expect(committed).toEqual(registryEntry(VERSION))
  })

  it('keeps to the bounds of schema 2025-12-11', () => {
    const { $schema, name, title, description, remotes } = registryEntry(VERSION)
    expect($schema).toBe('https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json')
    expect(name).toMatch(/^[a-zA-Z0-9.-]+\/[a-zA-Z0-9._-]+$/)
    expect(title.length).toBeLessThanOrEqual(100)
    expect(description.length).toBeLessThanOrEqual(100)
    for (const remote of remotes) {
      expect(remote.url).toMatch(/^https?:\/\/[^\s]+$/)
      expect(remote.headers).toEqual([expect.objectContaining({ name: 'Authorization', isRequired: true, isSecret: true })])
      const variables = [...remote.url.matchAll(/\{(\w+)\}/g)].map(([, variable]) => variable)
      expect(variables).toEqual(Object.keys('variables' in remote ? remote.variables : {}))
    }
  })
})

describe('the origin in texts', () => {
  const originSeen = async (
    options: { publicUrl?: string; trustedProxies?: number },
    url: string,
    headers: Record<string, string> = {},
  ): Promise<string> => {
    const response = await appWith(answering, options).request(`${url}/.well-known/oauth-protected-resource`, { headers })
    return String((await json(response)).resource)
  }
  const forwarded = { 'x-forwarded-proto': 'https', 'x-forwarded-host': 'gvnr.example.com' }

  it.each([
    ['PUBLIC_URL wins', { publicUrl: ORIGIN, trustedProxies: 1 }, 'http://10.0.0.7:8787', forwarded, ORIGIN],
    ["the request's own", {}, 'http://localhost:8787', {}, 'http://localhost:8787'],
    ['forwarded headers of a stranger are ignored', {}, 'http://localhost:8787', forwarded, 'http://localhost:8787'],
    ['forwarded headers of a trusted proxy', { trustedProxies: 1 }, 'http://10.0.0.7:8787', forwarded, ORIGIN],
    [
      'a scheme that is none',
      { trustedProxies: 1 },
      'http://a.example',
      { 'x-forwarded-proto': 'javascript' },
      'http://a.example',
    ],
    ['a host that is none', { trustedProxies: 1 }, 'http://a.example', { 'x-forwarded-host': 'a b<c>' }, 'http://a.example'],
    ['no path slips in', { trustedProxies: 1 }, 'http://a.example', { 'x-forwarded-host': 'b.example/x?y' }, 'http://b.example'],
  ])('%s', async (_name, options, url, headers, expected) => {
    expect(await originSeen(options, url, headers)).toBe(expected)
  })
})
