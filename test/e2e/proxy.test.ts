import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { findDifferences, findWrongBalances, openSql, type TestSql } from '../support/load.ts'
import { type Server, startServer } from '../support/server.ts'
import { answerOf, chatChunk, chatDelta, sse, startUpstream, stream, type Upstream } from '../support/upstream.ts'

const BODY = { model: 'gpt-4o', max_tokens: 1000, stream: true, messages: [{ role: 'user', content: 'hi' }] }
const HELLO = sse(chatChunk('gpt-4o', [chatDelta('Hello')]))
const INPUT_TOKENS = JSON.stringify(BODY).length + 2 * 16 + 1024
const RESERVED = Number(((INPUT_TOKENS * 2.5 + 1000 * 10) / 1e6).toFixed(6))
const SEEN = Number(((INPUT_TOKENS * 2.5 + 3 * 10) / 1e6).toFixed(6))

describe('a proxy that goes away while a stream runs', () => {
  let home: TestDatabase
  let sql: TestSql
  let upstream: Upstream
  const servers: Server[] = []
  const clients: Client[] = []
  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    upstream = await startUpstream()
  })
  afterAll(async () => {
    for (const client of clients) client.close()
    await Promise.all(servers.map((server) => server.stop()))
    await upstream?.stop()
    await sql?.end()
    await home?.drop()
  })

  async function start(env: Record<string, string> = {}) {
    const server = await startServer({
      databaseUrl: home.url,
      env: { UPSTREAM_OPENAI_URL: upstream.origin, UPSTREAM_OPENAI_KEY: 'sk-operator', ...env },
    })
    const client = new Client(server.origin)
    servers.push(server)
    clients.push(client)
    const { key, accountId } = await client.createAccount(100)
    await client.setEnvelope(key, { agent_id: 'a', limit_usd: 1 })
    const headers = { authorization: `Bearer ${key}`, 'x-gvnr-agent-id': 'a' }
    const call = () => fetch(`${server.origin}/v1/chat/completions`, { method: 'POST', headers, body: JSON.stringify(BODY) })
    const spent = async () => {
      const [row] = await sql`select spent_daily_nanousd from envelopes where account_id = ${accountId} and agent_id = 'a'`
      return Number(row?.spent_daily_nanousd) / 1e9
    }
    const states = async () =>
      (await sql`select state from holds where account_id = ${accountId}`).map(({ state }) => Number(state))
    return { server, call, spent, states }
  }
  const isRight = async () => {
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
  }

  it('by SIGKILL: its reservation stands as it is, and the provider is told by the broken connection', async () => {
    upstream.answer(() => stream(HELLO, 'stall'))
    const { server, call, spent, states } = await start()
    const aborted = upstream.aborted()
    const response = await call()
    const reader = response.body!.getReader()
    expect(Buffer.from((await reader.read()).value!).toString()).toBe(HELLO)
    await server.kill('SIGKILL')
    await expect(reader.read()).rejects.toThrow()
    for (const deadline = Date.now() + 5_000; upstream.aborted() === aborted && Date.now() < deadline; ) await sleep(10)
    expect(upstream.aborted()).toBe(aborted + 1)
    await server.restart()
    expect(Number((await spent()).toFixed(6))).toBe(RESERVED)
    expect(await states()).toEqual([0])
    await isRight()
  })

  it('by SIGTERM: streams run on until they end', async () => {
    upstream.answer((request) => {
      const { steps, ...reply } = answerOf(request)
      return { ...reply, steps: [HELLO, { wait_ms: 2_000 }, ...steps] }
    })
    const { server, call, spent, states } = await start()
    const response = await call()
    const exit = server.kill('SIGTERM')
    expect(await response.text()).toContain('[DONE]')
    expect(await exit).toEqual({ code: 0, signal: null })
    expect(await spent()).toBe(0.00009)
    expect(await states()).toEqual([1])
    await isRight()
  })

  it('by SIGTERM, at the end of its time: what still runs is cut and settled', async () => {
    upstream.answer(() => stream(HELLO, 'stall'))
    const { server, call, spent, states } = await start({ DRAIN_SECONDS: '1' })
    const text = (await call()).text()
    const [exit] = await Promise.all([server.kill('SIGTERM'), expect(text).rejects.toThrow()])
    expect(exit).toEqual({ code: 0, signal: null })
    expect(Number((await spent()).toFixed(6))).toBe(SEEN)
    expect(await states()).toEqual([1])
    await isRight()
  })
})
