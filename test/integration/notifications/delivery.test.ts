import type { IncomingHttpHeaders } from 'node:http'
import type { Email } from 'postal-mime'
import { Webhook } from 'standardwebhooks'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { envelopePath, expectStatus, type JsonBody, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { press, type Receiver, requestApproval, startReceiver, until } from '../../support/humans.ts'
import { type Mailbox, startMailbox } from '../../support/mailbox.ts'

describeEachDatabase('deliveries', (openTestDatabase) => {
  let t: TestApp
  let mailbox: Mailbox
  let receiver: Receiver
  let owner: string

  beforeAll(async () => {
    mailbox = await startMailbox()
    const config = { SMTP_URL: mailbox.url, MAIL_FROM: 'Gvnr <gvnr@example.com>', OUTBOUND_ALLOW_PRIVATE: true }
    t = await openTestApp(await openTestDatabase(), { start: true, config })
  })
  afterAll(async () => {
    await t.stop()
    await mailbox.close()
  })
  beforeEach(async () => {
    receiver = await startReceiver()
    mailbox.mails.splice(0)
    mailbox.refuse(null)
    owner = (await t.createAccount()).key
  })
  afterEach(() => receiver.close())

  const addWebhook = async (fields: Record<string, unknown> = {}) =>
    expectStatus(201, await t.api.post('/v1/webhooks', { url: `${receiver.origin}/hook`, ...fields }, owner)) as JsonBody & {
      webhook_id: string
      secret: string
    }
  const deliveries = async (webhookId: string) =>
    (expectStatus(200, await t.api.get(`/v1/webhooks/${webhookId}/deliveries`, owner)).deliveries ?? []) as JsonBody[]
  const eventsOf = (r: Receiver) => r.received.map(({ body }) => JSON.parse(body) as { type: string; data: JsonBody })
  /** As the Standard Webhooks library sees it when it arrives: it also checks how old the signature is. */
  const verify = (secret: string, body: string, headers: IncomingHttpHeaders): unknown => {
    vi.useFakeTimers({ toFake: ['Date'], now: t.clock.now() })
    try {
      return new Webhook(secret).verify(body, headers as Record<string, string>)
    } finally {
      vi.useRealTimers()
    }
  }
  /** Time stands still in these tests: this is what lets a retry come due. */
  const passTime = (ms: number) => t.clock.advance(ms)

  describe('by mail', () => {
    beforeEach(() => t.api.post('/v1/account/notification-email', { email: 'owner@example.com' }, owner))

    it('bring the request as text and HTML with its link', async () => {
      const { approval_url, notification } = await requestApproval(t.api, owner, { action_summary: 'Buy <b>everything</b>' })
      expect(notification).toEqual({ email: 'queued' })
      await until(() => mailbox.mails.length === 1, 'the mail')
      const [{ to, mail }] = mailbox.mails as [{ to: string[]; mail: Email }]
      expect(to).toEqual(['owner@example.com'])
      expect(mail.from).toEqual({ name: 'Gvnr', address: 'gvnr@example.com' })
      expect(mail.subject).toBe('crawler asks for your approval: Buy <b>everything</b>')
      expect(mail.text).toContain('What: Buy <b>everything</b>')
      expect(mail.text).toContain(approval_url)
      expect(mail.html).toContain(`href="${approval_url}"`)
      expect(mail.html).toContain('Buy &lt;b&gt;everything&lt;/b&gt;')
    })

    it('forget the link once they are out', async () => {
      await requestApproval(t.api, owner)
      await until(() => mailbox.mails.length === 1, 'the mail')
      const sent = `select link, state from outbox where event = 'approval.requested'`
      await until(async () => (await t.database.sql.unsafe(sent)).every(({ state }) => state !== 0), 'the record')
      for (const { link } of await t.database.sql.unsafe(sent)) expect(link).toBeNull()
    })

    it('are tried again when the server cannot take them, and given up when it refuses for good', async () => {
      const outcomes = async () =>
        (expectStatus(200, await t.api.get('/v1/account/channels/email/deliveries', owner)).deliveries as JsonBody[]).map(
          ({ state, attempts }) => [state, attempts],
        )
      mailbox.refuse(451)
      await requestApproval(t.api, owner)
      const path = '/v1/account/channels/email/deliveries'
      await until(
        async () => ((await t.api.get(path, owner)).body.deliveries as JsonBody[])[0]?.outcome != null,
        'the first attempt',
      )
      mailbox.refuse(null)
      passTime(6000)
      await until(() => mailbox.mails.length === 1, 'the second attempt')
      mailbox.refuse(550)
      await requestApproval(t.api, owner)
      await until(async () => (await outcomes())[0]?.[0] === 'failed', 'the refusal')
      expect(await outcomes()).toEqual([
        ['failed', 1],
        ['sent', 2],
      ])
    })

    it('are not sent to a request that has expired', async () => {
      mailbox.refuse(451)
      await requestApproval(t.api, owner, { ttl_seconds: 3 })
      await new Promise((resolve) => setTimeout(resolve, 300))
      mailbox.refuse(null)
      passTime(60_000)
      const path = '/v1/account/channels/email/deliveries'
      const first = async () => ((await t.api.get(path, owner)).body.deliveries as JsonBody[])[0]!
      await until(async () => (await first()).state === 'failed', 'the end')
      expect((await first()).outcome).toContain('expired')
      expect(mailbox.mails).toEqual([])
    })

    it('can be tried out', async () => {
      const answer = await t.api.post('/v1/account/channels/email/test', {}, owner)
      expect(answer).toMatchObject({ status: 200, body: { ok: true, state: 'sent' } })
      expect(mailbox.mails).toHaveLength(1)
      await t.api.delete('/v1/account/notification-email', owner)
      expect((await t.api.post('/v1/account/channels/email/test', {}, owner)).body).toMatchObject({ ok: false, state: 'failed' })
      const { notification } = await requestApproval(t.api, owner)
      expect(notification).toEqual({ email: 'no_address' })
    })
  })

  describe('to channels', () => {
    const addChannel = async (fields: Record<string, unknown>) =>
      expectStatus(201, await t.api.post('/v1/account/channels', fields, owner)) as JsonBody & {
        channel_id: string
        secret: string
      }

    it('take the form of each', async () => {
      const slack = await addChannel({ kind: 'slack', url: `${receiver.origin}/slack` })
      const discord = await addChannel({ kind: 'discord', url: `${receiver.origin}/discord` })
      const hook = await addChannel({ kind: 'webhook', url: `${receiver.origin}/signed`, name: 'pager' })
      const { notification, approval_url } = await requestApproval(t.api, owner)
      expect(notification).toEqual({
        email: 'no_address',
        [slack.channel_id]: 'queued',
        [discord.channel_id]: 'queued',
        [hook.channel_id]: 'queued',
      })
      await receiver.waitFor(3)
      const body = (path: string) => receiver.received.find((request) => request.path === path)!
      for (const path of ['/slack', '/discord', '/signed']) expect(body(path).body).toContain(approval_url)
      const { body: signed, headers } = body('/signed')
      expect(verify(hook.secret, signed, headers)).toMatchObject({
        type: 'approval.requested',
        data: { agent_id: 'crawler', approval_url },
      })
    })

    it('go to those that were asked for', async () => {
      const slack = await addChannel({ kind: 'slack', url: `${receiver.origin}/slack` })
      const other = await addChannel({ kind: 'discord', url: `${receiver.origin}/discord` })
      const asked = await requestApproval(t.api, owner, { channels: ['slack', 'telegram'] })
      expect(asked.notification).toEqual({ [slack.channel_id]: 'queued', telegram: 'no_address' })
      const byId = await requestApproval(t.api, owner, { channels: [other.channel_id] })
      expect(byId.notification).toEqual({ [other.channel_id]: 'queued' })
      const stranger = (await t.createAccount()).key
      const foreign = { agent_id: 'a', action_summary: 'b', channels: [other.channel_id] }
      expect((await t.api.post('/v1/approval/request', foreign, stranger)).body.error).toBe('invalid_channels')
    })

    it('can be tried out, listed without what is secret in them, and removed', async () => {
      const { channel_id } = await addChannel({ kind: 'slack', url: `${receiver.origin}/services/T0/B0/secret` })
      expect((await t.api.post(`/v1/account/channels/${channel_id}/test`, {}, owner)).body).toMatchObject({ ok: true })
      receiver.fail(500)
      expect((await t.api.post(`/v1/account/channels/${channel_id}/test`, {}, owner)).body).toEqual({
        ok: false,
        state: 'failed',
        outcome: 'answered 500',
      })
      const list = await t.api.get('/v1/account/channels', owner)
      expect(list.text).not.toContain('secret')
      expect(list.body.channels).toMatchObject([{ channel_id: 'email' }, { channel_id, verified_at: t.clock.now() }])
      expect((await t.api.delete(`/v1/account/channels/${channel_id}`, owner)).status).toBe(200)
      expect((await t.api.delete(`/v1/account/channels/${channel_id}`, owner)).status).toBe(404)
    })

    it('need a complete description', async () => {
      for (const fields of [
        { kind: 'slack' },
        { kind: 'telegram', bot_token: '1:x' },
        { kind: 'telegram', chat_id: '5' },
        { kind: 'pigeon', url: receiver.origin },
      ])
        expect((await t.api.post('/v1/account/channels', fields, owner)).status).toBe(400)
      for (const url of ['ftp://example.com', 'https://example.com/\0', ' https://example.com']) {
        const bad = await t.api.post('/v1/account/channels', { kind: 'slack', url }, owner)
        expect(bad.body.error).toBe('invalid_webhook_url')
      }
    })
  })

  describe('to webhooks', () => {
    it('tell what happens, signed, and only what was asked for', async () => {
      const all = await addWebhook({ thresholds: [50, 90] })
      await addWebhook({ url: `${receiver.origin}/keys`, events: ['key.revoked'] })
      await t.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 1 }, owner)
      const clear = (tokens: number) =>
        t.api.post('/v1/budget/clear', { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: tokens }, owner)
      await clear(40_000) // $0.40
      await clear(20_000) // $0.60: beyond 50 %
      await clear(90_000) // refused
      await clear(90_000) // refused again in the same minute
      await clear(40_000) // $1.00: beyond 90 %
      const { keyId } = await t.createKey(owner, { scope: 'read', name: 'dashboard' })
      await t.api.delete(`/v1/account/keys/${keyId}`, owner)
      await t.api.put(
        '/v1/rate/envelope',
        { agent_id: 'crawler', provider: 'openai', model: 'gpt-4o', requests_per_minute: 1 },
        owner,
      )
      for (let n = 0; n < 3; n++)
        await t.api.post('/v1/rate/check', { agent_id: 'crawler', provider: 'openai', model: 'gpt-4o' }, owner)
      const { approval_id } = await requestApproval(t.api, owner)
      await press(t.app, approval_id, 'denied')
      await receiver.waitFor(9)
      const toAll = receiver.received.filter(({ path }) => path === '/hook')
      const types = toAll.map(({ body }) => (JSON.parse(body) as { type: string }).type).sort()
      expect(types).toEqual(
        [
          'envelope.threshold',
          'clearance.denied',
          'envelope.threshold',
          'key.created',
          'key.revoked',
          'rate.exceeded',
          'approval.requested',
          'approval.decided',
        ].sort(),
      )
      for (const { body, headers } of toAll) verify(all.secret, body, headers)
      const others = receiver.received.filter(({ path }) => path === '/keys')
      expect(others.map(({ body }) => (JSON.parse(body) as { type: string }).type)).toEqual(['key.revoked'])
      const thresholds = eventsOf(receiver).filter(({ type }) => type === 'envelope.threshold')
      expect(thresholds.map(({ data }) => data.threshold_percent)).toEqual([50, 90])
      expect(await t.api.get(envelopePath('crawler'), owner)).toMatchObject({ body: { spent_usd: 1 } })
    })

    it('reach thresholds once in a window, however the spend moves', async () => {
      await addWebhook({ events: ['envelope.threshold'] })
      await t.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 1 }, owner)
      for (let n = 0; n < 3; n++) {
        const cleared = await t.api.post(
          '/v1/budget/clear',
          { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: 60_000 },
          owner,
        )
        await t.api.post('/v1/budget/release', { clearance_id: cleared.body.clearance_id }, owner)
      }
      await receiver.waitFor(1)
      passTime(24 * 3_600_000)
      await t.api.post('/v1/budget/clear', { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: 60_000 }, owner)
      await receiver.waitFor(2)
      expect(eventsOf(receiver).map(({ data }) => data.threshold_percent)).toEqual([50, 50])
    })

    it('keep the order per subject while an attempt fails', async () => {
      const hook = await addWebhook({ events: ['key.created', 'key.revoked'] })
      receiver.fail(500, 'reset')
      const { keyId } = await t.createKey(owner, { scope: 'read' })
      await t.api.delete(`/v1/account/keys/${keyId}`, owner)
      await receiver.waitFor(1)
      await new Promise((resolve) => setTimeout(resolve, 200))
      expect(eventsOf(receiver).map(({ type }) => type)).toEqual(['key.created'])
      passTime(7000)
      await receiver.waitFor(2)
      await until(async () => (await deliveries(hook.webhook_id)).some(({ attempts }) => attempts === 2), 'the second record')
      passTime(19_000)
      await receiver.waitFor(4)
      expect(eventsOf(receiver).map(({ type }) => type)).toEqual(['key.created', 'key.created', 'key.created', 'key.revoked'])
      const ids = new Set(receiver.received.map(({ headers }) => headers['webhook-id']))
      expect(ids.size).toBe(2)
    })

    it('are given up in the open, and sent again by hand', async () => {
      const hook = await addWebhook({ events: ['key.created'] })
      receiver.fail(410)
      await t.createKey(owner, { scope: 'read' })
      await until(async () => (await deliveries(hook.webhook_id))[0]?.state === 'failed', 'the failure')
      const [failed] = await deliveries(hook.webhook_id)
      expect(failed).toMatchObject({ event: 'key.created', attempts: 1, outcome: 'answered 410', next_attempt_at: null })
      const redeliver = `/v1/webhooks/${hook.webhook_id}/deliveries/${failed!.delivery_id}/redeliver`
      expect((await t.api.post(redeliver, {}, owner)).status).toBe(200)
      await until(async () => (await deliveries(hook.webhook_id))[0]?.state === 'sent', 'the redelivery')
      expect(receiver.received).toHaveLength(2)
      const stranger = (await t.createAccount()).key
      expect((await t.api.post(redeliver, {}, stranger)).status).toBe(404)
    })

    it('can be changed, switched off and deleted', async () => {
      const hook = await addWebhook()
      const path = `/v1/webhooks/${hook.webhook_id}`
      const changed = await t.api.request('PATCH', path, { events: ['key.created'], name: 'n', rotate_secret: true }, owner)
      expect(changed.body).toMatchObject({ events: ['key.created'], name: 'n' })
      expect(changed.body.secret).not.toBe(hook.secret)
      await t.createKey(owner, { scope: 'read' })
      const [request] = await receiver.waitFor(1)
      verify(changed.body.secret as string, request!.body, request!.headers)
      await t.api.request('PATCH', path, { enabled: false }, owner)
      await t.createKey(owner, { scope: 'read' })
      expect((await t.api.get('/v1/webhooks', owner)).body.webhooks).toMatchObject([{ enabled: false }])
      expect((await t.api.delete(path, owner)).status).toBe(200)
      expect((await t.api.get('/v1/webhooks', owner)).body.webhooks).toEqual([])
      expect(receiver.received).toHaveLength(1)
      const masks = await t.database.sql.unsafe('select event_mask from accounts where event_mask <> 0 and account_id = $1', [
        (await t.api.get('/v1/account', owner)).body.account_id,
      ])
      expect(masks).toHaveLength(0)
    })

    it('belong to the owner', async () => {
      const hook = await addWebhook()
      const path = `/v1/webhooks/${hook.webhook_id}`
      const stranger = (await t.createAccount()).key
      const agent = (await t.createKey(owner, { scope: 'agent', agent_id: 'crawler' })).key
      const reader = (await t.createKey(owner, { scope: 'read' })).key
      const calls: [string, string][] = [
        ['PATCH', path],
        ['DELETE', path],
        ['POST', `${path}/test`],
        ['POST', '/v1/webhooks'],
        ['POST', '/v1/account/channels'],
        ['POST', '/v1/account/channels/email/test'],
        ['DELETE', '/v1/account/channels/x'],
      ]
      for (const [method, at] of calls)
        for (const key of [agent, reader])
          expect((await t.api.request(method, at, {}, key)).body.error, `${method} ${at}`).toBe('forbidden')
      for (const at of ['/v1/webhooks', `${path}/deliveries`, '/v1/account/channels']) {
        expect((await t.api.get(at, agent)).body.error).toBe('forbidden')
        expect((await t.api.get(at, reader)).status).toBe(200)
      }
      for (const [method, at] of calls.slice(0, 3)) expect((await t.api.request(method, at, {}, stranger)).status).toBe(404)
      expect((await t.api.get('/v1/webhooks', reader)).text).not.toContain(hook.secret)
    })

    it('can be tried out, ten times a minute', async () => {
      const hook = await addWebhook()
      const test = () => t.api.post(`/v1/webhooks/${hook.webhook_id}/test`, {}, owner)
      expect((await test()).body).toMatchObject({ ok: true, state: 'sent', outcome: 'answered 200' })
      expect(eventsOf(receiver)[0]).toMatchObject({ type: 'test' })
      for (let n = 0; n < 9; n++) await test()
      expect((await test()).status).toBe(429)
    })
  })

  it('log no link and no secret', () => {
    expect(JSON.stringify(t.logged)).not.toMatch(/ap_[\w-]{16}|whsec_/)
  })
})
