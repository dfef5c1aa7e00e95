import { createOpenAI } from '@ai-sdk/openai'
import Anthropic from '@anthropic-ai/sdk'
import { HumanMessage } from '@langchain/core/messages'
import { ChatOpenAI } from '@langchain/openai'
import { generateText, streamText, wrapLanguageModel } from 'ai'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import {
  budgetDenied,
  createGvnr,
  governAnthropic,
  governOpenAI,
  gvnrCallbacks,
  gvnrMiddleware,
} from '../../../src/client/index.ts'
import { type Kit, startKit } from '../../support/kit.ts'
import { USED } from '../../support/provider.ts'

const TEXT = 'One word after the other.'
const SETTLED = [
  { kind: 'settled', usage: { inputTokens: USED.input, outputTokens: USED.output, cachedInputTokens: USED.cached } },
]
const HELLO = [{ role: 'user' as const, content: 'Hello' }]

/** One way to make a call through an adapter, whole or streamed. */
type Way = {
  readonly model: string
  /** What one call costs, in dollars. */
  readonly cost_usd: number
  call(agent: Agent): Promise<string>
  /** Takes `take` pieces of the answer, or all. */
  stream(agent: Agent, take?: number): Promise<string>
}
type Agent = Awaited<ReturnType<Kit['agent']>>

