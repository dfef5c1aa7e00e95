import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import type { Database } from '../../../src/db/client.ts'
import { expectStatus } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { openProxy, type ProxyTest } from '../../support/proxy.ts'
import {
  answerOf,
  CHAT_USAGE,
  chatChunk,
  chatDelta,
  json,
  messageDelta,
  messageStart,
  type Reply,
  type Step,
  sse,
  stream,
} from '../../support/upstream.ts'

const MESSAGES = [{ role: 'user', content: 'hi' }]
const CHAT = { model: 'gpt-4o', messages: MESSAGES, max_tokens: 1000 }
const STREAM = { ...CHAT, stream: true }
const CLAUDE = { model: 'claude-sonnet-4-6', messages: MESSAGES, max_tokens: 1000, stream: true }
const CHAT_COST = 0.00009

/** Input at its bound: the body's bytes, 16 for each of two messages (one is the request itself), 1,024 around it. */
const boundOf = (body: unknown): number => JSON.stringify(body).length + 2 * 16 + 1024
const usd = (tokens: number, usdPerMtok: number): number => (tokens * usdPerMtok) / 1e6
const rounded = (amount: number): number => Number(amount.toFixed(6))
/** Nine bytes in three pieces: five tokens by the rule of two bytes each. */
const PIECES = ['one', 'two', 'six'].map((text) => sse(chatChunk('gpt-4o', [chatDelta(text)])))
const PIECES_COST = rounded(usd(boundOf(STREAM), 2.5) + usd(5, 10))
const RESERVED = rounded(usd(boundOf(CHAT), 2.5) + usd(1000, 10))

