import { describe, expect, it } from 'vitest'
import { mergeUsage, readUsage, reportedPremium } from '../../../src/proxy/usage.ts'

describe('merging usage', () => {
  it('keeps of each field the last value that is one, nested ones too', () => {
    const first = mergeUsage(null, { input_tokens: 25, output_tokens: 1, cache_creation: { a: 1, b: 2 }, tier: 'x' })
    const second = mergeUsage(first, { output_tokens: 7, input_tokens: null, cache_creation: { b: 3 } })
    expect(second).toEqual({ input_tokens: 25, output_tokens: 7, cache_creation: { a: 1, b: 3 }, tier: 'x' })
    for (const nothing of [null, undefined, 'x', 5, []]) expect(mergeUsage(second, nothing)).toBe(second)
  })
})

describe('reading usage', () => {
  it('of Anthropic: cached and written tokens are added to the input', () => {
    const raw = { input_tokens: 10, cache_read_input_tokens: 30, cache_creation_input_tokens: 90, output_tokens: 5 }
    const split = { ...raw, cache_creation: { ephemeral_5m_input_tokens: 40, ephemeral_1h_input_tokens: 50 } }
    const input = { inputTokens: 130, cachedInputTokens: 30, cacheWriteInputTokens: 90, cacheWrite1hInputTokens: 0 }
    expect(readUsage('messages', raw)).toEqual({ input, outputTokens: 5 })
    expect(readUsage('messages', { ...split, server_tool_use: { web_search_requests: 2 } })).toEqual({
      input: { ...input, cacheWriteInputTokens: 40, cacheWrite1hInputTokens: 50 },
      outputTokens: 5,
      webSearches: 2,
    })
    expect(readUsage('messages', { output_tokens: 1 })).toEqual({ outputTokens: 1 })
  })

  it('of OpenAI and those that speak like it', () => {
    const input = { inputTokens: 20, cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 }
    const plain = { prompt_tokens: 20, completion_tokens: 5 }
    expect(readUsage('chat', plain)).toEqual({ input, outputTokens: 5 })
    expect(readUsage('chat', { ...plain, total_tokens: 40 })).toEqual({ input, outputTokens: 20 })
    expect(readUsage('chat', { ...plain, total_tokens: 3 })).toEqual({ input, outputTokens: 5 })
    expect(readUsage('chat', { ...plain, prompt_cache_hit_tokens: 8 })).toEqual({
      input: { ...input, cachedInputTokens: 8 },
      outputTokens: 5,
    })
    const written = { ...plain, prompt_tokens_details: { cached_tokens: 8, cache_write_tokens: 4 } }
    expect(readUsage('chat', written)).toEqual({
      input: { ...input, cachedInputTokens: 8, cacheWriteInputTokens: 4 },
      outputTokens: 5,
    })
    expect(readUsage('embeddings', { prompt_tokens: 20, total_tokens: 20 })).toEqual({ input })
  })

  it('takes an output that cannot be read from the total only where that leaves one: it is unknown, not nothing', () => {
    for (const completion_tokens of [1e18, '1000', -1, undefined]) {
      for (const total_tokens of [5, 20, undefined])
        expect(readUsage('chat', { prompt_tokens: 20, completion_tokens, total_tokens })).not.toHaveProperty('outputTokens')
      expect(readUsage('chat', { prompt_tokens: 20, completion_tokens, total_tokens: 21 }).outputTokens).toBe(1)
    }
  })

  it('never takes parts for more than the whole, nor what is no count', () => {
    const input = { inputTokens: 20, cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 }
    const details = { cached_tokens: 15, cache_write_tokens: 15 }
    expect(readUsage('chat', { prompt_tokens: 20, prompt_tokens_details: details })).toEqual({ input })
    for (const bad of ['5', -1, 1.5, Number.NaN, 1e12, null, {}])
      expect(readUsage('chat', { prompt_tokens: bad, completion_tokens: bad, total_tokens: bad, cost: bad })).not.toHaveProperty(
        'input',
      )
  })

  it("of OpenRouter: its charge, and the provider's with the caller's own key there", () => {
    expect(readUsage('chat', { cost: 0.01, is_byok: false }).cost_usd).toBe(0.01)
    const byok = { cost: 0.01, is_byok: true, cost_details: { upstream_inference_cost: 0.2 } }
    expect(readUsage('chat', byok).cost_usd).toBeCloseTo(0.21)
  })
})

describe('what is beside the figures', () => {
  const input = { inputTokens: 5, cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 }
  const raw = { input_tokens: 5, output_tokens: 1 }

  it('Anthropic: what each pass used, and no figure at all when one cannot be read', () => {
    const iterations = [
      { type: 'compaction', input_tokens: 2, output_tokens: 3, cache_read_input_tokens: 4 },
      { type: 'advisor_message', model: 'claude-opus-4-8', input_tokens: 5, output_tokens: 6 },
    ]
    expect(readUsage('messages', { ...raw, iterations })).toEqual({
      input,
      outputTokens: 1,
      passes: [
        { model: null, usage: { ...input, inputTokens: 6, cachedInputTokens: 4, outputTokens: 3 } },
        { model: 'claude-opus-4-8', usage: { ...input, outputTokens: 6 } },
      ],
    })
    for (const none of [null, undefined, []])
      expect(readUsage('messages', { ...raw, iterations: none })).toEqual({ input, outputTokens: 1 })
    for (const bad of ['x', {}, [null], [{}], [raw, { input_tokens: '5', output_tokens: 1 }], [{ input_tokens: 5 }]])
      expect(readUsage('messages', { ...raw, iterations: bad })).toEqual({ isUnreadable: true })
  })

  it('audio, which is at most the whole and the whole when it cannot be read', () => {
    const usage = (ofInput: unknown, ofOutput: unknown) => ({
      prompt_tokens: 100,
      completion_tokens: 50,
      prompt_tokens_details: { audio_tokens: ofInput },
      completion_tokens_details: { audio_tokens: ofOutput },
    })
    expect(readUsage('chat', usage(60, 40)).audio).toEqual({ inputTokens: 60, outputTokens: 40 })
    expect(readUsage('chat', usage(600, null)).audio).toEqual({ inputTokens: 100, outputTokens: 0 })
    expect(readUsage('chat', usage(-1, 'x')).audio).toEqual({ inputTokens: 100, outputTokens: 50 })
    for (const none of [null, undefined, 0]) expect(readUsage('chat', usage(none, none))).not.toHaveProperty('audio')
    const responses = { input_tokens: 9, output_tokens: 8, output_tokens_details: { audio_tokens: 7 } }
    expect(readUsage('responses', responses).audio).toEqual({ inputTokens: 0, outputTokens: 7 })
  })

  it('what the provider says was dearer than the list', () => {
    expect(reportedPremium('chat', { usage: null, tier: 'priority' })).toBe(200)
    expect(reportedPremium('responses', { usage: null, tier: 'default' })).toBe(100)
    expect(reportedPremium('messages', { usage: { service_tier: 'priority' }, tier: null })).toBe(100)
    expect(reportedPremium('messages', { usage: { speed: 'fast', inference_geo: 'us' }, tier: null })).toBe(660)
    for (const inference_geo of ['not_available', 'global', null, undefined])
      expect(reportedPremium('messages', { usage: { speed: 'standard', inference_geo }, tier: null })).toBe(100)
  })
})
