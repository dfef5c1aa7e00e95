import { expect, it } from 'vitest'
import type { Database } from '../../../src/db/client.ts'
import { expectStatus, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const MINUTE = 60_000
/** What an account without ops may have recorded at once. */
const RECORDED = 1_000

const rows = async (database: Database, table: string, accountId: string): Promise<number> =>
  Number((await database.sql.unsafe(`select count(*) as n from ${table} where account_id = $1`, [accountId]))[0]?.n)

describeEachDatabase('denials', (openTestDatabase) => {
  it('are recorded so far as the account may, then refused; what can be approved still is', async () => {
    const database = await openTestDatabase()
    const { api, clock, createAccount } = await openTestApp(database)
    const { key, accountId } = await createAccount(0)
    const clear = (agent_id: string) => api.post('/v1/budget/clear', { agent_id, model: 'gpt-4o', estimated_tokens: 1000 }, key)
    const answers = await Promise.all(Array.from({ length: RECORDED + 200 }, (_, index) => clear(`agent-${index}`)))
    const refused = answers.filter(({ status }) => status === 429)
    expect(answers.filter(({ status, body }) => status === 200 && body.reason === 'no_credits')).toHaveLength(RECORDED)
    expect(refused).toHaveLength(200)
    expect(refused[0]?.body).toMatchObject({
      error: 'rate_limited',
      retryable: true,
      retry_after_ms: MINUTE,
      reason: 'no_credits',
      hint: expect.stringContaining('no operations left'),
    })
    expect(refused[0]?.headers.get('Retry-After')).toBe('60')
    expect(await rows(database, 'denials', accountId)).toBe(RECORDED)
    expect(await rows(database, 'agents', accountId)).toBe(RECORDED)
    const booking = { agent_id: 'b', resource_type: 'custom', action: 'x', cost: 1 }
    expect((await api.post('/v1/book', booking, key)).status).toBe(429)

    // One a minute comes back.
    clock.advance(MINUTE)
    expect([(await clear('a')).status, (await clear('a')).status]).toEqual([200, 429])

    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key))
    expectStatus(200, await api.admin('/v1/admin/seed', { api_key: key, operations: 5 }))
    expect((await clear('a')).body).toMatchObject({ approved: true })
    expect((await clear('nobody')).body).toMatchObject({ error: 'rate_limited', reason: 'no_envelope' })
    expect((await clear('a')).body).toMatchObject({ approved: true })
  }, 60_000)

  it('that are not recorded leave no count of a loop behind either', async () => {
    const database = await openTestDatabase()
    const { api, createAccount } = await openTestApp(database)
    const { key, accountId } = await createAccount(0)
    const loop = { max_repeats: 100, window_seconds: 86_400 }
    expectStatus(200, await api.put('/v1/budget/envelope', { agent_id: '*', limit_usd: 1, loop }, key))
    const clear = (estimated_tokens: number) =>
      api.post('/v1/budget/clear', { agent_id: 'a', model: 'gpt-4o', estimated_tokens }, key)
    await Promise.all(Array.from({ length: RECORDED + 50 }, (_, index) => clear(index + 1)))
    expect(await rows(database, 'loops', accountId)).toBe(RECORDED)
  }, 60_000)
})
