import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Answer, Client } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { findDifferences, findWrongBalances, openSql, type TestSql } from '../support/load.ts'
import { type Server, startServer } from '../support/server.ts'

/**
 * A process that stands still (a suspended machine, a long pause) after it has taken an idempotency key and before it has done the
 * work: its lease runs out, another process takes the request over and does the work, and then the first one wakes up.
 */
describe('a process that wakes up after another has taken its request over', () => {
  let home: TestDatabase
  let sql: TestSql
  let sleeper: Server
  let other: Server
  let sleeperClient: Client
  let otherClient: Client

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    const env = { SIGNUP_TRIAL_OPS: '0' }
    const start = () => startServer({ databaseUrl: home.url, env })
    ;[sleeper, other] = await Promise.all([start(), start()])
    sleeperClient = new Client(sleeper.origin)
    otherClient = new Client(other.origin)
    // A gate between taking an idempotency key and doing the work.
    await sql`create function pass_gate() returns trigger language plpgsql as
      $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$`
    await sql`create trigger gate before insert on idempotent_requests for each row execute function pass_gate()`
  })
  afterAll(async () => {
    sleeperClient?.close()
    otherClient?.close()
    await sleeper?.stop()
    await other?.stop()
    await sql?.end()
    await home?.drop()
  })

  async function until(condition: () => Promise<boolean>): Promise<void> {
    for (const deadline = Date.now() + 10_000; !(await condition()); await sleep(10))
      if (Date.now() > deadline) throw new Error('waited too long')
  }

  /** @returns the answer of the one that took over, and of the one that woke up */
  async function takeOver<B>(key: string, send: (client: Client) => Promise<Answer<B>>): Promise<[Answer<B>, Answer<B>]> {
    let late: Promise<Answer<B>> | undefined
    await sql.begin(async (tx) => {
      await tx`select pg_advisory_xact_lock(1)`
      late = send(sleeperClient)
      late.catch(() => {})
      await until(async () => (await sql`select 1 from pg_stat_activity where wait_event = 'advisory'`).length > 0)
      await sleeper.kill('SIGSTOP')
    })
    try {
      await until(async () => (await sql`select 1 from idempotent_requests where key = ${key}`).length > 0)
      await sql`update idempotent_requests set lease_ms = 0 where key = ${key}`
      const first = await send(otherClient)
      await sleeper.kill('SIGCONT')
      return [first, await late!]
    } finally {
      await sleeper.kill('SIGCONT')
    }
  }

  it('does not grant twice', async () => {
    const { key, accountId } = await otherClient.createAccount()
    const body = { api_key: key, operations: 70 }
    const [first, late] = await takeOver('grant', (client) =>
      client.send({ method: 'POST', path: '/v1/admin/seed', admin: true, body, idempotencyKey: 'grant' }),
    )
    expect(first.status).toBe(200)
    expect(await sql`select ops from accounts where account_id = ${accountId}`).toEqual([{ ops: 70n }])
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
    expect(late.body).toEqual(first.body)
  })

  it('does not settle another clearance', async () => {
    const { key, accountId } = await otherClient.createAccount(100)
    await otherClient.setEnvelope(key, { agent_id: 'a', limit_usd: 5 })
    for (let n = 0; n < 3; n++) await otherClient.clear(key, { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 1000 })
    const usage = { agent_id: 'a', actual_input_tokens: 1, actual_output_tokens: 1 }
    const [first, late] = await takeOver('settle', (client) => client.reconcile(key, usage, { idempotencyKey: 'settle' }))
    expect(first.status).toBe(200)
    expect(await sql`select count(*) from holds where state = 1 and account_id = ${accountId}`).toEqual([{ count: 1n }])
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
    expect(late.body).toEqual(first.body)
  })

  it('does not clear twice', async () => {
    const { key, accountId } = await otherClient.createAccount(100)
    await otherClient.setEnvelope(key, { agent_id: 'a', limit_usd: 5 })
    const input = { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 1000 }
    const [first, late] = await takeOver('clear', (client) => client.clear(key, input, { idempotencyKey: 'clear' }))
    expect(first.body.approved).toBe(true)
    expect(await sql`select count(*) from holds where account_id = ${accountId}`).toEqual([{ count: 1n }])
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
    expect(late.body).toEqual(first.body)
  })

  it('does not replace the secret of the key that was handed out', async () => {
    const { key } = await otherClient.createAccount()
    const [first] = await takeOver('key', (client) =>
      client.send<{ api_key: string }>({ method: 'POST', path: '/v1/account/keys', key, body: {}, idempotencyKey: 'key' }),
    )
    expect(first.status).toBe(201)
    const me = await otherClient.send({ method: 'GET', path: '/v1/account', key: first.body.api_key })
    expect(me.status).toBe(200)
  })
})
