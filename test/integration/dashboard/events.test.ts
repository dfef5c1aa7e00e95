import { afterAll, beforeAll, expect, it } from 'vitest'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { readEvents, type Visitor, visit } from '../../support/dashboard.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { requestApproval, until } from '../../support/humans.ts'

const LIVE = { poll_ms: 20, refresh_ms: 60_000, maxConnections: 8, maxPerAccount: 3 }

describeEachDatabase('events of the dashboard', (openTestDatabase) => {
  let t: TestApp
  let owner: string
  let visitor: Visitor
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase(), { start: true, live: LIVE })
    owner = (await t.createAccount()).key
    await t.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 5 }, owner)
    visitor = await visit(t.app, owner)
  })
  afterAll(() => t.stop())
  const follow = (who = visitor, query = '') => t.app.request(`/dashboard/events${query}`, { headers: { cookie: who.cookie } })
  const clear = (app = t, agent_id = 'crawler') =>
    app.api.post('/v1/budget/clear', { agent_id, model: 'gpt-4o', estimated_tokens: 1000 }, owner)
  const parts = (data: string | undefined) => JSON.parse(data ?? '{}') as Record<string, string>
  const decisionsIn = (data: string | undefined) => parts(data)['live-decisions']?.match(/class="verdict/g)?.length ?? 0

  it('tell what is decided, on this process and on another', async () => {
    const other = await openTestApp(t.database, { clock: t.clock })
    const response = await follow()
    expect(response.headers.get('content-type')).toBe('text/event-stream; charset=utf-8')
    let step = 0
    const { events } = await readEvents(response, (seen) => {
      const count = decisionsIn(seen.at(-1)?.data)
      if (seen.length > 0 && step === 0 && ++step) void clear()
      if (count === 1 && step === 1 && ++step) void clear(other)
      return count === 2
    })
    expect(events.every(({ event }) => event === 'update')).toBe(true)
    expect(Object.keys(parts(events[0]!.data)).sort()).toEqual([
      'live-agents',
      'live-approvals',
      'live-burn',
      'live-decisions',
      'live-quota',
    ])
    await other.stop()
  })

  it('tell of denials and of requests, with buttons for who may decide', async () => {
    const reader = await visit(t.app, (await t.createKey(owner, { scope: 'read' })).key)
    const [mine, theirs] = [await follow(), await follow(reader)]
    await requestApproval(t.api, owner, { action_summary: 'Look at <b>this</b>' })
    const asked = (data: string | undefined) => parts(data)['live-approvals'] ?? ''
    const isThere = (seen: { data: string }[]) => asked(seen.at(-1)?.data).includes('Look at')
    const [own, read] = [await readEvents(mine, isThere), await readEvents(theirs, isThere)]
    expect(asked(own.events.at(-1)!.data)).toContain('action="/dashboard/decide_approval"')
    expect(asked(own.events.at(-1)!.data)).toContain('Look at &lt;b&gt;this&lt;/b&gt;')
    expect(asked(read.events.at(-1)!.data)).not.toContain('<form')
    const denied = await follow()
    void t.api.post('/v1/budget/clear', { agent_id: 'nobody', model: 'gpt-4o', estimated_tokens: 1 }, owner)
    await readEvents(denied, (seen) => parts(seen.at(-1)?.data)['live-decisions']?.includes('no envelope') ?? false)
  })

  it('keep to the account and to the path of the key', async () => {
    const stranger = await visit(t.app, (await t.createAccount()).key)
    const bound = await visit(t.app, (await t.createKey(owner, { scope: 'agent', agent_id: 'elsewhere' })).key)
    for (const who of [stranger, bound]) {
      const { events } = await readEvents(await follow(who, '?agent=crawler'), (seen) => seen.length > 0)
      expect(events[0]!.data).not.toContain('crawler')
    }
  })

  it('end with the key', async () => {
    const made = await t.createKey(owner, {})
    const response = await follow(await visit(t.app, made.key))
    let revoked = false
    const { events, ended } = await readEvents(response, (seen) => {
      if (seen.length > 0 && !revoked) {
        revoked = true
        void t.api.delete(`/v1/account/keys/${made.keyId}`, owner)
      }
      return false
    })
    expect(ended).toBe(true)
    expect(events.at(-1)!.event).toBe('end')
  })

  it('are bounded per account and in all, and free again when a page is closed', async () => {
    await until(() => t.app.following() === 0, 'the pages of other tests to close')
    const pages = [await follow(), await follow(), await follow()]
    expect((await follow()).status).toBe(429)
    const others = await Promise.all(Array.from({ length: 2 }, async () => visit(t.app, (await t.createAccount()).key)))
    for (const other of others) pages.push(await follow(other), await follow(other))
    pages.push(await follow(others[0]!))
    expect(pages.map(({ status }) => status)).toEqual(Array(8).fill(200))
    const refused = await follow(others[1]!)
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([429, '30'])
    expect(t.app.following()).toBe(8)
    await Promise.all(pages.map(({ body }) => body!.cancel()))
    await until(() => t.app.following() === 0, 'the pages to close')
    const again = await follow()
    expect(again.status).toBe(200)
    await again.body!.cancel()
  })

  it('hold no more than a few steps for who does not read', async () => {
    const slow = await follow()
    for (let call = 0; call < 40; call++) {
      await clear()
      await new Promise((resolve) => setTimeout(resolve, 30))
    }
    const { events } = await readEvents(slow, (seen) => decisionsIn(seen.at(-1)?.data) === 30)
    expect(events.length).toBeLessThan(20)
    expect(t.logged).toEqual([])
  })

  it('close when the process stops', async () => {
    const own = await openTestApp(t.database, { clock: t.clock, live: LIVE })
    const response = await own.app.request('/dashboard/events', { headers: { cookie: visitor.cookie } })
    own.app.release()
    expect((await readEvents(response, () => false)).ended).toBe(true)
    expect((await own.app.request('/dashboard/events', { headers: { cookie: visitor.cookie } })).status).toBe(429)
    await own.stop()
  })
})
