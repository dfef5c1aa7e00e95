import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, expectTypeOf, it } from 'vitest'
import { BudgetDenied, type ClearAnswer, createGvnr, GvnrError, usageOf, withBudget } from '../../../src/client/index.ts'
import { type Kit, startKit } from '../../support/kit.ts'
import { startServer } from '../../support/server.ts'

const PLAN = { model: 'claude-sonnet-4-6', estimatedTokens: 2000 }
const ESTIMATE_USD = 0.03
const USAGE = { input_tokens: 300, output_tokens: 1140 }
const USED_USD = 0.018

describe('withBudget', () => {
  let kit: Kit
  beforeAll(async () => {
    kit = await startKit()
  })
  afterAll(() => kit?.stop())

  it('clears, calls, reconciles and returns what the call returned', async () => {
    const agent = await kit.agent()
    const answer = await withBudget({ gvnr: agent.gvnr, ...PLAN, onOutcome: kit.onOutcome }, async ({ clearance }) => {
      expect(await agent.spent()).toBe(ESTIMATE_USD)
      return { text: 'hello', usage: USAGE, clearance_id: clearance.clearance_id }
    })
    expect(answer.text).toBe('hello')
    expect(await agent.spent()).toBe(USED_USD)
    expect(kit.outcomes).toMatchObject([{ kind: 'settled', drift_usd: -0.012, clearance: { clearance_id: answer.clearance_id } }])
  })

  it('takes usage from whoever knows it better', async () => {
    const agent = await kit.agent()
    const usage = ({ spent }: { spent: number }) => ({ inputTokens: 0, outputTokens: spent })
    await withBudget({ gvnr: agent.gvnr, ...PLAN, usage }, () => ({ spent: 1000 }))
    expect(await agent.spent()).toBe(0.015)
  })

  it('lets the estimate stand, and says so, where nobody knows the usage', async () => {
    const agent = await kit.agent()
    await withBudget({ gvnr: agent.gvnr, ...PLAN, onOutcome: kit.onOutcome }, () => ({ text: 'hello' }))
    expect(kit.outcomes).toMatchObject([{ kind: 'standing', reason: 'usage_unknown' }])
    expect(await agent.spent()).toBe(ESTIMATE_USD)
  })

  it('does not call when denied', async () => {
    const agent = await kit.agent(0.01)
    let calls = 0
    const denied = withBudget({ gvnr: agent.gvnr, ...PLAN }, () => ++calls)
    await expect(denied).rejects.toThrow(BudgetDenied)
    await expect(denied).rejects.toMatchObject({
      denial: { reason: 'envelope_exceeded', max_affordable_tokens: 666, approval_request: { grant: { extra_usd: 0.02 } } },
    })
    expect(calls).toBe(0)
  })

  it.each([
    ['a refusal of the provider', { status: 422 }, 'released', 0],
    ['a refused connection', { cause: { code: 'ECONNREFUSED' } }, 'released', 0],
    ['a failure of the provider', { status: 502 }, 'standing', ESTIMATE_USD],
    ['a timeout that the provider reports', { status: 408 }, 'standing', ESTIMATE_USD],
    ['a broken connection', { cause: { code: 'ECONNRESET' } }, 'standing', ESTIMATE_USD],
    ['anything else', {}, 'standing', ESTIMATE_USD],
  ])('after %s passes the error on and settles what is certain', async (_name, properties, kind, spent) => {
    const agent = await kit.agent()
    const failure = Object.assign(new Error('no'), properties)
    const call = withBudget({ gvnr: agent.gvnr, ...PLAN, onOutcome: kit.onOutcome }, () => Promise.reject(failure))
    await expect(call).rejects.toBe(failure)
    expect(kit.outcomes).toMatchObject([{ kind, error: failure }])
    expect(await agent.spent()).toBe(spent)
  })

  describe('with a stream', () => {
    async function* events(fail = false) {
      yield { type: 'message_start', message: { usage: { input_tokens: 300, output_tokens: 1 } } }
      yield { type: 'content_block_delta' }
      if (fail) throw new Error('broken')
      yield { type: 'message_delta', delta: { stop_reason: 'end_turn' }, usage: { output_tokens: 1140 } }
      yield { type: 'message_stop' }
    }
    const open = (agent: Awaited<ReturnType<Kit['agent']>>, fail = false) =>
      withBudget({ gvnr: agent.gvnr, ...PLAN, onOutcome: kit.onOutcome }, () => events(fail))

    it('settles at its end', async () => {
      const agent = await kit.agent()
      const stream = await open(agent)
      expect(kit.outcomes).toEqual([])
      const types = []
      for await (const { type } of stream) types.push(type)
      expect(types).toEqual(['message_start', 'content_block_delta', 'message_delta', 'message_stop'])
      expect(kit.outcomes).toMatchObject([{ kind: 'settled' }])
      expect(await agent.spent()).toBe(USED_USD)
    })

    it('settles when the consumer stops after the last figures, and lets the estimate stand before them', async () => {
      const late = await kit.agent()
      for await (const { type } of await open(late)) if (type === 'message_delta') break
      expect(kit.outcomes).toMatchObject([{ kind: 'settled' }])
      expect(await late.spent()).toBe(USED_USD)

      const early = await kit.agent()
      for await (const { type } of await open(early)) if (type === 'content_block_delta') break
      expect(kit.outcomes).toMatchObject([{ kind: 'standing', reason: 'stopped_early' }])
      expect(await early.spent()).toBe(ESTIMATE_USD)
    })

    it('lets the estimate stand when it breaks', async () => {
      const agent = await kit.agent()
      const reading = (async () => {
        for await (const _event of await open(agent, true));
      })()
      await expect(reading).rejects.toThrow('broken')
      expect(kit.outcomes).toMatchObject([{ kind: 'standing', reason: 'call_failed' }])
      expect(await agent.spent()).toBe(ESTIMATE_USD)
    })

    it('asks the caller for the usage of each event', async () => {
      const agent = await kit.agent()
      const usage = (event: { type: string }) => (event.type === 'message_stop' ? { inputTokens: 0, outputTokens: 1000 } : null)
      for await (const _event of await withBudget({ gvnr: agent.gvnr, ...PLAN, usage }, () => events()));
      expect(await agent.spent()).toBe(0.015)
    })
  })

  describe('asking a human', () => {
    const decide = (url: string, decision: string) =>
      fetch(`${url}/decide`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ decision }),
      })
    const asking = (agent: Awaited<ReturnType<Kit['agent']>>, decision: string | null, more = {}) => {
      const urls: string[] = []
      let calls = 0
      const call = withBudget(
        {
          gvnr: agent.gvnr,
          ...PLAN,
          onDenied: 'ask',
          onAsk: ({ approval_url }) => {
            urls.push(approval_url)
            if (decision !== null) setTimeout(() => void decide(approval_url, decision), 50)
          },
          ...more,
        },
        () => ({ usage: USAGE, calls: ++calls }),
      )
      return { call, urls, calls: () => calls }
    }

    it('goes on when they approve', async () => {
      const agent = await kit.agent(0.01)
      const { call, urls } = asking(agent, 'approved')
      expect(await call).toMatchObject({ calls: 1 })
      expect(urls).toHaveLength(1)
      expect(await agent.spent()).toBe(USED_USD)
    })

    it('throws when they deny, and when they do not answer in time', async () => {
      const agent = await kit.agent(0.01)
      const denied = asking(agent, 'denied')
      await expect(denied.call).rejects.toMatchObject({ name: 'BudgetDenied', asked: { decision: 'denied' } })
      const late = asking(agent, null, { approvalTtlSeconds: 1 })
      await expect(late.call).rejects.toMatchObject({
        asked: { decision: 'timeout', approval: { approval_id: expect.any(String) } },
      })
      expect(denied.calls() + late.calls()).toBe(0)
    })

    it('asks nobody where nobody could help', async () => {
      const { gvnr } = await kit.agent()
      const asked: unknown[] = []
      const options = { gvnr, ...PLAN, agentId: 'agent-without', onDenied: 'ask' as const, onAsk: () => void asked.push(1) }
      await expect(withBudget(options, () => 1)).rejects.toMatchObject({ name: 'GvnrError', code: 'forbidden' })
      const owner = createGvnr({ baseUrl: kit.server.origin, apiKey: kit.owner })
      await expect(withBudget({ ...options, gvnr: owner }, () => 1)).rejects.toMatchObject({ denial: { reason: 'no_envelope' } })
      expect(asked).toEqual([])
    })

    it('stops waiting when it is aborted', async () => {
      const agent = await kit.agent(0.01)
      const leaving = new AbortController()
      const { call, calls } = asking(agent, null, { signal: leaving.signal, onAsk: () => leaving.abort(new Error('enough')) })
      await expect(call).rejects.toThrow('enough')
      expect(calls()).toBe(0)
    })
  })
})

