import { afterAll, beforeAll, expect, it } from 'vitest'
import { ADMIN_SECRET, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const LIMIT = 5
const MINUTE_MS = 60_000

describeEachDatabase('refused keys from one address', (openTestDatabase) => {
  let test: TestApp
  let address = 0
  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase(), { config: { FAILED_AUTH_LIMIT_PER_MINUTE: LIMIT, TRUST_PROXY: 1 } })
  })
  afterAll(() => test.stop())

  const next = () => ({ 'X-Forwarded-For': `192.0.2.${++address}` })
  const guess = (index: number) => `bg_${index.toString(16).padStart(32, '0')}`
  const statusesOf = async (times: number, send: (index: number) => Promise<{ status: number }>) => {
    const statuses = []
    for (let index = 0; index < times; index++) statuses.push((await send(index)).status)
    return statuses
  }
  const PLUS_TWO = [...Array<number>(LIMIT).fill(401), 429, 429]

  it('are bounded on REST, and the answer says how long to wait', async () => {
    const from = next()
    expect(await statusesOf(LIMIT + 2, (index) => test.api.get('/v1/account', guess(index), from))).toEqual(PLUS_TWO)
    const limited = await test.api.get('/v1/account', guess(99), from)
    expect(limited.body).toMatchObject({ error: 'rate_limited', retryable: true, retry_after_ms: MINUTE_MS })
    expect(limited.headers.get('retry-after')).toBe('60')
    expect((await test.api.get('/v1/account', guess(99), next())).status).toBe(401)
    test.clock.advance(MINUTE_MS)
    expect((await test.api.get('/v1/account', guess(99), from)).status).toBe(401)
  })

  it('are bounded at the metrics, where the secret may be a bearer token', async () => {
    const from = next()
    const scrape = (headers: Record<string, string>) => test.api.get('/metrics', undefined, { ...from, ...headers })
    expect(await statusesOf(LIMIT + 2, (index) => scrape({ Authorization: `Bearer ${index}` }))).toEqual(PLUS_TWO)
    expect((await scrape({ 'X-Admin-Secret': ADMIN_SECRET })).status).toBe(429)
    expect((await test.api.get('/metrics', undefined, { ...next(), 'X-Admin-Secret': ADMIN_SECRET })).status).toBe(200)
    // Whoever sends nothing has guessed nothing.
    const other = next()
    expect(await statusesOf(LIMIT + 2, () => test.api.get('/metrics', undefined, other))).toEqual(Array(LIMIT + 2).fill(401))
  })

  it('are counted together over REST, MCP, the dashboard and the page for payments, however the key is sent', async () => {
    const from = next()
    const rpc = { jsonrpc: '2.0', id: 1, method: 'tools/list' }
    const form = { ...from, 'Content-Type': 'application/x-www-form-urlencoded', Origin: 'http://localhost' }
    const ways: ((key: string) => Promise<{ status: number }>)[] = [
      (key) => test.api.get(`/v1/account?api_key=${key}`, undefined, from),
      (key) => test.api.get('/v1/account', undefined, { ...from, 'X-API-Key': key }),
      (key) => test.api.get('/v1/account', 'short', { ...from, 'X-Key': key }),
      (key) => test.api.request('POST', '/mcp', rpc, key, { ...from, Host: 'localhost' }),
      (key) => test.api.request('POST', '/dashboard/sign-in', `api_key=${key}`, undefined, form),
    ]
    for (const [index, way] of ways.entries()) expect((await way(guess(index))).status, `way ${index}`).toBe(401)
    for (const [index, way] of ways.entries()) expect((await way(guess(index + 10))).status, `way ${index}`).toBe(429)
    expect((await test.api.admin('/v1/admin/seed', {}, from)).status).toBe(429)
  })

  it("bound guesses at the operator's secret", async () => {
    const from = next()
    const guesses = statusesOf(LIMIT + 2, (index) =>
      test.api.post('/v1/admin/seed', {}, undefined, { ...from, 'X-Admin-Secret': `${ADMIN_SECRET}${index}` }),
    )
    expect(await guesses).toEqual(PLUS_TWO)
    // The right one tells no more than a wrong one meanwhile.
    expect((await test.api.admin('/v1/admin/seed', {}, from)).status).toBe(429)
    expect((await test.api.admin('/v1/admin/seed', {}, next())).status).toBe(400)
  })

  it('leave keys in use alone, and tell nothing about others', async () => {
    const from = next()
    const [used, fresh] = [await test.createAccount(), await test.createAccount()]
    expect((await test.api.get('/v1/account', used.key, from)).status).toBe(200)
    await statusesOf(LIMIT, (index) => test.api.get('/v1/account', guess(index), from))
    expect((await test.api.get('/v1/account', used.key, from)).status).toBe(200)
    expect((await test.api.get('/v1/account', fresh.key, from)).status).toBe(429)
    expect((await test.api.get('/v1/account', fresh.key, next())).status).toBe(200)
  })

  it('are not counted where no key was sent', async () => {
    const from = next()
    expect(new Set(await statusesOf(LIMIT * 2, () => test.api.get('/v1/account', undefined, from)))).toEqual(new Set([401]))
    expect((await test.api.get('/v1/account', guess(1), from)).body.error).toBe('invalid_api_key')
  })
})
