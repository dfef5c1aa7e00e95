import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { findDifferences } from '../support/load.ts'
import { type PostgresServer, startPostgres } from '../support/postgres.ts'
import { type Server, startServer } from '../support/server.ts'

const RULES = (action: string): string => `
[global]
fail_safe_action = "${action}"
[agents.crawler]
daily_budget = 5
allowed_tools = ["search"]
`
const BOOKED_WITHIN_MS = 20_000

describe('a booking while the database is away', () => {
  let postgres: PostgresServer
  let folder: string
  const servers: Server[] = []
  const clients = new Map<string, Client>()

  beforeAll(async () => {
    postgres = await startPostgres()
    folder = await mkdtemp(join(tmpdir(), 'gvnr-fail-safe-'))
    for (const action of ['deny', 'allow'] as const) {
      const file = join(folder, `${action}.rgf`)
      await writeFile(file, RULES(action))
      const env = { SIGNUP_TRIAL_OPS: '0', RGF_FILE: file, RGF_JOURNAL_DIR: join(folder, 'journals', action) }
      const server = await startServer({ databaseUrl: postgres.url, env })
      servers.push(server)
      clients.set(action, new Client(server.origin, { sockets: 8 }))
    }
  })
  afterAll(async () => {
    for (const client of clients.values()) client.close()
    await Promise.all(servers.map((server) => server.stop()))
    await postgres?.remove()
    await rm(folder, { recursive: true, force: true })
  })

  const book = async (action: 'deny' | 'allow', key: string, fields: object = {}) => {
    const body = { agent_id: 'crawler', resource_type: 'api_call', action: 'search', cost: 0.5, ...fields }
    const answer = await clients.get(action)!.send({ method: 'POST', path: '/v1/book', key, body })
    return { status: answer.status, body: answer.body }
  }
  const spentBy = async (key: string): Promise<unknown> => {
    const answer = await clients.get('allow')!.send({ method: 'GET', path: '/v1/budget/envelope/crawler', key })
    return answer.body.spent_usd
  }
  /** An account whose key both servers know. */
  const account = async (): Promise<string> => {
    const { key } = await clients.get('allow')!.createAccount(100)
    for (const action of ['deny', 'allow'] as const) expect((await book(action, key, { cost: 0 })).status).toBe(200)
    return key
  }
  const journals = async (): Promise<string[]> => (await readdir(join(folder, 'journals', 'allow'), { recursive: true })).sort()

  it('is refused by "deny"; by "allow" made for agents of the file within their rules and budgets, and booked once afterwards', async () => {
    const key = await account()
    await postgres.stop('fast')
    try {
      expect(await book('deny', key)).toMatchObject({ status: 503, body: { error: 'database_unavailable' } })
      expect(await book('allow', key, { agent_id: 'stranger' })).toMatchObject({ status: 503 })
      expect(await book('allow', key, { action: 'rm' })).toMatchObject({ status: 503 })
      const made = await Promise.all(Array.from({ length: 16 }, () => book('allow', key)))
      // $5 a day by the file: nobody can say what was spent before, so no more than that in one outage.
      expect(made.map(({ status }) => status).sort()).toEqual([...Array(10).fill(200), ...Array(6).fill(503)])
      expect(made.find(({ status }) => status === 200)?.body).toMatchObject({ status: 'success', deferred: true, budgets: [] })
    } finally {
      await postgres.restart()
    }
    await expect.poll(() => spentBy(key), { timeout: BOOKED_WITHIN_MS }).toBe(5)
    await sleep(2500)
    expect(await spentBy(key)).toBe(5)
    expect(await book('allow', key)).toMatchObject({ status: 403, body: { reason: 'daily_budget_exceeded' } })
    expect(await findDifferences(postgres.url)).toEqual([])
  })

  it('survives the end of its process, and is booked by the next one, once', async () => {
    const key = await account()
    const [, server] = servers
    await postgres.stop('fast')
    const made = await Promise.all(Array.from({ length: 6 }, () => book('allow', key)))
    expect(made.map(({ status }) => status)).toEqual(Array(6).fill(200))
    await server!.kill('SIGKILL')
    expect(await journals()).not.toEqual([])
    await postgres.restart()
    await server!.restart()
    await expect.poll(() => spentBy(key), { timeout: BOOKED_WITHIN_MS }).toBe(3)
    await server!.restart()
    await sleep(2500)
    expect(await spentBy(key)).toBe(3)
    expect((await journals()).filter((name) => name.endsWith('.ndjson'))).toEqual([])
    expect(await findDifferences(postgres.url)).toEqual([])
  })
})
