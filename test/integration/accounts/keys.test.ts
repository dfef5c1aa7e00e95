import { randomBytes } from 'node:crypto'
import { beforeAll, describe, expect, it } from 'vitest'
import { hashOf, KeyResolver, newApiKey } from '../../../src/accounts/keys.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { createLog } from '../../../src/core/log.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { expectStatus, NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { createTestDatabase, describeEachDatabase } from '../../support/databases.ts'

const QUEUE = { maxBatch: 64, maxQueue: 10_000 }
const silent = createLog('silent')

/** The database with each statement of its pool passing through `around`. */
function watched(database: Database, around: (text: string, run: () => Promise<unknown>) => Promise<unknown>): Database {
  const unsafe = (text: string, ...rest: [string[], { prepare: boolean }]) =>
    around(text, () => Promise.resolve(database.sql.unsafe(text, ...rest)))
  return { ...database, sql: { unsafe } as unknown as Database['sql'] }
}

describeEachDatabase('a key for which no scope is named', (openTestDatabase) => {
  it('is an owner key, and says so', async () => {
    const { api, createAccount } = await openTestApp(await openTestDatabase())
    const { key } = await createAccount()
    const made = (fields: object) => api.post('/v1/account/keys', fields, key)
    const { status, body } = await made({})
    expect({ status, scope: body.scope, hint: body.hint }).toEqual({
      status: 201,
      scope: 'owner',
      hint: expect.stringContaining('owner key'),
    })
    for (const fields of [{ scope: 'owner' }, { scope: 'read' }, { agent_id: 'a' }])
      expect((await made(fields)).body.hint).toBeUndefined()
  })
})

describeEachDatabase('API keys', (openTestDatabase) => {
  let test: TestApp
  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase())
  })
  const resolver = (database = test.database, clock = test.clock) => new KeyResolver({ database, clock, log: silent }, QUEUE)

  it('are made, listed without their secret, used, and revoked at once', async () => {
    const { key, accountId } = await test.createAccount()
    expect(key).toMatch(/^bg_[0-9a-f]{32}$/)
    const made = expectStatus(201, await test.api.post('/v1/account/keys', { name: 'ci', scope: 'read' }, key))
    expect(made).toEqual({
      api_key: expect.stringMatching(/^bg_[0-9a-f]{32}$/),
      key_id: expect.any(String),
      name: 'ci',
      scope: 'read',
      agent_id: null,
      created_at: NOON,
      expires_at: null,
    })
    expect((await test.api.get('/v1/account', made.api_key)).body).toMatchObject({
      account_id: accountId,
      key: { key_id: made.key_id, name: 'ci', scope: 'read', agent_id: null, expires_at: null },
    })
    const list = await test.api.get('/v1/account/keys', key)
    expect(list.body.keys).toMatchObject([
      { name: 'ci', revoked_at: null },
      { name: 'owner', scope: 'owner' },
    ])
    expect(list.text).not.toMatch(/bg_|hash/)

    expectStatus(200, await test.api.delete(`/v1/account/keys/${made.key_id}`, key))
    expect(await test.api.get('/v1/account', made.api_key)).toMatchObject({ status: 401, body: { error: 'invalid_api_key' } })
    expect((await test.api.get('/v1/account/keys', key)).body.keys).toMatchObject([{ revoked_at: NOON }, { revoked_at: null }])
    expect((await test.api.delete(`/v1/account/keys/${made.key_id}`, key)).status).toBe(404)
  })

  it('cannot be revoked from another account, nor by a name that is no id', async () => {
    const owner = await test.createAccount()
    const made = await test.createKey(owner.key, {})
    const stranger = await test.createAccount()
    for (const id of [made.keyId, 'nonsense', "'", '00000000-0000-0000-0000-000000000000'])
      expect((await test.api.delete(`/v1/account/keys/${encodeURIComponent(id)}`, stranger.key)).status).toBe(404)
    expect((await test.api.get('/v1/account', made.key)).status).toBe(200)
  })

  it('may revoke themselves', async () => {
    const owner = await test.createAccount()
    const made = await test.createKey(owner.key, {})
    expectStatus(200, await test.api.delete(`/v1/account/keys/${made.keyId}`, made.key))
    expect((await test.api.get('/v1/account', made.key)).status).toBe(401)
  })

  it('end when their time is over', async () => {
    const { key } = await test.createAccount()
    const made = await test.createKey(key, { expires_in_seconds: 60 })
    expect((await test.api.get('/v1/account', made.key)).body).toMatchObject({ key: { expires_at: test.clock.now() + 60_000 } })
    test.clock.advance(59_999)
    expect((await test.api.get('/v1/account', made.key)).status).toBe(200)
    test.clock.advance(1)
    expect(await test.api.get('/v1/account', made.key)).toMatchObject({ status: 401, body: { error: 'invalid_api_key' } })
    expect(await resolver().resolve(made.key)).toBeNull()
  })

  it.each([
    ['name', { name: '' }],
    ['name', { name: 'x'.repeat(101) }],
    ['scope', { scope: 'admin' }],
    ['agent_id', { scope: 'agent' }],
    ['agent_id', { scope: 'owner', agent_id: 'a' }],
    ['agent_id', { agent_id: '' }],
    ['expires_in_seconds', { expires_in_seconds: 0 }],
    ['expires_in_seconds', { expires_in_seconds: 1.5 }],
  ])('refuse %s in %j', async (field, fields) => {
    const { key } = await test.createAccount()
    const refused = await test.api.post('/v1/account/keys', fields, key)
    expect(refused).toMatchObject({ status: 400, body: { error: 'invalid_params' } })
    expect(refused.body.issues.map(({ path }) => path)).toContain(field)
    expect((await test.api.get('/v1/account/keys', key)).body.keys).toHaveLength(1)
  })

  it('are refused when missing, malformed or unknown, each with its code', async () => {
    expect(await test.api.get('/v1/account')).toMatchObject({ status: 401, body: { error: 'missing_api_key' } })
    for (const bad of ['bg_', 'nonsense', newApiKey(), newApiKey().toUpperCase(), `${newApiKey()}0`, 'x'.repeat(5000)])
      expect(await test.api.get('/v1/account', bad)).toMatchObject({ status: 401, body: { error: 'invalid_api_key' } })
  })

  it('are taken from each of the three places', async () => {
    const { key } = await test.createAccount()
    expect((await test.api.get('/v1/account', undefined, { 'X-API-Key': key })).status).toBe(200)
    expect((await test.api.get(`/v1/account?api_key=${key}`)).status).toBe(200)
    expect((await test.api.get('/v1/account', undefined, { Authorization: `bearer ${key}` })).status).toBe(200)
  })

  it('remember when they were last used, never backwards', async () => {
    const { key } = await test.createAccount()
    const lastUsed = async () => (await test.api.get('/v1/account/keys', key)).body.keys[0]!.last_used_at
    expect(await lastUsed()).toBeNull()
    await test.app.keys.flushUses()
    const used = test.clock.now()
    expect(await lastUsed()).toBe(used)
    test.clock.advance(5000)
    await test.api.get('/v1/account', key)
    await test.app.keys.flushUses()
    expect(await lastUsed()).toBe(used + 5000)
    const late = resolver(test.database, new ManualClock(used - 60_000))
    await late.resolve(key)
    await late.flushUses()
    expect(await lastUsed()).toBe(used + 5000)
  })

  it('let a bound agent act for itself and below, and never lift its own limit', async () => {
    const { key } = await test.createAccount()
    const agent = await test.createKey(key, { agent_id: 'team/a' })
    for (const agent_id of ['*', 'team', 'team/a', 'team/b'])
      expectStatus(200, await test.api.put('/v1/budget/envelope', { agent_id, limit_usd: 5 }, key))
    const clear = (agent_id: string, as = agent.key) =>
      test.api.post('/v1/budget/clear', { agent_id, model: 'm', estimated_tokens: 1 }, as)
    const set = (agent_id: string) => test.api.put('/v1/budget/envelope', { agent_id, limit_usd: 100 }, agent.key)
    const forbidden = { status: 403, body: { error: 'forbidden', retryable: false } }

    expect((await clear('team/a')).body).toMatchObject({ approved: true })
    expect((await clear('team/a/sub')).body).toMatchObject({ approved: true })
    for (const other of ['team', 'team/b', '*', 'team/ab', 'team/a ']) expect(await clear(other), other).toMatchObject(forbidden)
    expect((await set('team/a/sub')).status).toBe(200)
    for (const above of ['team/a', 'team', '*', 'team/b', 'team/ab']) expect(await set(above), above).toMatchObject(forbidden)
    expect(await test.api.delete('/v1/budget/envelope/team/a', agent.key)).toMatchObject(forbidden)
    expect(await test.api.get('/v1/budget/envelope/team/b', agent.key)).toMatchObject(forbidden)
    expect((await test.api.get('/v1/budget/envelope/team/a', agent.key)).status).toBe(200)
    const { envelopes } = (await test.api.get('/v1/budget/envelope', agent.key)).body
    expect(envelopes.map(({ agent_id }) => agent_id)).toEqual(['team/a', 'team/a/sub'])

    const foreign = (await clear('team/b', key)).body.clearance_id
    expect((await test.api.post('/v1/budget/release', { clearance_id: foreign }, agent.key)).body).toMatchObject({
      error: 'no_pending_clearance',
    })
    for (const path of ['/v1/account/keys', '/v1/account/notification-email'])
      expect(await test.api.get(path, agent.key)).toMatchObject(forbidden)
    expect(await test.api.post('/v1/account/keys', {}, agent.key)).toMatchObject(forbidden)
    expect(
      await test.api.put(
        '/v1/rate/envelope',
        { agent_id: 'team/a', provider: 'p', model: 'm', requests_per_minute: 1 },
        agent.key,
      ),
    ).toMatchObject(forbidden)
  })

  it('of scope read may read and nothing else', async () => {
    const { key } = await test.createAccount()
    const reader = await test.createKey(key, { scope: 'read' })
    for (const path of ['/v1/account', '/v1/account/balance', '/v1/budget/envelope', '/v1/account/notification-email'])
      expect((await test.api.get(path, reader.key)).status).toBe(200)
    const refused = [
      await test.api.post('/v1/budget/clear', { agent_id: 'a', model: 'm', estimated_tokens: 1 }, reader.key),
      await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, reader.key),
      await test.api.post('/v1/account/keys', {}, reader.key),
      await test.api.post('/v1/idempotency/check', { key: 'k' }, reader.key),
      await test.api.post('/v1/rate/check', { agent_id: 'a', provider: 'p', model: 'm' }, reader.key),
    ]
    for (const response of refused) expect(response).toMatchObject({ status: 403, body: { error: 'forbidden' } })
  })

  describe('in the resolver', () => {
    it('that nobody knows cost a flood few queries', async () => {
      let queries = 0
      const keys = resolver(watched(test.database, (_text, run) => run().finally(() => queries++)))
      const bad = Array.from({ length: 1000 }, () => newApiKey())
      const flood = () => Promise.all(Array.from({ length: 5000 }, (_, turn) => keys.resolve(bad[turn % bad.length]!)))
      expect((await flood()).every((caller) => caller === null)).toBe(true)
      expect(queries).toBeLessThanOrEqual(Math.ceil(5000 / QUEUE.maxBatch))
      queries = 0
      await flood()
      expect(queries).toBe(0)
      await Promise.all(Array.from({ length: 1000 }, (_, turn) => keys.resolve(`bg_${turn}`)))
      expect(queries).toBe(0)
    })

    it('that were revoked cost a flood few queries', async () => {
      const { key } = await test.createAccount()
      const made = await test.createKey(key, {})
      expectStatus(200, await test.api.delete(`/v1/account/keys/${made.keyId}`, key))
      let queries = 0
      const keys = resolver(watched(test.database, (_text, run) => run().finally(() => queries++)))
      for (let turn = 0; turn < 100; turn++) expect(await keys.resolve(made.key)).toBeNull()
      expect(queries).toBeLessThanOrEqual(1)
    })

    it('that are known cost one query', async () => {
      const { key, accountId } = await test.createAccount()
      let queries = 0
      const keys = resolver(watched(test.database, (_text, run) => run().finally(() => queries++)))
      for (let turn = 0; turn < 100; turn++) expect(await keys.resolve(key)).toMatchObject({ accountId, scope: 'owner' })
      expect(queries).toBe(1)
    })

    it('that were revoked while they were looked up are not remembered as valid', async () => {
      const { key } = await test.createAccount()
      const made = await test.createKey(key, {})
      let arrived: () => void = () => {}
      const lookedUp = new Promise<void>((resolve) => (arrived = resolve))
      let go: () => void = () => {}
      const mayAnswer = new Promise<void>((resolve) => (go = resolve))
      const keys = resolver(
        watched(test.database, async (text, run) => {
          const rows = await run()
          if (!text.includes('key_hash = any')) return rows
          arrived()
          await mayAnswer
          return rows
        }),
      )
      const early = keys.resolve(made.key)
      await lookedUp
      expectStatus(200, await test.api.delete(`/v1/account/keys/${made.keyId}`, key))
      await keys.announceRevoked(hashOf(made.key))
      go()
      await early
      expect(await keys.resolve(made.key)).toBeNull()
    })

    it('do not take what only looks like a key', async () => {
      for (const text of [
        '',
        'bg_',
        `bg_${randomBytes(15).toString('hex')}`,
        `bg_${'g'.repeat(32)}`,
        ` ${newApiKey()}`,
        `${newApiKey()}\n`,
      ])
        expect(resolver().resolve(text)).toBeNull()
    })
  })

  it('left nothing in the log', () => {
    expect(test.logged).toEqual([])
  })
})

