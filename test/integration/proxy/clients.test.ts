import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAI } from '@ai-sdk/openai'
import Anthropic from '@anthropic-ai/sdk'
import { ChatOpenAI, OpenAIEmbeddings } from '@langchain/openai'
import { embed, generateText, jsonSchema, streamText, type ToolSet, tool } from 'ai'
import AnthropicOld from 'anthropic-old'
import OpenAI from 'openai'
import OpenAIOld from 'openai-old'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { openProxy, type ProxyTest } from '../../support/proxy.ts'
import { answerOf, chatChunk, chatDelta, json, messageDelta, messageStart, sse, stream } from '../../support/upstream.ts'

const CHAT_COST = 0.00009
const MESSAGES_COST = 0.000564
const MESSAGES = [{ role: 'user' as const, content: 'hi' }]
const PARAMETERS = { type: 'object' as const, properties: { city: { type: 'string' as const } }, required: ['city'] }
const CHAT = { model: 'gpt-4o', messages: MESSAGES, max_tokens: 100 }
const CLAUDE = { model: 'claude-sonnet-4-6', messages: MESSAGES, max_tokens: 100 }

/** The clients as their users have them: base URL and key changed, nothing else. */
describe('the official clients', () => {
  let home: TestDatabase
  let database: Database
  let proxy: ProxyTest
  let key: string
  let base: string
  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    database = await openDatabase(home as { url: string; dataDir: string })
    proxy = await openProxy(database)
    key = (await proxy.test.createKey(proxy.key, { name: 'a', scope: 'agent', agent_id: 'a' })).key
    base = `${proxy.origin}/v1`
  })
  afterAll(async () => {
    await proxy?.stop()
    await database?.close()
    await home?.drop()
  })
  afterEach(async () => {
    await proxy.isClean()
    proxy.upstream.answer(answerOf)
    proxy.upstream.requests.length = 0
  })
  async function costing(cost: number, call: () => Promise<unknown>): Promise<void> {
    const before = await proxy.spent()
    await call()
    expect(Number(((await proxy.spent()) - before).toFixed(6))).toBe(cost)
  }
  /** A cap that nothing fits, for what is done meanwhile. */
  async function broke(call: () => Promise<void>): Promise<void> {
    const set = (limit_usd: number) => proxy.test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd }, proxy.key)
    const sent = proxy.upstream.requests.length
    await set(0.000001)
    await call()
    await set(100)
    expect(proxy.upstream.requests).toHaveLength(sent)
  }
  const collected = async <T>(parts: AsyncIterable<T>, text: (part: T) => string | null | undefined): Promise<string> => {
    let all = ''
    for await (const part of parts) all += text(part) ?? ''
    return all
  }

  describe.each([
    ['openai (newest)', OpenAI],
    ['openai (oldest)', OpenAIOld as unknown as typeof OpenAI],
  ])('%s', (_name, Client) => {
    let client: OpenAI
    beforeAll(() => {
      client = new Client({ baseURL: base, apiKey: key })
    })

    it('plain, streamed, with tools', async () => {
      await costing(CHAT_COST, async () => {
        const answer = await client.chat.completions.create(CHAT)
        expect(answer.choices[0]?.message.content).toBe('Hello there')
        expect(answer._request_id).toBe('req_upstream_1')
      })
      await costing(CHAT_COST, async () => {
        const parts = await client.chat.completions.create({ ...CHAT, stream: true })
        expect(await collected(parts, (part) => part.choices[0]!.delta.content)).toBe('Hello there')
      })
      const tools = [{ type: 'function' as const, function: { name: 'get_weather', parameters: PARAMETERS } }]
      await costing(CHAT_COST, async () => {
        // The oldest client has its stream helper elsewhere.
        const beta = client.beta as unknown as Pick<OpenAI, 'chat'>
        const { completions } = 'stream' in client.chat.completions ? client.chat : beta.chat
        const started = completions.stream({ ...CHAT, tools })
        const [call] = (await started.finalChatCompletion()).choices[0]?.message.tool_calls ?? []
        expect(call).toMatchObject({ function: { name: 'get_weather', arguments: '{"city":"Paris"}' } })
      })
    })

    it('responses and embeddings', async () => {
      const asked = { model: 'gpt-4o', input: 'hi', max_output_tokens: 100 }
      await costing(CHAT_COST, async () => expect((await client.responses.create(asked)).output_text).toBe('Hello there'))
      await costing(CHAT_COST, async () => {
        const events = await client.responses.create({ ...asked, stream: true })
        expect(await collected(events, (event) => (event.type === 'response.output_text.delta' ? event.delta : ''))).toBe(
          'Hello there',
        )
      })
      await costing(0.000001, async () => {
        const { data } = await client.embeddings.create({ model: 'text-embedding-3-large', input: 'hi' })
        expect(data[0]?.embedding.map((value) => Number(value.toFixed(3)))).toEqual([0.1, 0.2, 0.3])
      })
      expect((await client.models.list()).data.map(({ id }) => id)).toContain('gpt-4o')
    })

    it('errors', async () => {
      await broke(async () => {
        const error = await client.chat.completions.create(CHAT).catch((thrown: unknown) => thrown)
        expect(error).toBeInstanceOf(Client.PermissionDeniedError)
        expect(error).toMatchObject({ status: 403, code: 'daily_budget_exceeded', type: 'budget_exceeded' })
      })
      proxy.upstream.answer(() => json({ error: { message: 'no', type: 'invalid_request_error', param: 'x', code: 'y' } }, 400))
      await expect(client.chat.completions.create(CHAT)).rejects.toMatchObject({ status: 400, code: 'y', param: 'x' })
      proxy.upstream.answer(() => json({ error: { message: 'slow down' } }, 429, { 'retry-after-ms': '5' }))
      await expect(client.chat.completions.create(CHAT)).rejects.toBeInstanceOf(Client.RateLimitError)
      expect(proxy.upstream.requests).toHaveLength(4)
      const wrong = new Client({ baseURL: base, apiKey: 'bg_wrong' })
      await expect(wrong.chat.completions.create(CHAT)).rejects.toBeInstanceOf(Client.AuthenticationError)
    })

    it('leaves a stream', async () => {
      proxy.upstream.answer(() => stream(sse(chatChunk('gpt-4o', [chatDelta('Hello')])), 'stall'))
      const parts = await client.chat.completions.create({ ...CHAT, stream: true })
      for await (const part of parts) {
        expect(part.choices[0]?.delta.content).toBe('Hello')
        break
      }
      await ended(proxy)
      expect((await proxy.endings()).at(-1)).toMatchObject({ end: 'client_left', estimated: true, output_tokens: 3 })
    })
  })

  describe.each([
    ['@anthropic-ai/sdk (newest)', Anthropic],
    ['@anthropic-ai/sdk (oldest)', AnthropicOld as unknown as typeof Anthropic],
  ])('%s', (_name, Client) => {
    let client: Anthropic
    beforeAll(() => {
      client = new Client({ baseURL: proxy.origin, apiKey: key })
    })

    it('plain, streamed, with tools, and counts tokens', async () => {
      await costing(MESSAGES_COST, async () => {
        expect((await client.messages.create(CLAUDE)).content).toMatchObject([{ type: 'text', text: 'Hello there' }])
      })
      await costing(MESSAGES_COST, async () => {
        const message = await client.messages.stream(CLAUDE).finalMessage()
        expect(message).toMatchObject({ content: [{ text: 'Hello there' }], usage: { output_tokens: 5 } })
      })
      const tools = [{ name: 'get_weather', input_schema: PARAMETERS }]
      await costing(MESSAGES_COST, async () => {
        const message = await client.messages.stream({ ...CLAUDE, tools }).finalMessage()
        expect(message.content).toMatchObject([{ type: 'tool_use', input: { city: 'Paris' } }])
      })
      // The oldest client has no call for it.
      if (client.messages.countTokens === undefined) return
      await costing(0, async () =>
        expect(await client.messages.countTokens({ model: CLAUDE.model, messages: MESSAGES })).toMatchObject({
          input_tokens: 42,
        }),
      )
    })

    it('errors', async () => {
      await broke(async () => {
        const error = await client.messages.create(CLAUDE).catch((thrown: unknown) => thrown)
        expect(error).toBeInstanceOf(Client.PermissionDeniedError)
        expect(error).toMatchObject({
          error: { type: 'error', error: { type: 'budget_exceeded', reason: 'daily_budget_exceeded' } },
        })
      })
      const overloaded = { type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } }
      proxy.upstream.answer(({ body }) => stream(messageStart(body), sse(overloaded, 'error')))
      await expect(client.messages.stream(CLAUDE).finalMessage()).rejects.toThrow(/verloaded/)
      proxy.upstream.answer(() => json(overloaded, 400))
      await expect(client.messages.create(CLAUDE)).rejects.toBeInstanceOf(Client.BadRequestError)
    })

    it('leaves a stream', async () => {
      // The oldest client sees an event only once the next one has begun.
      proxy.upstream.answer(({ body }) =>
        stream(messageStart(body), messageDelta('Hello'), sse({ type: 'ping' }, 'ping'), 'stall'),
      )
      const parts = await client.messages.create({ ...CLAUDE, stream: true })
      for await (const part of parts) if (part.type === 'content_block_delta') parts.controller.abort()
      await ended(proxy)
      expect((await proxy.endings()).at(-1)).toMatchObject({ end: 'client_left', input_tokens: 130, output_tokens: 3 })
    })
  })

  it('LangChain', async () => {
    const model = new ChatOpenAI({
      model: 'gpt-4o',
      maxTokens: 100,
      apiKey: key,
      maxRetries: 0,
      configuration: { baseURL: base },
    })
    await costing(CHAT_COST, async () => expect((await model.invoke('hi')).content).toBe('Hello there'))
    await costing(CHAT_COST, async () => {
      expect(await collected(await model.stream('hi'), ({ content }) => String(content))).toBe('Hello there')
    })
    const bound = model.bindTools([{ type: 'function', function: { name: 'get_weather', parameters: PARAMETERS } }])
    await costing(CHAT_COST, async () => {
      expect((await bound.invoke('hi')).tool_calls).toMatchObject([{ name: 'get_weather', args: { city: 'Paris' } }])
    })
    const embedder = new OpenAIEmbeddings({ model: 'text-embedding-3-large', apiKey: key, configuration: { baseURL: base } })
    await costing(0.000001, async () => expect(await embedder.embedQuery('hi')).toHaveLength(3))
    await broke(() => expect(model.invoke('hi')).rejects.toMatchObject({ status: 403 }))
    proxy.upstream.answer(() => stream(sse(chatChunk('gpt-4o', [chatDelta('Hello')])), 'stall'))
    for await (const _part of await model.stream('hi')) break
    await ended(proxy)
    expect((await proxy.endings()).at(-1)).toMatchObject({ end: 'client_left', output_tokens: 3 })
  })

  it('Vercel AI SDK', async () => {
    const openai = createOpenAI({ baseURL: base, apiKey: key })
    const anthropic = createAnthropic({ baseURL: base, apiKey: key })
    const models = [
      [openai('gpt-4o'), CHAT_COST],
      [openai.chat('gpt-4o'), CHAT_COST],
      [anthropic('claude-sonnet-4-6'), MESSAGES_COST],
    ] as const
    const asked = { prompt: 'hi', maxOutputTokens: 100, maxRetries: 0 }
    const weather = tool({ description: 'weather', inputSchema: jsonSchema<{ city: string }>(PARAMETERS) })
    const tools = { get_weather: weather } as unknown as ToolSet
    for (const [model, cost] of models) {
      await costing(cost, async () => expect((await generateText({ model, ...asked })).text).toBe('Hello there'))
      await costing(cost, async () => {
        expect(await collected(streamText({ model, ...asked }).textStream, (text) => text)).toBe('Hello there')
      })
      await costing(cost, async () => {
        const { toolCalls } = await generateText({ model, ...asked, tools })
        expect(toolCalls).toMatchObject([{ toolName: 'get_weather', input: { city: 'Paris' } }])
      })
      await broke(() => expect(generateText({ model, ...asked })).rejects.toMatchObject({ statusCode: 403 }))
    }
    await costing(0.000001, async () => {
      expect((await embed({ model: openai.embedding('text-embedding-3-large'), value: 'hi' })).embedding).toHaveLength(3)
    })
    proxy.upstream.answer(() => stream(sse(chatChunk('gpt-4o', [chatDelta('Hello')])), 'stall'))
    const abort = new AbortController()
    const { textStream } = streamText({ model: openai.chat('gpt-4o'), ...asked, abortSignal: abort.signal })
    for await (const _text of textStream) {
      abort.abort()
      break
    }
    await ended(proxy)
    expect((await proxy.endings()).at(-1)).toMatchObject({ end: 'client_left', output_tokens: 3 })
  })
})

async function ended(proxy: ProxyTest): Promise<void> {
  await expect.poll(() => proxy.test.app.proxy.openCalls, { timeout: 10_000 }).toBe(0)
}
