import { beforeAll, expect, it } from 'vitest'
import { expectStatus, NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const GENERATE = '/v1/admin/generate-key'

describeEachDatabase('an organisation', (openTestDatabase) => {
  let test: TestApp
  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase())
  })
  const who = async (key: string) => (await test.api.get('/v1/account', key)).body.key as Record<string, unknown>

  it('rotates a key: the new one has its rights, the old one works on until the overlap ends', async () => {
    const { key } = await test.createAccount()
    const old = await test.createKey(key, { name: 'lead', scope: 'read', agent_id: 'team', expires_in_seconds: 86_400 })
    test.clock.advance(3_600_000)
    const now = test.clock.now()
    const rotated = expectStatus(201, await test.api.post(`/v1/account/keys/${old.keyId}/rotate`, { overlap_seconds: 60 }, key))
    expect(rotated).toMatchObject({
      name: 'lead',
      scope: 'read',
      agent_id: 'team',
      expires_at: now + 86_400_000,
      rotated_key_id: old.keyId,
      rotated_key_expires_at: now + 60_000,
    })
    expect(await who(rotated.api_key)).toMatchObject({ key_id: rotated.key_id, scope: 'read', agent_id: 'team' })
    expect(await who(old.key)).toMatchObject({ key_id: old.keyId, expires_at: now + 60_000 })
    test.clock.advance(59_999)
    expect((await test.api.get('/v1/account', old.key)).status).toBe(200)
    test.clock.advance(1)
    expect((await test.api.get('/v1/account', old.key)).status).toBe(401)
    expect((await test.api.get('/v1/account', rotated.api_key)).status).toBe(200)
    // Nothing brings a key back.
    expect((await test.api.post(`/v1/account/keys/${old.keyId}/rotate`, {}, key)).status).toBe(404)
  })

  it('rotates without overlap, never lengthens a life, and refuses an overlap that not every process would keep', async () => {
    const { key } = await test.createAccount()
    const short = await test.createKey(key, { expires_in_seconds: 100 })
    const rotated = expectStatus(
      201,
      await test.api.post(`/v1/account/keys/${short.keyId}/rotate`, { overlap_seconds: 3600 }, key),
    )
    expect(rotated.rotated_key_expires_at).toBe(test.clock.now() + 100_000)
    const leaked = await test.createKey(key, {})
    expectStatus(201, await test.api.post(`/v1/account/keys/${leaked.keyId}/rotate`, { overlap_seconds: 0 }, key))
    expect((await test.api.get('/v1/account', leaked.key)).status).toBe(401)
    for (const overlap_seconds of [-1, 1, 59, 604_801, 1.5])
      expect((await test.api.post(`/v1/account/keys/${short.keyId}/rotate`, { overlap_seconds }, key)).status).toBe(400)
    const stranger = await test.createAccount()
    expect((await test.api.post(`/v1/account/keys/${short.keyId}/rotate`, {}, stranger.key)).status).toBe(404)
  })

  it('gives a repeated rotation the same answer, and makes one key', async () => {
    const { key } = await test.createAccount()
    const old = await test.createKey(key, {})
    const rotate = () => test.api.post(`/v1/account/keys/${old.keyId}/rotate`, {}, key, { 'Idempotency-Key': 'r1' })
    const first = await rotate()
    expect((await rotate()).text).toBe(first.text)
    expect((await test.api.get('/v1/account/keys', key)).body.keys).toHaveLength(3)
  })

  it('renames a key', async () => {
    const { key } = await test.createAccount()
    const made = await test.createKey(key, { name: 'old' })
    expect(
      expectStatus(200, await test.api.request('PATCH', `/v1/account/keys/${made.keyId}`, { name: 'new' }, key)),
    ).toMatchObject({
      key_id: made.keyId,
      name: 'new',
    })
    expect(await who(made.key)).toMatchObject({ name: 'new' })
  })

  it('lets read keys list keys, a team lead those of the team', async () => {
    const { key } = await test.createAccount()
    const read = await test.createKey(key, { name: 'auditor', scope: 'read' })
    const lead = await test.createKey(key, { name: 'lead', scope: 'read', agent_id: 'team' })
    await test.createKey(key, { name: 'bot', agent_id: 'team/bot' })
    await test.createKey(key, { name: 'stranger', agent_id: 'teammate' })
    const names = async (asker: string) => (await test.api.get('/v1/account/keys', asker)).body.keys.map(({ name }) => name)
    expect(await names(read.key)).toEqual(['stranger', 'bot', 'lead', 'auditor', 'owner'])
    expect(await names(lead.key)).toEqual(['bot', 'lead'])
  })

  it('gets keys from the operator, for itself or as a new account', async () => {
    const { key, accountId } = await test.createAccount()
    const made = expectStatus(
      201,
      await test.api.admin(GENERATE, {
        account_id: accountId,
        name: 'ops',
        scope: 'agent',
        agent_id: 'team',
        expires_in_seconds: 60,
      }),
    )
    expect(made).toMatchObject({
      account_id: accountId,
      name: 'ops',
      scope: 'agent',
      agent_id: 'team',
      expires_at: test.clock.now() + 60_000,
    })
    expect(await who(made.api_key)).toMatchObject({ key_id: made.key_id })
    expect((await test.api.get('/v1/account/keys', key)).body.keys[0]).toMatchObject({ key_id: made.key_id })
    const fresh = expectStatus(201, await test.api.admin(GENERATE, { name: 'new customer' }))
    expect(fresh.account_id).not.toBe(accountId)
    expect(await who(fresh.api_key)).toMatchObject({ name: 'new customer', scope: 'owner' })
    expect((await test.api.get('/v1/audit', fresh.api_key)).text).toContain('"actor":"operator"')

    expect((await test.api.admin(GENERATE, { account_id: '019ab5c4-0000-7000-8000-000000000000' })).body.error).toBe(
      'account_not_found',
    )
    for (const bad of [
      { account_id: 'x' },
      { scope: 'agent' },
      { scope: 'read' },
      { scope: 'owner', agent_id: 'a' },
      { agent_id: 'a' },
    ])
      expect((await test.api.admin(GENERATE, bad)).status, JSON.stringify(bad)).toBe(400)
  })

  it('gets the same key again for a repeated call of the operator, which is stored unreadable', async () => {
    const headers = { 'Idempotency-Key': `generate-${NOON}` }
    const first = await test.api.admin(GENERATE, {}, headers)
    expect((await test.api.admin(GENERATE, {}, headers)).text).toBe(first.text)
    const rows = await test.database.sql.unsafe('select r::text as row from idempotent_requests r', [])
    expect(JSON.stringify(rows)).not.toContain(first.body.api_key)
    expect(JSON.stringify(rows)).not.toContain(Buffer.from(first.body.api_key).toString('hex'))
  })
})
