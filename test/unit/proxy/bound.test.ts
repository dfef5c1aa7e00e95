import { describe, expect, it } from 'vitest'
import { limitsFor } from '../../../src/prices/limits.ts'
import { ASSUMED_CONTEXT_TOKENS, ASSUMED_OUTPUT_TOKENS, boundOf } from '../../../src/proxy/bound.ts'
import { type Body, contentOf } from '../../../src/proxy/content.ts'
import type { RouteKind } from '../../../src/proxy/routes.ts'

const bound = (kind: RouteKind, model: string, body: Body) =>
  boundOf(kind, body, contentOf(body, Buffer.byteLength(JSON.stringify(body))), model, limitsFor(model))
const outputOf = (kind: RouteKind, model: string, body: Body): number => bound(kind, model, body).outputTokens
const user = (content: unknown) => ({ messages: [{ role: 'user', content }] })

describe('the limits of a model', () => {
  it('are those of exactly this model, whatever its prefix, date and variant', () => {
    const sonnet = { contextTokens: 1_000_000, maxOutputTokens: 64_000 }
    for (const name of [
      'claude-sonnet-4-6',
      'anthropic/claude-sonnet-4.6',
      'claude-sonnet-4-6-20260201',
      'openrouter/anthropic/claude-sonnet-4.6:beta',
    ])
      expect(limitsFor(name)).toEqual(sonnet)
    expect(limitsFor('gpt-4o-2024-11-20')).toEqual({ contextTokens: 128_000, maxOutputTokens: 16_384 })
    expect(limitsFor('gpt-4o-something-new')).toEqual({})
    expect(limitsFor('constructor')).toEqual({})
  })

  it('are unknown with a variant that may change them', () => {
    for (const variant of ['free', 'nitro', 'floor', 'thinking', 'exacto', 'nitro:free'])
      expect(limitsFor(`openai/gpt-4o:${variant}`)).toEqual(limitsFor('gpt-4o'))
    for (const variant of ['extended', 'online', 'nitro:extended', 'anything', ''])
      expect(limitsFor(`openai/gpt-4o:${variant}`)).toEqual({})
    expect(bound('chat', 'openai/gpt-4o:extended', { max_tokens: 64_000 }).outputTokens).toBe(64_000)
  })
})

describe('the output', () => {
  it('is what the caller asks for at most, times the choices', () => {
    expect(outputOf('chat', 'gpt-4o', { max_tokens: 100 })).toBe(100)
    expect(outputOf('chat', 'gpt-4o', { max_tokens: 100, max_completion_tokens: 200 })).toBe(200)
    expect(outputOf('chat', 'gpt-4o', { max_completion_tokens: 50, n: 4 })).toBe(200)
    expect(outputOf('responses', 'gpt-4o', { max_output_tokens: 7, max_tokens: 1 })).toBe(7)
    expect(outputOf('messages', 'claude-sonnet-4-6', { max_tokens: 9, max_completion_tokens: 99, n: 5 })).toBe(9)
    expect(outputOf('embeddings', 'text-embedding-3-small', { input: 'x' })).toBe(0)
  })

  it("is the model's maximum when the caller sets none that counts, and an assumed one where nobody knows", () => {
    for (const body of [{}, { max_tokens: '5' }, { max_tokens: -1 }, { max_tokens: 0 }, { max_tokens: null }])
      expect(outputOf('chat', 'gpt-4o', body)).toBe(16_384)
    expect(outputOf('chat', 'gpt-4o', { max_tokens: 1_000_000 })).toBe(16_384)
    expect(bound('chat', 'nobody-knows', {})).toMatchObject({ outputTokens: ASSUMED_OUTPUT_TOKENS, isOutputAssumed: true })
    expect(bound('chat', 'nobody-knows', { max_tokens: 5 })).toMatchObject({ outputTokens: 5, isOutputAssumed: false })
  })
})

