import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import { describeEachDatabase } from '../../support/databases.ts'
import { openProxy, type ProxyTest } from '../../support/proxy.ts'
import { json, sse, stream } from '../../support/upstream.ts'

const MESSAGES = [{ role: 'user', content: 'hi' }]
const usd = (tokens: number, usdPerMtok: number): number => (tokens * usdPerMtok) / 1e6
const rounded = (amount: number): number => Number(amount.toFixed(6))

describeEachDatabase('what a call is charged beyond its plain figures', (openTestDatabase) => {
  let proxy: ProxyTest
  let spentBefore = 0
  beforeAll(async () => {
    proxy = await openProxy(await openTestDatabase())
  })
  afterAll(() => proxy?.stop())
  afterEach(() => proxy.isClean())

  const outcome = async () => {
    const cost = rounded((await proxy.spent()) - spentBefore)
    spentBefore += cost
    const { end, estimated } = (await proxy.endings()).at(-1) ?? {}
    return { cost, end, estimated }
  }
  /** @returns what it cost, and what was reserved for it */
  async function call(path: string, body: unknown, usage: unknown, more: object = {}) {
    proxy.upstream.answer(() => json({ ...more, usage }))
    const response = await proxy.post(path, body)
    expect(response.status).toBe(200)
    await response.text()
    return { ...(await outcome()), reserved: Number(response.headers.get('x-gvnr-estimate-usd')) }
  }
  /** Reads a stream until the text has come, then leaves. */
  async function leave(path: string, body: object, text: string, steps: readonly unknown[]): Promise<number> {
    proxy.upstream.answer(() => stream(...steps.map((step) => sse(step)), 'stall'))
    const controller = new AbortController()
    const response = await fetch(proxy.origin + path, {
      method: 'POST',
      headers: { authorization: `Bearer ${proxy.key}`, 'x-gvnr-agent-id': 'a' },
      body: JSON.stringify({ ...body, stream: true }),
      signal: controller.signal,
    })
    let seen = ''
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      seen += Buffer.from(chunk).toString()
      if (seen.includes(text)) break
    }
    controller.abort()
    for (const deadline = Date.now() + 10_000; proxy.test.app.proxy.openCalls > 0 && Date.now() < deadline; ) await sleep(5)
    return Number(response.headers.get('x-gvnr-estimate-usd'))
  }

  it('the passes that Anthropic bills beside the answer, each at its own model', async () => {
    const body = { model: 'claude-haiku-4-5', max_tokens: 5000, messages: [{ role: 'user', content: 'x'.repeat(200_000) }] }
    const compaction = { type: 'compaction', input_tokens: 180_000, output_tokens: 3_500 }
    const message = { type: 'message', input_tokens: 23_000, output_tokens: 1_000 }
    const top = { input_tokens: 23_000, output_tokens: 1_000 }
    expect(await call('/v1/messages', body, { ...top, iterations: [compaction, message] })).toMatchObject({
      cost: rounded(usd(203_000, 1) + usd(4_500, 5)),
      estimated: undefined,
    })
    const advisor = { type: 'advisor_message', model: 'claude-opus-4-8', input_tokens: 150_000, output_tokens: 1_612 }
    expect(await call('/v1/messages', body, { ...top, iterations: [message, advisor] })).toMatchObject({
      cost: rounded(usd(23_000, 1) + usd(1_000, 5) + usd(150_000, 5) + usd(1_612, 25)),
    })
    const less = { type: 'message', input_tokens: 1, output_tokens: 1 }
    expect((await call('/v1/messages', body, { ...top, iterations: [less] })).cost).toBe(rounded(usd(23_000, 1) + usd(1_000, 5)))
    const unreadable = await call('/v1/messages', body, { ...top, iterations: [{ type: 'compaction' }] })
    expect(unreadable).toMatchObject({ cost: unreadable.reserved, estimated: true })
  })

  it('what was reserved, when a stream is left that other passes worked on', async () => {
    const start = { type: 'message_start', message: { usage: { input_tokens: 10, output_tokens: 1 } } }
    const block = { type: 'content_block_start', index: 0, content_block: { type: 'server_tool_use', name: 'advisor' } }
    const body = { model: 'claude-haiku-4-5', max_tokens: 5000, messages: MESSAGES }
    const reserved = await leave('/v1/messages', body, 'advisor', [start, block])
    expect(await outcome()).toEqual({ cost: reserved, end: 'client_left', estimated: true })
  })

  it('the arguments of an old function call whose stream is left', async () => {
    const body = { model: 'gpt-4o', max_tokens: 5000, messages: MESSAGES }
    const input = JSON.stringify({ ...body, stream: true }).length + 2 * 16 + 1024
    const delta = { function_call: { arguments: 'x'.repeat(2_000) } }
    await leave('/v1/chat/completions', body, 'xxx', [{ choices: [{ index: 0, delta }] }])
    expect((await outcome()).cost).toBe(rounded(usd(input, 2.5) + usd(1_000, 10)))
  })

  it('what was reserved, when a response that goes on in the background is left', async () => {
    const body = { model: 'gpt-4o', max_output_tokens: 5000, input: 'hi', background: true }
    const events = ['created', 'in_progress'].map((name) => ({ type: `response.${name}`, response: { id: 'r', status: name } }))
    const reserved = await leave('/v1/responses', body, 'response.in_progress', events)
    expect(await outcome()).toEqual({ cost: reserved, end: 'client_left', estimated: true })
    const queued = await call('/v1/responses', body, { input_tokens: 0, output_tokens: 0 }, { status: 'queued' })
    expect(queued).toMatchObject({ cost: queued.reserved, estimated: true })
  })

  it('audio at its own price', async () => {
    const usage = {
      prompt_tokens: 10_010,
      completion_tokens: 10_020,
      total_tokens: 20_030,
      prompt_tokens_details: { audio_tokens: 10_000 },
      completion_tokens_details: { audio_tokens: 10_000 },
    }
    const body = { model: 'gpt-4o-audio-preview', max_tokens: 16_000, messages: MESSAGES }
    expect((await call('/v1/chat/completions', body, usage)).cost).toBe(rounded(1.2 + usd(10, 2.5) + usd(20, 10)))
  })

  it('the service tier that was used, although nobody asked for it', async () => {
    const body = { model: 'gpt-4o', max_tokens: 1000, messages: MESSAGES, service_tier: 'auto' }
    const usage = { prompt_tokens: 10, completion_tokens: 1000 }
    const plain = usd(10, 2.5) + usd(1000, 10)
    expect((await call('/v1/chat/completions', body, usage, { service_tier: 'priority' })).cost).toBe(rounded(2 * plain))
    expect((await call('/v1/chat/completions', body, usage, { service_tier: 'default' })).cost).toBe(rounded(plain))
    const asked = { ...body, service_tier: 'priority' }
    expect((await call('/v1/chat/completions', asked, usage, { service_tier: 'default' })).cost).toBe(rounded(2 * plain))
  })

  it('what was reserved, when the count of the output cannot be read', async () => {
    const body = { model: 'gpt-4o', max_tokens: 1000, messages: MESSAGES }
    const usage = { prompt_tokens: 10, completion_tokens: 1e18, total_tokens: 5 }
    expect(await call('/v1/chat/completions', body, usage)).toMatchObject({
      cost: rounded(usd(10, 2.5) + usd(1000, 10)),
      estimated: true,
    })
  })

  it('a long head is read; an answer that cannot be read costs what was reserved', async () => {
    const body = { model: 'gpt-4o', max_tokens: 1000, messages: MESSAGES }
    const usage = { prompt_tokens: 10, completion_tokens: 1000 }
    proxy.upstream.answer(() => ({ headers: { 'x-big': 'a'.repeat(40_000) }, steps: [JSON.stringify({ usage })] }))
    // The client of this test reads no more than 16 KiB itself.
    await proxy.post('/v1/chat/completions', body).catch(() => null)
    expect(await outcome()).toMatchObject({ cost: rounded(usd(10, 2.5) + usd(1000, 10)), end: 'complete' })
    for (const head of ['x-bad: a\0b', `x-big: ${'a'.repeat(70_000)}`]) {
      const server = createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', () => socket.write(`HTTP/1.1 200 OK\r\n${head}\r\ncontent-length: 2\r\n\r\n{}`))
      })
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
      const other = await openProxy(await openTestDatabase(), { config: { UPSTREAM_OPENAI_URL: url } })
      const response = await other.post('/v1/chat/completions', body)
      expect([response.status, await response.json()]).toMatchObject([502, { error: { code: 'upstream_garbled' } }])
      const reserved = rounded(usd(JSON.stringify(body).length + 2 * 16 + 1024, 2.5) + usd(1000, 10))
      expect(await other.spent()).toBe(reserved)
      expect(await other.endings()).toMatchObject([{ end: 'garbled', estimated: true }])
      await other.isClean()
      await other.stop()
      await new Promise((resolve) => server.close(resolve))
    }
  })
})