describe('a revocation reaches the other process', () => {
  // The promise is a second; a busy machine gets three.
  const SOON = { timeout: 3000, interval: 20 }

  const cases: [string, { prepare?: boolean; isPollingBroken: boolean }][] = [
    ['through LISTEN alone', { isPollingBroken: true }],
    ['by polling where a pooler forbids LISTEN', { prepare: false, isPollingBroken: false }],
  ]
  it.each(cases)('%s', async (_how, { isPollingBroken, ...options }) => {
    const home = await createTestDatabase('postgres')
    const databases = await Promise.all([openDatabase(home), openDatabase({ ...home, ...options })])
    const test = await openTestApp(databases[0]!)
    const other = isPollingBroken
      ? watched(databases[1]!, (text, run) =>
          text.includes('revoked_ms >') ? Promise.reject(new Error('no polling here')) : run(),
        )
      : databases[1]!
    const keys = new KeyResolver({ database: other, clock: test.clock, log: silent }, QUEUE)
    try {
      await keys.start()
      const { key } = await test.createAccount()
      const made = await test.createKey(key, {})
      expect(await keys.resolve(made.key)).not.toBeNull()
      expect(await keys.resolve(key)).not.toBeNull()
      expectStatus(200, await test.api.delete(`/v1/account/keys/${made.keyId}`, key))
      await expect.poll(() => keys.resolve(made.key), SOON).toBeNull()
      expect(await keys.resolve(key)).not.toBeNull()
    } finally {
      await keys.stop()
      await test.stop()
      for (const database of databases) await database.close()
      await home.drop()
    }
  })
})
