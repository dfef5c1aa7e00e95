import { afterAll, beforeAll, expect, it } from 'vitest'
import { expectStatus, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { type Receiver, startReceiver } from '../../support/humans.ts'

const [OLD, NEW] = ['a1'.repeat(32), Buffer.alloc(32, 7).toString('base64')]
const BOT = '123456:abcdefghijklmnopqrstuvwxyz'

describeEachDatabase('secrets of channels and webhooks', (openTestDatabase) => {
  let receiver: Receiver
  let plain: TestApp
  let owner: string
  beforeAll(async () => {
    receiver = await startReceiver()
    plain = await openTestApp(await openTestDatabase(), { config: settings() })
    owner = (await plain.createAccount()).key
  })
  afterAll(async () => {
    await plain.stop()
    await receiver.close()
  })
  const settings = (SECRETS_KEY?: string) => ({
    OUTBOUND_ALLOW_PRIVATE: true,
    TELEGRAM_API_URL: receiver.origin,
    ...(SECRETS_KEY !== undefined && { SECRETS_KEY }),
  })
  const withKeys = (keys: string) => openTestApp(plain.database, { clock: plain.clock, config: settings(keys) })
  const stored = async () =>
    JSON.stringify(await plain.database.sql.unsafe('select secret, target from endpoints order by endpoint_id'))
  const add = async (t: TestApp) => {
    const hook = expectStatus(201, await t.api.post('/v1/webhooks', { url: `${receiver.origin}/hook` }, owner))
    const slack = expectStatus(
      201,
      await t.api.post('/v1/account/channels', { kind: 'slack', url: `${receiver.origin}/SLACKSECRET` }, owner),
    )
    const bot = expectStatus(
      201,
      await t.api.post('/v1/account/channels', { kind: 'telegram', bot_token: BOT, chat_id: '42' }, owner),
    )
    return { hook, slack, bot }
  }
  const tests = async (t: TestApp, made: Awaited<ReturnType<typeof add>>) => {
    const answers = [
      await t.api.post(`/v1/webhooks/${String(made.hook.webhook_id)}/test`, {}, owner),
      await t.api.post(`/v1/account/channels/${String(made.slack.channel_id)}/test`, {}, owner),
      await t.api.post(`/v1/account/channels/${String(made.bot.channel_id)}/test`, {}, owner),
    ]
    plain.clock.advance(60_000)
    return answers.map(({ body }) => body.ok)
  }

  it('are unreadable in the database where a key is set, and work all the same', async () => {
    const before = await add(plain)
    expect(await stored()).toContain(BOT)
    const t = await withKeys(OLD)
    const made = await add(t)
    const secret = String(made.hook.secret)
    const rows = await stored()
    expect(rows).not.toContain(secret)
    expect(rows.match(new RegExp(BOT, 'g'))).toHaveLength(1)
    expect(rows.match(/SLACKSECRET/g)).toHaveLength(1)
    expect(rows.match(/enc1\./g)).toHaveLength(3)
    expect(await tests(t, made)).toEqual([true, true, true])
    expect(await tests(t, before)).toEqual([true, true, true])
    const paths = receiver.received.map(({ path }) => path)
    expect(paths).toContain(`/bot${BOT}/sendMessage`)
    expect(paths.filter((path) => path === '/SLACKSECRET')).toHaveLength(2)
    const listed = await t.api.get('/v1/account/channels', owner)
    expect(listed.text).toContain(`${receiver.origin}/…`)
    expect(listed.text).not.toMatch(/SLACKSECRET|enc1/)

    const rotated = await withKeys(`${NEW},${OLD}`)
    expect(await tests(rotated, made)).toEqual([true, true, true])
    const renewed = await rotated.api.request(
      'PATCH',
      `/v1/webhooks/${String(made.hook.webhook_id)}`,
      { rotate_secret: true },
      owner,
    )
    expect(renewed.body.secret).toMatch(/^whsec_/)
    const only = await withKeys(NEW)
    expect(await tests(only, made)).toEqual([true, false, false])
    expect((await only.api.get('/v1/account/channels', owner)).status).toBe(200)
    expect(JSON.stringify([plain.logged, t.logged, rotated.logged, only.logged])).not.toMatch(/whsec_|SLACKSECRET|abcdefghij/)
    for (const app of [t, rotated, only]) await app.stop()
  })

  it('cannot be moved from one row to another', async () => {
    const t = await withKeys(OLD)
    const made = await add(t)
    const other = expectStatus(201, await t.api.post('/v1/webhooks', { url: `${receiver.origin}/other` }, owner))
    await plain.database.sql.unsafe(
      'update endpoints set secret = (select secret from endpoints where endpoint_id = $1) where endpoint_id = $2',
      [String(made.hook.webhook_id), String(other.webhook_id)],
    )
    const answer = await t.api.post(`/v1/webhooks/${String(other.webhook_id)}/test`, {}, owner)
    expect(answer.body.ok).toBe(false)
    await t.stop()
  })
})
