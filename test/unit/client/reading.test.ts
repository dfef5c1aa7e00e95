import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { pricedRequest } from '../../../src/client/adapters/requests.ts'
import { EventReader } from '../../../src/client/adapters/sse.ts'
import { budgetDenied, isUnserved } from '../../../src/client/errors.ts'
import { StreamUsage, usageOf } from '../../../src/client/usage.ts'

describe('usageOf', () => {
  const plain = { inputTokens: 10, outputTokens: 4 }
  it.each<[string, unknown, unknown]>([
    ['OpenAI chat', { usage: { prompt_tokens: 10, completion_tokens: 4, total_tokens: 14 } }, plain],
    [
      'OpenAI chat with a cache',
      { usage: { prompt_tokens: 10, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 6 } } },
      { ...plain, cachedInputTokens: 6 },
    ],
    [
      'thinking that is in the total only',
      { usage: { prompt_tokens: 10, completion_tokens: 4, total_tokens: 30 } },
      { inputTokens: 10, outputTokens: 20 },
    ],
    [
      'OpenAI responses',
      { usage: { input_tokens: 10, input_tokens_details: { cached_tokens: 6 }, output_tokens: 4, total_tokens: 14 } },
      { ...plain, cachedInputTokens: 6 },
    ],
    ['OpenAI embeddings', { usage: { prompt_tokens: 10, total_tokens: 10 } }, { inputTokens: 10, outputTokens: 0 }],
    [
      'Anthropic',
      { usage: { input_tokens: 10, output_tokens: 4, cache_read_input_tokens: 0, cache_creation_input_tokens: 0 } },
      plain,
    ],
    [
      'Anthropic with both caches',
      {
        usage: {
          input_tokens: 1,
          output_tokens: 4,
          cache_read_input_tokens: 2,
          cache_creation_input_tokens: 7,
          cache_creation: { ephemeral_5m_input_tokens: 3, ephemeral_1h_input_tokens: 4 },
        },
      },
      { ...plain, cachedInputTokens: 2, cacheWriteInputTokens: 3, cacheWrite1hInputTokens: 4 },
    ],
    [
      'AI SDK, model',
      { usage: { inputTokens: { total: 10, cacheRead: 6, cacheWrite: 0 }, outputTokens: { total: 4 } } },
      { ...plain, cachedInputTokens: 6 },
    ],
    ['AI SDK, result', { totalUsage: { inputTokens: 10, outputTokens: 4 }, usage: { inputTokens: 5, outputTokens: 2 } }, plain],
    ['AI SDK, embedding', { usage: { tokens: 10 } }, { inputTokens: 10, outputTokens: 0 }],
    [
      'LangChain',
      {
        usage_metadata: {
          input_tokens: 10,
          output_tokens: 4,
          total_tokens: 14,
          input_token_details: { cache_read: 6, cache_creation: 2 },
        },
      },
      { ...plain, cachedInputTokens: 6, cacheWriteInputTokens: 2 },
    ],
    [
      'parts that exceed the whole',
      { usage: { prompt_tokens: 10, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 11 } } },
      plain,
    ],
    ['no usage', { text: 'hello' }, null],
    ['AI SDK that does not know', { usage: { inputTokens: { total: undefined }, outputTokens: { total: undefined } } }, null],
    ['figures that are none', { usage: { prompt_tokens: -1, completion_tokens: 1.5 } }, null],
    ['half of them', { usage: { prompt_tokens: 10 } }, null],
    ['text', 'hello', null],
    ['nothing', undefined, null],
  ])('reads %s', (_name, answer, expected) => {
    expect(usageOf(answer)).toEqual(expected)
  })
})

