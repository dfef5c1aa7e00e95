import { afterAll, beforeAll, expect, it } from 'vitest'
import { expectStatus, openTestApp, type TestApp } from '../../support/app.ts'
import { formsOf, sendSignIn, visit, visitorWith } from '../../support/dashboard.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const SIGN_IN = 'action="/dashboard/sign-in"'
const HOURS_12 = 12 * 3_600_000

describeEachDatabase('sessions of the dashboard', (openTestDatabase) => {
  let t: TestApp
  let owner: string
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase(), { start: true })
    owner = (await t.createAccount()).key
  })
  afterAll(() => t.stop())
  const limitOf = async (agent: string) => (await t.api.get(`/v1/budget/envelope/${agent}`, owner)).body.limit_usd

  it('begin with a key that lives, and with nothing else', async () => {
    const revoked = await t.createKey(owner, {})
    await t.api.delete(`/v1/account/keys/${revoked.keyId}`, owner)
    for (const key of ['', 'bg_', `bg_${'0'.repeat(32)}`, revoked.key, `${owner} `.repeat(9), '<script>']) {
      const answer = await sendSignIn(t.app, key)
      expect([key, answer.status]).toEqual([key, 401])
      expect(answer.headers.get('set-cookie')).toBeNull()
      expect(answer.html).toContain(SIGN_IN)
      expect(answer.html).not.toContain('<script>')
    }
    const answer = await sendSignIn(t.app, owner)
    expect([answer.status, answer.headers.get('location')]).toEqual([303, '/dashboard'])
    const cookie = answer.headers.get('set-cookie')!
    expect(cookie).toMatch(/^gvnr_session=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict; Max-Age=43200$/)
  })

  it('are sent over https only where the server is reached so', async () => {
    const secure = await openTestApp(t.database, { config: { PUBLIC_URL: 'https://gvnr.example.com' } })
    const answer = await sendSignIn(secure.app, owner, { origin: 'https://gvnr.example.com' })
    expect(answer.headers.get('set-cookie')).toMatch(
      /^__Host-gvnr_session=[\w-]{43}; Path=\/; HttpOnly; SameSite=Strict; Max-Age=\d+; Secure$/,
    )
    const token = /=([\w-]{43});/.exec(answer.headers.get('set-cookie')!)![1]
    const page = async (cookie: string) => (await secure.app.request('/dashboard', { headers: { cookie } })).text()
    expect(await page(`__Host-gvnr_session=${token}`)).toContain('Sign out')
    expect(await page(`gvnr_session=${token}`)).toContain(SIGN_IN)
    await secure.stop()
  })

  it('store neither the key nor the cookie', async () => {
    const { token } = await visit(t.app, owner)
    const rows = JSON.stringify(
      await Promise.all(
        ['sessions', 'api_keys', 'idempotent_requests'].map((table) => t.database.sql.unsafe(`select x::text from ${table} x`)),
      ),
    )
    expect(rows.length).toBeGreaterThan(200)
    expect(rows).not.toContain(owner)
    expect(rows).not.toContain(owner.slice(3))
    expect(rows).not.toContain(token)
  })

  it('cannot be forged', async () => {
    const { token } = await visit(t.app, owner)
    const other = `${token.slice(0, -2)}${token.endsWith('AA') ? 'BB' : 'AA'}`
    for (const forged of [
      '',
      'x',
      other,
      token.toUpperCase(),
      `${token}x`,
      "' or 1=1 --",
      owner,
      'A'.repeat(43),
      'A'.repeat(8000),
    ]) {
      const page = await visitorWith(t.app, forged).open()
      expect(page.html).toContain(SIGN_IN)
      expect(page.html).not.toContain('Sign out')
      const acted = await visitorWith(t.app, forged).post('set_envelope', { agent_id: 'forged', daily: '1' })
      expect([acted.status, acted.html.includes(SIGN_IN)]).toEqual([401, true])
      expect((await t.app.request('/dashboard/events', { headers: { cookie: `gvnr_session=${forged}` } })).status).toBe(401)
    }
    expect(await limitOf('forged')).toBeUndefined()
  })

  it('end with their time, with the key, and with signing out', async () => {
    const late = await visit(t.app, owner)
    t.clock.advance(HOURS_12 - 1)
    expect((await late.open()).html).toContain('Sign out')
    t.clock.advance(1)
    expect((await late.open()).html).toContain(SIGN_IN)

    const short = await t.createKey(owner, { expires_in_seconds: 60 })
    const shortly = await visit(t.app, short.key)
    t.clock.advance(60_000)
    expect((await shortly.open()).html).toContain(SIGN_IN)

    const revoked = await t.createKey(owner, {})
    const ended = await visit(t.app, revoked.key)
    expect((await ended.open()).html).toContain('Sign out')
    const forms = formsOf((await ended.open()).html)
    expectStatus(200, await t.api.delete(`/v1/account/keys/${revoked.keyId}`, owner))
    expect((await ended.open()).html).toContain(SIGN_IN)
    const form = forms.find(({ action }) => action === 'set_envelope')!
    expect((await ended.post('set_envelope', { ...form.hidden, agent_id: 'revoked', daily: '1' })).status).toBe(401)
    expect(await limitOf('revoked')).toBeUndefined()

    const leaving = await visit(t.app, owner)
    const out = await leaving.submit('sign-out')
    expect([out.status, out.headers.get('set-cookie')]).toEqual([
      303,
      'gvnr_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0',
    ])
    expect((await leaving.open()).html).toContain(SIGN_IN)
  })

  it('end on another process at once, too', async () => {
    const other = await openTestApp(t.database, { clock: t.clock, start: true })
    const made = await t.createKey(owner, {})
    const visitor = await visit(t.app, made.key)
    const there = visitorWith(other.app, visitor.token)
    expect((await there.open()).html).toContain('Sign out')
    expectStatus(200, await t.api.delete(`/v1/account/keys/${made.keyId}`, owner))
    expect((await there.open()).html).toContain(SIGN_IN)
    await other.stop()
  })

  it.each<[string, Record<string, string>]>([
    ['another site', { origin: 'https://evil.example', 'sec-fetch-site': 'cross-site' }],
    ['another port', { origin: 'http://localhost:1234', 'sec-fetch-site': 'same-site' }],
    ['a sandboxed frame', { origin: 'null', 'sec-fetch-site': 'cross-site' }],
    ['a page that hides where it is', { origin: 'null' }],
    ['a subdomain', { 'sec-fetch-site': 'same-site' }],
  ])('do nothing for a form from %s', async (_from, headers) => {
    const visitor = await visit(t.app, owner)
    const answer = await visitor.submit('set_envelope', { agent_id: 'csrf', daily: '1' }, { headers })
    expect(answer.status).toBe(403)
    expect(await limitOf('csrf')).toBeUndefined()
    const signIn = await sendSignIn(t.app, owner, headers)
    expect([signIn.status, signIn.headers.get('set-cookie')]).toEqual([403, null])
  })

  it.each<[string, (own: string, other: string) => string]>([
    ['none', () => ''],
    ['a made-up one', () => 'x'.repeat(43)],
    ["another session's", (_own, other) => other],
    ['a cut one', (own) => own.slice(1)],
  ])('do nothing for a form with %s as its token', async (_what, tokenOf) => {
    const [visitor, other] = [await visit(t.app, owner), await visit(t.app, owner)]
    const ownToken = formsOf((await visitor.open()).html)[0]!.hidden.form_token!
    const otherToken = formsOf((await other.open()).html)[0]!.hidden.form_token!
    expect(ownToken).not.toBe(otherToken)
    expect(ownToken).not.toBe(visitor.token)
    const answer = await visitor.post('set_envelope', {
      form_token: tokenOf(ownToken, otherToken),
      agent_id: 'no-token',
      daily: '1',
    })
    expect(answer.status).toBe(403)
    expect(await limitOf('no-token')).toBeUndefined()
  })

  it('do nothing for a GET, and for a body that is no form', async () => {
    const visitor = await visit(t.app, owner)
    const { form_token = '' } = formsOf((await visitor.open()).html)[0]!.hidden
    const query = new URLSearchParams({ form_token, agent_id: 'got', daily: '1' })
    expect((await visitor.open(`/dashboard/set_envelope?${query}`)).status).toBe(404)
    const json = await t.app.request('/dashboard/set_envelope', {
      method: 'POST',
      headers: { cookie: visitor.cookie, 'content-type': 'text/plain', origin: 'http://localhost' },
      body: query.toString(),
    })
    expect(json.status).toBe(403)
    expect(await limitOf('got')).toBeUndefined()
  })

  it('are bounded in number', async () => {
    const made = await t.createKey(owner, {})
    const first = await visit(t.app, made.key)
    for (let count = 0; count < 20; count++) await visit(t.app, made.key)
    expect((await first.open()).html).toContain(SIGN_IN)
    const [row] = await t.database.sql.unsafe('select count(*)::int as n from sessions where key_id = $1', [made.keyId])
    expect(row!.n).toBe(20)
  })

  it('open pages that nobody keeps or frames', async () => {
    const visitor = await visit(t.app, owner)
    const forms = formsOf((await visitor.open()).html)
    expect(forms.length).toBeGreaterThan(5)
    const wrong = await visitor.post('set_envelope', { ...forms[0]!.hidden, agent_id: 'x', daily: '-1' })
    for (const { headers, html } of [await visitor.open(), await visitorWith(t.app, '').open(), wrong]) {
      const policy = headers.get('content-security-policy') ?? ''
      expect(policy).toContain("default-src 'none'; script-src 'self'; connect-src 'self'")
      expect(policy).toContain("frame-ancestors 'none'")
      expect(policy).not.toContain('unsafe')
      expect(headers.get('cache-control')).toBe('no-store')
      expect(headers.get('x-content-type-options')).toBe('nosniff')
      expect(html).not.toMatch(/<style| style="| on\w+="|javascript:/i)
      expect(html.match(/<script/g)?.length ?? 0).toBeLessThanOrEqual(1)
    }
    expect(t.logged).toEqual([])
  })
})