describeEachDatabase('how calls end', (openTestDatabase) => {
  let database: Database
  let proxy: ProxyTest
  let spentBefore: number
  beforeAll(async () => {
    database = await openTestDatabase()
    proxy = await openProxy(database, { config: { PROXY_TIMEOUT_SECONDS: 1 } })
  })
  afterAll(() => proxy?.stop())
  afterEach(async () => {
    await proxy.isClean()
    proxy.upstream.answer(answerOf)
    proxy.upstream.requests.length = 0
  })
  const answer = async (reply: Reply | ((body: never) => Reply)): Promise<void> => {
    spentBefore = await proxy.spent()
    proxy.upstream.answer((given) => (typeof reply === 'function' ? reply(given.body as never) : reply))
  }
  /** What the call under test cost, and what the ledger says about it. */
  const outcome = async () => {
    const cost = rounded((await proxy.spent()) - spentBefore)
    const { end, estimated } = (await proxy.endings()).at(-1) ?? {}
    return { cost, end, estimated }
  }
  const chat = (body: unknown = STREAM) => proxy.post('/v1/chat/completions', body)

  describe('the client leaves', () => {
    /** Reads until the text has come, then goes. */
    async function leaveAfter(path: string, body: unknown, text: string): Promise<void> {
      const controller = new AbortController()
      const response = await fetch(proxy.origin + path, {
        method: 'POST',
        headers: { authorization: `Bearer ${proxy.key}`, 'content-type': 'application/json', 'x-gvnr-agent-id': 'a' },
        body: JSON.stringify(body),
        signal: controller.signal,
      })
      let seen = ''
      for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
        seen += Buffer.from(chunk).toString()
        if (seen.includes(text)) break
      }
      controller.abort()
    }

    it('in the middle of a stream: the provider is told, and what was seen is charged', async () => {
      await answer(stream(...PIECES, 'stall'))
      const aborted = proxy.upstream.aborted()
      await leaveAfter('/v1/chat/completions', STREAM, 'six')
      await until(() => proxy.upstream.aborted() > aborted)
      expect(await outcome()).toEqual({ cost: PIECES_COST, end: 'client_left', estimated: true })
    })

    it('in the middle of a message, whose input the provider has told already', async () => {
      await answer((body) => stream(messageStart(body), messageDelta('onetwosix'), 'stall'))
      await leaveAfter('/v1/messages', CLAUDE, 'onetwosix')
      const input = usd(10, 3) + usd(30, 0.3) + usd(40, 3.75) + usd(50, 6)
      expect(await outcomeSoon()).toEqual({ cost: rounded(input + usd(5, 15)), end: 'client_left', estimated: true })
    })

    it('of a model that may think unseen: its output is charged as reserved', async () => {
      const body = { ...STREAM, reasoning_effort: 'high' }
      await answer(stream(...PIECES, 'stall'))
      await leaveAfter('/v1/chat/completions', body, 'six')
      expect((await outcomeSoon()).cost).toBe(rounded(usd(boundOf(body), 2.5) + usd(1000, 10)))
    })

    it('a stream that has not begun', async () => {
      await answer(stream('stall'))
      const controller = new AbortController()
      const headers = { authorization: `Bearer ${proxy.key}`, 'x-gvnr-agent-id': 'a' }
      const { signal } = controller
      const call = fetch(`${proxy.origin}/v1/chat/completions`, { method: 'POST', headers, body: JSON.stringify(STREAM), signal })
      await until(() => proxy.upstream.requests.length === 1)
      controller.abort()
      await expect(call).rejects.toThrow()
      const input = rounded(usd(boundOf(STREAM), 2.5))
      expect(await outcomeSoon()).toEqual({ cost: input, end: 'client_left', estimated: true })
    })

    it('after the usage was told: it counts', async () => {
      const usage = sse(chatChunk('gpt-4o', [], { usage: CHAT_USAGE }))
      await answer(stream(...PIECES, usage, sse(chatChunk('gpt-4o', [chatDelta('last')])), 'stall'))
      await leaveAfter('/v1/chat/completions', STREAM, 'last')
      expect(await outcomeSoon()).toEqual({ cost: CHAT_COST, end: 'client_left', estimated: undefined })
    })

    it('before a plain answer: it is read to its end, and costs what it used', async () => {
      let go = (): void => {}
      const until_ = new Promise<void>((resolve) => {
        go = resolve
      })
      spentBefore = await proxy.spent()
      proxy.upstream.answer(async (given) => {
        await until_
        return answerOf(given)
      })
      const controller = new AbortController()
      const pending = fetch(`${proxy.origin}/v1/chat/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${proxy.key}`, 'x-gvnr-agent-id': 'a' },
        body: JSON.stringify(CHAT),
        signal: controller.signal,
      })
      await until(() => proxy.upstream.requests.length === 1)
      controller.abort()
      await expect(pending).rejects.toThrow()
      await sleep(50)
      go()
      expect(await outcomeSoon()).toEqual({ cost: CHAT_COST, end: 'complete', estimated: undefined })
    })

    it('without leaving: one that does not read is let go', async () => {
      const big = sse(chatChunk('gpt-4o', [chatDelta('x'.repeat(60_000))]))
      const other = await openProxy(database, { config: { PROXY_TIMEOUT_SECONDS: 1 }, proxy: { renew_ms: 100 } })
      other.upstream.answer(() => stream(...Array.from({ length: 1000 }, () => big)))
      await new Promise<void>((resolve, reject) => {
        const call = request(`${other.origin}/v1/chat/completions`, {
          method: 'POST',
          headers: { authorization: `Bearer ${other.key}`, 'x-gvnr-agent-id': 'a' },
        })
        call.on('response', (response) => {
          response.on('error', () => {})
          response.on('close', resolve)
          response.pause()
          // Reads on only after it was let go: the rest is not there any more.
          setTimeout(() => response.resume(), 3_000)
        })
        call.on('error', reject)
        call.end(JSON.stringify(STREAM))
      })
      expect(await other.endings()).toMatchObject([{ end: 'client_left', estimated: true }])
      await other.isClean()
      await other.stop()
    })
  })

  describe('the provider', () => {
    const breaks: [string, Step[], string][] = [
      ['stalls in its answer', [...PIECES, 'stall'], 'stalled'],
      ['breaks off its answer', [...PIECES, 'cut'], 'broken'],
    ]
    it.each(breaks)('%s: the client sees that it is broken, and what was seen is charged', async (_name, steps, end) => {
      await answer(stream(...steps))
      const response = await chat()
      await expect(response.text()).rejects.toThrow()
      expect(await outcome()).toEqual({ cost: PIECES_COST, end, estimated: true })
    })

    it('breaks off an answer that it has ended: it counts as ended', async () => {
      await answer(stream(...PIECES, sse(chatChunk('gpt-4o', [], { usage: CHAT_USAGE })), sse('[DONE]'), 'cut'))
      await chat().then((response) => response.text().catch(() => ''))
      expect(await outcome()).toMatchObject({ cost: CHAT_COST, estimated: undefined })
    })

    it('does not answer in time: 504, and what was reserved is charged, as it may have been used', async () => {
      await answer(stream('stall'))
      const response = await chat(CHAT)
      expect(response.status).toBe(504)
      expect(await response.json()).toMatchObject({ error: { code: 'upstream_timeout' } })
      expect(await outcome()).toEqual({ cost: RESERVED, end: 'stalled', estimated: true })
    })

    it('closes the connection without an answer, or is not there: 502, and nothing is charged', async () => {
      await answer(stream('cut'))
      const response = await chat(CHAT)
      expect([response.status, await response.json()]).toMatchObject([502, { error: { code: 'upstream_reset' } }])
      expect(await outcome()).toMatchObject({ cost: 0, end: 'released' })
      const gone = await openProxy(database, { config: { UPSTREAM_ANTHROPIC_URL: 'http://127.0.0.1:9' } })
      const refused = await gone.post('/v1/messages', CLAUDE)
      expect(refused.status).toBe(502)
      expect(await refused.json()).toMatchObject({ type: 'error', error: { type: 'api_error', code: 'upstream_unreachable' } })
      expect(await gone.spent()).toBe(0)
      await gone.isClean()
      await gone.stop()
    })

    it.each([
      [429, { 'retry-after': '7', 'x-ratelimit-remaining-requests': '0' }],
      [500, {}],
      [529, {}],
      [400, {}],
      [302, { location: 'http://127.0.0.1:9/' }],
    ])('refuses with %d: passed on as it is, and nothing is charged but the operation', async (status, headers) => {
      const body = { error: { message: 'no', type: 'some_error', param: null, code: 'x' } }
      await answer(json(body, status, headers))
      const before = await proxy.operations()
      const response = await fetch(`${proxy.origin}/v1/chat/completions`, {
        method: 'POST',
        redirect: 'manual',
        headers: { authorization: `Bearer ${proxy.key}`, 'x-gvnr-agent-id': 'a' },
        body: JSON.stringify(STREAM),
      })
      expect([response.status, await response.json()]).toEqual([status, body])
      for (const [name, value] of Object.entries(headers)) expect(response.headers.get(name)).toBe(value)
      expect(await outcome()).toMatchObject({ cost: 0, end: 'released' })
      expect(await proxy.operations()).toBe(before - 1)
      expect(proxy.upstream.requests).toHaveLength(1)
    })

    it('reports an error before any output: nothing is charged; later: what was seen', async () => {
      const error = sse({ type: 'error', error: { type: 'overloaded_error', message: 'Overloaded' } }, 'error')
      await answer(stream(error))
      expect(await (await proxy.post('/v1/messages', CLAUDE)).text()).toBe(error)
      expect(await outcome()).toMatchObject({ cost: 0, end: 'released' })
      await answer((body) => stream(messageStart(body), messageDelta('onetwosix'), error))
      expect(await (await proxy.post('/v1/messages', CLAUDE)).text()).toContain('overloaded_error')
      const input = usd(10, 3) + usd(30, 0.3) + usd(40, 3.75) + usd(50, 6)
      expect(await outcome()).toEqual({ cost: rounded(input + usd(5, 15)), end: 'complete', estimated: true })
    })

    it('sends garbage: it is passed on, and charged by its length, a plain answer as reserved', async () => {
      const garbage = 'data: {"choices":[{]}\n\ndata: ?!\n\n: a comment\n\n'
      await answer(stream(garbage))
      expect(await (await chat()).text()).toBe(garbage)
      expect(await outcome()).toMatchObject({ cost: rounded(usd(boundOf(STREAM), 2.5) + usd(9, 10)), estimated: true })
      for (const body of ['<html>', '', '{"usage":{"prompt_tokens":"many","completion_tokens":-1}}']) {
        await answer({ steps: [body] })
        expect(await (await chat(CHAT)).text()).toBe(body)
        expect(await outcome()).toEqual({ cost: RESERVED, end: 'complete', estimated: true })
      }
    })

    it('ends a stream without usage: what was seen is charged', async () => {
      await answer(stream(...PIECES, sse('[DONE]')))
      expect(await (await chat()).text()).toBe([...PIECES, sse('[DONE]')].join(''))
      expect(await outcome()).toEqual({ cost: PIECES_COST, end: 'complete', estimated: true })
    })

    it('sends headers that cannot be sent on', async () => {
      await answer((body: never) => ({
        headers: { 'x-odd': 'a\u00e9', 'x-fine': 'b' },
        steps: answerOf({ path: '/v1/chat/completions', query: '', headers: {}, bytes: '', body }).steps,
      }))
      const response = await chat(CHAT)
      expect([response.status, response.headers.get('x-fine')]).toEqual([200, 'b'])
      await response.text()
      expect(await outcome()).toMatchObject({ cost: CHAT_COST })
    })

    it('answers with a plain document although a stream was asked for', async () => {
      await answer((body: never) =>
        answerOf({
          path: '/v1/chat/completions',
          query: '',
          headers: {},
          bytes: '',
          body: Object.assign({}, body, { stream: false }) as never,
        }),
      )
      expect(await (await chat()).json()).toHaveProperty('usage')
      expect(await outcome()).toMatchObject({ cost: CHAT_COST })
    })
  })

  it('two agents that share an envelope share what is left of it', async () => {
    expectStatus(200, await proxy.test.api.put('/v1/budget/envelope', { agent_id: 'team', limit_usd: 0.05 }, proxy.key))
    let open = (): void => {}
    const opened = new Promise<void>((resolve) => {
      open = resolve
    })
    await answer((body) => ({
      ...answerOf({ path: '', query: '', headers: {}, bytes: '', body }),
      steps: [{ until: opened }, ...answerOf({ path: '', query: '', headers: {}, bytes: '', body }).steps],
    }))
    const calls = Array.from({ length: 10 }, (_, n) =>
      proxy.post('/v1/chat/completions', STREAM, { 'x-gvnr-agent-id': `team/${n % 2}` }),
    )
    const [statuses] = await Promise.all([Promise.all(calls.map(async (call) => (await call).status)), sleep(500).then(open)])
    for (const call of calls) await (await call).text()
    // Each reserves $0.0129: three fit.
    expect(statuses.filter((status) => status === 200)).toHaveLength(3)
    expect(statuses.filter((status) => status === 403)).toHaveLength(7)
    expect(await proxy.spent('team')).toBe(rounded(3 * CHAT_COST))
  })

  it('a call is settled at the prices it began with', async () => {
    const model = 'gpt-4.1'
    const folder = await mkdtemp(join(tmpdir(), 'gvnr-prices-'))
    const file = join(folder, 'prices.json')
    const priced = await openProxy(database, { config: { PRICES_URL: pathToFileURL(file).toString() } })
    const refresh = async (usdPerMtok: number) => {
      const price = { input_usd_per_mtok: usdPerMtok, output_usd_per_mtok: 10, cached_input_usd_per_mtok: usdPerMtok }
      await writeFile(file, JSON.stringify({ [model]: price }))
      expectStatus(200, await priced.test.api.admin('/v1/admin/price-cache/refresh', { accept: [model] }))
    }
    await refresh(100)
    let finish = (): void => {}
    const finished = new Promise<void>((resolve) => {
      finish = resolve
    })
    priced.upstream.answer((given) => {
      const { steps, ...reply } = answerOf(given)
      return { ...reply, steps: [{ until: finished }, ...steps] }
    })
    const response = await priced.post('/v1/chat/completions', { ...STREAM, model })
    await refresh(500)
    finish()
    await response.text()
    expect(await priced.spent()).toBe(rounded(usd(20, 100) + usd(5, 10)))
    await (await priced.post('/v1/chat/completions', { ...STREAM, model })).text()
    expect(await priced.spent()).toBe(rounded(usd(20, 600) + usd(10, 10)))
    await priced.isClean()
    await priced.stop()
    await rm(folder, { recursive: true })
  })

  it('a stream of ten minutes keeps its reservation', async () => {
    const long = await openProxy(database, { proxy: { renew_ms: 20 } })
    let finish = (): void => {}
    const finished = new Promise<void>((resolve) => {
      finish = resolve
    })
    long.upstream.answer((given) => {
      const { steps, ...reply } = answerOf(given)
      return { ...reply, steps: [...steps.slice(0, 2), { until: finished }, ...steps.slice(2)] }
    })
    const response = await long.post('/v1/chat/completions', STREAM)
    const expiry = async (): Promise<number> => {
      const [row] = await database.sql.unsafe('select expires_ms from holds where account_id = $1 and state = 0', [
        long.accountId,
      ])
      return Number(row?.expires_ms)
    }
    for (let minute = 0; minute < 10; minute++) {
      long.test.clock.advance(60_000)
      const now = long.test.clock.now()
      await until(async () => (await expiry()) >= now + 60_000)
    }
    finish()
    expect(await response.text()).toContain('[DONE]')
    expect(await long.spent()).toBe(CHAT_COST)
    await long.isClean()
    await long.stop()
  })

  it('a server that stops ends what runs and settles it', async () => {
    const stopping = await openProxy(database)
    stopping.upstream.answer(() => stream(...PIECES, 'stall'))
    const response = await stopping.post('/v1/chat/completions', STREAM)
    const text = response.text()
    await until(() => stopping.test.app.proxy.openCalls === 1)
    await sleep(100)
    await Promise.all([expect(text).rejects.toThrow(), stopping.test.app.proxy.stop(1_000)])
    expect(await stopping.spent()).toBe(PIECES_COST)
    expect(await stopping.endings()).toMatchObject([{ end: 'stopped', estimated: true }])
    await stopping.isClean()
    await stopping.stop()
  })

  describe('STREAM_CUTOFF', () => {
    /** An unknown model without a maximum: 131,072 tokens are reserved, at $75 a million. */
    const OPEN_ENDED = { model: 'nobody-knows', messages: MESSAGES, stream: true }
    const text = 'x'.repeat(60_000)

    it('ends a stream that has written more than was reserved, as its provider would', async () => {
      const cutting = await openProxy(database, { config: { STREAM_CUTOFF: true } })
      const deltas = Array.from({ length: 20 }, () => sse(chatChunk('nobody-knows', [chatDelta(text)])))
      cutting.upstream.answer(() => stream(...deltas, 'stall'))
      const events = (await (await cutting.post('/v1/chat/completions', OPEN_ENDED)).text()).split('\n\n').filter(Boolean)
      // 9 × 15,000 tokens at least.
      expect(events).toHaveLength(9 + 2)
      expect(JSON.parse(events.at(-2)?.slice(6) ?? '')).toMatchObject({
        id: 'chatcmpl-1',
        choices: [{ index: 0, finish_reason: 'length' }],
      })
      expect(events.at(-1)).toBe('data: [DONE]')
      const input = usd(JSON.stringify(OPEN_ENDED).length + 1056, 15)
      expect(await cutting.spent()).toBe(rounded(input + usd(131_072, 75)))
      expect(await cutting.endings()).toMatchObject([{ end: 'cut', estimated: true }])

      const at = { item_id: 'm', output_index: 0, content_index: 0 }
      const created = {
        type: 'response.created',
        sequence_number: 0,
        response: { id: 'resp_1', status: 'in_progress', output: [] },
      }
      const delta = (n: number) => sse({ type: 'response.output_text.delta', sequence_number: n, ...at, delta: text })
      cutting.upstream.answer(() => stream(sse(created), ...Array.from({ length: 20 }, (_, n) => delta(n + 1)), 'stall'))
      const asked = { model: 'nobody-knows', input: 'hi', stream: true }
      const responses = await (await cutting.post('/v1/responses', asked)).text()
      expect(JSON.parse(responses.trim().split('\ndata: ').at(-1) ?? '')).toEqual({
        type: 'response.incomplete',
        sequence_number: 10,
        response: { id: 'resp_1', status: 'incomplete', output: [], incomplete_details: { reason: 'max_output_tokens' } },
      })
      await cutting.isClean()
      await cutting.stop()
    })

    it('leaves alone what its caller or its model bounds', async () => {
      const cutting = await openProxy(database, { config: { STREAM_CUTOFF: true } })
      cutting.upstream.answer(() => stream(sse(chatChunk('gpt-4o', [chatDelta(text)])), sse('[DONE]')))
      expect(await (await cutting.post('/v1/chat/completions', { ...STREAM, max_tokens: 10 })).text()).toMatch(/\[DONE\]\n\n$/)
      expect(await cutting.endings()).toMatchObject([{ end: 'complete', estimated: true, output_tokens: 10 }])
      await cutting.isClean()
      await cutting.stop()
    })
  })

  const outcomeSoon = async () => {
    await until(() => proxy.test.app.proxy.openCalls === 0)
    return outcome()
  }
})

async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; await sleep(5)) if (await condition()) return
  throw new Error('it did not come about in time')
}
