import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Api, type ApiHeaders, apiOf, type JsonBody, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { ERAS, mcpOf, mcpRequest, mountedMcp, rpcResponse } from '../../support/mcp.ts'

const INSPECTOR = 'http://localhost:6274'
const PING = { jsonrpc: '2.0', id: 1, method: 'ping' }

describeEachDatabase('the /mcp endpoint', (openDatabase) => {
  let test: TestApp
  let api: Api
  let key: string
  beforeAll(async () => {
    test = await openTestApp(await openDatabase())
    api = test.api
    key = (await test.createAccount()).key
  })
  afterAll(() => expect(test.logged).toEqual([]))

  /** A failure of the transport: JSON-RPC, with the product's error body. */
  function failure(response: { text: string }, code: number): JsonBody {
    const { jsonrpc, id, error } = JSON.parse(response.text) as { jsonrpc: string; id: null; error: Record<string, unknown> }
    expect({ jsonrpc, id }).toEqual({ jsonrpc: '2.0', id: null })
    expect(error).toMatchObject({ code, data: { error: expect.any(String), hint: expect.any(String), retryable: false } })
    return error.data as JsonBody
  }
  const post = (headers: ApiHeaders = {}, body: unknown = PING) => api.post('/mcp', body, key, headers)

  describe('keys', () => {
    it.each(ERAS)('takes the key from each place REST takes it from (%s)', async (era) => {
      const { headers, message } = mcpRequest('tools/list', {}, { era })
      const tools = async (path: string, more: ApiHeaders = {}) =>
        rpcResponse(await api.post(path, message, undefined, { ...headers, ...more })).result.tools.length
      expect(await tools('/mcp', { Authorization: `Bearer ${key}` })).toBeGreaterThan(0)
      expect(await tools('/mcp', { 'X-API-Key': key })).toBeGreaterThan(0)
      expect(await tools(`/mcp?api_key=${key}`)).toBeGreaterThan(0)
    })

    it.each([
      ['a missing key', '', {}, 'missing_api_key'],
      ['an unknown key', '', { Authorization: `Bearer bg_${'0'.repeat(32)}` }, 'invalid_api_key'],
      ['an unknown key in the query', `?api_key=bg_${'0'.repeat(32)}`, {}, 'invalid_api_key'],
    ])('refuses %s with 401 and the body REST answers', async (_, query, headers: ApiHeaders, error) => {
      const response = await api.post(`/mcp${query}`, PING, undefined, headers)
      expect(response.status).toBe(401)
      expect(response.headers.get('WWW-Authenticate')).toMatch(/^Bearer realm="gvnr"/)
      expect(response.body.error).toBe(error)
      expect(response.body).toEqual((await api.get(`/v1/account${query}`, undefined, headers)).body)
    })

    it('refuses a revoked key at once', async () => {
      const further = await test.createKey(key, { scope: 'read' })
      expect((await api.post('/mcp', PING, further.key)).status).toBe(200)
      await api.delete(`/v1/account/keys/${further.keyId}`, key)
      expect((await api.post('/mcp', PING, further.key)).status).toBe(401)
    })
  })

  describe('messages', () => {
    it.each(['GET', 'DELETE', 'PUT', 'PATCH'])('answers %s with 405 and what is allowed', async (method) => {
      const response = await api.request(method, '/mcp', undefined, key)
      expect(response.status).toBe(405)
      expect(response.headers.get('Allow')).toBe('POST')
      expect(failure(response, -32000).error).toBe('method_not_allowed')
    })

    it.each([
      ['a batch', [PING], -32600, 'Batches'],
      ['an empty batch', [], -32600, 'Batches'],
      ['what is not JSON', '{"jsonrpc"', -32700, 'not JSON'],
      ['an empty object', {}, -32600, 'JSON-RPC'],
      ['a number', 5, -32600, 'JSON-RPC'],
      ['null', 'null', -32600, 'JSON-RPC'],
    ])('refuses %s with 400 and a hint', async (_, body, code, hint) => {
      const response = await post({}, body)
      expect(response.status).toBe(400)
      expect(failure(response, code).hint).toContain(hint)
    })

    it('refuses a message that is not JSON-RPC 2.0', async () => {
      const response = await post({}, { ...PING, jsonrpc: '1.0' })
      expect(response.status).toBe(400)
      expect(rpcResponse(response).rpcError.code).toBe(-32600)
    })

    it.each(['text/plain', 'application/x-www-form-urlencoded', ''])('refuses the content type "%s" with 415', async (type) => {
      const response = await post({ 'Content-Type': type }, JSON.stringify(PING))
      expect(response.status).toBe(415)
      expect(failure(response, -32000).error).toBe('unsupported_media_type')
    })

    it('accepts a content type with a charset', async () => {
      expect((await post({ 'Content-Type': 'application/json; charset=utf-8' })).status).toBe(200)
    })

    it('refuses bodies above 64 KiB, also when their length is not declared', async () => {
      const body = JSON.stringify({ ...PING, params: { padding: 'x'.repeat(64 * 1024) } })
      const declared = await post({ 'Content-Length': String(body.length) }, body)
      expect(declared.status).toBe(413)
      expect(failure(declared, -32000).error).toBe('payload_too_large')
      const chunked = await test.app.request('/mcp', {
        method: 'POST',
        headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' },
        body: new Blob([body]).stream(),
        duplex: 'half',
      } as RequestInit)
      expect(chunked.status).toBe(413)
      expect(failure({ text: await chunked.text() }, -32000).error).toBe('payload_too_large')
    })

    it('answers JSON whatever Accept says', async () => {
      for (const accept of ['*/*', 'application/json', 'text/event-stream', 'application/json, text/event-stream']) {
        const response = await post({ Accept: accept }, { ...PING, method: 'tools/list' })
        expect(response.status).toBe(200)
        expect(response.headers.get('Content-Type')).toBe('application/json')
        expect(response.headers.get('Cache-Control')).toBe('no-store')
      }
    })

    it('refuses an unknown protocol version with 400 and the versions there are', async () => {
      const legacy = await post({ 'Mcp-Protocol-Version': '1999-01-01' })
      expect(legacy.status).toBe(400)
      expect(rpcResponse(legacy).rpcError.message).toContain('2025-11-25')
      const { headers, message } = mcpRequest('tools/list', {}, { era: '2026-07-28' })
      const future = JSON.parse(JSON.stringify(message).replace('2026-07-28', '2099-01-01')) as unknown
      const modern = await post({ ...headers, 'Mcp-Protocol-Version': '2099-01-01' }, future)
      expect(modern.status).toBe(400)
      expect(rpcResponse(modern).rpcError).toMatchObject({ code: -32022, data: { supported: ['2026-07-28'] } })
    })

    it('acknowledges notifications with 202 and no body', async () => {
      const response = await post({}, { jsonrpc: '2.0', method: 'notifications/initialized' })
      expect(response.status).toBe(202)
      expect(response.text).toBe('')
    })

    it('negotiates and teaches the loop in both eras', async () => {
      const mcp = mcpOf(api)
      const client = { capabilities: {}, clientInfo: { name: 'tests', version: '1' } }
      const initialized = await mcp.request('initialize', { ...client, protocolVersion: '2025-06-18' }, { key })
      const discovered = await mcp.request('server/discover', {}, { key, era: '2026-07-28' })
      expect(initialized.result).toMatchObject({
        protocolVersion: '2025-06-18',
        serverInfo: { name: 'gvnr', title: 'Gvnr', version: expect.stringMatching(/^\d+\.\d+\.\d+/) },
      })
      expect(discovered.result).toMatchObject({ supportedVersions: ['2026-07-28'] })
      expect(initialized.headers.get('Mcp-Session-Id')).toBeNull()
      for (const { result } of [initialized, discovered]) {
        expect(result.capabilities).toEqual({
          tools: { listChanged: false },
          resources: { listChanged: false },
          prompts: { listChanged: false },
          completions: {},
          extensions: { 'io.modelcontextprotocol/ui': { mimeTypes: ['text/html;profile=mcp-app'] } },
        })
        const instructions = String(result.instructions)
        expect(Buffer.byteLength(instructions)).toBeLessThan(2048)
        for (const word of [
          'budget_clear',
          'reconcile',
          'max_affordable_tokens',
          '/v1/budget/release',
          'rate_check',
          'idempotency_check',
        ])
          expect(instructions).toContain(word)
      }
    })

    it('ends a subscription at once: there is nothing to announce', async () => {
      const listen = { notifications: { toolsListChanged: true } }
      const response = await mcpOf(api).request('subscriptions/listen', listen, { key, era: '2026-07-28' })
      expect(response.status).toBe(200)
      expect(response.text).toContain('notifications/subscriptions/acknowledged')
      expect(response.text).toContain('"resultType":"complete"')
    })

    it('repeats a harmless request id', async () => {
      const response = await post({ 'X-Request-Id': 'request-4711' })
      expect(response.headers.get('X-Request-Id')).toBe('request-4711')
    })
  })

  describe('web pages', () => {
    const refused = async (headers: ApiHeaders, on: Api = api) => {
      const response = await on.post('/mcp', PING, key, headers)
      expect(response.headers.get('Access-Control-Allow-Origin')).toBeNull()
      expect(response.status).toBe(403)
      return failure(response, -32000)
    }

    it.each(['localhost', 'localhost:8787', '127.0.0.1:8787', '127.0.0.2', '[::1]:8787', 'LOCALHOST'])(
      'answers on a loopback server under the name %s',
      async (host) => expect((await post({ Host: host })).status).toBe(200),
    )

    it.each(['evil.example', 'evil.example:8787', 'localhost.evil.example', '127.0.0.1.evil.example', '10.0.0.1', ''])(
      'refuses the rebound name "%s" on a loopback server',
      async (host) => expect((await refused({ Host: host })).error).toBe('forbidden'),
    )

    it.each(['https://evil.example', 'http://localhost.evil.example', 'null', 'file://', 'chrome-extension://abc', 'http://'])(
      'refuses a page from %s, before looking at the key',
      async (origin) => {
        await refused({ Origin: origin })
        expect((await api.post('/mcp', PING, undefined, { Origin: origin })).status).toBe(403)
        expect((await api.request('OPTIONS', '/mcp', undefined, undefined, { Origin: origin })).status).toBe(403)
      },
    )

    it.each(ERAS)('lets a page on localhost call and read, also failures (%s)', async (era) => {
      const preflight = await api.request('OPTIONS', '/mcp', undefined, undefined, { Origin: INSPECTOR })
      expect(preflight.status).toBe(204)
      expect(preflight.headers.get('Access-Control-Allow-Methods')).toBe('POST')
      const allowed = preflight.headers.get('Access-Control-Allow-Headers')!.toLowerCase().split(', ')
      const { headers, message } = mcpRequest('tools/call', { name: 'get_balance' }, { era })
      for (const name of ['authorization', 'content-type', 'x-api-key', ...Object.keys(headers)])
        expect(allowed).toContain(name.toLowerCase())
      const answers = [
        await post({ ...headers, Origin: INSPECTOR }, message),
        await post({ ...headers, Origin: INSPECTOR }, { ...message, method: 'tools/list' }),
        await api.post('/mcp', message, undefined, { ...headers, Origin: INSPECTOR }),
        await api.get('/mcp', key, { Origin: INSPECTOR }),
      ]
      expect(answers.map(({ status }) => status)).toEqual([200, era === '2025-11-25' ? 200 : 400, 401, 405])
      for (const { headers } of [preflight, ...answers]) {
        expect(headers.get('Access-Control-Allow-Origin')).toBe(INSPECTOR)
        expect(headers.get('Vary')).toBe('Origin')
        expect(headers.get('Access-Control-Expose-Headers')).toContain('WWW-Authenticate')
      }
    })

    it('sends no CORS headers to callers that are no page', async () => {
      expect((await post()).headers.get('Access-Control-Allow-Origin')).toBeNull()
    })

    it('answers on a public server under the name of PUBLIC_URL and to its own pages', async () => {
      const own = apiOf(mountedMcp(test, { bindHost: '0.0.0.0', publicUrl: 'https://gvnr.example' }))
      const ok = async (headers: ApiHeaders) => expect((await own.post('/mcp', PING, key, headers)).status).toBe(200)
      await ok({ Host: 'gvnr.example' })
      await ok({ Host: 'gvnr.example:443', Origin: 'https://gvnr.example' })
      await ok({ Host: 'localhost:8787' })
      await ok({ Host: 'gvnr.example', Origin: INSPECTOR })
      expect((await refused({ Host: 'evil.example' }, own)).hint).toContain('gvnr.example')
      await refused({ Host: 'gvnr.example', Origin: 'https://evil.example' }, own)
      await refused({ Host: 'gvnr.example', Origin: 'http://gvnr.example' }, own)
    })

    it('answers behind a proxy on the same machine under the name of PUBLIC_URL', async () => {
      const own = apiOf(mountedMcp(test, { publicUrl: 'https://gvnr.example/' }))
      expect((await own.post('/mcp', PING, key, { Host: 'gvnr.example' })).status).toBe(200)
      await refused({ Host: 'evil.example' }, own)
    })

    it('answers under every name where it cannot know its own, and still refuses pages of other origins', async () => {
      const own = apiOf(mountedMcp(test, { bindHost: '0.0.0.0' }))
      const status = async (headers: ApiHeaders) => (await own.post('/mcp', PING, key, headers)).status
      expect(await status({ Host: 'gvnr.internal:8787' })).toBe(200)
      expect(await status({ Host: 'gvnr.internal:8787', Origin: 'http://gvnr.internal:8787' })).toBe(200)
      await refused({ Host: 'gvnr.internal:8787', Origin: 'https://evil.example' }, own)
    })
  })
})