describe('the client', () => {
  let kit: Kit
  beforeAll(async () => {
    kit = await startKit()
  })
  afterAll(() => kit?.stop())

  it('is typed by openapi.json and speaks every operation an agent needs', async () => {
    const { gvnr, id } = await kit.agent()
    expectTypeOf<ClearAnswer['approved']>().toEqualTypeOf<boolean>()
    // @ts-expect-error a number is wanted
    await expect(gvnr.clear({ model: 'gpt-4o', estimated_tokens: '5' })).rejects.toMatchObject({
      code: 'invalid_params',
      status: 400,
    })
    const cleared = await gvnr.clear({ model: 'gpt-4o', estimated_tokens: 5 })
    expect(await gvnr.release({ clearance_id: cleared.clearance_id! })).toMatchObject({ ok: true })
    expect(await gvnr.rateCheck({ provider: 'openai', model: 'gpt-4o' })).toMatchObject({
      allowed: false,
      reason: 'no_rate_envelope',
    })
    const booking = { resource_type: 'api_call', action: 'web_search', cost: 0.4 } as const
    expect(await gvnr.book(booking)).toMatchObject({ status: 'success', cost: 0.4, agent_id: id })
    expect(await gvnr.book({ ...booking, cost: 0.7 })).toMatchObject({ status: 'denied', reason: 'daily_budget_exceeded' })
    const approval = await gvnr.requestApproval({ action_summary: 'Buy a book' })
    expect(await gvnr.checkApproval(approval.approval_id)).toMatchObject({ decision: 'pending', agent_id: id })
    expect(() => createGvnr({ baseUrl: kit.server.origin, apiKey: '' })).toThrow('apiKey')
    await expect(
      createGvnr({ baseUrl: kit.server.origin, apiKey: 'x' }).clear({ model: 'm', estimated_tokens: 1 }),
    ).rejects.toThrow('agent')
  })

  it('says which key is refused', async () => {
    const gvnr = createGvnr({ baseUrl: kit.server.origin, apiKey: `bg_${'0'.repeat(32)}`, agentId: 'a' })
    const refused = gvnr.clear({ model: 'm', estimated_tokens: 1 })
    await expect(refused).rejects.toBeInstanceOf(GvnrError)
    await expect(refused).rejects.toMatchObject({ status: 401, code: 'invalid_api_key', retryable: false })
  })

  /** Forwards to the server, and loses or refuses what a test tells it to. */
  async function between(trouble: (attempt: number) => 'lose' | 503 | 429 | undefined) {
    const keys: (string | string[] | undefined)[] = []
    const proxy = createServer(async (incoming, outgoing) => {
      const chunks: Buffer[] = []
      for await (const chunk of incoming) chunks.push(chunk as Buffer)
      keys.push(incoming.headers['idempotency-key'])
      const kind = trouble(keys.length)
      const answer = await fetch(`${kit.server.origin}${incoming.url}`, {
        method: incoming.method!,
        headers: incoming.headers as Record<string, string>,
        body: Buffer.concat(chunks),
      })
      const body = await answer.text()
      // Done, and nobody hears of it.
      if (kind === 'lose') return void outgoing.destroy()
      if (kind !== undefined) {
        outgoing.writeHead(kind, { 'retry-after': '0', 'content-type': 'application/json' })
        return void outgoing.end(JSON.stringify({ error: 'overloaded', hint: '', retryable: kind === 503 }))
      }
      outgoing.writeHead(answer.status, { 'content-type': 'application/json' }).end(body)
    })
    await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
    return {
      keys,
      origin: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
      [Symbol.asyncDispose]: async () => {
        proxy.closeAllConnections()
        await new Promise((resolve) => proxy.close(resolve))
      },
    }
  }

  it('sends a lost call again and has it done once', async () => {
    const agent = await kit.agent()
    await using proxy = await between((attempt) => (attempt === 1 ? 'lose' : attempt === 2 ? 503 : undefined))
    const gvnr = createGvnr({ baseUrl: proxy.origin, apiKey: agent.key, agentId: agent.id })
    await withBudget({ gvnr, ...PLAN }, () => ({ usage: USAGE }))
    expect(proxy.keys).toHaveLength(4)
    expect(new Set(proxy.keys.slice(0, 3)).size).toBe(1)
    expect(await agent.spent()).toBe(USED_USD)
  })

  it('gives up after so many attempts, at once for what cannot help, and when aborted', async () => {
    const { key, id } = await kit.agent()
    const input = { model: 'm', estimated_tokens: 1 }
    await using busy = await between(() => 503)
    const gvnr = createGvnr({ baseUrl: busy.origin, apiKey: key, agentId: id, maxAttempts: 3 })
    await expect(gvnr.clear(input)).rejects.toMatchObject({ status: 503, code: 'overloaded' })
    expect(busy.keys).toHaveLength(3)

    await using closed = await between(() => 429)
    await expect(createGvnr({ baseUrl: closed.origin, apiKey: key, agentId: id }).clear(input)).rejects.toMatchObject({
      status: 429,
    })
    expect(closed.keys).toHaveLength(1)

    const aborted = AbortSignal.abort(new Error('enough'))
    await expect(gvnr.clear(input, { signal: aborted })).rejects.toThrow('enough')
    expect(busy.keys).toHaveLength(3)
    const nobody = createGvnr({ baseUrl: 'http://127.0.0.1:9', apiKey: key, agentId: id, maxAttempts: 2 })
    await expect(nobody.clear(input)).rejects.toMatchObject({ status: 0, code: 'unreachable' })
  })

  it('keeps the result of a call whose books could not be closed, and says so', async () => {
    const server = await startServer()
    try {
      const { api_key } = (await (await fetch(`${server.origin}/v1/account`, { method: 'POST' })).json()) as { api_key: string }
      await fetch(`${server.origin}/v1/budget/envelope`, {
        method: 'PUT',
        headers: { authorization: `Bearer ${api_key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ agent_id: 'a', limit_usd: 1 }),
      })
      const gvnr = createGvnr({ baseUrl: server.origin, apiKey: api_key, agentId: 'a', maxAttempts: 2 })
      kit.outcomes.length = 0
      const answer = await withBudget({ gvnr, ...PLAN, onOutcome: kit.onOutcome }, async () => {
        await server.kill('SIGKILL')
        return { text: 'hello', usage: USAGE }
      })
      expect(answer.text).toBe('hello')
      expect(kit.outcomes).toMatchObject([
        { kind: 'standing', reason: 'gvnr_failed', usage: usageOf(USAGE), error: { code: 'unreachable' } },
      ])
    } finally {
      await server.stop()
    }
  })
})
