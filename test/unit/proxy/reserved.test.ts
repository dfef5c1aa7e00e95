import { describe, expect, it } from 'vitest'
import { createCatalogue } from '../../../src/prices/catalogue.ts'
import { ProxyError } from '../../../src/proxy/answers.ts'
import { worstCase } from '../../../src/proxy/charge.ts'
import type { Headers } from '../../../src/proxy/headers.ts'
import { type PlannedCall, planCall } from '../../../src/proxy/request.ts'
import { ROUTES, type RouteKind } from '../../../src/proxy/routes.ts'
import { ANTHROPIC_ROUTES, OPENAI_ROUTES, Upstreams } from '../../../src/proxy/upstreams.ts'

const common = { url: 'http://127.0.0.1:1/v1', key: 'sk', needsKey: true, takesUsageOption: true }
const UPSTREAMS = new Upstreams([
  { ...common, name: 'openai', serves: OPENAI_ROUTES, prefixes: ['openai/'] },
  { ...common, name: 'anthropic', serves: [...ANTHROPIC_ROUTES, 'chat'], prefixes: ['anthropic/', 'claude-'] },
  { ...common, name: 'openrouter', serves: OPENAI_ROUTES, prefixes: ['openrouter/'] },
])
const catalogue = createCatalogue()
const MESSAGES = [{ role: 'user', content: 'hi' }]
const HAIKU = { model: 'claude-haiku-4-5', max_tokens: 10, messages: MESSAGES }
const LONG = [{ role: 'user', content: 'w '.repeat(450_000) }]
const BETA = { 'anthropic-beta': 'files-api-2025-04-14,context-1m-2025-08-07' }

function plan(kind: RouteKind, body: unknown, headers: Headers = {}): PlannedCall {
  const route = ROUTES.find((one) => one.kind === kind)
  if (route === undefined) throw new Error(`no route for ${kind}`)
  return planCall(route, Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)), UPSTREAMS, headers)
}
const usd = (kind: RouteKind, body: unknown): number => Number(worstCase(catalogue, plan(kind, body)).estimate) / 1e9
function refusal(kind: RouteKind, body: unknown): string {
  try {
    plan(kind, body)
    return 'accepted'
  } catch (error) {
    if (error instanceof ProxyError && error.status === 400) return error.message
    throw error
  }
}

describe('a call that may fall back', () => {
  const OPUS = 'anthropic/claude-opus-4-1'

  it('is bounded for each model by its own limits, and reserved at the dearest', () => {
    const body = { model: 'openrouter/openai/gpt-3.5-turbo', models: [OPUS], max_tokens: 32_000, messages: MESSAGES }
    const { models, bound } = plan('chat', body)
    expect(models.map((one) => [one.model, one.bound.outputTokens])).toEqual([
      ['openrouter/openai/gpt-3.5-turbo', 4096],
      [OPUS, 32_000],
    ])
    expect(bound.outputTokens).toBe(32_000)
    // 32,000 at $75 a million.
    expect(usd('chat', body)).toBeGreaterThan(2.4)
    expect(usd('chat', { ...body, messages: LONG })).toBeGreaterThan(2.4 + 3)
  })

  it('counts what an entry sets for itself', () => {
    const body = { ...HAIKU, fallbacks: [{ model: 'claude-opus-4-1', max_tokens: 1000 }] }
    expect(plan('messages', body).models.map(({ bound }) => bound.outputTokens)).toEqual([10, 1000])
  })

  it('is refused when it cannot be read', () => {
    for (const models of ['gpt-4o', { 0: 'gpt-4o' }, [7], [''], [null], ['x'.repeat(129)], [{ id: 'gpt-4o' }], ['a\0']])
      expect(refusal('chat', { model: 'gpt-4o', messages: MESSAGES, models })).toMatch(/^models/)
    expect(refusal('messages', { ...HAIKU, fallbacks: 'claude-opus-4-1' })).toMatch(/^fallbacks/)
    expect(refusal('messages', { ...HAIKU, fallbacks: [{ model: 'claude-opus-4-1', max_tokens: '9' }] })).toMatch(/^fallbacks/)
    expect(refusal('chat', { model: 'gpt-4o', messages: MESSAGES, models: null, fallbacks: [] })).toBe('accepted')
  })
})

