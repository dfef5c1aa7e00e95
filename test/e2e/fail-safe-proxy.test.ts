import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { findDifferences, openSql } from '../support/load.ts'
import { type PostgresServer, startPostgres } from '../support/postgres.ts'
import { type Server, startServer } from '../support/server.ts'
import { answerOf, chatChunk, chatDelta, sse, startUpstream, stream, type Upstream } from '../support/upstream.ts'
import { Wire } from '../support/wire.ts'

const rules = (action: string): string => `
[global]
fail_safe_action = "${action}"
[agents.crawler]
daily_budget = 5
allowed_models = ["gpt-4o", "claude-sonnet-4-6"]
`
const BOOKED_WITHIN_MS = 20_000
const MESSAGES = [{ role: 'user', content: 'hi' }]
const CHAT = { model: 'gpt-4o', max_tokens: 100, messages: MESSAGES }
const CLAUDE = { model: 'claude-sonnet-4-6', max_tokens: 100, messages: MESSAGES }
/** What the provider counts for one call (test/support/upstream.ts), at the prices of these models: the cached tokens at theirs. */
const CHAT_USD = (12 * 2.5 + 8 * 1.25 + 5 * 10) / 1e6
const CLAUDE_USD = (10 * 3 + 30 * 0.3 + 40 * 3.75 + 50 * 6 + 5 * 15) / 1e6
const HELLO = sse(chatChunk('gpt-4o', [chatDelta('Hello')]))

