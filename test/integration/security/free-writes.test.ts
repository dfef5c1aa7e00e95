import { expect, it } from 'vitest'
import type { Database } from '../../../src/db/client.ts'
import { expectStatus, NOON, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const MINUTE = 60_000
/** What an account without ops may do. */
const CHANGES = 5_000
const KEYS = 100_000
const RESPONSES = 20_000

const fill = async (database: Database, accountId: string) => {
  await database.sql.unsafe(
    `insert into idempotency_keys (account_id, key, expires_ms) select $1::uuid, 'k' || n, $2::bigint from generate_series(1, ${KEYS}) n`,
    [accountId, String(NOON + 2 * MINUTE)],
  )
  await database.sql.unsafe(
    `insert into idempotent_requests (account_id, key, fingerprint, operation_id, lease_ms, expires_ms, status, response)
     select $1::uuid, 'k' || n, '\\x00', gen_random_uuid(), 0, $2::bigint, 200, '{}' from generate_series(1, ${RESPONSES}) n`,
    [accountId, String(NOON + 2 * MINUTE)],
  )
}

describeEachDatabase('what an account stores for free', (openTestDatabase) => {
  it('is a bounded number of changes; bound keys leave some to the owner', async () => {
    const { api, createAccount, createKey, clock } = await openTestApp(await openTestDatabase())
    const { key } = await createAccount(0)
    const agent = await createKey(key, { scope: 'agent', agent_id: 'team' })
    const put = (agent_id: string, by: string) => api.put('/v1/budget/envelope', { agent_id, limit_usd: 1 }, by)
    const many = async (by: string, count: number) => {
      const found = new Map<number, number>()
      for (let left = count; left > 0; left -= 500) {
        const answers = await Promise.all(Array.from({ length: Math.min(500, left) }, () => put('team/x', by)))
        for (const { status } of answers) found.set(status, (found.get(status) ?? 0) + 1)
      }
      return Object.fromEntries(found)
    }
    // Making the agent's key was one.
    expect(await many(agent.key, CHANGES / 2 + 100)).toEqual({ 200: CHANGES / 2 - 1, 429: 101 })
    expect(await many(key, CHANGES / 2 + 10)).toEqual({ 200: CHANGES / 2, 429: 10 })
    const refused = await put('team', key)
    expect(refused.body).toMatchObject({ error: 'rate_limited', retryable: true, retry_after_ms: 6_000 })
    expect(refused.headers.get('Retry-After')).toBe('6')
    expect((await api.post('/v1/account/keys', { scope: 'read' }, key)).status).toBe(429)
    expect(
      (await api.put('/v1/rate/envelope', { agent_id: 'a', provider: 'p', model: 'm', requests_per_minute: 1 }, key)).status,
    ).toBe(429)
    // What takes something away is never refused.
    expectStatus(200, await api.delete('/v1/budget/envelope/team%2Fx', key))
    expectStatus(200, await api.delete(`/v1/account/keys/${agent.keyId}`, key))
    clock.advance(6_000)
    expectStatus(200, await put('team', key))
  }, 60_000)

  it('is a bounded number of idempotency keys and stored responses; those that are there still work', async () => {
    const database = await openTestDatabase()
    const { api, app, createAccount, clock } = await openTestApp(database)
    const { key, accountId } = await createAccount(0)
    await fill(database, accountId)
    const check = (name: string) => api.post('/v1/idempotency/check', { key: name }, key)
    expect((await check('k7')).body).toEqual({ is_first_call: false, ttl_remaining_seconds: 120 })
    expect((await check('new')).body).toMatchObject({ error: 'rate_limited', hint: expect.stringContaining('ttl_seconds') })
    const set = (header: string) =>
      api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key, { 'Idempotency-Key': header })
    expect((await set('k7')).body).toMatchObject({ error: 'idempotency_mismatch' })
    expect((await set('new')).body).toMatchObject({ error: 'rate_limited', hint: expect.stringContaining('24 hours') })
    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key))

    // What an account has paid for makes room, and so does time.
    expectStatus(200, await api.admin('/v1/admin/seed', { api_key: key, operations: 1 }))
    expect((await check('new')).body).toMatchObject({ is_first_call: true })
    expectStatus(200, await set('new'))
    clock.advance(3 * MINUTE)
    const { accountId: other, key: otherKey } = await createAccount(0)
    await fill(database, other)
    clock.advance(0)
    expect((await api.post('/v1/idempotency/check', { key: 'x' }, otherKey)).status).toBe(429)
    await app.stop()
  }, 60_000)
})
