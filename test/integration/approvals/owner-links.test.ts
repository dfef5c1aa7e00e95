import { afterAll, beforeAll, expect, it } from 'vitest'
import { envelopePath, expectStatus, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { checkApproval, openPage, press, type Receiver, requestApproval, startReceiver, until } from '../../support/humans.ts'

describeEachDatabase('who decides approvals', (openTestDatabase) => {
  let t: TestApp
  let owner: string
  let agent: string
  let receiver: Receiver
  beforeAll(async () => {
    receiver = await startReceiver()
    t = await openTestApp(await openTestDatabase(), { start: true, config: { OUTBOUND_ALLOW_PRIVATE: true } })
  })
  afterAll(async () => {
    await t.stop()
    await receiver.close()
  })
  const newAccount = async () => {
    t.clock.advance(60_000)
    owner = (await t.createAccount()).key
    agent = (await t.createKey(owner, { scope: 'agent', agent_id: 'crawler' })).key
    await t.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 5 }, owner)
  }
  const only = (approval_links: string) => t.api.put('/v1/account/settings', { approval_links }, owner)
  const limit = async () => (await t.api.get(envelopePath('crawler'), owner)).body.limit_usd
  const list = async (query = '', key = owner) =>
    expectStatus(200, await t.api.get(`/v1/approval${query}`, key)) as unknown as {
      approvals: { approval_ref: string; decision: string; agent_id: string; terms: string | null; effect: string | null }[]
      next_before: string | null
    }

  it('is whoever has the link, as long as the owner says nothing else', async () => {
    await newAccount()
    expect((await t.api.get('/v1/account/settings', owner)).body).toEqual({ approval_links: 'agent' })
    const { approval_id } = await requestApproval(t.api, agent, { grant: { limit_usd: 9 } })
    expect((await press(t.app, approval_id, 'approved')).status).toBe(303)
    expect(await limit()).toBe(9)
    expect((await only('nobody')).status).toBe(400)
  })

  it('is sent a link to this server, whatever host the asker names', async () => {
    await newAccount()
    await t.api.post('/v1/account/channels', { kind: 'webhook', url: `${receiver.origin}/people` }, owner)
    const before = receiver.received.length
    const request = { agent_id: 'crawler', action_summary: 'Buy a newspaper' }
    const answer = await t.app.request('http://evil.example/v1/approval/request', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${agent}` },
      body: JSON.stringify(request),
    })
    // Whoever asks is shown what he named himself; contract section 11.
    expect(((await answer.json()) as { approval_url: string }).approval_url).toMatch(/^http:\/\/evil\.example\//)
    await until(() => receiver.received.length > before, 'the message')
    const message = receiver.received.at(-1)?.body ?? ''
    expect(message).toContain('http://127.0.0.1:8787/approve/')
    expect(message).not.toContain('evil.example')
  })

  it('expires when its first run said, should that have been interrupted', async () => {
    await newAccount()
    const fields = { agent_id: 'crawler', action_summary: 'Buy a newspaper', ttl_seconds: 600 }
    const ask = async () =>
      expectStatus(200, await t.api.post('/v1/approval/request', fields, owner, { 'Idempotency-Key': 'once' }))
    const first = await ask()
    // As if the process had died before the answer was stored.
    await t.database.sql.unsafe(
      "update idempotent_requests set status = null, response = null, lease_ms = 0 where key = 'once'",
      [],
    )
    t.clock.advance(5_000)
    const again = await ask()
    expect(again.expires_at).toBe(first.expires_at)
    expect((await checkApproval(t.api, owner, String(again.approval_id))).body.expires_at).toBe(first.expires_at)
  })

  it("is the owner's people alone, when the owner says so", async () => {
    await newAccount()
    expectStatus(200, await only('owner'))
    await t.api.post('/v1/account/channels', { kind: 'webhook', url: `${receiver.origin}/people` }, owner)
    const before = receiver.received.length
    const { approval_id, approval_url } = await requestApproval(t.api, agent, { grant: { limit_usd: 9 } })
    expect(approval_url).toContain(approval_id)
    const page = await openPage(t.app, approval_id)
    expect(page.html).toContain('Buy a newspaper')
    expect(page.html).toContain('cannot decide it')
    expect(page.html).not.toMatch(/<form|<button/)
    const asPage = await press(t.app, approval_id, 'approved')
    const asJson = await t.api.post(`/approve/${approval_id}/decide`, { decision: 'approved' })
    expect([asPage.status, asJson.status, asJson.body.error]).toEqual([403, 403, 'forbidden'])
    expect((await checkApproval(t.api, agent, approval_id)).body.decision).toBe('pending')
    expect(await limit()).toBe(5)

    const sent = JSON.parse((await receiver.waitFor(before + 1)).at(-1)!.body) as { data: { approval_url: string } }
    const link = sent.data.approval_url.split('/').at(-1)!
    expect(link).not.toBe(approval_id)
    expect((await openPage(t.app, link)).html).toContain('<form')
    expect((await press(t.app, link, 'approved')).status).toBe(303)
    expect((await checkApproval(t.api, agent, approval_id)).body).toMatchObject({ decision: 'approved' })
    expect(await limit()).toBe(9)
    expect((await openPage(t.app, approval_id)).html).toContain('The agent may go ahead.')
  })

  it('leaves an owner key the link that decides', async () => {
    await newAccount()
    await only('owner')
    const { approval_id } = await requestApproval(t.api, owner)
    expect((await press(t.app, approval_id, 'denied')).status).toBe(303)
  })

  it('answers a repeated request with a link that still only shows', async () => {
    await newAccount()
    await only('owner')
    const send = () =>
      t.api.post('/v1/approval/request', { agent_id: 'crawler', action_summary: 'again' }, agent, { 'Idempotency-Key': 'one' })
    const [first, second] = [expectStatus(200, await send()), expectStatus(200, await send())]
    expect(second).toEqual(first)
    expect((await press(t.app, String(second.approval_id), 'approved')).status).toBe(403)
  })

  it('lists requests by state and page by page', async () => {
    await newAccount()
    const asked = []
    for (const decision of [null, 'approved', 'denied'] as const) {
      t.clock.advance(1)
      const { approval_id } = await requestApproval(t.api, owner, { grant: { limit_usd: 6 } })
      if (decision) await press(t.app, approval_id, decision)
      asked.push(approval_id)
    }
    t.clock.advance(1)
    await requestApproval(t.api, owner, { ttl_seconds: 1, agent_id: 'other' })
    t.clock.advance(1000)
    const decisions = async (query = '', key = owner) => (await list(query, key)).approvals.map(({ decision }) => decision)
    expect(await decisions()).toEqual(['timeout', 'denied', 'approved', 'pending'])
    for (const state of ['pending', 'approved', 'denied', 'timeout']) expect(await decisions(`?state=${state}`)).toEqual([state])
    expect(await decisions('', agent)).toEqual(['denied', 'approved', 'pending'])
    const [first, second] = [await list('?limit=3'), await list(`?limit=3&before=${(await list('?limit=3')).next_before}`)]
    expect([first.approvals.length, second.approvals.length, second.next_before]).toEqual([3, 1, null])
    expect(second.approvals[0]!.effect).toContain('crawler at $6.00 a day')
    for (const query of ['?state=maybe', '?limit=0', '?limit=101', '?before=x'])
      expect((await t.api.get(`/v1/approval${query}`, owner)).status).toBe(400)
    const text = JSON.stringify(await list())
    for (const secret of asked) expect(text).not.toContain(secret)
  })

  it('lets an owner key decide by reference, once, on what was shown', async () => {
    await newAccount()
    await requestApproval(t.api, agent, { grant: { limit_usd: 9 } })
    const [waiting] = (await list()).approvals
    const decide = (body: Record<string, unknown>, key = owner) =>
      t.api.post(`/v1/approval/decide/${waiting!.approval_ref}`, body, key)
    expect((await decide({ decision: 'approved' }, agent)).status).toBe(403)
    await t.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 7 }, owner)
    const changed = await decide({ decision: 'approved', terms: waiting!.terms })
    expect([changed.status, changed.body.error]).toEqual([409, 'approval_changed'])
    expect(await limit()).toBe(7)
    const [shown] = (await list()).approvals
    const decided = await decide({ decision: 'approved', terms: shown!.terms })
    expect(decided.body).toMatchObject({ decision: 'approved', responder: 'key owner', effect: null })
    expect((await decide({ decision: 'denied' })).body).toEqual(decided.body)
    expect(await limit()).toBe(9)
    expect((await t.api.post('/v1/approval/decide/x', { decision: 'denied' }, owner)).body.error).toBe('approval_not_found')
    expect(t.logged).toEqual([])
  })
})
