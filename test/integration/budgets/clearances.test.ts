import { beforeAll, describe, expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { envelopePath, expectStatus, type JsonBody } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { budgetCalls, CLEAR, DAY, ENVELOPE, HOUR, OPUS, type Opened, RECONCILE } from './calls.ts'

/** JSON that JSON.stringify cannot write. */
const raw = (json: string) => json

describeEachDatabase('clearances and their settlement, over REST', (openTestDatabase) => {
  const { opened, newAgent, put, get, clear, reconcile, everything, expectRefused } = budgetCalls(openTestDatabase)
  let { test, key, accountId } = {} as Opened
  beforeAll(() => {
    ;({ test, key, accountId } = opened())
  })

  describe('budget_clear', () => {
    it('approves exactly up to the limit and names the clearance', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 5 })
      const before = expectStatus(200, await test.api.get('/v1/account/balance', key)).operations_remaining
      const approval = await clear(agent, 200_000)
      expect(approval).toEqual({
        approved: true,
        remaining_usd: 0,
        operations_remaining: before - 1,
        clearance_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
        expires_at: test.clock.now() + HOUR,
      })
      expect(await clear(agent, 1)).toMatchObject({ approved: false, reason: 'envelope_exceeded', max_affordable_tokens: 0 })
      expect(expectStatus(200, await test.api.get('/v1/account/balance', key)).operations_remaining).toBe(before - 1)
    })

    it('what it says is affordable is, and one token more is not', async () => {
      for (const [limit_usd, model, estimated_input_tokens] of [
        [0.000001, OPUS, 0],
        [0.1, 'gpt-4o-mini', 7],
        [0.333333, 'text-embedding-3-small', 11],
        [17.77, 'unknown', 100_000],
      ] as const) {
        const agent = newAgent()
        await put(agent, { limit_usd })
        const more = { model, estimated_input_tokens }
        const { max_affordable_tokens: most } = await clear(agent, 1_000_000_000, more)
        expect(await clear(agent, most + 1, more)).toMatchObject({ approved: false, max_affordable_tokens: most })
        if (most > 0) expect(await clear(agent, most, more)).toMatchObject({ approved: true })
      }
    })

    it('tests quota, then envelope, then limit', async () => {
      const poor = await test.createAccount(1)
      const call = () => test.api.post(CLEAR, { agent_id: 'a', model: OPUS, estimated_tokens: 1_000_000 }, poor.key)
      expect((await call()).body).toMatchObject({
        approved: false,
        reason: 'no_envelope',
        remaining_usd: 0,
        hint: expect.any(String),
      })
      await test.api.put(ENVELOPE, { agent_id: 'a', limit_usd: 30 }, poor.key)
      expect((await call()).body).toMatchObject({ approved: true, operations_remaining: 0 })
      const denied = await call()
      expect(denied).toMatchObject({ status: 200, body: { approved: false, reason: 'no_credits', remaining_usd: 0 } })
      expect((await test.api.get('/v1/account/balance', poor.key)).body).toEqual({ operations_remaining: 0 })
    })

    it.each([1, 1_000_000_000, raw('1000.0'), raw('1e3')])('takes estimated_tokens %s', async (tokens) => {
      const agent = newAgent()
      await put(agent, { limit_usd: 1_000_000 })
      const body = `{"agent_id":"${agent}","model":"${OPUS}","estimated_tokens":${tokens}}`
      expect((await test.api.post(CLEAR, body, key)).body).toMatchObject({ approved: true })
    })

    it.each([
      ['estimated_tokens', { estimated_tokens: 0 }],
      ['estimated_tokens', { estimated_tokens: -1 }],
      ['estimated_tokens', { estimated_tokens: 1_000_000_001 }],
      ['estimated_tokens', { estimated_tokens: '1000' }],
      ['estimated_tokens', { estimated_tokens: 1.5 }],
      ['estimated_tokens', { estimated_tokens: Number.NaN }],
      ['estimated_tokens', { estimated_tokens: true }],
      ['estimated_tokens', { estimated_tokens: [1] }],
      ['estimated_tokens', { estimated_tokens: undefined }],
      ['estimated_input_tokens', { estimated_input_tokens: -1 }],
      ['estimated_input_tokens', { estimated_input_tokens: 1_000_000_001 }],
      ['estimated_input_tokens', { estimated_input_tokens: '1' }],
      ['hold_seconds', { hold_seconds: 0 }],
      ['hold_seconds', { hold_seconds: 604_801 }],
      ['hold_seconds', { hold_seconds: 1.5 }],
      ['hold_seconds', { hold_seconds: null }],
      ['model', { model: '' }],
      ['model', { model: 'm'.repeat(129) }],
      ['model', { model: 7 }],
      ['model', { model: undefined }],
      ['model', { model: 'a\0' }],
    ])('refuses %s in %j and changes nothing', async (field, fields) => {
      const agent_id = newAgent()
      await put(agent_id, { limit_usd: 100 })
      const before = await everything()
      expectRefused(await test.api.post(CLEAR, { agent_id, model: OPUS, estimated_tokens: 10, ...fields }, key), field)
      expect(await everything()).toEqual(before)
    })

    it.each([[1], [604_800]])('holds for %d seconds', async (hold_seconds) => {
      const agent = newAgent()
      await put(agent, { limit_usd: 5, window: 'session' })
      const { clearance_id, expires_at } = await clear(agent, 100, { hold_seconds })
      expect(expires_at).toBe(test.clock.now() + hold_seconds * 1000)
      const late = await clear(agent, 200, { hold_seconds })
      test.clock.advance(hold_seconds * 1000 - 1)
      expect((await reconcile(agent, 100, { clearance_id })).status).toBe(200)
      test.clock.advance(1)
      const refused = await reconcile(agent, 1, { clearance_id: late.clearance_id })
      expect(refused).toMatchObject({
        status: 400,
        body: { error: 'no_pending_clearance', hint: expect.stringMatching(/expired/) },
      })
      expect((await test.api.post('/v1/budget/release', { clearance_id: late.clearance_id }, key)).status).toBe(400)
      // At expiry the estimate stands.
      expect(await get(agent)).toMatchObject({ spent_usd: 0.0075 })
    })

    it.each([
      [OPUS, 1_000_000, 0, 25],
      [OPUS, 1_000_000, 1_000_000, 30],
      ['anthropic/claude-opus-4-8', 1_000_000, 0, 25],
      ['claude-haiku-4-5-20251001', 1_000_000, 0, 5],
      ['openrouter/anthropic/claude-sonnet-4-6', 1_000_000, 0, 15],
      ['text-embedding-3-small', 1_000_000, 0, 0.02],
      ['claude-haiku-4-5-typo-and-beyond', 1_000_000, 0, 5],
      ['no-such-model-anywhere', 1_000_000, 1_000_000, 90],
    ])('prices %s, %d out and %d in at $%d', async (model, estimated_tokens, estimated_input_tokens, cost) => {
      const agent = newAgent()
      await put(agent, { limit_usd: 1000 })
      const approval = await clear(agent, estimated_tokens, {
        model,
        ...(estimated_input_tokens > 0 && { estimated_input_tokens }),
      })
      expect(approval.remaining_usd).toBeCloseTo(1000 - cost, 6)
    })
  })

  describe('reconcile and release', () => {
    it('settles each clearance once; a repeat answers the first result and moves no money', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 10 })
      const one = await clear(agent, 40_000) // $1
      const two = await clear(agent, 80_000) // $2
      const first = await reconcile(agent, 100_000, { clearance_id: one.clearance_id })
      expect(first.body).toEqual({
        ok: true,
        drift_usd: 1.5,
        remaining_usd: 5.5,
        operations_remaining: expect.any(Number),
        clearance_id: one.clearance_id,
        warning: 'drift_exceeds_2x_threshold',
      })
      const second = await reconcile(agent, 40_000, { clearance_id: two.clearance_id.toUpperCase() })
      expect(second.body).toMatchObject({ drift_usd: -1, remaining_usd: 6.5 })
      expect(second.body).not.toHaveProperty('warning')
      const repeat = await reconcile(agent, 7, { clearance_id: one.clearance_id })
      expect(repeat.body).toEqual({ ...first.body, replayed: true })
      expect(await get(agent)).toMatchObject({ spent_usd: 3.5 })
    })

    it('warns above twice the estimate, not at it', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 10 })
      await clear(agent, 1000)
      expect((await reconcile(agent, 2000)).body).not.toHaveProperty('warning')
      await clear(agent, 1000)
      expect((await reconcile(agent, 2001)).body).toMatchObject({ warning: 'drift_exceeds_2x_threshold' })
    })

    it('takes the most recent open clearance of exactly this agent, with its model', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 100 })
      const older = await clear(agent, 1_000_000, { model: 'claude-haiku-4-5' })
      const newer = await clear(agent, 1_000_000, { model: 'gpt-4o-mini' })
      await clear(`${agent}/child`, 1000)
      expect((await reconcile(agent, 0, { actual_input_tokens: 1_000_000 })).body).toMatchObject({
        clearance_id: newer.clearance_id,
        drift_usd: -0.45,
      })
      expect((await reconcile(agent, 1_000_000)).body).toMatchObject({ clearance_id: older.clearance_id, drift_usd: 0 })
      expect((await reconcile(agent, 1)).body).toMatchObject({ error: 'no_pending_clearance', retryable: false })
    })

    it('answers no_envelope or no_pending_clearance, whatever the id looks like', async () => {
      const agent = newAgent()
      const stranger = await test.createAccount()
      await test.api.put(ENVELOPE, { agent_id: agent, limit_usd: 1 }, stranger.key)
      const foreign = (await test.api.post(CLEAR, { agent_id: agent, model: OPUS, estimated_tokens: 1 }, stranger.key)).body
        .clearance_id
      const ids = [undefined, foreign, 'nonsense', '0190b3c1-0000-7000-8000-000000000000', "'", '\u{1F600}']
      for (const clearance_id of ids)
        expect(await reconcile(agent, 1, { clearance_id })).toMatchObject({ status: 400, body: { error: 'no_envelope' } })
      await put(agent, { limit_usd: 1 })
      for (const clearance_id of ids)
        expect(await reconcile(agent, 1, { clearance_id })).toMatchObject({
          status: 400,
          body: { error: 'no_pending_clearance' },
        })
      for (const clearance_id of ids.slice(1))
        expect(await test.api.post('/v1/budget/release', { clearance_id }, key)).toMatchObject({
          status: 400,
          body: { error: 'no_pending_clearance' },
        })
      const other = newAgent()
      await put(other, { limit_usd: 1 })
      const { clearance_id } = await clear(other, 1)
      expect((await reconcile(agent, 1, { clearance_id })).body).toMatchObject({ error: 'no_pending_clearance' })
    })

    it.each([
      ['actual_input_tokens', { actual_input_tokens: -1 }],
      ['actual_input_tokens', { actual_input_tokens: undefined }],
      ['actual_input_tokens', { actual_input_tokens: 1_000_000_001 }],
      ['actual_output_tokens', { actual_output_tokens: '5' }],
      ['actual_output_tokens', { actual_output_tokens: 0.5 }],
      ['clearance_id', { clearance_id: 5 }],
      ['clearance_id', { clearance_id: '' }],
      ['cached_input_tokens', { cached_input_tokens: -1 }],
      ['actual_input_tokens', { actual_input_tokens: 10, cached_input_tokens: 6, cache_write_input_tokens: 5 }],
    ])('refuses %s in %j and changes nothing', async (field, fields) => {
      const agent_id = newAgent()
      await put(agent_id, { limit_usd: 100 })
      await clear(agent_id, 10)
      const before = await everything()
      expectRefused(
        await test.api.post(RECONCILE, { agent_id, actual_input_tokens: 1, actual_output_tokens: 1, ...fields }, key),
        field,
      )
      expect(await everything()).toEqual(before)
    })

    it('puts drift into the window in which the clearance was taken, not into a later one', async () => {
      const agent = newAgent()
      test.clock.advance(DAY - (test.clock.now() % DAY) - HOUR) // 23:00
      await put(agent, { limits: { hourly: 50, daily: 50, session: 50 } })
      const { clearance_id } = await clear(agent, 400_000, { hold_seconds: 2 * 3600 }) // $10
      test.clock.advance(HOUR)
      await clear(agent, 40_000) // $1, today
      const settled = await reconcile(agent, 800_000, { clearance_id }) // $20
      expect(settled.body).toMatchObject({ drift_usd: 10, remaining_usd: 29 })
      expect((await get(agent)).limits.map(({ window, spent_usd }) => [window, spent_usd])).toEqual([
        ['hourly', 1],
        ['daily', 1],
        ['session', 21],
      ])
    })

    it('gives an unused clearance back, once, and not the op', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 5 })
      const { clearance_id, operations_remaining } = await clear(agent, 200_000)
      const first = await test.api.post('/v1/budget/release', { clearance_id }, key)
      expect(first.body).toEqual({ ok: true, released_usd: 5, remaining_usd: 5, operations_remaining, clearance_id })
      expect((await test.api.post('/v1/budget/release', { clearance_id }, key)).body).toEqual({ ...first.body, replayed: true })
      expect((await reconcile(agent, 1, { clearance_id })).body).toMatchObject({ error: 'no_pending_clearance' })
      const settled = await clear(agent, 100)
      await reconcile(agent, 100)
      expect((await test.api.post('/v1/budget/release', { clearance_id: settled.clearance_id }, key)).status).toBe(400)
      expect(await get(agent)).toMatchObject({ spent_usd: 0.0025 })
    })

    it('settles a clearance whose envelope has been deleted', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 5 })
      await clear(agent, 40_000)
      await test.api.delete(envelopePath(agent), key)
      expect((await reconcile(agent, 80_000)).body).toMatchObject({ ok: true, drift_usd: 1, remaining_usd: 0 })
      await put(agent, { limit_usd: 5 })
      expect(await get(agent)).toMatchObject({ spent_usd: 2 })
    })

    it('may cost more than the limit; then nothing is left, never less', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 5 })
      await clear(agent, 40_000)
      expect((await reconcile(agent, 1_000_000)).body).toMatchObject({ drift_usd: 24, remaining_usd: 0 })
      expect(await get(agent)).toMatchObject({ spent_usd: 25, remaining_usd: 0 })
      expect(await clear(agent, 1)).toMatchObject({ approved: false, remaining_usd: 0, max_affordable_tokens: 0 })
    })
  })

  describe('concurrency', () => {
    it('approves exactly what fits of 300 at once, and settles them all at once', async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 2.5 })
      const answers = await Promise.all(Array.from({ length: 300 }, () => clear(agent, 1000)))
      const approved = answers.filter((answer): answer is JsonBody => answer.approved === true)
      expect(approved).toHaveLength(100)
      expect(new Set(approved.map(({ clearance_id }) => clearance_id)).size).toBe(100)
      const settled = await Promise.all(Array.from({ length: 150 }, () => reconcile(agent, 500)))
      expect(settled.filter(({ status }) => status === 200)).toHaveLength(100)
      expect(new Set(settled.filter(({ status }) => status === 200).map(({ body }) => body.clearance_id)).size).toBe(100)
      expect(await get(agent)).toMatchObject({ spent_usd: 1.25, remaining_usd: 1.25 })
    })

    it('burns the last ops exactly', async () => {
      const poor = await test.createAccount(7)
      await test.api.put(ENVELOPE, { agent_id: 'a', limit_usd: 100 }, poor.key)
      const answers = await Promise.all(
        Array.from({ length: 50 }, () => test.api.post(CLEAR, { agent_id: 'a', model: OPUS, estimated_tokens: 1 }, poor.key)),
      )
      expect(answers.filter(({ body }) => body.approved)).toHaveLength(7)
      expect(answers.filter(({ body }) => body.reason === 'no_credits')).toHaveLength(43)
      expect((await test.api.get('/v1/account/balance', poor.key)).body).toEqual({ operations_remaining: 0 })
    })

    it('answers 503 overloaded with Retry-After beyond its queue, and loses nothing', { timeout: 60_000 }, async () => {
      const agent = newAgent()
      await put(agent, { limit_usd: 1_000_000 })
      const count = 11_000
      const answers = await Promise.all(
        Array.from({ length: count }, () => test.api.post(CLEAR, { agent_id: agent, model: OPUS, estimated_tokens: 1000 }, key)),
      )
      const refused = answers.filter(({ status }) => status === 503)
      expect(refused.length).toBeGreaterThan(0)
      for (const { headers, body } of refused) {
        expect(body).toMatchObject({ error: 'overloaded', retryable: true })
        expect(Number(headers.get('Retry-After'))).toBeGreaterThanOrEqual(1)
      }
      const approved = answers.filter(({ status, body }) => status === 200 && body.approved === true)
      expect(approved.length + refused.length).toBe(count)
      expect((await get(agent)).spent_usd).toBeCloseTo(approved.length * 0.025, 6)
    })
  })

  it('keeps the books', async () => {
    expect((await verifyBalances(test.database, { accountId })).differences).toEqual([])
    expect(test.logged).toEqual([])
  })
})