describe('a proxied call while the database is away', () => {
  let postgres: PostgresServer
  let wire: Wire
  let upstream: Upstream
  let folder: string
  const servers: Server[] = []
  const clients: Client[] = []

  beforeAll(async () => {
    postgres = await startPostgres()
    upstream = await startUpstream()
    folder = await mkdtemp(join(tmpdir(), 'gvnr-fail-safe-proxy-'))
    wire = new Wire(new URL(postgres.url))
  })
  afterAll(async () => {
    for (const client of clients) client.close()
    await Promise.all(servers.map((server) => server.stop()))
    wire.close()
    await upstream?.stop()
    await postgres?.remove()
    await rm(folder, { recursive: true, force: true })
  })

  async function start(action: 'deny' | 'allow', databaseUrl = postgres.url) {
    const file = join(folder, `${action}.rgf`)
    await writeFile(file, rules(action))
    const server = await startServer({
      databaseUrl,
      env: {
        SIGNUP_TRIAL_OPS: '0',
        RGF_FILE: file,
        RGF_JOURNAL_DIR: join(folder, 'journals', action),
        UPSTREAM_OPENAI_URL: upstream.origin,
        UPSTREAM_OPENAI_KEY: 'sk-operator',
        UPSTREAM_ANTHROPIC_URL: upstream.origin,
        UPSTREAM_ANTHROPIC_KEY: 'sk-operator',
      },
    })
    const client = new Client(server.origin)
    servers.push(server)
    clients.push(client)
    const { key, accountId } = await client.createAccount(1000)
    const post = (path: string, body: object, agentId = 'crawler') =>
      fetch(server.origin + path, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'x-gvnr-agent-id': agentId },
        body: JSON.stringify(body),
      })
    /** From the table: this must not depend on the server under test, which may be down. */
    const standing = async () => {
      const sql = openSql(postgres.url)
      try {
        const [row] = await sql`select spent_session_nanousd as spent from envelopes
          where account_id = ${accountId} and agent_id = 'crawler'`
        const states = await sql`select distinct state from holds where account_id = ${accountId}`
        return { spent: Number(row?.spent ?? 0) / 1e9, states: states.map(({ state }) => Number(state)) }
      } finally {
        await sql.end()
      }
    }
    /** Spent to the billionth of a dollar, and nothing left open. */
    const comesTo = async (usd: number): Promise<void> => {
      const expected = { spent: Number(usd.toFixed(9)), states: [1] }
      await expect.poll(standing, { timeout: BOOKED_WITHIN_MS, interval: 200 }).toEqual(expected)
    }
    expect((await post('/v1/chat/completions', CHAT)).status).toBe(200)
    await comesTo(CHAT_USD)
    return { server, post, comesTo, standing }
  }
  const isRight = async (): Promise<void> => expect(await findDifferences(postgres.url)).toEqual([])

  it('is refused by "deny", in the words of the provider, and never reaches it', async () => {
    const { post, comesTo } = await start('deny')
    const before = upstream.requests.length
    await postgres.stop('fast')
    try {
      for (const body of [CHAT, { ...CHAT, stream: true }]) {
        const answer = await post('/v1/chat/completions', body)
        expect(answer.status).toBe(503)
        expect(Number(answer.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
        expect(await answer.json()).toMatchObject({ error: { type: 'overloaded_error', code: 'database_unavailable' } })
      }
      const claude = await post('/v1/messages', CLAUDE)
      expect(claude.status).toBe(503)
      expect(await claude.json()).toMatchObject({
        type: 'error',
        error: { type: 'overloaded_error', code: 'database_unavailable' },
      })
      expect(upstream.requests.length).toBe(before)
    } finally {
      await postgres.restart()
    }
    await comesTo(CHAT_USD)
    await isRight()
  })

  it('is made by "allow" for agents of the file within its rules, and booked once at what it used', async () => {
    const { post, comesTo } = await start('allow')
    const before = upstream.requests.length
    await postgres.stop('fast')
    try {
      const plain = await post('/v1/chat/completions', CHAT)
      expect(plain.status).toBe(200)
      expect(plain.headers.get('x-gvnr-deferred')).toBe('true')
      expect(plain.headers.get('x-gvnr-clearance-id')).toMatch(/^[0-9a-f-]{36}$/)
      expect(Number(plain.headers.get('x-gvnr-estimate-usd'))).toBeGreaterThan(CHAT_USD)
      expect(plain.headers.get('x-gvnr-remaining-usd')).toBeNull()
      expect(await plain.json()).toMatchObject({ choices: [{ message: { content: 'Hello there' } }] })
      const streamed = await post('/v1/chat/completions', { ...CHAT, stream: true })
      expect(streamed.status).toBe(200)
      expect(await streamed.text()).toContain('[DONE]')
      const claude = await post('/v1/messages', { ...CLAUDE, stream: true })
      expect(claude.headers.get('x-gvnr-deferred')).toBe('true')
      expect(await claude.text()).toContain('message_stop')
      // What the provider refuses costs nothing.
      upstream.answer(() => ({ status: 429, headers: { 'retry-after': '7' }, steps: ['{"error":{"message":"slow down"}}'] }))
      expect((await post('/v1/chat/completions', CHAT)).status).toBe(429)
      upstream.answer(answerOf)
      expect((await post('/v1/chat/completions', CHAT, 'stranger')).status).toBe(503)
      expect((await post('/v1/chat/completions', { ...CHAT, model: 'gpt-4o-mini' })).status).toBe(503)
      // More than the file's budget for the day, whatever was spent before.
      expect((await post('/v1/chat/completions', { ...CHAT, max_tokens: 16_000, n: 40 })).status).toBe(503)
      expect(upstream.requests.length).toBe(before + 4)
    } finally {
      upstream.answer(answerOf)
      await postgres.restart()
    }
    await comesTo(3 * CHAT_USD + CLAUDE_USD)
    const after = await post('/v1/chat/completions', CHAT)
    expect(after.headers.get('x-gvnr-deferred')).toBeNull()
    await comesTo(4 * CHAT_USD + CLAUDE_USD)
    await isRight()
  })

  it('is booked at what it used when it began before the database went or ended after it came back', async () => {
    const { post, comesTo } = await start('allow')
    const releases: (() => void)[] = []
    upstream.answer((request) => {
      const until = new Promise<void>((resolve) => releases.push(resolve))
      const { steps, ...reply } = answerOf(request)
      return { ...reply, steps: [HELLO, { until }, ...steps] }
    })
    try {
      const before = await post('/v1/chat/completions', { ...CHAT, stream: true })
      expect(before.headers.get('x-gvnr-deferred')).toBeNull()
      await postgres.stop('fast')
      const during = await post('/v1/chat/completions', { ...CHAT, stream: true })
      expect(during.headers.get('x-gvnr-deferred')).toBe('true')
      releases[0]?.()
      expect(await before.text()).toContain('[DONE]')
      await postgres.restart()
      await comesTo(2 * CHAT_USD)
      releases[1]?.()
      expect(await during.text()).toContain('[DONE]')
    } finally {
      upstream.answer(answerOf)
      await postgres.restart()
    }
    await comesTo(3 * CHAT_USD)
    await isRight()
  })

  it('stands at its estimate when its process is killed while it runs, and is booked by the next one', async () => {
    const { server, post, standing } = await start('allow')
    upstream.answer(() => stream(HELLO, 'stall'))
    await postgres.stop('fast')
    const answer = await post('/v1/chat/completions', { ...CHAT, stream: true })
    const estimate = Number(answer.headers.get('x-gvnr-estimate-usd'))
    expect(answer.headers.get('x-gvnr-deferred')).toBe('true')
    await server.kill('SIGKILL')
    await expect(answer.text()).rejects.toThrow()
    upstream.answer(answerOf)
    await postgres.restart()
    await server.restart()
    const more = async (): Promise<number> => Number(((await standing()).spent - CHAT_USD).toFixed(6))
    await expect.poll(more, { timeout: BOOKED_WITHIN_MS }).toBe(estimate)
    expect((await standing()).states).toEqual([1])
    await isRight()
  })

  it('is counted once where the database had stored the reservation and only its answer was lost', async () => {
    const url = new URL(postgres.url)
    url.hostname = '127.0.0.1'
    url.port = String(await wire.listen())
    const { post, comesTo } = await start('allow', url.href)
    wire.cut('answers')
    try {
      const made = await Promise.all([
        post('/v1/chat/completions', CHAT),
        post('/v1/chat/completions', { ...CHAT, stream: true }),
      ])
      expect(made.map(({ status, headers }) => [status, headers.get('x-gvnr-deferred')])).toEqual([
        [200, 'true'],
        [200, 'true'],
      ])
      for (const answer of made) await answer.text()
      // Once it is known to be away nobody waits for it.
      const began = performance.now()
      const next = await post('/v1/chat/completions', CHAT)
      expect(next.headers.get('x-gvnr-deferred')).toBe('true')
      await next.text()
      console.log(`answered in ${Math.round(performance.now() - began)} ms while the database was silent`)
    } finally {
      wire.mend()
    }
    await comesTo(4 * CHAT_USD)
    await isRight()
  }, 90_000)
})
