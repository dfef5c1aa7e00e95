import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { Database } from '../../../src/db/client.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { OPERATOR_KEY, openProxy, type ProxyTest } from '../../support/proxy.ts'
import { answerOf, CHAT_USAGE, chatChunk, chatDelta, json, responsesStream, sse, stream } from '../../support/upstream.ts'

const MESSAGES = [{ role: 'user', content: 'hi' }]
const CHAT = { model: 'gpt-4o', messages: MESSAGES, max_tokens: 100 }
/** Of gpt-4o: 12 tokens at $2.50, 8 from the cache at $1.25, 5 out at $10 a million. */
const CHAT_COST = 0.00009
/** Of claude-sonnet-4-6: 10 at $3, 30 read at $0.30, 40 written at $3.75, 50 for an hour at $6, 5 out at $15 a million. */
const MESSAGES_COST = 0.000564

describeEachDatabase('calls through the proxy', (openTestDatabase) => {
  let database: Database
  let proxy: ProxyTest
  beforeAll(async () => {
    database = await openTestDatabase()
    proxy = await openProxy(database)
  })
  afterAll(() => proxy?.stop())
  afterEach(async () => {
    await proxy.isClean()
    proxy.upstream.answer(answerOf)
    proxy.upstream.requests.length = 0
  })
  /** What one call added to the day's spend, in whole nano-dollars of six places. */
  async function costOf(call: () => Promise<unknown>): Promise<number> {
    const before = await proxy.spent()
    await call()
    return Number(((await proxy.spent()) - before).toFixed(6))
  }

  const routes = [
    ['/v1/chat/completions', CHAT, CHAT_COST],
    ['/v1/responses', { model: 'gpt-4o', input: 'hi', max_output_tokens: 100 }, CHAT_COST],
    ['/v1/embeddings', { model: 'text-embedding-3-large', input: 'hi there' }, 0.000001],
    ['/v1/messages', { model: 'claude-sonnet-4-6', max_tokens: 100, messages: MESSAGES }, MESSAGES_COST],
  ] as const
  it.each(routes)('%s: the same bytes there and back, charged what was used', async (path, body, cost) => {
    const expected = answerOf({ path, query: '', headers: {}, bytes: '', body }).steps.join('')
    const text = JSON.stringify(body, null, 2)
    const taken = await costOf(async () => {
      const response = await proxy.post(`/api${path}?beta=1`, text, { 'anthropic-version': '2023-06-01', cookie: 'a=b' })
      expect(response.status).toBe(200)
      expect(await response.text()).toBe(expected)
      expect(response.headers.get('x-request-id')).toBe('req_upstream_1')
      expect(response.headers.get('x-gvnr-clearance-id')).toMatch(/^[0-9a-f-]{36}$/)
      expect(Number(response.headers.get('x-gvnr-estimate-usd'))).toBeGreaterThan(cost)
      expect(Number(response.headers.get('x-gvnr-remaining-usd'))).toBeGreaterThan(90)
    })
    expect(taken).toBe(cost)
    const [request, ...others] = proxy.upstream.requests
    expect(others).toEqual([])
    expect(request).toMatchObject({ path, query: '?beta=1', bytes: text })
    expect(request?.headers).toMatchObject({
      'content-type': 'application/json',
      'accept-encoding': 'identity',
      'anthropic-version': '2023-06-01',
    })
    expect(request?.headers.authorization ?? `Bearer ${request?.headers['x-api-key']}`).toBe(`Bearer ${OPERATOR_KEY}`)
    expect(Object.keys(request?.headers ?? {}).filter((name) => /gvnr|cookie/.test(name))).toEqual([])
  })

  it.each(routes.filter(([path]) => path !== '/v1/embeddings'))('%s: streams', async (path, body, cost) => {
    const asked = { ...body, stream: true, ...(path === '/v1/chat/completions' && { stream_options: { include_usage: true } }) }
    const expected = answerOf({ path, query: '', headers: {}, bytes: '', body: asked }).steps.join('')
    const taken = await costOf(async () => {
      const response = await proxy.post(path, asked)
      expect(response.headers.get('content-type')).toContain('text/event-stream')
      expect(await response.text()).toBe(expected)
    })
    expect(taken).toBe(cost)
  })

  it('asks for the usage of a chat stream and hides that it did', async () => {
    for (const options of [undefined, { include_usage: false }, null]) {
      const asked = { ...CHAT, stream: true, ...(options !== undefined && { stream_options: options }) }
      const taken = await costOf(async () => {
        const events = (await (await proxy.post('/v1/chat/completions', asked)).text()).split('\n\n').filter(Boolean)
        expect(events).toHaveLength(5)
        expect(events.filter((event) => event.includes('"choices":[]'))).toEqual([])
        expect(events.at(-1)).toBe('data: [DONE]')
      })
      expect(taken).toBe(CHAT_COST)
    }
    expect(proxy.upstream.requests.map(({ body }) => body.stream_options)).toEqual(
      Array.from({ length: 3 }, () => ({ include_usage: true })),
    )
  })

  it('sends every other byte as it was, numbers that JavaScript cannot hold among them', async () => {
    const text =
      ' {"seed": 12345678901234567890, "f":1.0, "messages":[{"role":"user","content":"}\\"{"}], "model":"openai/gpt-4o","stream":true } \n'
    await (await proxy.post('/v1/chat/completions', text)).text()
    expect(proxy.upstream.requests[0]?.bytes).toBe(
      ' {"seed": 12345678901234567890, "f":1.0, "messages":[{"role":"user","content":"}\\"{"}], "model":"gpt-4o","stream":true ,"stream_options":{"include_usage":true}} \n',
    )
  })

  it('counts tokens without charge', async () => {
    const before = await proxy.operations()
    const taken = await costOf(async () => {
      const response = await proxy.post('/v1/messages/count_tokens', { model: 'claude-sonnet-4-6', messages: MESSAGES })
      expect(await response.json()).toEqual({ input_tokens: 42 })
      expect(response.headers.get('x-gvnr-clearance-id')).toBeNull()
    })
    expect([taken, await proxy.operations()]).toEqual([0, before])
  })

  it('burns one operation for each forwarded call', async () => {
    const before = await proxy.operations()
    await (await proxy.post('/v1/chat/completions', CHAT)).text()
    expect(await proxy.operations()).toBe(before - 1)
  })

  describe('usage', () => {
    const usageIn = (...events: (Record<string, unknown> | null)[]) =>
      stream(
        sse(chatChunk('gpt-4o', [chatDelta('Hello there')])),
        ...events.map((event) => sse(event === null ? { id: 'x', choices: [], usage: null } : event)),
        sse('[DONE]'),
      )
    const cases: [string, ReturnType<typeof stream>][] = [
      [
        'repeated in every event',
        usageIn(
          ...[1, 3, 5].map((n) =>
            chatChunk('gpt-4o', [chatDelta('')], { usage: { ...CHAT_USAGE, completion_tokens: n, total_tokens: 20 + n } }),
          ),
        ),
      ],
      [
        'in the final event that has choices',
        usageIn(chatChunk('gpt-4o', [{ index: 0, delta: {}, finish_reason: 'stop' }], { usage: CHAT_USAGE })),
      ],
      ['null before and after', usageIn(null, chatChunk('gpt-4o', [], { usage: CHAT_USAGE }), null)],
      [
        'whose thinking is in the total only',
        usageIn(chatChunk('gpt-4o', [], { usage: { ...CHAT_USAGE, completion_tokens: 3 } })),
      ],
    ]
    it.each(cases)('%s', async (_name, reply) => {
      proxy.upstream.answer(() => reply)
      const taken = await costOf(async () => (await proxy.post('/v1/chat/completions', { ...CHAT, stream: true })).text())
      expect(taken).toBe(CHAT_COST)
      expect((await proxy.endings()).at(-1)).toMatchObject({ end: 'complete', input_tokens: 20, output_tokens: 5 })
      expect((await proxy.endings()).at(-1)).not.toHaveProperty('estimated')
    })

    it('in an event of 300 KB, and wherever the chunks are cut', async () => {
      const body = { model: 'gpt-4o', input: 'hi', stream: true, max_output_tokens: 100 }
      proxy.upstream.answer(({ body }) => responsesStream(body, 'x'.repeat(300_000)))
      expect(await costOf(async () => (await proxy.post('/v1/responses', body)).text())).toBe(CHAT_COST)
      for (const [path, request, cost] of routes.filter(([name]) => name !== '/v1/embeddings')) {
        proxy.upstream.answer((given) => ({ ...answerOf(given), chunkBytes: 1 }))
        const taken = await costOf(async () => {
          const text = await (await proxy.post(path, { ...request, stream: true })).text()
          expect(text).toContain('Hello')
          expect(text).not.toContain('"choices":[]')
        })
        expect(taken).toBe(cost)
      }
    })

    it.each(['gzip', 'br'] as const)('of answers that are packed (%s) although we asked for plain ones', async (encoding) => {
      proxy.upstream.answer((request) => ({ ...answerOf(request), encoding }))
      for (const [path, body, cost] of routes) {
        const taken = await costOf(async () => {
          expect(await (await proxy.post(path, body)).json()).toHaveProperty('usage')
        })
        expect(taken).toBe(cost)
        if (path === '/v1/embeddings') continue
        const streamed = await costOf(async () => {
          const text = await (await proxy.post(path, { ...body, stream: true })).text()
          expect(text).toContain(' there')
          expect(text).not.toContain('"choices":[]')
        })
        expect(streamed).toBe(cost)
      }
    })
  })

  describe('where a call goes', () => {
    const ROUTED = [
      [
        '/v1/chat/completions',
        'openrouter/anthropic/claude-sonnet-4.6',
        '/openrouter/v1/chat/completions',
        'anthropic/claude-sonnet-4.6',
      ],
      ['/v1/chat/completions', 'anthropic/claude-sonnet-4-6', '/v1/chat/completions', 'claude-sonnet-4-6'],
      ['/v1/messages', 'openrouter/z-ai/glm-4.6', '/openrouter/v1/messages', 'z-ai/glm-4.6'],
      ['/v1/messages', 'claude-sonnet-4-6', '/v1/messages', 'claude-sonnet-4-6'],
      ['/v1/chat/completions', 'vllm/my-model', '/vllm/chat/completions', 'my-model'],
      ['/v1/chat/completions', 'llama3.3', '/vllm/chat/completions', 'llama3.3'],
      ['/v1/chat/completions', 'gemini/gemini-2.5-flash', '/v1beta/openai/chat/completions', 'gemini-2.5-flash'],
    ] as const
    it('depends on the model', async () => {
      const { origin } = proxy.upstream
      const routed = await openProxy(database, {
        config: {
          UPSTREAM_OPENROUTER_URL: `${origin}/openrouter/v1/`,
          UPSTREAM_OPENAI_URL: origin,
          UPSTREAM_ANTHROPIC_URL: origin,
          UPSTREAMS: [
            { name: 'vllm', url: `${origin}/vllm/`, prefixes: ['vllm/', 'llama'], protocol: 'openai', include_usage: true },
            { name: 'gemini', url: `${origin}/v1beta/openai`, key: 'AIza', protocol: 'openai', include_usage: true },
          ],
        },
      })
      for (const [path, model] of ROUTED) {
        const response = await routed.post(path, { model, max_tokens: 10, messages: MESSAGES })
        expect([model, response.status]).toEqual([model, 200])
        await response.text()
      }
      expect(proxy.upstream.requests.map(({ path, body }) => [path, body.model])).toEqual(
        ROUTED.map(([, , path, model]) => [path, model]),
      )
      expect(proxy.upstream.requests.map(({ headers }) => headers.authorization ?? headers['x-api-key'])).toEqual([
        ...[OPERATOR_KEY, OPERATOR_KEY, OPERATOR_KEY].map((key, index) => (index === 2 ? key : `Bearer ${key}`)),
        OPERATOR_KEY,
        undefined,
        undefined,
        'Bearer AIza',
      ])
      await routed.isClean()
      await routed.stop()
    })

    it("takes the caller's own provider key, and not the operator's billing with it", async () => {
      await (
        await proxy.post('/v1/chat/completions', CHAT, { 'openai-project': 'p', 'x-upstream-authorization': 'Bearer sk-mine' })
      ).text()
      await (
        await proxy.post('/v1/messages', { ...CHAT, model: 'claude-sonnet-4-6' }, { 'x-upstream-authorization': 'sk-ant-mine' })
      ).text()
      await (await proxy.post('/v1/chat/completions', CHAT, { 'openai-project': 'p' })).text()
      expect(
        proxy.upstream.requests.map(({ headers }) => [headers.authorization, headers['x-api-key'], headers['openai-project']]),
      ).toEqual([
        ['Bearer sk-mine', undefined, 'p'],
        [undefined, 'sk-ant-mine', undefined],
        [`Bearer ${OPERATOR_KEY}`, undefined, undefined],
      ])
    })

    it("is charged what OpenRouter says, and at the reached tier's prices", async () => {
      const usage = { ...CHAT_USAGE, cost: 0.0123456 }
      proxy.upstream.answer(() => json({ choices: [], usage }))
      const model = 'openrouter/meta-llama/llama-3.3-70b-instruct'
      expect(await costOf(async () => (await proxy.post('/v1/chat/completions', { ...CHAT, model })).text())).toBe(0.012346)
      // The reservation is made for 400,000 tokens, above the 200,000 from which gemini-2.5-pro costs twice as much; few are used.
      const prompt = 'x'.repeat(400_000)
      proxy.upstream.answer(() =>
        json({ choices: [], usage: { prompt_tokens: 100_000, completion_tokens: 0, total_tokens: 100_000 } }),
      )
      const long = { model: 'gemini-2.5-pro', max_tokens: 10, messages: [{ role: 'user', content: prompt }] }
      expect(await costOf(async () => (await proxy.post('/v1/chat/completions', long)).text())).toBe(0.125)
    })
  })
})