describe('the input', () => {
  it('is at most the bytes of the body and what is around it, up to the context window', () => {
    const body = user('x'.repeat(1000))
    expect(bound('chat', 'gpt-4o', body).inputTokens).toBe(JSON.stringify(body).length + 2 * 16 + 1024)
    expect(bound('chat', 'gpt-4o', user('x'.repeat(1_000_000))).inputTokens).toBe(128_000)
    expect(bound('chat', 'nobody-knows', user('x'.repeat(2_000_000))).inputTokens).toBeGreaterThan(2_000_000)
    expect(bound('embeddings', 'text-embedding-3-small', { input: ['x'.repeat(100_000)] }).inputTokens).toBeGreaterThan(100_000)
  })

  it('counts inline images by the piece', () => {
    const data = 'A'.repeat(500_000)
    const parts = [
      { type: 'image_url', image_url: { url: `data:image/png;base64,${data}` } },
      { type: 'input_image', image_url: `data:image/png;base64,${data}` },
      { type: 'image', source: { type: 'base64', media_type: 'image/png', data } },
      { type: 'tool_result', content: [{ type: 'image', source: { type: 'base64', data } }] },
    ]
    for (const part of parts) expect(bound('messages', 'claude-sonnet-4-6', user([part])).inputTokens).toBeLessThan(7000)
    expect(bound('chat', 'gpt-4o-mini', user([parts[0]])).inputTokens).toBeGreaterThan(50_000)
    expect(
      bound('chat', 'gpt-4o', user([{ type: 'image_url', image_url: { url: 'https://x/y.png' } }])).inputTokens,
    ).toBeGreaterThan(6000)
  })

  it('does not take for an image what only looks like one', () => {
    const text = 'lorem ipsum '.repeat(10_000)
    const base64 = 'A'.repeat(120_000)
    const image = { type: 'image', source: { type: 'base64', media_type: 'image/png', data: base64 } }
    const bodies: Body[] = [
      // What callers write into a tool's input, arguments and schema is text.
      { messages: [{ role: 'assistant', content: [{ type: 'tool_use', id: 't', name: 'f', input: image }] }] },
      { messages: [{ role: 'assistant', content: null, tool_calls: [{ function: { name: 'f', arguments: image } }] }] },
      { ...user('x'), tools: [{ name: 'f', input_schema: image }] },
      { ...user('x'), metadata: image },
      { input: [{ type: 'function_call', name: 'f', arguments: image }] },
      // Text in place of the data, or data that is no image.
      user([{ type: 'image', source: { type: 'base64', media_type: 'image/png', data: text } }]),
      user([{ type: 'image', source: { type: 'base64', media_type: 'text/plain', data: base64 } }]),
      user([{ type: 'image', source: { data: base64 } }]),
      user([{ type: 'image_url', image_url: { url: `data:image/png;base64,${text}` } }]),
      user([{ type: 'image_url', image_url: { url: `data:text/plain;base64,${base64}` } }]),
      user([{ type: 'text', text, source: image.source }]),
    ]
    for (const body of bodies) expect(bound('messages', 'claude-sonnet-4-6', body).inputTokens).toBeGreaterThan(120_000)
  })

  it('counts images wherever the protocols have them', () => {
    const data = 'A'.repeat(120_000)
    const image = { type: 'image', source: { type: 'base64', media_type: 'image/png', data } }
    const url = `data:image/png;base64,${data}`
    const bodies: Body[] = [
      { system: [image] },
      user([{ type: 'document', source: { type: 'content', content: [image] } }]),
      user([{ type: 'tool_result', content: [{ type: 'text', text: 'x' }, image] }]),
      { messages: [{ role: 'assistant', images: [{ type: 'image_url', image_url: { url } }] }] },
      { input: [{ type: 'message', role: 'user', content: [{ type: 'input_image', image_url: url }] }] },
      { input: [{ type: 'function_call_output', output: [{ type: 'input_image', image_url: url }] }] },
      { input: [{ type: 'computer_call_output', output: { type: 'computer_screenshot', image_url: url } }] },
    ]
    for (const body of bodies) {
      const { inputTokens } = bound('responses', 'claude-sonnet-4-6', body)
      expect(inputTokens).toBeGreaterThan(6000)
      expect(inputTokens).toBeLessThan(7000)
    }
  })

  it('is the whole window when the bytes of a part say nothing', () => {
    let nested: unknown = { type: 'text', text: 'x' }
    for (let depth = 0; depth < 1000; depth++) nested = { type: 'tool_result', content: [nested] }
    const bodies: Body[] = [
      // A source of text makes text of a document, of nothing else.
      user([{ type: 'file', file: { file_id: 'file_1' }, source: { type: 'text' } }]),
      user([{ type: 'input_audio', input_audio: { data: 'A' }, source: { type: 'content', content: [] } }]),
      user([{ type: 'of_tomorrow', id: 'x' }]),
      user([{ file_id: 'x' }]),
      user([{ type: 'document', source: { type: 'content', content: [{ type: 'image_of_tomorrow' }] } }]),
      user([nested]),
      { messages: [{ role: 'user', type: 'image', content: 'x', source: { type: 'text' } }] },
      { messages: [{ role: 'assistant', audio: { id: 'audio_1' } }] },
      { messages: { 0: { role: 'user', content: 'x' } } },
      { input: [{ id: 'msg_1' }] },
      { input: [{ type: 'reasoning', id: 'rs_1', summary: [] }] },
      { ...user('x'), tools: { 0: { type: 'web_search' } } },
      { ...user('x'), tools: [{ type: 'functions_of_tomorrow' }] },
    ]
    for (const body of bodies) expect(bound('responses', 'gpt-4o', body).inputTokens).toBe(128_000)
    expect(bound('chat', 'openai/gpt-4o:online', user('x')).inputTokens).toBe(ASSUMED_CONTEXT_TOKENS)
    const written = { input: [{ type: 'reasoning', id: 'rs_1', summary: [], encrypted_content: 'AAAA' }] }
    expect(bound('responses', 'gpt-4o', written).inputTokens).toBeLessThan(1300)
  })

  it('is the whole window when the body only refers to it', () => {
    const bodies = [
      { previous_response_id: 'resp_1', input: 'x' },
      { input: [{ role: 'user', content: [{ type: 'input_file', file_id: 'file_1' }] }] },
      user([{ type: 'document', source: { type: 'base64', data: 'JVBE' } }]),
      { ...user('x'), tools: [{ type: 'web_search_20250305', name: 'web_search' }] },
      { ...user('x'), web_search_options: {} },
    ]
    for (const body of bodies) {
      expect(bound('responses', 'gpt-4o', body).inputTokens).toBe(128_000)
      expect(bound('responses', 'nobody-knows', body).inputTokens).toBe(ASSUMED_CONTEXT_TOKENS)
    }
    const plain = [
      {
        ...user('x'),
        tools: [
          { type: 'function', function: { name: 'f' } },
          { name: 'g', input_schema: {} },
        ],
      },
      user([{ type: 'document', source: { type: 'text', data: 'plain' } }]),
    ]
    for (const body of plain) expect(bound('messages', 'claude-sonnet-4-6', body).inputTokens).toBeLessThan(1300)
  })
})

