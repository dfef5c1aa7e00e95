import { afterAll, beforeAll, expect, it } from 'vitest'
import { envelopePath, expectStatus, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { checkApproval, openPage, press, requestApproval } from '../../support/humans.ts'

const SONNET = 'claude-sonnet-4-6' // $15 per million output tokens
const HOUR = 3_600_000

describeEachDatabase('approvals', (openTestDatabase) => {
  let t: TestApp
  let owner: string
  let agent: string

  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase(), { start: true })
  })
  afterAll(() => t.stop())
  const newAccount = async () => {
    owner = (await t.createAccount()).key
    agent = (await t.createKey(owner, { scope: 'agent', agent_id: 'team/crawler' })).key
  }
  const cap = (agentId: string, limits: Record<string, number>) =>
    t.api.put('/v1/budget/envelope', { agent_id: agentId, limits }, owner).then((r) => expectStatus(200, r))
  const clear = async (tokens: number, agentId = 'crawler', key = owner) =>
    expectStatus(200, await t.api.post('/v1/budget/clear', { agent_id: agentId, model: SONNET, estimated_tokens: tokens }, key))
  const envelope = async (agentId = 'crawler') => expectStatus(200, await t.api.get(envelopePath(agentId), owner))

  it('are pending until somebody decides, and then what was decided', async () => {
    await newAccount()
    const { approval_id, approval_url, expires_at, notification } = await requestApproval(t.api, owner)
    expect(approval_id).toMatch(/^[\w-]{22,}$/)
    expect(approval_url).toBe(`http://localhost/approve/${approval_id}`)
    expect(expires_at).toBe(t.clock.now() + 600_000)
    expect(notification).toEqual({ email: 'skipped_no_config' })
    const pending = { approval_id, decision: 'pending', agent_id: 'crawler', action_summary: 'Buy a newspaper' }
    expect((await checkApproval(t.api, owner, approval_id)).body).toEqual({ ...pending, created_at: t.clock.now(), expires_at })
    expect((await press(t.app, approval_id, 'denied')).status).toBe(303)
    const decided = { ...pending, decision: 'denied', decided_at: t.clock.now(), responder: 'approval link' }
    expect((await checkApproval(t.api, owner, approval_id)).body).toMatchObject(decided)
    expect((await press(t.app, approval_id, 'approved')).status).toBe(303)
    expect((await checkApproval(t.api, owner, approval_id)).body).toMatchObject(decided)
  })

  it('take a decision as JSON and answer it as JSON', async () => {
    await newAccount()
    const { approval_id } = await requestApproval(t.api, owner)
    const path = `/approve/${approval_id}/decide`
    expect((await t.api.post(path, { decision: 'maybe' })).status).toBe(400)
    const approved = await t.api.post(path, { decision: 'approved', responder: 'Ada\u202e <b>' })
    expect(approved).toMatchObject({ status: 200, body: { approval_id, decision: 'approved', responder: 'Ada\ufffd <b>' } })
    expect((await t.api.post(path, { decision: 'denied' })).body).toEqual(approved.body)
    expect(await t.api.post('/approve/ap_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/decide', { decision: 'denied' })).toMatchObject({
      status: 404,
      body: { error: 'approval_not_found' },
    })
  })

  it('refuse bad values with the contract’s codes', async () => {
    await newAccount()
    const good = { agent_id: 'a', action_summary: 'b' }
    const cases: [Record<string, unknown>, string][] = [
      [{ ...good, agent_id: '' }, 'invalid_agent_id'],
      [{ action_summary: 'b' }, 'invalid_agent_id'],
      [{ ...good, agent_id: 'x'.repeat(129) }, 'invalid_agent_id'],
      [{ ...good, action_summary: '' }, 'invalid_action_summary'],
      [{ ...good, action_summary: 'x'.repeat(281) }, 'invalid_action_summary'],
      [{ ...good, action_summary: 7 }, 'invalid_action_summary'],
      [{ ...good, ttl_seconds: 0 }, 'invalid_ttl_seconds'],
      [{ ...good, ttl_seconds: 604_801 }, 'invalid_ttl_seconds'],
      [{ ...good, ttl_seconds: '60' }, 'invalid_ttl_seconds'],
      [{ ...good, ttl_seconds: 1.5 }, 'invalid_ttl_seconds'],
      [{ ...good, channels: 'email' }, 'invalid_channels'],
      [{ ...good, channels: [] }, 'invalid_channels'],
      [{ ...good, channels: ['pigeon'] }, 'invalid_channels'],
      [{ ...good, grant: {} }, 'invalid_params'],
      [{ ...good, grant: { limit_usd: 1, extra_usd: 1 } }, 'invalid_params'],
      [{ ...good, grant: { limit_usd: 0 } }, 'invalid_params'],
      [{ ...good, grant: { limit_usd: 1, windows: 'daily' } }, 'invalid_params'],
      [{ ...good, grant: { limit_usd: 1, agent_id: 'b' } }, 'invalid_params'],
      [{ ...good, grant: { extra_usd: 1 } }, 'no_envelope'],
    ]
    for (const [body, code] of cases) {
      const response = await t.api.post('/v1/approval/request', body, owner)
      expect([response.status, response.body.error], JSON.stringify(body)).toEqual([400, code])
    }
    for (const query of ['?wait_seconds=31', '?wait_seconds=-1', '?wait_seconds=x', '?wait_seconds=1.5'])
      expect((await checkApproval(t.api, owner, 'ap_x', query)).body.error).toBe('invalid_params')
  })

  it('belong to their account and, for a bound key, to its path', async () => {
    await newAccount()
    const stranger = (await t.createAccount()).key
    const reader = (await t.createKey(owner, { scope: 'read' })).key
    const own = await requestApproval(t.api, agent, { agent_id: 'team/crawler/run-1' })
    const other = await requestApproval(t.api, owner, { agent_id: 'team' })
    expect((await checkApproval(t.api, agent, own.approval_id)).status).toBe(200)
    expect((await checkApproval(t.api, reader, own.approval_id)).status).toBe(200)
    for (const [key, id] of [
      [agent, other.approval_id],
      [stranger, own.approval_id],
      [owner, 'ap_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'],
      [owner, 'not-an-id'],
    ] as const)
      expect((await checkApproval(t.api, key, id)).body.error).toBe('approval_not_found')
    const beside = await t.api.post('/v1/approval/request', { agent_id: 'team', action_summary: 'x' }, agent)
    expect(beside.body.error).toBe('forbidden')
    const readOnly = await t.api.post('/v1/approval/request', { agent_id: 'team', action_summary: 'x' }, reader)
    expect(readOnly.body.error).toBe('forbidden')
  })

  it('are limited to 30 a minute for the account, whichever of its keys asks', async () => {
    await newAccount()
    const ask = (key: string) =>
      t.api.post('/v1/approval/request', { agent_id: 'team/crawler', action_summary: 'x' }, key).then((r) => r.status)
    const statuses = await Promise.all(Array.from({ length: 40 }, (_, index) => ask(index % 2 ? owner : agent)))
    expect(statuses.filter((status) => status === 200)).toHaveLength(30)
    expect(statuses.filter((status) => status === 429)).toHaveLength(10)
    t.clock.advance(60_000)
    expect(await ask(agent)).toBe(200)
  })

  it('store neither the link nor anything to make it from', async () => {
    await newAccount()
    const { approval_id } = await requestApproval(t.api, owner)
    const rows = await t.database.sql.unsafe('select row_to_json(a)::text as row from approvals a', [])
    expect(rows.length).toBeGreaterThan(0)
    expect(rows.map(({ row }) => row).join('\n')).not.toContain(approval_id.slice(3))
  })

  it('time out, finally, and without being looked at', async () => {
    await newAccount()
    const seen = await requestApproval(t.api, owner, { ttl_seconds: 60 })
    const unseen = await requestApproval(t.api, owner, { ttl_seconds: 60 })
    t.clock.advance(60_000)
    const timedOut = { decision: 'timeout', decided_at: t.clock.now() }
    expect((await checkApproval(t.api, owner, seen.approval_id)).body).toMatchObject(timedOut)
    expect((await press(t.app, seen.approval_id, 'approved')).status).toBe(303)
    expect((await t.api.post(`/approve/${unseen.approval_id}/decide`, { decision: 'approved' })).body).toMatchObject(timedOut)
    expect((await checkApproval(t.api, owner, seen.approval_id)).body).toMatchObject(timedOut)
    expect((await openPage(t.app, seen.approval_id)).html).toContain('No answer in time')
  })

  it('lead from a denial to a spend in three calls', async () => {
    await newAccount()
    await cap('crawler', { daily: 0.1, monthly: 100 })
    await clear(5000)
    const denied = await clear(10_000)
    expect(denied).toMatchObject({
      approved: false,
      approval_request: { agent_id: 'crawler', grant: { extra_usd: 0.13, window: 'daily' } },
    })
    const { approval_id } = expectStatus(
      200,
      await t.api.post('/v1/approval/request', denied.approval_request, owner),
    ) as unknown as { approval_id: string }
    await press(t.app, approval_id, 'approved')
    expect(await clear(10_000)).toMatchObject({ approved: true })
    const after = await envelope()
    expect(after).toMatchObject({ window: 'daily', limit_usd: 0.1, extra_usd: 0.13, spent_usd: 0.225, remaining_usd: 0.005 })
    expect(await clear(10_000)).toMatchObject({ approved: false, limit_usd: 0.1, extra_usd: 0.13, remaining_usd: 0.005 })
    t.clock.advance(24 * HOUR)
    expect(await envelope()).not.toHaveProperty('extra_usd')
  })

  it('raise an envelope above the agent when that one refused', async () => {
    await newAccount()
    await cap('team', { daily: 0.1 })
    await cap('team/crawler', { daily: 50 })
    const denied = await clear(10_000, 'team/crawler', agent)
    expect(denied.approval_request).toMatchObject({ agent_id: 'team/crawler', grant: { agent_id: 'team', extra_usd: 0.05 } })
    const { approval_id } = await requestApproval(t.api, agent, denied.approval_request as Record<string, unknown>)
    expect((await openPage(t.app, approval_id)).html).toContain('adds $0.05 for today to the $0.10 a day of team')
    await press(t.app, approval_id, 'approved')
    expect(await clear(10_000, 'team/crawler', agent)).toMatchObject({ approved: true })
  })

  it('raise a cap, once, to what the page showed', async () => {
    await newAccount()
    await cap('crawler', { daily: 5, weekly: 20 })
    const { approval_id } = await requestApproval(t.api, owner, { grant: { limit_usd: 10, window: 'daily' } })
    const { html } = await openPage(t.app, approval_id)
    expect(html).toContain('raises crawler from $5.00 to $10.00 a day')
    await press(t.app, approval_id, 'approved', html)
    const limits = (await envelope()).limits.map(({ window, limit_usd }) => [window, limit_usd])
    expect(limits).toEqual([
      ['daily', 10],
      ['weekly', 20],
    ])
    await cap('crawler', { daily: 1 })
    await press(t.app, approval_id, 'approved', html)
    expect((await envelope()).limit_usd).toBe(1)
  })

  it('are shown again instead of applied when the limit moved in between', async () => {
    await newAccount()
    await cap('crawler', { daily: 5 })
    const { approval_id } = await requestApproval(t.api, owner, { grant: { limit_usd: 10 } })
    const { html } = await openPage(t.app, approval_id)
    await cap('crawler', { daily: 7 })
    const stale = await press(t.app, approval_id, 'approved', html)
    expect(stale.status).toBe(409)
    expect(stale.html).toContain('role="alert"')
    expect(stale.html).toContain('raises crawler from $7.00 to $10.00 a day')
    expect((await checkApproval(t.api, owner, approval_id)).body.decision).toBe('pending')
    expect((await envelope()).limit_usd).toBe(7)
    const blind = await t.api.post(`/approve/${approval_id}/decide`, { decision: 'approved' })
    expect([blind.status, blind.body.error]).toEqual([409, 'approval_changed'])
    await press(t.app, approval_id, 'approved', stale.html)
    expect((await envelope()).limit_usd).toBe(10)
  })

  it('apply on what the request said when the decider says nothing', async () => {
    await newAccount()
    await cap('crawler', { daily: 5 })
    const { approval_id } = await requestApproval(t.api, owner, { grant: { extra_usd: 2 } })
    await clear(1000)
    expect((await t.api.post(`/approve/${approval_id}/decide`, { decision: 'approved' })).status).toBe(200)
    expect(await envelope()).toMatchObject({ limit_usd: 5, extra_usd: 2 })
  })

  it('leave a ledger entry each', async () => {
    const { key, accountId } = await t.createAccount()
    owner = key
    await cap('crawler', { daily: 5 })
    for (const decision of ['approved', 'denied'] as const)
      await press(t.app, (await requestApproval(t.api, owner, { grant: { extra_usd: 2 } })).approval_id, decision)
    const rows = await t.database.sql.unsafe(
      `select agent_id, amount_nanousd, detail from ledger where account_id = $1 and kind = 'approval' order by entry_id`,
      [accountId],
    )
    expect(rows.map((row) => [row.agent_id, row.amount_nanousd, JSON.parse(row.detail as string).decision])).toEqual([
      ['crawler', 2_000_000_000n, 'approved'],
      ['crawler', 0n, 'denied'],
    ])
  })

  it('answer a repeated idempotent request with the same link', async () => {
    await newAccount()
    const send = () =>
      t.api.post('/v1/approval/request', { agent_id: 'a', action_summary: 'b' }, owner, { 'Idempotency-Key': 'once' })
    const first = await send()
    expect((await send()).body).toEqual(first.body)
    const stored = await t.database.sql.unsafe('select encode(response, $1) as response from idempotent_requests', ['escape'])
    expect(stored.map(({ response }) => response).join()).not.toContain(String(first.body.approval_id).slice(3))
  })

  it('log nothing that gives a link away', () => {
    expect(t.logged).toEqual([])
  })
})