describe('EventReader', () => {
  const events = [
    'data: {"choices":[{"delta":{"content":"héllo"}}]}',
    ': comment',
    'event: x\ndata: {"a":\ndata: 1}',
    'data: [DONE]',
  ]
  const usageEvent = 'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}'
  const bytesOf = (text: string) => new TextEncoder().encode(text)
  function read(text: string, cuts: number[], dropsUsageChunk: boolean) {
    const usage = new StreamUsage()
    const reader = new EventReader(usage, { dropsUsageChunk })
    const bytes = bytesOf(text)
    const ends = [...new Set([...cuts.map((cut) => cut % bytes.length), bytes.length])].sort((a, b) => a - b)
    const pieces = ends.flatMap((end, index) => reader.push(bytes.subarray(ends[index - 1] ?? 0, end)))
    return { text: Buffer.concat([...pieces, ...reader.end()]).toString(), usage: usage.result(true) }
  }

  it('leaves the bytes as they are, however they are cut, and drops only the chunk it is told to', () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(500), { maxLength: 40 }),
        fc.constantFrom('\n\n', '\r\n\r\n', '\r\r'),
        fc.boolean(),
        (cuts, end, drops) => {
          const newline = end.slice(0, end.length / 2)
          const all = [...events.slice(0, 3), usageEvent, ...events.slice(3)].map(
            (event) => event.replaceAll('\n', newline) + end,
          )
          const kept = drops ? all.filter((event) => !event.includes('"usage"')) : all
          const { text, usage } = read(all.join(''), cuts, drops)
          expect(text).toBe(kept.join(''))
          expect(usage).toEqual({ inputTokens: 3, outputTokens: 2 })
        },
      ),
    )
  })

  it('passes on what comes without an end', () => {
    expect(read('data: {"a":1}\n\ndata: {"b"', [], true).text).toBe('data: {"a":1}\n\ndata: {"b"')
  })
})

describe('pricedRequest', () => {
  const priced = (path: string, body: unknown, estimates = {}) =>
    pricedRequest(`https://api.example.com${path}`, 'post', JSON.stringify(body), estimates)

  it('bounds what a request can cost', () => {
    const messages = [{ role: 'user', content: 'Grüße' }]
    expect(priced('/v1/chat/completions', { model: 'm', max_tokens: 100, n: 3, messages })).toEqual({
      surface: 'openai',
      model: 'm',
      estimatedTokens: 300,
      estimatedInputTokens: 42,
    })
    expect(priced('/openai/deployments/x/chat/completions?api-version=1', { model: 'm', messages })).toMatchObject({
      estimatedTokens: 4096,
    })
    expect(priced('/v1/messages', { model: 'm', max_tokens: 7, messages }, { estimateInput: () => 1.2 })).toEqual({
      surface: 'anthropic',
      model: 'm',
      estimatedTokens: 7,
      estimatedInputTokens: 2,
    })
    expect(priced('/v1/embeddings', { model: 'm', input: ['ab', [1, 2, 3]] })).toEqual({
      surface: 'openai',
      model: 'm',
      estimatedTokens: 5,
    })
  })

  it('counts a picture as one, not as the length of its bytes', () => {
    const image = { type: 'image_url', image_url: { url: `data:image/png;base64,${'A'.repeat(1_000_000)}` } }
    const request = priced('/v1/chat/completions', { model: 'm', messages: [{ role: 'user', content: [image] }] })
    expect(request?.estimatedInputTokens).toBeLessThan(3_000)
  })

  it('asks a chat stream for its usage unless the client does', () => {
    const stream = { model: 'm', messages: [], stream: true }
    expect(JSON.parse(priced('/v1/chat/completions', stream)!.body!)).toEqual({
      ...stream,
      stream_options: { include_usage: true },
    })
    expect(priced('/v1/chat/completions', { ...stream, stream_options: { include_usage: true } })?.body).toBeUndefined()
    expect(priced('/v1/messages', stream)?.body).toBeUndefined()
  })

  it('leaves what it cannot price', () => {
    expect(priced('/v1/files', { model: 'm' })).toBeNull()
    expect(priced('/v1/messages/batches', { model: 'm' })).toBeNull()
    expect(priced('/v1/chat/completions', { messages: [] })).toBeNull()
    expect(pricedRequest('https://x/v1/chat/completions', 'GET', undefined, {})).toBeNull()
    expect(pricedRequest('https://x/v1/chat/completions', 'POST', 'not json', {})).toBeNull()
  })
})

describe('errors', () => {
  const denial = { approved: false, reason: 'envelope_exceeded', remaining_usd: 0 }
  it.each([
    ['OpenAI', { status: 403, error: { type: 'budget_exceeded', denial } }],
    ['Anthropic', { status: 403, error: { type: 'error', error: { denial } } }],
    ['AI SDK', { responseBody: JSON.stringify({ error: { denial } }) }],
    ['AI SDK, retried', { errors: [new Error('a'), { cause: { error: { denial } } }] }],
  ])('finds the denial in an error of the %s', (_name, error) => {
    expect(budgetDenied(error)?.denial).toEqual(denial)
  })

  it('finds none elsewhere, also in circles', () => {
    const circle: { cause?: unknown } = {}
    circle.cause = circle
    for (const other of [null, 'x', new Error('x'), { error: { type: 'x' } }, circle]) expect(budgetDenied(other)).toBeNull()
    expect(isUnserved(circle)).toBe(false)
  })
})
