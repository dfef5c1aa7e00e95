import { afterAll, beforeAll, expect, it } from 'vitest'
import { ManualClock } from '../../../src/core/clock.ts'
import { envelopePath, expectStatus, NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { formsOf, plain, visit } from '../../support/dashboard.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { checkApproval, requestApproval } from '../../support/humans.ts'
import { NASTY } from '../../support/nasty.ts'

const SONNET = 'claude-sonnet-4-6' // $15 per million output tokens

/** One for both databases: ids never run backwards within a process. */
const clock = new ManualClock(NOON)

describeEachDatabase('the dashboard', (openTestDatabase) => {
  let t: TestApp
  let owner: string
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase(), { clock, start: true })
  })
  afterAll(() => t.stop())
  const newAccount = async () => {
    t.clock.advance(60_000) // limits a minute begin anew
    owner = (await t.createAccount()).key
    return owner
  }
  const clear = (agent_id: string, tokens: number, key = owner) =>
    t.api.post('/v1/budget/clear', { agent_id, model: SONNET, estimated_tokens: tokens }, key)
  const cap = (agent_id: string, limit_usd: number) => t.api.put('/v1/budget/envelope', { agent_id, limit_usd }, owner)

  it('shows quota, agents in their order, burn, decisions and what waits', async () => {
    await newAccount()
    await cap('team', 10)
    await cap('team/crawler', 4)
    await cap('*', 20)
    for (let call = 0; call < 10; call++) await clear('team/crawler', 20_000)
    expect((await clear('team/crawler', 200_000)).body.approved).toBe(false)
    await requestApproval(t.api, owner, { agent_id: 'team/crawler', action_summary: 'Crawl on', grant: { limit_usd: 8 } })
    const { html, status } = await (await visit(t.app, owner)).open()
    expect(status).toBe(200)
    const text = plain(html.replaceAll(/<[^>]+>/g, ' ')).replaceAll(/\s+/g, ' ')
    expect(text).toContain('990 operations left; 10 used in 24 hours.')
    expect(text).toContain('$3.00 of $4.00 day')
    expect(text).toContain('$3.00 of $10.00 day')
    expect(text).toMatch(/the whole account.*team \$3\.00.*team\/crawler/)
    expect(text).toContain('Crawl on')
    expect(text).toContain('raises team/crawler from $4.00 to $8.00 a day; $3.00 is spent')
    expect(text).toContain(`Denied ${SONNET} , over the cap`)
    expect(html).toContain('class="depth-2"')
    expect(html).toMatch(/<path class="cap"/)
    expect(html).toMatch(/<path class="forecast"/)
  })

  it('sets, changes and deletes caps', async () => {
    await newAccount()
    const visitor = await visit(t.app, owner)
    const made = await visitor.submit('set_envelope', { agent_id: 'crawler', daily: '5', monthly: '100' })
    expect([made.status, made.headers.get('location')]).toEqual([303, '/dashboard?done=set_envelope#agents'])
    const limits = async () => {
      const { body } = await t.api.get(envelopePath('crawler'), owner)
      return body.limits?.map(({ window, limit_usd }) => [window, limit_usd])
    }
    expect(await limits()).toEqual([
      ['daily', 5],
      ['monthly', 100],
    ])
    expect((await visitor.open('/dashboard?done=set_envelope')).html).toContain('The cap is set.')
    await visitor.submit('set_envelope', { agent: 'crawler', daily: '7.5' })
    expect(await limits()).toEqual([['daily', 7.5]])
    for (const fields of [{ daily: '0' }, { daily: '-3' }, { daily: 'much' }, {}]) {
      const refused = await visitor.submit('set_envelope', { agent_id: 'other', ...fields })
      expect(refused.status).toBe(400)
      expect(refused.html).toContain('role="alert"')
    }
    expect((await visitor.submit('delete_envelope', { agent: 'crawler' })).status).toBe(303)
    expect(await limits()).toBeUndefined()
  })

  it.each(NASTY)('changes the cap of an agent called %j, and shows the name as text', async (name) => {
    await newAccount()
    const agent = name.slice(0, 100)
    expectStatus(200, await cap(agent, 5))
    await cap('plain', 5)
    await clear(agent, 1000)
    await requestApproval(t.api, owner, { agent_id: agent, action_summary: name.slice(0, 280) })
    const made = await t.createKey(owner, { name: name.slice(0, 100), scope: 'agent', agent_id: agent })
    const visitor = await visit(t.app, owner)
    const { html } = await visitor.open()
    const tags = [...new Set([...html.matchAll(/<\/?([a-z!][\w-]*)/gi)].map(([, tag]) => tag!.toLowerCase()))].sort()
    const ordinary = await (async () => {
      await newAccount()
      await cap('plain', 5)
      await cap('plain2', 5)
      await clear('plain', 1000)
      await requestApproval(t.api, owner, { agent_id: 'plain', action_summary: 'plain' })
      await t.createKey(owner, { name: 'plain', scope: 'agent', agent_id: 'plain' })
      return (await visit(t.app, owner)).open()
    })()
    const usual = new Set([...ordinary.html.matchAll(/<\/?([a-z!][\w-]*)/gi)].map(([, tag]) => tag!.toLowerCase()))
    expect(tags.filter((tag) => !usual.has(tag))).toEqual([])
    expect(html.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069\u200b]/u)
    const edit = formsOf(html).find((form) => form.action === 'set_envelope' && form.hidden.agent === encodeURIComponent(agent))!
    expect((await visitor.post('set_envelope', { ...edit.hidden, daily: '9' })).status).toBe(303)
    expect((await t.api.get(envelopePath(agent), made.key)).body.limit_usd).toBe(9)
    expect(t.logged).toEqual([])
  })

  it('decides what waits', async () => {
    await newAccount()
    await cap('crawler', 5)
    const visitor = await visit(t.app, owner)
    const first = await requestApproval(t.api, owner, { grant: { limit_usd: 10 } })
    expect((await visitor.submit('decide_approval', { decision: 'approved' })).status).toBe(303)
    const decided = (await checkApproval(t.api, owner, first.approval_id)).body
    expect(decided).toMatchObject({ decision: 'approved', responder: 'key owner' })
    expect((await t.api.get(envelopePath('crawler'), owner)).body.limit_usd).toBe(10)
    await requestApproval(t.api, owner, { grant: { limit_usd: 20 } })
    const old = formsOf((await visitor.open()).html).find(({ action }) => action === 'decide_approval')!
    await cap('crawler', 12)
    const changed = await visitor.post('decide_approval', { ...old.hidden, decision: 'approved' })
    expect([changed.status, changed.html.includes('has changed since it was shown')]).toEqual([409, true])
    expect((await visitor.submit('decide_approval', { decision: 'denied' })).status).toBe(303)
    expect((await t.api.get(envelopePath('crawler'), owner)).body.limit_usd).toBe(12)
  })

  it('makes a key once however often its form is sent, and shows the secret', async () => {
    await newAccount()
    const visitor = await visit(t.app, owner)
    const form = formsOf((await visitor.open()).html).find(({ action }) => action === 'create_key')!
    const fields = { ...form.hidden, name: 'ci', scope: 'agent', agent_id: 'ci', days: '30' }
    const [made, again] = [await visitor.post('create_key', fields), await visitor.post('create_key', fields)]
    const secretOf = (html: string) => /<code id="secret">(bg_[0-9a-f]{32})<\/code>/.exec(html)?.[1]
    expect(secretOf(made.html)).toMatch(/^bg_/)
    expect(secretOf(again.html)).toBe(secretOf(made.html))
    const { keys } = (await t.api.get('/v1/account/keys', owner)).body
    expect(keys.map(({ name }) => name)).toEqual(['ci', 'owner'])
    expect((await visitor.open()).html).not.toContain(secretOf(made.html))
    const own = keys.find(({ name }) => name === 'ci')!
    expect((await visitor.submit('revoke_key', { key_id: own.key_id })).status).toBe(303)
    expect((await t.api.get('/v1/account', secretOf(made.html))).status).toBe(401)
  })

  it('changes channels, webhooks, the address and who decides', async () => {
    await newAccount()
    const visitor = await visit(t.app, owner)
    expect((await visitor.submit('set_notification_email', { email: 'ops@example.com' })).status).toBe(303)
    expect((await visitor.submit('set_notification_email', { email: 'no address' })).status).toBe(400)
    const hook = await visitor.submit('create_webhook', { url: 'https://hooks.example.com/x', format: 'standard', name: 'ci' })
    expect(hook.html).toMatch(/<code id="secret">whsec_/)
    await visitor.submit('create_channel', { kind: 'slack', url: 'https://hooks.slack.com/services/T/B/SECRET' })
    expect((await visitor.submit('update_settings', { approval_links: 'owner' })).status).toBe(303)
    const { html } = await visitor.open()
    for (const part of ['ops@example.com', 'https://hooks.example.com/x', 'https://hooks.slack.com/…'])
      expect(html).toContain(part)
    expect(html).not.toContain('SECRET')
    expect((await t.api.get('/v1/account/settings', owner)).body.approval_links).toBe('owner')
    await visitor.submit('delete_webhook')
    await visitor.submit('delete_channel')
    await visitor.submit('delete_notification_email')
    expect((await t.api.get('/v1/webhooks', owner)).body.webhooks).toEqual([])
    expect((await t.api.get('/v1/account/notification-email', owner)).body.notification_email).toBeNull()
  })

  it('lets a read key look and nothing else', async () => {
    await newAccount()
    await cap('crawler', 5)
    await requestApproval(t.api, owner)
    const reader = await visit(t.app, (await t.createKey(owner, { scope: 'read' })).key)
    const { html } = await reader.open()
    expect(html).toContain('crawler')
    expect(html).toContain('Buy a newspaper')
    expect(formsOf(html).map(({ action }) => action)).toEqual(['sign-out', 'update_settings'])
    const { form_token = '' } = formsOf(html)[0]!.hidden
    for (const [action, fields] of [
      ['set_envelope', { agent_id: 'crawler', daily: '500' }],
      ['delete_envelope', { agent_id: 'crawler' }],
      ['create_key', { name: 'x', scope: 'owner' }],
      ['update_settings', { approval_links: 'owner' }],
      ['set_notification_email', { email: 'a@example.com' }],
    ] as const) {
      const refused = await reader.post(action, { form_token, ...fields })
      expect([action, refused.status]).toEqual([action, 403])
    }
    expect((await t.api.get(envelopePath('crawler'), owner)).body.limit_usd).toBe(5)
  })

  it('shows an agent key its own path only', async () => {
    await newAccount()
    for (const agent of ['team', 'team/a', 'team/b', 'teammate', 'secret']) await cap(agent, 5)
    await clear('secret', 1000)
    await clear('team/a/x', 1000)
    await requestApproval(t.api, owner, { agent_id: 'secret', action_summary: 'nobody else may know' })
    const made = await t.createKey(owner, { scope: 'agent', agent_id: 'team' })
    const visitor = await visit(t.app, made.key)
    for (const path of ['/dashboard', '/dashboard?agent=secret', '/dashboard?agent=teammate']) {
      const { html, status } = await visitor.open(path)
      expect(status).toBe(200)
      expect(html).toContain('team/a/x')
      expect(html).not.toMatch(/secret|teammate|nobody else/)
    }
    const { form_token = '' } = formsOf((await visitor.open()).html)[0]!.hidden
    const raise = (agent_id: string) => visitor.post('set_envelope', { form_token, agent_id, daily: '50' })
    expect([await raise('team'), await raise('secret'), await raise('*')].map(({ status }) => status)).toEqual([403, 403, 403])
    expect((await raise('team/a')).status).toBe(303)
  })

  it('tells accounts apart', async () => {
    const mine = await newAccount()
    await cap('mine-only', 5)
    await clear('mine-only', 1000)
    const asked = await requestApproval(t.api, mine, { action_summary: 'mine alone' })
    const listed = await t.api.get('/v1/approval', mine)
    const [waiting] = listed.body.approvals as { approval_ref: string }[]
    await t.createKey(mine, { name: 'mine-key' })
    await newAccount()
    const stranger = await visit(t.app, owner)
    for (const path of ['/dashboard', '/dashboard?agent=mine-only'])
      expect((await stranger.open(path)).html.replaceAll('?agent=mine-only', '')).not.toMatch(/mine-only|mine alone|mine-key/)
    const { form_token = '' } = formsOf((await stranger.open()).html)[0]!.hidden
    const decide = { form_token, approval_ref: waiting!.approval_ref, decision: 'approved' }
    expect((await stranger.post('decide_approval', decide)).status).toBe(404)
    expect((await checkApproval(t.api, mine, asked.approval_id)).body.decision).toBe('pending')
  })

  it('leads from /dash, and knows no other action', async () => {
    const short = await t.app.request('/dash')
    expect([short.status, short.headers.get('location')]).toEqual([303, '/dashboard'])
    const visitor = await visit(t.app, await newAccount())
    for (const action of ['admin_seed', 'budget_clear', 'constructor', '__proto__'])
      expect((await visitor.post(action, {})).status).toBe(404)
    expect(t.logged).toEqual([])
  })
})