describeEachDatabase('waiting for a decision', (openTestDatabase) => {
  let t: TestApp
  let owner: string
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase(), { start: true })
    owner = (await t.createAccount()).key
  })
  afterAll(() => t.stop())

  it('ends with the decision', async () => {
    const { approval_id } = await requestApproval(t.api, owner)
    const waiting = checkApproval(t.api, owner, approval_id, '?wait_seconds=30')
    await new Promise((resolve) => setTimeout(resolve, 100))
    await press(t.app, approval_id, 'approved')
    expect((await waiting).body.decision).toBe('approved')
  })

  it('ends when the time is up, still pending', async () => {
    const { approval_id } = await requestApproval(t.api, owner)
    const started = performance.now()
    expect((await checkApproval(t.api, owner, approval_id, '?wait_seconds=1')).body.decision).toBe('pending')
    expect(performance.now() - started).toBeGreaterThan(900)
  })

  it('does not begin for what is decided', async () => {
    const { approval_id } = await requestApproval(t.api, owner)
    await press(t.app, approval_id, 'denied')
    expect((await checkApproval(t.api, owner, approval_id, '?wait_seconds=30')).body.decision).toBe('denied')
  })

  it('ends when this process stops', async () => {
    const own = await openTestApp(await openTestDatabase(), { clock: t.clock })
    const { approval_id } = await requestApproval(t.api, owner)
    const waiting = checkApproval(own.api, owner, approval_id, '?wait_seconds=30')
    await new Promise((resolve) => setTimeout(resolve, 100))
    own.app.release()
    expect((await waiting).body.decision).toBe('pending')
    await own.stop()
  })
})
