import { beforeAll, describe, expect, it } from 'vitest'
import { ManualClock } from '../../../src/core/clock.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { type RateKey, RateService } from '../../../src/rate/service.ts'
import { expectStatus, NOON, openTestApp, ratePath, type TestApp } from '../../support/app.ts'
import { createTestDatabase, describeEachDatabase } from '../../support/databases.ts'

const QUEUE = { maxBatch: 64, maxQueue: 10_000 }
const newKey = (): RateKey => ({ accountId: uuidv7(NOON), agentId: 'a', provider: 'anthropic', model: 'm' })
const countAllowed = (decisions: readonly { allowed: boolean }[]): number => decisions.filter(({ allowed }) => allowed).length

describeEachDatabase('rate shares', (openTestDatabase) => {
  let database: Database
  beforeAll(async () => {
    database = await openTestDatabase()
  })

  it('allow exactly their share of any number of simultaneous checks on two services', async () => {
    const clock = new ManualClock(NOON + 20_000)
    const services = [0, 1].map(() => new RateService({ database, clock }, QUEUE))
    const key = newKey()
    await services[0]!.set(key, 100)
    const decisions = await Promise.all(Array.from({ length: 500 }, (_, turn) => services[turn % 2]!.check(key)))
    expect(countAllowed(decisions)).toBe(100)
    const left = decisions.flatMap((decision) => (decision.allowed ? [decision.left] : []))
    expect(left.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, index) => index))
    for (const decision of decisions)
      if (!decision.allowed) expect(decision).toEqual({ allowed: false, reason: 'rate_exceeded', retry_after_ms: 40_000 })
    clock.advance(40_000)
    expect(await services[0]!.check(key)).toEqual({ allowed: true, left: 99 })
  })

  it('keep many shares apart within one batch', async () => {
    const service = new RateService({ database, clock: new ManualClock(NOON) }, QUEUE)
    const keys = ['a', 'b', '"', '{,}', 'null', '\\'].flatMap((agentId) =>
      ['m', 'n'].map((model) => ({ ...newKey(), agentId, model })),
    )
    await Promise.all(keys.map((key, index) => service.set(key, index + 1)))
    const decisions = await Promise.all(
      Array.from({ length: 20 * keys.length }, (_, turn) => service.check(keys[turn % keys.length]!)),
    )
    for (const index of keys.keys())
      expect(countAllowed(decisions.filter((_, turn) => turn % keys.length === index))).toBe(index + 1)
    expect(await service.check({ ...keys[0]!, model: 'other' })).toEqual({ allowed: false, reason: 'no_rate_envelope' })
  })

  it('take effect at once when lowered, and keep the count', async () => {
    const service = new RateService({ database, clock: new ManualClock(NOON) }, QUEUE)
    const key = newKey()
    await service.set(key, 10)
    for (let turn = 0; turn < 6; turn++) await service.check(key)
    await service.set(key, 5)
    expect(await service.check(key)).toMatchObject({ allowed: false, reason: 'rate_exceeded' })
    expect(await service.get(key)).toEqual({ requestsPerMinute: 5, requestsInWindow: 6, windowStartMs: NOON })
    await service.set(key, 7)
    expect(await service.check(key)).toEqual({ allowed: true, left: 0 })
    expect(await service.check(key)).toMatchObject({ allowed: false })
  })

  it('never open a minute again, however slow the clock of a process is', async () => {
    const fast = new RateService({ database, clock: new ManualClock(NOON + 60_000) }, QUEUE)
    const slow = new RateService({ database, clock: new ManualClock(NOON + 59_000) }, QUEUE)
    const key = newKey()
    await slow.set(key, 2)
    expect(await slow.check(key)).toEqual({ allowed: true, left: 1 })
    expect(await fast.check(key)).toEqual({ allowed: true, left: 1 })
    expect(await slow.check(key)).toEqual({ allowed: true, left: 0 })
    expect(await fast.check(key)).toMatchObject({ allowed: false, retry_after_ms: 60_000 })
    expect(await slow.check(key)).toMatchObject({ allowed: false, retry_after_ms: 61_000 })
    expect(await slow.get(key)).toEqual({ requestsPerMinute: 2, requestsInWindow: 2, windowStartMs: NOON + 60_000 })
  })

  describe('over REST', () => {
    let test: TestApp
    let key: string
    const name = { agent_id: 'team/a', provider: 'anthropic', model: 'openrouter/x' }
    const path = ratePath(name.agent_id, name.provider, name.model)
    beforeAll(async () => {
      test = await openTestApp(database)
      key = (await test.createAccount()).key
    })

    it('are set, read, checked and deleted', async () => {
      const { api } = test
      expect((await api.post('/v1/rate/check', name, key)).body).toMatchObject({ allowed: false, reason: 'no_rate_envelope' })
      expect((await api.get(path, key)).status).toBe(404)
      const set = await api.put('/v1/rate/envelope', { ...name, requests_per_minute: 1 }, key)
      expect(set).toMatchObject({ status: 200, body: { success: true, ...name, requests_per_minute: 1 } })
      expect((await api.post('/v1/rate/check', name, key)).body).toEqual({ allowed: true, requests_remaining_this_minute: 0 })
      const refused = await api.post('/v1/rate/check', name, key)
      expect(refused).toMatchObject({ status: 200, body: { allowed: false, reason: 'rate_exceeded', retry_after_ms: 60_000 } })
      expect((await api.get(path, key)).body).toEqual({
        ...name,
        requests_per_minute: 1,
        requests_in_window: 1,
        window_start: NOON,
      })
      test.clock.advance(60_000)
      expect((await api.get(path, key)).body).toMatchObject({ requests_in_window: 0, window_start: NOON + 60_000 })
      expect((await api.delete(path, key)).body).toEqual({ success: true, ...name })
      expect((await api.delete(path, key)).body).toMatchObject({ error: 'not_found', retryable: false })
      expect((await api.post('/v1/rate/check', name, key)).body).toMatchObject({ reason: 'no_rate_envelope' })
    })

    it('burn no op and belong to their account', async () => {
      const { api } = test
      await api.put('/v1/rate/envelope', { ...name, requests_per_minute: 1_000_000 }, key)
      const before = (await api.get('/v1/account/balance', key)).body
      await api.post('/v1/rate/check', name, key)
      expect((await api.get('/v1/account/balance', key)).body).toEqual(before)
      const stranger = await test.createAccount()
      expect((await api.get(path, stranger.key)).status).toBe(404)
      expect((await api.delete(path, stranger.key)).status).toBe(404)
      expect((await api.post('/v1/rate/check', name, stranger.key)).body).toMatchObject({ reason: 'no_rate_envelope' })
    })

    it.each([
      ['requests_per_minute', { requests_per_minute: 0 }],
      ['requests_per_minute', { requests_per_minute: 1_000_001 }],
      ['requests_per_minute', { requests_per_minute: 1.5 }],
      ['requests_per_minute', { requests_per_minute: '5' }],
      ['requests_per_minute', {}],
      ['provider', { provider: '' }],
      ['provider', { provider: 'p'.repeat(65) }],
      ['model', { model: 'm'.repeat(129) }],
      ['agent_id', { agent_id: 'a\0' }],
    ])('refuse %s in %j and keep what was set', async (field, fields) => {
      const own = await test.createAccount()
      expectStatus(200, await test.api.put('/v1/rate/envelope', { ...name, requests_per_minute: 3 }, own.key))
      const needed = field === 'requests_per_minute' ? {} : { requests_per_minute: 9 }
      const refused = await test.api.put('/v1/rate/envelope', { ...name, ...needed, ...fields }, own.key)
      expect(refused).toMatchObject({ status: 400, body: { error: 'invalid_params', hint: expect.any(String) } })
      expect(refused.body.issues.map((issue) => issue.path)).toContain(field)
      expect((await test.api.get(path, own.key)).body).toMatchObject({ requests_per_minute: 3 })
    })
  })
})

describe('rate shares in several processes on one PostgreSQL', () => {
  it('are exact', async () => {
    const home = await createTestDatabase('postgres')
    const databases = await Promise.all([0, 1].map(() => openDatabase(home)))
    try {
      const clock = new ManualClock(NOON)
      const services = databases.map((database) => new RateService({ database, clock }, QUEUE))
      const keys = [newKey(), newKey(), newKey()]
      for (const key of keys) await services[0]!.set(key, 100)
      // Opposite orders, so that batches which did not lock in key order would deadlock.
      const checks = (service: RateService, order: readonly RateKey[]) =>
        Array.from({ length: 750 }, (_, turn) => order[turn % 3]!).map(async (key) => ({ key, ...(await service.check(key)) }))
      const decisions = await Promise.all([...checks(services[0]!, keys), ...checks(services[1]!, keys.toReversed())])
      for (const key of keys) expect(countAllowed(decisions.filter((decision) => decision.key === key))).toBe(100)
    } finally {
      for (const database of databases) await database.close()
      await home.drop()
    }
  })
})
