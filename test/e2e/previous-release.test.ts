import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { startReceiver, until } from '../support/humans.ts'
import { findDifferences, findWrongBalances, openSql, pick, randomFrom, runSeed, spread, type TestSql } from '../support/load.ts'
import { startPriceSource } from '../support/price-source.ts'
import { type Server, startServer } from '../support/server.ts'
import { Workload } from '../support/workload.ts'

const ROOT = join(import.meta.dirname, '../..')
const RELEASES = join(ROOT, 'test/fixtures/releases')
const REQUESTS = 3_000
const WIDTH = 48

/** scripts/keep-release.mjs keeps the one release that may still run while the next one is started. */
describe('the previous release on the schema of this one', () => {
  let folder: string
  let main: string
  const undo: (() => Promise<unknown>)[] = []

  beforeAll(() => {
    const [archive, ...more] = readdirSync(RELEASES).filter((name) => name.endsWith('.tgz'))
    expect([archive, more]).toEqual([expect.any(String), []])
    mkdirSync(join(ROOT, '.tmp'), { recursive: true })
    // Below this folder, so that it finds the packages that are outside of its bundle.
    folder = mkdtempSync(join(ROOT, '.tmp/previous-'))
    execFileSync('tar', ['-xzf', join(RELEASES, archive!), '-C', folder])
    main = join(folder, 'dist/main.js')
  })
  afterAll(async () => {
    for (const step of undo.reverse()) await step()
    rmSync(folder, { recursive: true, force: true })
  })

  async function prepare(
    change?: string,
    env: Record<string, string> = {},
  ): Promise<{ home: TestDatabase; sql: TestSql; old: Server; client: Client }> {
    const home = await createTestDatabase('postgres')
    undo.push(() => home.drop())
    const sql = openSql(home.url!)
    undo.push(() => sql.end())
    if (change !== undefined) await sql.unsafe(change)
    const old = await startServer({ databaseUrl: home.url, main, env: { SIGNUP_TRIAL_OPS: '0', ...env } })
    undo.push(() => old.stop())
    const client = new Client(old.origin, { sockets: WIDTH })
    undo.push(async () => client.close())
    return { home, sql, old, client }
  }

  /** What people and agents do besides the workload, asked of one server about an account made at another. */
  async function rest(key: string, client: Client): Promise<number[]> {
    const send = async (method: 'GET' | 'POST', path: string, body?: object) =>
      (await client.send({ method, path, key, ...(body && { body }) })).status
    return [
      await send('GET', '/v1/account'),
      await send('GET', '/v1/account/keys'),
      await send('POST', '/v1/account/keys', { scope: 'agent', agent_id: 'crawler' }),
      await send('POST', '/v1/approval/request', { agent_id: 'crawler', action_summary: 'more' }),
      await send('POST', '/v1/book', { agent_id: 'crawler', resource_type: 'custom', action: 'x', cost: 0.0001 }),
      await send('GET', '/v1/agents'),
      await send('GET', '/v1/audit?page_size=100'),
      await send('GET', '/v1/dashboard'),
    ]
  }
  const FINE = [200, 200, 201, 200, 200, 200, 200, 200]

  it(`serves beside it: ${REQUESTS} mixed requests to both, and the books are right`, async () => {
    const { home, sql, old, client } = await prepare()
    const server = await startServer({ databaseUrl: home.url, env: { SIGNUP_TRIAL_OPS: '0' } })
    undo.push(() => server.stop())
    const current = new Client(server.origin, { sockets: WIDTH })
    undo.push(async () => current.close())
    const seed = runSeed()
    const random = randomFrom(seed)
    const workload = new Workload(() => pick(random, [client, current]), random)
    await workload.prepare()
    await spread(REQUESTS, WIDTH, () => workload.step())
    console.log(`seed ${seed}: ${workload.approved.size} approved, ${workload.resolved.size} resolved`)
    for (const [maker, asked] of [
      [client, current],
      [current, client],
    ] as const) {
      const { key } = await maker.createAccount(1000)
      await maker.setEnvelope(key, { agent_id: '*', limit_usd: 5 })
      expect(await rest(key, asked)).toEqual(FINE)
    }
    expect(await workload.disagreements(sql, true)).toEqual([])
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
    for (const one of [old, server]) expect(one.logs()).not.toMatch(/"level":(50|60)/)
  })

  it('runs for as long as its lease allows what it has begun: the current one does not miss its sign of life', async () => {
    const source = await startPriceSource()
    undo.push(async () => source.close())
    source.hold()
    const env = { PRICES_URL: source.url }
    const { home, client } = await prepare(undefined, env)
    const server = await startServer({ databaseUrl: home.url, env })
    undo.push(() => server.stop())
    const current = new Client(server.origin)
    undo.push(async () => current.close())
    const refresh = (one: Client) =>
      one.send({ method: 'POST', path: '/v1/admin/price-cache/refresh', admin: true, body: {}, idempotencyKey: 'k' })
    const running = refresh(client)
    await expect.poll(() => source.asked).toBe(1)
    for (const end = Date.now() + 7_000; Date.now() < end; await sleep(200)) expect((await refresh(current)).status).toBe(409)
    source.answer()
    const { status, body } = await running
    expect(status).toBe(200)
    expect((await refresh(current)).body).toEqual(body)
    expect(source.asked).toBe(1)
  })

  it('delivers beside it what either of them queued, in order', async () => {
    const receiver = await startReceiver()
    undo.push(() => receiver.close())
    const settings = { OUTBOUND_ALLOW_PRIVATE: 'on' }
    const { home, old, client } = await prepare(undefined, settings)
    const server = await startServer({ databaseUrl: home.url, env: settings })
    undo.push(() => server.stop())
    const current = new Client(server.origin)
    undo.push(async () => current.close())
    for (const [name, asked, decided] of [
      ['old', client, current],
      ['new', current, client],
    ] as const) {
      const { key } = await asked.createAccount(0)
      const post = (by: Client, path: string, body: object) =>
        by.send<{ approval_id: string }>({ method: 'POST', path, key, body })
      const made = await post(asked, '/v1/webhooks', { url: `${receiver.origin}/${name}` })
      // The first attempt fails, so that the decision is queued behind the request.
      receiver.fail(500)
      const { status, body } = await post(asked, '/v1/approval/request', { agent_id: 'a', action_summary: 'x' })
      await until(() => receiver.received.length > 0, 'the first attempt')
      const answer = await post(decided, `/approve/${body.approval_id}/decide`, { decision: 'approved' })
      expect([made.status, status, answer.status]).toEqual([201, 200, 200])
      const types = () => receiver.received.map((one) => `${one.path} ${(JSON.parse(one.body) as { type: string }).type}`)
      await until(() => types().length === 3, 'the second attempt and the decision', 20_000)
      const [request, decision] = [`/${name} approval.requested`, `/${name} approval.decided`]
      expect(types()).toEqual([request, request, decision])
      receiver.received.splice(0)
    }
    for (const one of [old, server]) expect(one.logs()).not.toMatch(/"level":(50|60)/)
  }, 90_000)

  it.each([
    ['renames a column', 'alter table holds rename column model to model_id'],
    ['drops a column', 'alter table envelopes drop column resets'],
    ['demands a new column', 'alter table ledger add column origin text not null'],
  ])('would fail if a migration %s that it uses', async (_, change) => {
    const { old, client } = await prepare(change)
    const { status, body } = await client.send<{ api_key: string }>({ method: 'POST', path: '/v1/account' })
    const statuses = [status]
    if (status === 201) {
      const key = body.api_key
      const seeded = await client.send({
        method: 'POST',
        path: '/v1/admin/seed',
        admin: true,
        body: { api_key: key, operations: 10 },
      })
      const set = await client.send({
        method: 'PUT',
        path: '/v1/budget/envelope',
        key,
        body: { agent_id: 'a', limit_usd: 1 },
      })
      const cleared = await client.clear(key, { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 10 })
      statuses.push(seeded.status, set.status, cleared.status)
    }
    expect(statuses).toContain(500)
    expect(old.logs()).toContain('unexpected failure')
  })
})