describe('a tool with a model of its own', () => {
  const body = { ...HAIKU, tools: [{ type: 'advisor_20260301', name: 'advisor', model: 'claude-opus-4-1' }] }

  it('works beside the model: its window and its longest answer are added', () => {
    const { models, alternatives, bound } = plan('messages', body)
    expect(alternatives).toEqual(['claude-opus-4-1'])
    expect(models[1]).toMatchObject({ isBeside: true, bound: { inputTokens: 200_000, outputTokens: 32_000 } })
    expect(bound.outputTokens).toBe(10)
    expect(usd('messages', body)).toBeGreaterThan(200_000 * 15e-6 + 32_000 * 75e-6)
  })

  it('is refused when that cannot be read', () => {
    expect(refusal('messages', { ...HAIKU, tools: [{ type: 'advisor_20260301', model: 7 }] })).toMatch(/^tools/)
  })
})

describe('the long context', () => {
  const inputOf = (model: string, headers: Headers, messages: unknown = LONG): number =>
    plan(model.includes('/') ? 'chat' : 'messages', { model, max_tokens: 10, messages }, headers).bound.inputTokens

  it('is not cut to the window of who did not ask for it', () => {
    expect(inputOf('claude-sonnet-4-5', {})).toBe(200_000)
    expect(inputOf('claude-sonnet-4-5', BETA)).toBeGreaterThan(900_000)
    expect(inputOf('anthropic/claude-sonnet-4-5', { 'anthropic-beta': ['context-1m-2025-08-07'] })).toBeGreaterThan(900_000)
    expect(inputOf('claude-haiku-4-5', BETA)).toBeGreaterThan(900_000)
  })

  it('is there for everybody at other hosts', () => {
    expect(inputOf('openrouter/anthropic/claude-sonnet-4.5', {})).toBeGreaterThan(900_000)
    expect(inputOf('openrouter/anthropic/claude-opus-4.1', {})).toBe(200_000)
  })

  it('is all reserved when the body refers to input elsewhere', () => {
    const file = [{ role: 'user', content: [{ type: 'document', source: { type: 'file', file_id: 'file_1' } }] }]
    expect(inputOf('claude-sonnet-4-5', BETA, file)).toBe(1_000_000)
  })
})

describe('fields', () => {
  const CHAT = { model: 'gpt-4o', messages: MESSAGES }

  it('that a provider may read otherwise are refused by name', () => {
    for (const field of ['n', 'best_of', 'max_tokens', 'max_completion_tokens', 'max_output_tokens']) {
      for (const value of ['100', -1, 0, 1.5, true, [], {}]) {
        expect(refusal('chat', { ...CHAT, [field]: value })).toBe(`${field} must be a positive whole number.`)
      }
      expect(refusal('chat', { ...CHAT, [field]: null })).toBe('accepted')
    }
    for (const value of ['true', 1, {}]) expect(refusal('chat', { ...CHAT, stream: value })).toMatch(/^stream must/)
    expect(refusal('chat', '{"model":"gpt-4o","max_tokens":1e400}')).toMatch(/^max_tokens/)
    expect(refusal('messages', { ...HAIKU, tools: [{ type: 'web_search_20250305', max_uses: '100' }] })).toMatch(/max_uses/)
  })

  it('that differ from ours in case alone are refused', () => {
    for (const name of ['N', 'Model', 'MAX_TOKENS', 'meſſages', 'toolſ', 'max_toKens'])
      expect(refusal('chat', { ...CHAT, [name]: 100 })).toMatch(/is not a field\. Write "/)
    expect(refusal('chat', '{"model":"gpt-4o","messages":[],"\\u004e":100}')).toMatch(/Write "n"/)
    expect(refusal('chat', { ...CHAT, User: 'x', safetyIdentifier: 'y' })).toBe('accepted')
  })
})

describe('fees', () => {
  const search = (more: object) => usd('messages', { ...HAIKU, tools: [{ type: 'web_search_20250305', name: 's', ...more }] })

  it('of web searches are reserved: as many as the caller allows, else 20', () => {
    const tokens = search({ max_uses: 1 }) - 0.01
    expect(search({ max_uses: 100 })).toBeCloseTo(tokens + 1, 9)
    expect(search({})).toBeCloseTo(tokens + 0.2, 9)
    expect(search({ max_uses: null })).toBeCloseTo(tokens + 0.2, 9)
  })
})

it('compaction reads one more window, clearing none', () => {
  const inputOf = (context_management: unknown) => plan('messages', { ...HAIKU, context_management }).bound.inputTokens
  expect(inputOf({ edits: [{ type: 'clear_tool_uses_20250919' }, { type: 'compact_20260112' }] })).toBeGreaterThan(200_000)
  expect(inputOf([{ type: 'compaction' }])).toBeGreaterThan(200_000)
  expect(inputOf({ edits: [{ type: 'clear_tool_uses_20250919' }, { type: 'clear_thinking_20251015' }] })).toBeLessThan(2000)
})