describe('what costs more than the list price', () => {
  it('is part of the bound', () => {
    const premium = (body: Body): number => bound('chat', 'gpt-4o', body).premium_percent
    expect([premium({}), premium({ service_tier: 'default' }), premium({ inference_geo: 'global' })]).toEqual([100, 100, 100])
    expect([premium({ service_tier: 'priority' }), premium({ speed: 'fast' }), premium({ inference_geo: 'us' })]).toEqual([
      200, 600, 110,
    ])
  })

  it('says which models may think unseen', () => {
    const unseen = (model: string, body: Body = {}): boolean => bound('chat', model, body).mayReasonUnseen
    expect(
      ['o3', 'gpt-5-mini', 'openrouter/openai/gpt-5', 'gemini-2.5-pro', 'deepseek-reasoner'].map((model) => unseen(model)),
    ).toEqual(Array(5).fill(true))
    expect(['gpt-4o', 'claude-sonnet-4-6', 'llama-3.3'].map((model) => unseen(model))).toEqual([false, false, false])
    expect(unseen('claude-sonnet-4-6', { thinking: { type: 'enabled', budget_tokens: 1024 } })).toBe(true)
    expect(unseen('claude-sonnet-4-6', { thinking: { type: 'disabled' } })).toBe(false)
  })
})
