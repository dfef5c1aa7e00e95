import { describe, expect, it } from 'vitest'
import { mergeUsage, readUsage } from '../../../src/proxy/usage.ts'

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
    expect(readUsage('embeddings', { prompt_tokens: 20, total_tokens: 20 })).toEqual({ input, outputTokens: 0 })
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
