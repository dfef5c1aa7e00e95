import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { BudgetService } from '../../../src/budgets/service.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import type { Database } from '../../../src/db/client.ts'
import { createCatalogue } from '../../../src/prices/catalogue.ts'
import type { PolicyQuestion } from '../../../src/proxy/service.ts'
import { expectStatus, NOON } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { openProxy, type ProxyTest } from '../../support/proxy.ts'

const MESSAGES = [{ role: 'user', content: 'hi' }]
/** Reserves $0.02: 2,000 tokens at $10, and a little for the input. */
const CHAT = { model: 'gpt-4o', messages: MESSAGES, max_tokens: 2000 }
const CLAUDE = { model: 'claude-sonnet-4-6', messages: MESSAGES, max_tokens: 2000 }

describeEachDatabase('what the proxy refuses', (openTestDatabase) => {
  let database: Database
  let proxy: ProxyTest
  beforeAll(async () => {
    database = await openTestDatabase()
    proxy = await openProxy(database, { limit_usd: 3 })
  })
  afterAll(() => proxy?.stop())
  afterEach(async () => {
    await proxy.isClean()
    proxy.upstream.requests.length = 0
  })
  const setEnvelope = async (body: unknown, on = proxy) =>
    expectStatus(200, await on.test.api.put('/v1/budget/envelope', body, on.key))
  const errorOf = async (response: Response): Promise<Record<string, unknown>> =>
    ((await response.json()) as { error: Record<string, unknown> }).error

  it('a call that does not fit, in the words of the contract and without asking the provider', async () => {
    await setEnvelope({ agent_id: 'nearly', limit_usd: 3 })
    const spend = { agent_id: 'nearly', model: 'gpt-4o', estimated_tokens: 298_000 }
    expect((await proxy.test.api.post('/v1/budget/clear', spend, proxy.key)).body.approved).toBe(true)
    const before = await proxy.operations()
    const response = await proxy.post(
      '/v1/chat/completions',
      { ...CHAT, max_tokens: 15_000 - 130 * 2 },
      { 'x-gvnr-agent-id': 'nearly' },
    )
    expect(response.status).toBe(403)
    expect(response.headers.get('x-should-retry')).toBe('false')
    const message = 'Daily budget exceeded. Limit: $3.00, Spent: $2.98, Required: $0.15'
    const error = { type: 'budget_exceeded', message, agent_id: 'nearly', reason: 'daily_budget_exceeded' }
    expect(await response.json()).toEqual({ error: { ...error, param: null, code: 'daily_budget_exceeded' } })
    const claude = await proxy.post(
      '/v1/messages',
      { ...CLAUDE, max_tokens: 9_700 },
      { 'x-gvnr-agent-id': '', 'x-resgov-agent-id': 'nearly' },
    )
    expect(claude.status).toBe(403)
    expect(await claude.json()).toEqual({ type: 'error', error })
    expect(await proxy.operations()).toBe(before)
    expect(proxy.upstream.requests).toEqual([])
    const left = expectStatus(200, await proxy.test.api.get('/v1/budget/envelope/nearly', proxy.key))
    expect(left.spent_usd).toBe(2.98)
    // Its clearance is not the proxy's to close.
    await proxy.test.api.post(
      '/v1/budget/reconcile',
      { agent_id: 'nearly', actual_input_tokens: 0, actual_output_tokens: 0 },
      proxy.key,
    )
  })

  it.each(['hourly', 'weekly', 'monthly', 'session'])('by the window that refused: %s', async (window) => {
    await setEnvelope({ agent_id: window, limit_usd: 0.001, window })
    const error = await errorOf(await proxy.post('/v1/chat/completions', CHAT, { 'x-gvnr-agent-id': window }))
    expect(error).toMatchObject({
      reason: `${window}_budget_exceeded`,
      message: expect.stringContaining('Limit: $0.001000, Spent: $0.00'),
    })
  })

  it('an agent without an envelope, another tenant’s among them', async () => {
    const other = await openProxy(database)
    await setEnvelope({ agent_id: 'theirs', limit_usd: 100 }, other)
    for (const agent of ['nobody', 'theirs']) {
      const response = await proxy.post('/v1/chat/completions', CHAT, { 'x-gvnr-agent-id': agent })
      expect(response.status).toBe(403)
      expect(await errorOf(response)).toMatchObject({ type: 'budget_exceeded', agent_id: agent, reason: 'no_envelope' })
    }
    expect(await other.spent('theirs')).toBe(0)
    await other.stop()
  })

  it('an account without operations, and a suspended agent', async () => {
    const poor = await openProxy(database, { operations: 1 })
    expect((await poor.post('/v1/chat/completions', CHAT)).status).toBe(200)
    expect(await errorOf(await poor.post('/v1/chat/completions', CHAT))).toMatchObject({ reason: 'no_credits' })
    await poor.isClean()
    await poor.stop()
    await setEnvelope({ agent_id: 'stopped', limit_usd: 3 })
    const budgets = new BudgetService({ ...proxy.test, engine: proxy.test.app.engine, catalogue: createCatalogue() })
    const call = { operationId: uuidv7(NOON), resumed: false }
    await budgets.setSuspended(proxy.accountId, call, 'stopped', true, 'test')
    const error = await errorOf(await proxy.post('/v1/chat/completions', CHAT, { 'x-gvnr-agent-id': 'stopped/below' }))
    expect(error).toMatchObject({ reason: 'suspended', agent_id: 'stopped/below' })
  })

  it('the same bytes more often than a minute may have, until there was a pause; other bytes go on', async () => {
    const loopy = await openProxy(database, { config: { PROXY_MAX_REPEATS: 3 } })
    const call = (content: string) => loopy.post('/v1/chat/completions', { ...CHAT, messages: [{ role: 'user', content }] })
    for (let time = 0; time < 3; time++) expect((await call('again')).status).toBe(200)
    const refused = await call('again')
    expect(refused.status).toBe(403)
    expect(refused.headers.get('x-should-retry')).toBe('false')
    expect(await errorOf(refused)).toMatchObject({ type: 'loop_detected', reason: 'loop_detected', agent_id: 'a' })
    expect((await call('something else')).status).toBe(200)
    loopy.test.clock.advance(60_000)
    expect((await call('again')).status).toBe(200)
    await loopy.isClean()
    await loopy.stop()
  })

  describe('who calls', () => {
    it('a key of scope agent is its agent, and may name those below it', async () => {
      await setEnvelope({ agent_id: 'team', limit_usd: 3 })
      const { key } = await proxy.test.createKey(proxy.key, { name: 'k', scope: 'agent', agent_id: 'team' })
      const call = (headers: Record<string, string>) =>
        fetch(`${proxy.origin}/v1/chat/completions`, { method: 'POST', headers, body: JSON.stringify(CHAT) })
      const bearer = { authorization: `Bearer ${key}` }
      expect((await call(bearer)).status).toBe(200)
      expect((await call({ ...bearer, 'x-gvnr-agent-id': 'team/crawler' })).status).toBe(200)
      expect((await call({ 'x-api-key': key, authorization: 'Bearer sk-something-else' })).status).toBe(200)
      const refused = await call({ ...bearer, 'x-gvnr-agent-id': 'a' })
      expect(refused.status).toBe(403)
      expect(await errorOf(refused)).toMatchObject({ type: 'permission_error', code: 'forbidden' })
      expect(await proxy.spent('team')).toBe(0.00027)
    })

    it('an owner key that names no agent is the agent "default"', async () => {
      await setEnvelope({ agent_id: 'default', limit_usd: 3 })
      const headers = { authorization: `Bearer ${proxy.key}` }
      const response = await fetch(`${proxy.origin}/v1/chat/completions`, { method: 'POST', headers, body: JSON.stringify(CHAT) })
      expect(response.status).toBe(200)
      expect(await proxy.spent('default')).toBe(0.00009)
    })

    it.each([
      ['/v1/chat/completions', CHAT],
      ['/v1/messages', CLAUDE],
    ] as const)('%s: no key, a wrong key, a key that only reads', async (path, body) => {
      const { key: readKey } = await proxy.test.createKey(proxy.key, { name: 'r', scope: 'read' })
      const isAnthropic = path === '/v1/messages'
      const found = []
      for (const authorization of ['', `Bearer bg_${'0'.repeat(32)}`, `Bearer ${readKey}`]) {
        const response = await proxy.post(path, body, { authorization })
        const answer = (await response.json()) as { type?: string; error: { type: string; code: string } }
        expect(answer.type).toBe(isAnthropic ? 'error' : undefined)
        found.push([response.status, answer.error.type, answer.error.code])
      }
      expect(found).toEqual([
        [401, 'authentication_error', 'missing_api_key'],
        [401, 'authentication_error', 'invalid_api_key'],
        [403, 'permission_error', 'forbidden'],
      ])
      expect(proxy.upstream.requests).toEqual([])
    })
  })

  it('bodies that cannot be priced', async () => {
    const small = await openProxy(database, { config: { PROXY_BODY_LIMIT_MIB: 1 } })
    const bodies: [unknown, number, string][] = [
      ['{', 400, 'invalid_json'],
      ['[]', 400, 'invalid_params'],
      [{ messages: [] }, 400, 'invalid_params'],
      [{ ...CHAT, model: 'x'.repeat(129) }, 400, 'invalid_params'],
      ['{"model":"gpt-4o-mini","messages":[],"model":"gpt-4o"}', 400, 'invalid_params'],
      [{ ...CHAT, user: 'x'.repeat(1024 * 1024) }, 413, 'payload_too_large'],
    ]
    for (const [body, status, code] of bodies) {
      const response = await small.post('/v1/chat/completions', body)
      expect([response.status, (await errorOf(response)).code]).toEqual([status, code])
    }
    // One that does not say how long it is gets the answer too, whatever it still has to send.
    const piece = new Uint8Array(256 * 1024).fill(0x20)
    const endless = new ReadableStream({ pull: (controller) => controller.enqueue(piece) })
    const headers = { authorization: `Bearer ${small.key}` }
    const sending = { method: 'POST', headers, body: endless, duplex: 'half' } as const
    expect((await fetch(`${small.origin}/v1/chat/completions`, sending)).status).toBe(413)
    expect((await small.post('/v1/chat/completions', CHAT, { 'content-encoding': 'gzip' })).status).toBe(415)
    expect((await fetch(`${small.origin}/v1/messages`)).status).toBe(405)
    expect((await fetch(`${small.origin}/v1/models`, { headers: { 'x-api-key': small.key } })).status).toBe(200)
    expect(small.upstream.requests).toEqual([])
    await small.stop()
  })

  it('hostile prompts take no time to bound', async () => {
    const prompts = ['a'.repeat(50_000), '!?'.repeat(25_000), '\u{1F9D1}\u200D'.repeat(8_000), '"\\'.repeat(25_000)]
    for (const content of prompts) {
      const response = await proxy.post('/v1/chat/completions', {
        ...CHAT,
        max_tokens: 10,
        messages: [{ role: 'user', content }],
      })
      expect(response.status).toBe(200)
      await response.text()
    }
    expect(proxy.upstream.requests.map(({ body }) => (body.messages as { content: string }[])[0]?.content)).toEqual(prompts)
  })

  it('what the policy says, for every model that may answer, before any money is looked at', async () => {
    const asked: PolicyQuestion[] = []
    const ruled = await openProxy(database, {
      proxy: {
        policy: async (_accountId, question) => {
          asked.push({ ...question, fingerprint: question.fingerprint })
          return question.model === 'gpt-4o' ? null : { reason: 'model_not_allowed', message: 'Only gpt-4o.' }
        },
      },
    })
    const before = await ruled.operations()
    const error = { type: 'policy_violation', message: 'Only gpt-4o.', agent_id: 'a', reason: 'model_not_allowed' }
    const mini = await ruled.post('/v1/chat/completions', { ...CHAT, model: 'gpt-4o-mini' })
    expect([mini.status, await errorOf(mini)]).toEqual([403, { ...error, param: null, code: 'model_not_allowed' }])
    const claude = await ruled.post('/v1/messages', CLAUDE)
    expect([claude.status, await claude.json()]).toEqual([403, { type: 'error', error }])
    expect((await ruled.post('/v1/chat/completions', { ...CHAT, models: ['gpt-4o', 'o1-pro'] })).status).toBe(403)
    expect(await ruled.operations()).toBe(before)
    expect((await ruled.post('/v1/chat/completions', { ...CHAT, n: 3 })).status).toBe(200)
    expect((await ruled.post('/v1/chat/completions', { ...CHAT, n: 3 })).status).toBe(200)
    expect(asked.at(-1)).toMatchObject({ agentId: 'a', model: 'gpt-4o', maxTokens: 6000 })
    const prints = asked.map(({ fingerprint }) => fingerprint)
    expect(prints.at(-1)).toBe(prints.at(-2))
    expect(new Set(prints).size).toBe(4)
    await ruled.isClean()
    await ruled.stop()
  })

  describe('rate shares', () => {
    const share = async (agent_id: string, provider: string, model: string, requests_per_minute: number) =>
      expectStatus(
        200,
        await proxy.test.api.put('/v1/rate/envelope', { agent_id, provider, model, requests_per_minute }, proxy.key),
      )

    it('hold for the proxy, whatever the spelling of the model, and cost nothing when they refuse', async () => {
      await share('a', 'openai', 'gpt-4o', 2)
      await share('a', 'anthropic', 'claude-sonnet-4-6', 1)
      const call = (model: string) => proxy.post('/v1/chat/completions', { ...CHAT, model })
      expect((await call('openai/gpt-4o')).status).toBe(200)
      expect((await call('gpt-4o-2024-11-20')).status).toBe(200)
      const [spent, operations] = [await proxy.spent(), await proxy.operations()]
      const refused = await call('gpt-4o')
      expect(refused.status).toBe(429)
      expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0)
      expect(await errorOf(refused)).toMatchObject({ type: 'rate_limit_error', code: 'rate_exceeded' })
      expect((await proxy.post('/v1/messages', CLAUDE)).status).toBe(200)
      const claude = await proxy.post('/v1/messages', CLAUDE)
      expect([claude.status, await claude.json()]).toMatchObject([429, { type: 'error', error: { type: 'rate_limit_error' } }])
      expect(Number((await proxy.spent()) - spent).toFixed(6)).toBe('0.000564')
      expect(await proxy.operations()).toBe(operations - 1)
      expect((await call('gpt-4o-mini')).status).toBe(200)
    })

    it('hold for every agent below, under whatever name it calls', async () => {
      for (const agent_id of ['crew', 'crew2']) await setEnvelope({ agent_id, limit_usd: 3 })
      await share('crew', 'openai', 'gpt-4o', 2)
      await share('crew/x/y', 'openai', 'gpt-4o', 5)
      const call = (agentId: string) => proxy.post('/v1/chat/completions', CHAT, { 'x-gvnr-agent-id': agentId })
      expect((await call('crew/x')).status).toBe(200)
      expect((await call('crew/x/y')).status).toBe(200)
      const refused = await Promise.all(['crew', 'crew/z', 'crew/x/y', 'crew//'].map(call))
      expect(refused.map(({ status }) => status)).toEqual([429, 429, 429, 429])
      expect(await errorOf(refused[1] as Response)).toMatchObject({
        message: expect.stringContaining('Agent "crew" has used up'),
      })
      expect((await call('crew2')).status).toBe(200)
    })
  })

  describe("the operator's keys", () => {
    const status = async (config: Record<string, unknown>, headers: Record<string, string> = {}) => {
      const other = await openProxy(database, { config })
      const response = await other.post('/v1/chat/completions', CHAT, headers)
      const code = response.status === 200 ? 'ok' : (await errorOf(response)).code
      await other.isClean()
      await other.stop()
      return [response.status, code]
    }

    it('are for nobody on a server that strangers can reach, unless the operator says for whom', async () => {
      const mine = { 'x-upstream-authorization': 'Bearer sk-mine' }
      const stranger = [403, 'upstream_key_missing']
      expect(await status({ PUBLIC_URL: 'https://gvnr.example.com' })).toEqual(stranger)
      expect(await status({ HOST: '0.0.0.0' })).toEqual(stranger)
      expect(await status({ TRUST_PROXY: 1 })).toEqual(stranger)
      expect(await status({ PROXY_OPERATOR_KEYS: 'off' })).toEqual(stranger)
      expect(await status({ PROXY_OPERATOR_KEYS: '00000000-0000-7000-8000-000000000000' })).toEqual(stranger)
      expect(await status({ PROXY_OPERATOR_KEYS: 'off' }, mine)).toEqual([200, 'ok'])
      expect(await status({ PROXY_OPERATOR_KEYS: 'on', HOST: '0.0.0.0' })).toEqual([200, 'ok'])
      expect(await status({ PUBLIC_URL: 'http://localhost:8787' })).toEqual([200, 'ok'])
    })

    it('that are not set are missing', async () => {
      const config = { UPSTREAM_OPENAI_URL: 'https://api.openai.com/v1', UPSTREAM_OPENAI_KEY: undefined }
      expect(await status(config)).toEqual([400, 'upstream_key_missing'])
    })
  })
})