describe('the adapters', () => {
  let kit: Kit
  beforeAll(async () => {
    kit = await startKit()
  })
  afterAll(() => kit?.stop())

  const governed = (agent: Agent) => ({ gvnr: agent.gvnr, onOutcome: kit.onOutcome })
  const openai = (agent: Agent) =>
    governOpenAI(new OpenAI({ apiKey: 'sk-none', baseURL: `${kit.provider.origin}/v1`, maxRetries: 0 }), governed(agent))
  const anthropic = (agent: Agent) =>
    governAnthropic(new Anthropic({ apiKey: 'sk-none', baseURL: kit.provider.origin, maxRetries: 0 }), governed(agent))
  const vercel = (agent: Agent) =>
    wrapLanguageModel({
      model: createOpenAI({ apiKey: 'sk-none', baseURL: `${kit.provider.origin}/v1` }).chat('gpt-4o'),
      middleware: gvnrMiddleware(governed(agent)),
    })
  const langchain = (agent: Agent) =>
    new ChatOpenAI({
      model: 'gpt-4o',
      apiKey: 'sk-none',
      maxTokens: 100,
      maxRetries: 0,
      configuration: { baseURL: `${kit.provider.origin}/v1` },
      callbacks: [gvnrCallbacks(governed(agent))],
    })
  const some = async <T>(
    pieces: AsyncIterable<T>,
    text: (piece: T) => string | null | undefined,
    take = Number.POSITIVE_INFINITY,
  ) => {
    let all = ''
    let taken = 0
    for await (const piece of pieces) {
      all += text(piece) ?? ''
      if (++taken >= take) break
    }
    return all
  }
  const withoutEffort = { maxOutputTokens: 100, maxRetries: 0, prompt: 'Hello' }

  const WAYS: Record<string, Way> = {
    'OpenAI SDK, chat': {
      model: 'gpt-4o',
      cost_usd: 0.001025,
      call: async (agent) => {
        const answer = await openai(agent).chat.completions.create({ model: 'gpt-4o', max_tokens: 100, messages: HELLO })
        return answer.choices[0]?.message.content ?? ''
      },
      stream: async (agent, take) =>
        some(
          await openai(agent).chat.completions.create({ model: 'gpt-4o', max_tokens: 100, messages: HELLO, stream: true }),
          // As most programs read it: a chunk without choices would break them.
          ({ choices }) => choices[0]!.delta.content,
          take,
        ),
    },
    'OpenAI SDK, responses': {
      model: 'gpt-4o',
      cost_usd: 0.001025,
      call: async (agent) =>
        (await openai(agent).responses.create({ model: 'gpt-4o', max_output_tokens: 100, input: 'Hello' })).output_text,
      stream: async (agent, take) =>
        some(
          await openai(agent).responses.create({ model: 'gpt-4o', max_output_tokens: 100, input: 'Hello', stream: true }),
          (event) => (event.type === 'response.output_text.delta' ? event.delta : ''),
          take,
        ),
    },
    'Anthropic SDK': {
      model: 'claude-sonnet-4-6',
      cost_usd: 0.00123,
      call: async (agent) => {
        const answer = await anthropic(agent).messages.create({ model: 'claude-sonnet-4-6', max_tokens: 100, messages: HELLO })
        return answer.content[0]?.type === 'text' ? answer.content[0].text : ''
      },
      stream: async (agent, take) =>
        some(
          anthropic(agent).messages.stream({ model: 'claude-sonnet-4-6', max_tokens: 100, messages: HELLO }),
          (event) => (event.type === 'content_block_delta' && event.delta.type === 'text_delta' ? event.delta.text : ''),
          take,
        ),
    },
    'Vercel AI SDK': {
      model: 'gpt-4o',
      cost_usd: 0.001025,
      call: async (agent) => (await generateText({ model: vercel(agent), ...withoutEffort })).text,
      async stream(agent, take) {
        const failures: unknown[] = []
        const leaving = new AbortController()
        const { textStream } = streamText({
          model: vercel(agent),
          ...withoutEffort,
          abortSignal: leaving.signal,
          onError: ({ error }) => void failures.push(error),
        })
        const text = await some(textStream, (piece) => piece, take)
        // Its streams are read to their end whoever left, unless they are aborted.
        if (take !== undefined) leaving.abort()
        if (failures.length > 0) throw failures[0]
        return text
      },
    },
    LangChain: {
      model: 'gpt-4o',
      cost_usd: 0.001025,
      call: async (agent) => String((await langchain(agent).invoke([new HumanMessage('Hello')])).content),
      stream: async (agent, take) =>
        some(await langchain(agent).stream([new HumanMessage('Hello')]), ({ content }) => String(content), take),
    },
  }

  describe.each(Object.entries(WAYS))('%s', (name, way) => {
    it('clears, calls and settles with what the provider reports', async () => {
      const agent = await kit.agent()
      expect(await way.call(agent)).toBe(TEXT)
      expect(kit.outcomes).toMatchObject(SETTLED)
      expect(kit.outcomes[0]!.clearance.approved).toBe(true)
      expect(await agent.spent()).toBe(way.cost_usd)
      expect(kit.provider.requests).toMatchObject([{ body: { model: way.model } }])
    })

    it('settles a stream at its end', async () => {
      const agent = await kit.agent()
      expect(await way.stream(agent)).toBe(TEXT)
      expect(kit.outcomes).toMatchObject(SETTLED)
      expect(await agent.spent()).toBe(way.cost_usd)
    })

    it('lets the estimate of a stream stand that its consumer leaves', async () => {
      const agent = await kit.agent()
      expect(TEXT.startsWith(await way.stream(agent, 2))).toBe(true)
      await expect.poll(() => kit.provider.left()).toBeGreaterThan(0)
      // LangChain says nothing about a run whose consumer left.
      if (name !== 'LangChain')
        await expect.poll(() => kit.outcomes).toMatchObject([{ kind: 'standing', reason: 'stopped_early' }])
      expect(await agent.spent()).toBeGreaterThanOrEqual(0.001)
    })

    it('makes no call when denied, and says why', async () => {
      const agent = await kit.agent(0.0001)
      for (const attempt of [way.call, way.stream]) {
        const error: unknown = await attempt(agent).then(
          () => null,
          (thrown: unknown) => thrown,
        )
        expect(budgetDenied(error)?.denial).toMatchObject({
          approved: false,
          reason: 'envelope_exceeded',
          limit_agent_id: agent.id,
          max_affordable_tokens: expect.any(Number),
        })
      }
      expect(kit.provider.requests).toEqual([])
      expect(kit.outcomes).toEqual([])
    })

    it('gives the estimate back when the provider refuses, and leaves it when nobody can know', async () => {
      const refused = await kit.agent()
      kit.provider.trouble = { status: 400 }
      await expect(way.call(refused)).rejects.toThrow()
      expect(kit.outcomes).toMatchObject([{ kind: 'released' }])
      expect(await refused.spent()).toBe(0)

      const failed = await kit.agent()
      kit.provider.trouble = { status: 500 }
      await expect(way.call(failed)).rejects.toThrow()
      expect(kit.outcomes).toMatchObject([{ kind: 'standing', reason: 'call_failed' }])
      expect(await failed.spent()).toBeGreaterThan(0)

      const broken = await kit.agent()
      kit.provider.trouble = 'cut'
      await way.stream(broken).catch(() => {})
      expect(kit.outcomes).toMatchObject([{ kind: 'standing' }])
      expect(await broken.spent()).toBeGreaterThan(0)
    })
  })

  it('settles embeddings by their input', async () => {
    const agent = await kit.agent()
    await openai(agent).embeddings.create({ model: 'text-embedding-3-small', input: ['Hello', 'there'] })
    expect(kit.outcomes).toMatchObject([{ kind: 'settled', usage: { inputTokens: USED.input, outputTokens: 0 } }])
    expect(await agent.spent()).toBe(0.000006)
  })

  it("leaves the SDKs' helpers what they are, and other endpoints alone", async () => {
    const agent = await kit.agent()
    const { data, response } = await openai(agent)
      .chat.completions.create({ model: 'gpt-4o', max_tokens: 100, messages: HELLO })
      .withResponse()
    expect([data.choices[0]?.message.content, response.status]).toEqual([TEXT, 200])
    const streamed = openai(agent).chat.completions.stream({ model: 'gpt-4o', max_tokens: 100, messages: HELLO })
    expect(await streamed.finalContent()).toBe(TEXT)
    const message = await anthropic(agent)
      .messages.stream({ model: 'claude-sonnet-4-6', max_tokens: 9, messages: HELLO })
      .finalText()
    expect(message).toBe(TEXT)
    expect(kit.outcomes).toMatchObject([{ kind: 'settled' }, { kind: 'settled' }, { kind: 'settled' }])
    await openai(agent).moderations.create({ input: 'Hello', model: 'omni-moderation-latest' })
    expect(kit.outcomes).toHaveLength(3)
  })

  it('passes on the usage that a client asked for itself', async () => {
    const agent = await kit.agent()
    const chunks = await openai(agent).chat.completions.create({
      model: 'gpt-4o',
      messages: HELLO,
      stream: true,
      stream_options: { include_usage: true },
    })
    const usages = []
    for await (const chunk of chunks) if (chunk.usage) usages.push(chunk.usage.total_tokens)
    expect(usages).toEqual([USED.input + USED.output])
    expect(kit.outcomes).toMatchObject(SETTLED)
  })

  it('clears each attempt of an SDK that tries again', async () => {
    const agent = await kit.agent()
    kit.provider.trouble = { status: 429 }
    const client = openai(agent).withOptions({ maxRetries: 1 })
    await expect(client.chat.completions.create({ model: 'gpt-4o', max_tokens: 10, messages: HELLO })).rejects.toMatchObject({
      status: 429,
    })
    expect(kit.outcomes).toMatchObject([{ kind: 'released' }, { kind: 'released' }])
    expect(await agent.spent()).toBe(0)
  })

  it('sends nothing to the provider while Gvnr cannot be asked', async () => {
    const agent = await kit.agent()
    const gvnr = createGvnr({ baseUrl: 'http://127.0.0.1:9', apiKey: agent.key, agentId: agent.id, maxAttempts: 1 })
    const client = governOpenAI(new OpenAI({ apiKey: 'sk-none', baseURL: `${kit.provider.origin}/v1` }), { gvnr })
    await expect(client.chat.completions.create({ model: 'gpt-4o', messages: HELLO })).rejects.toMatchObject({
      status: 503,
      code: 'unreachable',
    })
    expect(kit.provider.requests).toEqual([])
  })
})
