import { beforeAll, describe, expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ADMIN_SECRET, expectStatus, NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const HOUR = 3_600_000

describeEachDatabase('accounts', (openTestDatabase) => {
  let test: TestApp
  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase())
  })

  describe('POST /v1/account', () => {
    it('needs no key and gives one, with the trial quota', async () => {
      const trial = await openTestApp(test.database, { config: { SIGNUP_TRIAL_OPS: 25 } })
      const created = expectStatus(201, await trial.api.post('/v1/account'))
      expect(created).toEqual({
        api_key: expect.stringMatching(/^bg_[0-9a-f]{32}$/),
        account_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        operations_remaining: 25,
      })
      expect((await trial.api.get('/v1/account', created.api_key)).body).toEqual({
        account_id: created.account_id,
        operations_remaining: 25,
        created_at: NOON,
        key: { key_id: expect.any(String), name: 'owner', scope: 'owner', agent_id: null, expires_at: null },
      })
      expect((await trial.api.get('/v1/account/balance', created.api_key)).body).toEqual({ operations_remaining: 25 })
    })

    it('is throttled per address and hour, exactly, and says how long to wait', async () => {
      const throttled = await openTestApp(test.database, { config: { ACCOUNT_RATE_LIMIT_PER_HOUR: 10, TRUST_PROXY: 1 } })
      const create = (ip: string) => throttled.api.post('/v1/account', undefined, undefined, { 'X-Forwarded-For': ip })
      const answers = await Promise.all(Array.from({ length: 30 }, () => create('203.0.113.7')))
      expect(answers.filter(({ status }) => status === 201)).toHaveLength(10)
      const refused = answers.filter(({ status }) => status === 429)
      expect(refused).toHaveLength(20)
      for (const { body, headers } of refused) {
        expect(body).toMatchObject({ error: 'rate_limited', retryable: true, retry_after_ms: HOUR, hint: expect.any(String) })
        expect(headers.get('Retry-After')).toBe('3600')
      }
      expect((await create('203.0.113.8')).status).toBe(201)
      throttled.clock.advance(HOUR)
      expect((await create('203.0.113.7')).status).toBe(201)
    })
  })

  describe('POST /v1/admin/seed', () => {
    it('grants operations, or 1,000 per dollar, rounded down on the decimal digits', async () => {
      const { key } = await test.createAccount(0)
      let total = 0
      for (const [fields, credited] of [
        [{ operations: 5 }, 5],
        [{ amount_usd: 1 }, 1000],
        [{ amount_usd: 0.29 }, 290],
        [{ amount_usd: 0.0019 }, 1],
        [{ amount_usd: 1.0009 }, 1000],
        [{ operations: 1_000_000_000 }, 1_000_000_000],
      ] as const) {
        total += credited
        expect((await test.api.admin('/v1/admin/seed', { api_key: key, ...fields })).body).toEqual({
          ok: true,
          credited_ops: credited,
          operations_remaining: total,
        })
      }
      expect((await test.api.get('/v1/account/balance', key)).body).toEqual({ operations_remaining: total })
    })

    it.each([
      ['operations', {}],
      ['operations', { operations: 0 }],
      ['operations', { operations: -5 }],
      ['operations', { operations: 1.5 }],
      ['operations', { operations: '5' }],
      ['operations', { operations: 1_000_000_001 }],
      ['operations', { operations: 5, amount_usd: 5 }],
      ['amount_usd', { amount_usd: 0 }],
      ['amount_usd', { amount_usd: 0.0009 }],
      ['amount_usd', { amount_usd: 1_000_001 }],
      ['api_key', { api_key: undefined, operations: 5 }],
    ])('refuses %s in %j and grants nothing', async (field, fields) => {
      const { key } = await test.createAccount(7)
      const refused = await test.api.admin('/v1/admin/seed', { api_key: key, ...fields })
      expect(refused).toMatchObject({ status: 400, body: { error: 'invalid_params' } })
      expect(refused.body.issues.map(({ path }) => path)).toContain(field)
      expect((await test.api.get('/v1/account/balance', key)).body).toEqual({ operations_remaining: 7 })
    })

    it('answers account_not_found for an unknown key', async () => {
      for (const api_key of [`bg_${'0'.repeat(32)}`, 'nonsense'])
        expect(await test.api.admin('/v1/admin/seed', { api_key, operations: 5 })).toMatchObject({
          status: 404,
          body: { error: 'account_not_found' },
        })
    })

    it('is the operator’s: the secret in either header, and nothing else', async () => {
      const { key } = await test.createAccount(0)
      const body = { api_key: key, operations: 5 }
      const seed = (headers: Record<string, string>, as?: string) => test.api.post('/v1/admin/seed', body, as, headers)
      for (const headers of [
        {},
        { 'X-Admin-Secret': '' },
        { 'X-Admin-Secret': `${ADMIN_SECRET} ` + 'x' },
        { Authorization: `Bearer ${ADMIN_SECRET}` },
      ])
        expect(await seed(headers, undefined)).toMatchObject({ status: 401, body: { error: 'unauthorized' } })
      expect(await seed({}, key)).toMatchObject({ status: 401, body: { error: 'unauthorized' } })
      expect((await seed({ 'X-Admin-Token': ADMIN_SECRET })).body).toMatchObject({ credited_ops: 5 })
      const unset = await openTestApp(test.database, { config: { ADMIN_SECRET: undefined } })
      for (const secret of ['', 'undefined', ADMIN_SECRET])
        expect((await unset.api.post('/v1/admin/seed', body, undefined, { 'X-Admin-Secret': secret })).status).toBe(401)
      expect((await test.api.get('/v1/account/balance', key)).body).toEqual({ operations_remaining: 5 })
    })

    it('loses no grant of many at once', async () => {
      const { key } = await test.createAccount(0)
      await Promise.all(
        Array.from({ length: 50 }, (_, index) => test.api.admin('/v1/admin/seed', { api_key: key, operations: index + 1 })),
      )
      expect((await test.api.get('/v1/account/balance', key)).body).toEqual({ operations_remaining: (50 * 51) / 2 })
    })
  })

  describe('the notification address', () => {
    const PATH = '/v1/account/notification-email'

    it('is set, read, replaced and removed, and leaves the quota alone', async () => {
      const { key } = await test.createAccount(9)
      const read = async () => (await test.api.get(PATH, key)).body
      expect(await read()).toEqual({ notification_email: null })
      const longest = `${'a'.repeat(254 - 12)}@example.com`
      for (const email of ['ops@example.com', 'Ünï+tag@exämple.org', longest]) {
        expect((await test.api.post(PATH, { email }, key)).body).toEqual({ ok: true, notification_email: email })
        expect(await read()).toEqual({ notification_email: email })
      }
      expect((await test.api.delete(PATH, key)).body).toEqual({ ok: true })
      expect(await read()).toEqual({ notification_email: null })
      expect((await test.api.get('/v1/account/balance', key)).body).toEqual({ operations_remaining: 9 })
    })

    it.each([
      '',
      'x',
      'x@',
      '@x.y',
      'a@b',
      'a b@c.de',
      'a@b.c\n',
      'a@b.cd\r\nBcc: x@y.zz',
      'a@b@c.de',
      '<a@b.cd>',
      'a@b.cd, c@d.ef',
      `${'a'.repeat(243)}@example.com`,
      'a\0@b.cd',
      '\ud800@b.cd',
    ])('refuses %j and keeps the old one', async (email) => {
      const { key } = await test.createAccount()
      await test.api.post(PATH, { email: 'old@example.com' }, key)
      expect(await test.api.post(PATH, { email }, key)).toMatchObject({
        status: 400,
        body: { error: 'invalid_email', retryable: false },
      })
      expect((await test.api.get(PATH, key)).body).toEqual({ notification_email: 'old@example.com' })
    })

    it('may change while clearances are decided: neither is lost', async () => {
      const { key } = await test.createAccount(100)
      await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 100 }, key)
      const work = Array.from({ length: 60 }, (_, turn) =>
        turn % 3 === 0
          ? test.api.post(PATH, { email: `${turn}@example.com` }, key)
          : test.api.post('/v1/budget/clear', { agent_id: 'a', model: 'm', estimated_tokens: 1 }, key),
      )
      for (const { status } of await Promise.all(work)) expect(status).toBe(200)
      expect((await test.api.get('/v1/account/balance', key)).body).toEqual({ operations_remaining: 60 })
      expect((await test.api.get(PATH, key)).body.notification_email).toMatch(/@example\.com$/)
    })
  })

  it('keep their books', async () => {
    expect((await verifyBalances(test.database)).differences).toEqual([])
    expect(test.logged).toEqual([])
  })
})
