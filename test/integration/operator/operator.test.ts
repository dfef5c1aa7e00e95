import { beforeAll, expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import type { Database } from '../../../src/db/client.ts'
import { envelopePath, expectStatus, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const NOBODY = '019ab5c4-0000-7000-8000-000000000000'

describeEachDatabase('the operator', (openTestDatabase) => {
  let database: Database
  let test: TestApp
  let elsewhere: TestApp
  beforeAll(async () => {
    database = await openTestDatabase()
    test = await openTestApp(database)
    elsewhere = await openTestApp(database, { clock: test.clock })
  })
  const clear = async (app: TestApp, key: string, agent_id: string) => {
    const body = { agent_id, model: 'claude-opus-4-8', estimated_tokens: 1000 }
    return expectStatus(200, await app.api.post('/v1/budget/clear', body, key))
  }
  const spent = async (key: string, agent: string) =>
    expectStatus(200, await test.api.get(envelopePath(agent), key)).limits.map(({ window, spent_usd }) => [window, spent_usd])

  it('suspends an agent path and a whole account, effective on the next decision of every process', async () => {
    const { key, accountId } = await test.createAccount()
    const other = await test.createAccount()
    for (const owner of [key, other.key]) await test.api.put('/v1/budget/envelope', { agent_id: '*', limit_usd: 9 }, owner)
    for (const app of [test, elsewhere]) expect(await clear(app, key, 'team/a')).toMatchObject({ approved: true })
    const suspend = (fields = {}) => test.api.admin('/v1/admin/suspend', { account_id: accountId, ...fields })
    const resume = (fields = {}) => test.api.admin('/v1/admin/resume', { account_id: accountId, ...fields })

    expect(expectStatus(200, await suspend({ agent_id: 'team', reason: 'runs away' }))).toMatchObject({
      suspended: true,
      changed: true,
    })
    for (const app of [elsewhere, test]) {
      expect(await clear(app, key, 'team/a')).toMatchObject({ approved: false, reason: 'suspended', limit_agent_id: 'team' })
      expect(await clear(app, key, 'teammate')).toMatchObject({ approved: true })
    }
    expect(expectStatus(200, await suspend({ agent_id: 'team' }))).toMatchObject({ suspended: true, changed: false })
    expectStatus(200, await suspend())
    expect(await clear(elsewhere, key, 'teammate')).toMatchObject({ approved: false, reason: 'suspended' })
    expect(await clear(elsewhere, other.key, 'teammate')).toMatchObject({ approved: true })
    expectStatus(200, await resume())
    expect(await clear(elsewhere, key, 'teammate')).toMatchObject({ approved: true })
    expect(await clear(elsewhere, key, 'team/a')).toMatchObject({ approved: false, reason: 'suspended' })
    expectStatus(200, await resume({ agent_id: 'team' }))
    expect(await clear(elsewhere, key, 'team/a')).toMatchObject({ approved: true })
  })

  it('resets daily and monthly windows, of one agent or of all', async () => {
    const { key, accountId } = await test.createAccount()
    for (const agent_id of ['a', 'b'])
      await test.api.put('/v1/budget/envelope', { agent_id, limits: { daily: 1, monthly: 2 } }, key)
    for (const agent of ['a', 'b']) await clear(test, key, agent)
    const one = await test.api.admin('/v1/admin/reset-daily', { account_id: accountId, agent_id: 'a' })
    expect(expectStatus(200, one).reset).toEqual(['a'])
    expect(await spent(key, 'a')).toEqual([
      ['daily', 0],
      ['monthly', 0.025],
    ])
    expect(await spent(key, 'b')).toEqual([
      ['daily', 0.025],
      ['monthly', 0.025],
    ])
    const headers = { 'Idempotency-Key': `reset ${accountId}` }
    const all = await test.api.admin('/v1/admin/reset-monthly', { account_id: accountId, reason: 'new contract' }, headers)
    expect(expectStatus(200, all).reset).toEqual(['a', 'b'])
    expect(await spent(key, 'b')).toEqual([
      ['daily', 0.025],
      ['monthly', 0],
    ])
    await clear(test, key, 'b')
    expect(
      (await test.api.admin('/v1/admin/reset-monthly', { account_id: accountId, reason: 'new contract' }, headers)).text,
    ).toBe(all.text)
    expect(await spent(key, 'b')).toEqual([
      ['daily', 0.05],
      ['monthly', 0.025],
    ])
    expect((await verifyBalances(database, { accountId })).differences).toEqual([])
    const audit = await test.api.get('/v1/audit', key)
    expect(audit.text).toContain('operator: new contract')
  })

  it('is told what does not exist', async () => {
    const { accountId } = await test.createAccount()
    for (const path of ['suspend', 'resume'])
      expect((await test.api.admin(`/v1/admin/${path}`, { account_id: NOBODY })).body.error, path).toBe('account_not_found')
    for (const path of ['reset-daily', 'reset-monthly']) {
      expect((await test.api.admin(`/v1/admin/${path}`, { account_id: accountId, agent_id: 'nobody' })).body.error).toBe(
        'not_found',
      )
      expect((await test.api.admin(`/v1/admin/${path}`, { account_id: 'x' })).status).toBe(400)
    }
  })
})
