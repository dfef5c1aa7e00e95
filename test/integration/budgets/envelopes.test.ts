import { beforeAll, describe, expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { envelopePath, expectStatus, NOON } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { budgetCalls, CLEAR, DAY, ENVELOPE, HOUR, OPUS, type Opened, RECONCILE } from './calls.ts'

/** JSON that JSON.stringify cannot write. */
const raw = (json: string) => json

describeEachDatabase('envelopes, over REST', (openTestDatabase) => {
  const { opened, newAgent, put, get, clear, reconcile, everything, expectRefused } = budgetCalls(openTestDatabase)
  let { test, key, accountId } = {} as Opened
  beforeAll(() => {
    ;({ test, key, accountId } = opened())
  })

  describe('set_envelope', () => {
    it.each([
      [{ limit_usd: 5 }, { limit_usd: 5, window: 'daily' }],
      [
        { limit_usd: 5, window: 'session' },
        { limit_usd: 5, window: 'session' },
      ],
      [
        { limit_usd: 1_000_000, window: 'monthly' },
        { limit_usd: 1_000_000, window: 'monthly' },
      ],
      [
        { limit_usd: 0.000001, window: 'hourly' },
        { limit_usd: 0.000001, window: 'hourly' },
      ],
      [{ limits: { daily: 5, monthly: 100 } }, { limit_usd: 5, window: 'daily', limits: { daily: 5, monthly: 100 } }],
      [{ limits: { weekly: 3 } }, { limit_usd: 3, window: 'weekly', limits: { weekly: 3 } }],
    ])('takes %j', async (fields, answer) => {
      const agent_id = newAgent()
      expect(await put(agent_id, fields)).toEqual({ success: true, agent_id, ...answer })
    })

    it.each([
      ['limit_usd', { limit_usd: 0 }],
      ['limit_usd', { limit_usd: -1 }],
      ['limit_usd', { limit_usd: 1_000_000.01 }],
      ['limit_usd', { limit_usd: '5' }],
      ['limit_usd', { limit_usd: null }],
      ['limit_usd', {}],
      ['limit_usd', { window: 'daily' }],
      ['window', { limit_usd: 5, window: 'yearly' }],
      ['window', { limit_usd: 5, window: 'DAILY' }],
      ['window', { limit_usd: 5, window: '' }],
      ['limits', { limits: {} }],
      ['limits', { limits: { daily: 0 } }],
      ['limits', { limits: { yearly: 5 } }],
      ['limits', { limits: { daily: 1_000_001 } }],
      ['limits', { limits: [5] }],
      ['limits', { limits: { daily: 5 }, limit_usd: 5 }],
      ['limits', { limits: { daily: 5 }, window: 'daily' }],
    ])('refuses %s in %j and changes nothing', async (field, fields) => {
      const agent_id = newAgent()
      await put(agent_id, { limit_usd: 3 })
      const before = await everything()
      expectRefused(await test.api.put(ENVELOPE, { agent_id, ...fields }, key), field)
      expect(await everything()).toEqual(before)
    })

    it.each([
      raw('{"agent_id":"x","limit_usd":NaN}'),
      raw('{"agent_id":"x","limit_usd":Infinity}'),
      raw('{"agent_id"'),
      raw('nonsense'),
    ])('refuses %s, which is not JSON', async (body) => {
      expect((await test.api.put(ENVELOPE, body, key)).body).toMatchObject({ error: 'invalid_json' })
    })

    it('refuses a number beyond every number', async () => {
      expectRefused(await test.api.put(ENVELOPE, raw('{"agent_id":"x","limit_usd":1e999}'), key), 'limit_usd')
    })

    it('replaces the whole set and keeps what is spent in every window', async () => {
      const agent = newAgent()
      await put(agent, { limits: { daily: 5, monthly: 100 } })
      await clear(agent, 100_000) // $2.50
      await put(agent, { limit_usd: 10, window: 'session' })
      expect(await get(agent)).toMatchObject({ window: 'session', spent_usd: 2.5, remaining_usd: 7.5 })
      expect((await get(agent)).limits).toHaveLength(1)
      await put(agent, { limits: { hourly: 3, weekly: 2 } })
      const view = await get(agent)
      expect(view).toMatchObject({ window: 'weekly', limit_usd: 2, spent_usd: 2.5, remaining_usd: 0 })
      expect(view.limits).toMatchObject([
        { window: 'hourly', limit_usd: 3, spent_usd: 2.5, remaining_usd: 0.5, reset_at: NOON + HOUR },
        { window: 'weekly', limit_usd: 2, spent_usd: 2.5, remaining_usd: 0, reset_at: Date.UTC(2026, 0, 19) },
      ])
    })
  })

  describe('agent_id', () => {
    const accepted = [
      'a',
      'x'.repeat(128),
      '😀'.repeat(128),
      ' ',
      'null',
      '"',
      '\\',
      '{},',
      "'; drop table holds; --",
      '/',
      '%2F',
      'a\nb',
      '\u2028',
    ]
    it.each(accepted)('%j is an agent like any other', async (agent_id) => {
      expect(await put(agent_id, { limit_usd: 5 })).toMatchObject({ agent_id })
      expect(await get(agent_id)).toMatchObject({ agent_id, limit_usd: 5, spent_usd: 0 })
      const approval = await clear(agent_id, 1000)
      expect(approval).toMatchObject({ approved: true, remaining_usd: 4.975 })
      expect((await reconcile(agent_id, 1000, { clearance_id: approval.clearance_id })).body).toMatchObject({
        ok: true,
        drift_usd: 0,
      })
      expect(expectStatus(200, await test.api.delete(envelopePath(agent_id), key))).toEqual({ success: true, agent_id })
      expect((await test.api.get(envelopePath(agent_id), key)).body).toMatchObject({ error: 'not_found' })
    })

    it('tells apart what looks alike', async () => {
      const alike = ['é', 'e\u0301', 'case', 'CASE', 'case ', 'a/b', 'a//b', 'a/b/']
      for (const [index, agent_id] of alike.entries()) await put(agent_id, { limit_usd: index + 1 })
      for (const [index, agent_id] of alike.entries())
        expect(await get(agent_id)).toMatchObject({ agent_id, limit_usd: index + 1 })
    })

    it.each(['', 'x'.repeat(129), '😀'.repeat(129), 'a\0b', '\ud800', 'a\udc00', 5, null, true, ['a'], { a: 1 }])(
      '%j is refused everywhere',
      async (agent_id) => {
        const before = await everything()
        expectRefused(await test.api.put(ENVELOPE, { agent_id, limit_usd: 5 }, key), 'agent_id')
        expectRefused(await test.api.post(CLEAR, { agent_id, model: OPUS, estimated_tokens: 1 }, key), 'agent_id')
        expectRefused(
          await test.api.post(RECONCILE, { agent_id, actual_input_tokens: 1, actual_output_tokens: 1 }, key),
          'agent_id',
        )
        expect(await everything()).toEqual(before)
      },
    )

    it('says which fields are required', async () => {
      const { body } = await test.api.post(CLEAR, {}, key)
      expect(body).toMatchObject({ error: 'invalid_params', required: ['agent_id', 'model', 'estimated_tokens'] })
      expect(body.issues.map(({ path }) => path)).toEqual(['agent_id', 'model', 'estimated_tokens'])
    })
  })

  describe('get, list and delete', () => {
    it('answers 404 for what is not there', async () => {
      for (const response of [
        await test.api.get(envelopePath('nobody'), key),
        await test.api.delete(envelopePath('nobody'), key),
      ]) {
        expect(response.status).toBe(404)
        expect(response.body).toMatchObject({ error: 'not_found', retryable: false })
      }
    })

    it('a deleted envelope caps nothing, and set again within the window remembers what was spent, also while it was gone', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 5 })
      await put(`${agent}/child`, { limit_usd: 5 })
      await clear(agent, 100_000)
      expectStatus(200, await test.api.delete(envelopePath(agent), key))
      expect((await test.api.delete(envelopePath(agent), key)).status).toBe(404)
      expect(await clear(agent, 1)).toMatchObject({ approved: false, reason: 'no_envelope', remaining_usd: 0 })
      expect(await clear(`${agent}/child`, 40_000)).toMatchObject({ approved: true, remaining_usd: 4 })
      await put(agent, { limit_usd: 4 })
      expect(await get(agent)).toMatchObject({ spent_usd: 3.5, remaining_usd: 0.5 })
    })

    it('lists what is set, in order, and another account sees none of it', async () => {
      const own = await test.createAccount()
      for (const agent_id of ['b', 'a', 'c']) expectStatus(200, await test.api.put(ENVELOPE, { agent_id, limit_usd: 1 }, own.key))
      await test.api.delete(envelopePath('c'), own.key)
      const { envelopes } = expectStatus(200, await test.api.get(ENVELOPE, own.key))
      expect(envelopes.map(({ agent_id }) => agent_id)).toEqual(['a', 'b'])
      expect(Object.keys(envelopes[0]!)).toEqual(
        expect.arrayContaining(['agent_id', 'limit_usd', 'spent_usd', 'remaining_usd', 'window', 'reset_at', 'limits']),
      )
      const stranger = await test.createAccount()
      expect((await test.api.get(ENVELOPE, stranger.key)).body.envelopes).toEqual([])
      expect((await test.api.get(envelopePath('a'), stranger.key)).status).toBe(404)
    })

    it('lists in pages, each going on behind the one before, within what a key may see', async () => {
      const own = await test.createAccount()
      const agents = ['a', 'a/1', 'a/2', 'ab', 'B', 'é', 'z']
      for (const agent_id of agents) await test.api.put(ENVELOPE, { agent_id, limit_usd: 1 }, own.key)
      const bound = await test.createKey(own.key, { scope: 'agent', agent_id: 'a' })
      const walk = async (key: string, limit: number): Promise<string[]> => {
        const seen: string[] = []
        for (let after = ''; ; ) {
          const path = `${ENVELOPE}?limit=${limit}&after=${encodeURIComponent(after)}`
          const page = expectStatus(200, await test.api.get(path, key))
          expect(page.envelopes.length).toBeLessThanOrEqual(limit)
          seen.push(...page.envelopes.map(({ agent_id }) => String(agent_id)))
          if (page.next === undefined) return seen
          after = String(page.next)
        }
      }
      for (const limit of [1, 2, 3, 7, 1000]) {
        expect(await walk(own.key, limit)).toEqual(['B', 'a', 'a/1', 'a/2', 'ab', 'z', 'é'])
        expect(await walk(bound.key, limit)).toEqual(['a', 'a/1', 'a/2'])
      }
      for (const limit of ['0', '1001', 'x', '1.5'])
        expect((await test.api.get(`${ENVELOPE}?limit=${limit}`, own.key)).body).toMatchObject({ error: 'invalid_params' })
      for (const after of ['%00', 'x'.repeat(129)])
        expect((await test.api.get(`${ENVELOPE}?after=${after}`, own.key)).body).toMatchObject({ error: 'invalid_params' })
    })

    it('reads a window that has passed as spent 0', async () => {
      const agent = newAgent()
      await put(agent, { limits: { hourly: 5, daily: 5, session: 5 } })
      await clear(agent, 100_000)
      test.clock.advance(HOUR)
      expect((await get(agent)).limits.map(({ spent_usd }) => spent_usd)).toEqual([0, 2.5, 2.5])
      test.clock.advance(DAY)
      const view = await get(agent)
      expect(view.limits.map(({ spent_usd }) => spent_usd)).toEqual([0, 0, 2.5])
      expect(view).toMatchObject({ window: 'session', remaining_usd: 2.5 })
      expect(await clear(agent, 100_000)).toMatchObject({ approved: true, remaining_usd: 0 })
    })
  })

  describe('the hierarchy', () => {
    it('must fit every envelope on the path, all or nothing', async () => {
      const top = newAgent()
      await put(top, { limit_usd: 5 })
      await put(`${top}/a`, { limit_usd: 2 })
      await put(`${top}/a/b`, { limit_usd: 100 })
      expect(await clear(`${top}/a/b`, 100_000)).toMatchObject({
        approved: false,
        reason: 'envelope_exceeded',
        limit_agent_id: `${top}/a`,
        window: 'daily',
        limit_usd: 2,
        remaining_usd: 2,
        max_affordable_tokens: 80_000,
        hint: expect.stringMatching(/./),
      })
      for (const agent of [top, `${top}/a`, `${top}/a/b`]) expect(await get(agent)).toMatchObject({ spent_usd: 0 })
      expect(await clear(`${top}/a/b`, 80_000)).toMatchObject({ approved: true, remaining_usd: 0 })
      for (const agent of [top, `${top}/a`, `${top}/a/b`]) expect(await get(agent)).toMatchObject({ spent_usd: 2 })
      expect(await clear(`${top}/sibling`, 120_000)).toMatchObject({ approved: true, remaining_usd: 0 })
      expect(await clear(`${top}-unrelated`, 1)).toMatchObject({ reason: 'no_envelope' })
    })

    it('lets * cap the account, alone enough for any agent', async () => {
      const own = await test.createAccount()
      const call = (agent_id: string, estimated_tokens: number) =>
        test.api.post(CLEAR, { agent_id, model: OPUS, estimated_tokens }, own.key)
      await test.api.put(ENVELOPE, { agent_id: '*', limit_usd: 1 }, own.key)
      expect((await call('anyone', 20_000)).body).toMatchObject({ approved: true, remaining_usd: 0.5 })
      expect((await call('any/one/else', 20_001)).body).toMatchObject({ approved: false, limit_agent_id: '*' })
      expect((await call('*', 20_000)).body).toMatchObject({ approved: true, remaining_usd: 0 })
    })

    it('goes 129 levels deep', async () => {
      const own = await test.createAccount()
      const deep = `a${'/'.repeat(127)}`
      for (const agent_id of ['*', 'a', `a${'/'.repeat(64)}`, deep])
        expectStatus(200, await test.api.put(ENVELOPE, { agent_id, limit_usd: 1 }, own.key))
      const { clearance_id } = expectStatus(
        200,
        await test.api.post(CLEAR, { agent_id: deep, model: OPUS, estimated_tokens: 20_000 }, own.key),
      )
      const fields = { agent_id: deep, clearance_id, actual_input_tokens: 0, actual_output_tokens: 10_000 }
      expect((await test.api.post(RECONCILE, fields, own.key)).body).toMatchObject({ drift_usd: -0.25, remaining_usd: 0.75 })
      const { envelopes } = expectStatus(200, await test.api.get(ENVELOPE, own.key))
      expect(envelopes.map(({ spent_usd }) => spent_usd)).toEqual([0.25, 0.25, 0.25, 0.25])
    })
  })

  it('keeps the books', async () => {
    expect((await verifyBalances(test.database, { accountId })).differences).toEqual([])
    expect(test.logged).toEqual([])
  })
})
