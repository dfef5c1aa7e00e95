import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDatabase } from '../../../src/db/client.ts'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { checkApproval, openPage, press, requestApproval } from '../../support/humans.ts'
import { NASTY } from '../../support/nasty.ts'

describe('the approval page', () => {
  let home: TestDatabase
  let t: TestApp
  let owner: string
  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    t = await openTestApp(await openDatabase(home))
    owner = (await t.createAccount()).key
  })
  afterAll(async () => {
    await t.stop()
    await t.database.close()
    await home.drop()
  })
  const request = (fields: Record<string, unknown> = {}) => {
    t.clock.advance(2500) // under the limit of 30 a minute
    return requestApproval(t.api, owner, fields)
  }

  it.each<[string, RequestInit]>([
    ['a browser', {}],
    ['a HEAD request', { method: 'HEAD' }],
    ['a prefetch', { headers: { purpose: 'prefetch', 'sec-purpose': 'prefetch;prerender' } }],
    ['a mail scanner', { headers: { 'user-agent': 'Mozilla/5.0 (compatible; SafeLinks)' } }],
    ['a chat preview', { headers: { 'user-agent': 'Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)' } }],
    ['an OPTIONS request', { method: 'OPTIONS' }],
  ])('decides nothing when opened by %s', async (_who, init) => {
    const { approval_id } = await request()
    for (const query of ['', '?decision=approved', '/decide?decision=approved']) await openPage(t.app, approval_id + query, init)
    expect((await checkApproval(t.api, owner, approval_id)).body.decision).toBe('pending')
  })

  it.each<[string, string | undefined, string]>([
    ['no decision', 'application/x-www-form-urlencoded', 'terms=x'],
    ['another decision', 'application/x-www-form-urlencoded', 'decision=timeout'],
    ['an empty body', 'application/x-www-form-urlencoded', ''],
    ['a body without a type', undefined, 'decision=approved'],
    ['a text body', 'text/plain', 'decision=approved'],
    ['a body that is too long', 'application/x-www-form-urlencoded', `decision=approved&x=${'x'.repeat(5000)}`],
    ['broken JSON', 'application/json', '{"decision":"approved"'],
    ['a JSON list', 'application/json', '["approved"]'],
  ])('decides nothing on a POST with %s', async (_what, type, body) => {
    const { approval_id } = await request()
    const bytes = new TextEncoder().encode(body) // a string would bring a type of its own
    const response = await t.app.request(`/approve/${approval_id}/decide`, {
      method: 'POST',
      ...(type && { headers: { 'content-type': type } }),
      body: bytes,
    })
    expect(response.status).toBeGreaterThanOrEqual(400)
    expect(response.status).toBeLessThan(500)
    expect((await checkApproval(t.api, owner, approval_id)).body.decision).toBe('pending')
  })

  it('carries the headers of the contract, whatever it answers', async () => {
    const { approval_id } = await request()
    const answers = [
      await openPage(t.app, approval_id),
      await openPage(t.app, 'unknown'),
      await openPage(t.app, 'ap_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'),
      await press(t.app, approval_id, 'denied'),
      await openPage(t.app, approval_id),
    ]
    expect(answers.map(({ status }) => status)).toEqual([200, 404, 404, 303, 200])
    for (const { headers } of answers) {
      const policy = headers.get('content-security-policy') ?? ''
      expect(policy).toContain("default-src 'none'")
      expect(policy).toContain("frame-ancestors 'none'")
      expect(policy).toContain("form-action 'self'")
      expect(policy).not.toMatch(/script-src|unsafe/)
      expect(headers.get('cache-control')).toBe('no-store')
      expect(headers.get('referrer-policy')).toBe('no-referrer')
      expect(headers.get('x-content-type-options')).toBe('nosniff')
      expect(headers.get('x-robots-tag')).toBe('noindex')
    }
  })

  it('names its stylesheet by content and has no script', async () => {
    const { html } = await openPage(t.app, (await request()).approval_id)
    const path = /<link rel="stylesheet" href="([^"]+)"/.exec(html)![1]!
    const style = await t.app.request(path)
    expect(style.headers.get('cache-control')).toContain('immutable')
    expect(await style.text()).toContain('.approve button')
    expect(html).not.toMatch(/<script|\son\w+=|javascript:|style="/i)
  })

  it('says who, what, how much and how long, and afterwards what was decided', async () => {
    await t.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 5 }, owner)
    const { approval_id } = await request({ grant: { limit_usd: 10, window: 'daily' }, action_summary: 'Crawl 400 pages more' })
    t.clock.advance(60_000)
    const { html } = await openPage(t.app, approval_id)
    for (const part of [
      'crawler',
      'Crawl 400 pages more',
      'raises crawler from $5.00 to $10.00 a day; nothing is spent',
      '9 minutes left',
    ])
      expect(html).toContain(part)
    await press(t.app, approval_id, 'approved')
    const after = (await openPage(t.app, approval_id)).html
    expect(after).toContain('Approved')
    expect(after).not.toContain('<form')
  })

  it.each(NASTY)('shows %j as text', async (text) => {
    const fields = { agent_id: text.slice(0, 128), action_summary: text.slice(0, 280) }
    const { approval_id } = await request({ ...fields, grant: { limit_usd: 1 } })
    const plain = await request({ agent_id: 'plain', action_summary: 'plain', grant: { limit_usd: 1 } })
    const tagsOf = (html: string) => [...html.matchAll(/<(\/?[a-z!][^\s>]*)/gi)].map(([, name]) => name)
    const check = async () => {
      const [shown, ours] = [(await openPage(t.app, approval_id)).html, (await openPage(t.app, plain.approval_id)).html]
      expect(tagsOf(shown)).toEqual(tagsOf(ours))
      expect(shown.replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}\u202a-\u202e\u2066-\u2069\u200b]/u)
      expect((shown.match(/</g) ?? []).length).toBe((ours.match(/</g) ?? []).length)
    }
    await check()
    await t.api.post(`/approve/${approval_id}/decide`, { decision: 'denied', responder: text.slice(0, 80) })
    await t.api.post(`/approve/${plain.approval_id}/decide`, { decision: 'denied', responder: 'plain' })
    await check()
  })

  it('logs nothing', () => {
    expect(t.logged).toEqual([])
  })
})
