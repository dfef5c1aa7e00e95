import { beforeAll, describe, expect, it } from 'vitest'
import { ManualClock } from '../../../src/core/clock.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { IdempotencyService } from '../../../src/idempotency/service.ts'
import { NOON, openTestApp } from '../../support/app.ts'
import { createTestDatabase, describeEachDatabase } from '../../support/databases.ts'

const QUEUE = { maxBatch: 32, maxQueue: 10_000 }
/** Keys are taken in one step: no process runs them. */
const presence = { processId: null, isGone: async () => false }
const newAccount = () => uuidv7(NOON)

describeEachDatabase('idempotency_check', (openTestDatabase) => {
  let database: Database
  beforeAll(async () => {
    database = await openTestDatabase()
  })

  it('tells exactly one of 200 simultaneous calls on two services that it is the first, and all the TTL it stored', async () => {
    const clock = new ManualClock(NOON)
    const services = [0, 1].map(() => new IdempotencyService({ database, clock, presence }, QUEUE))
    const account = newAccount()
    const answers = await Promise.all(
      Array.from({ length: 200 }, (_, turn) => services[turn % 2]!.check(account, 'invoice-4711', 60 + turn)),
    )
    const [first, ...others] = answers.filter(({ first }) => first)
    expect(others).toEqual([])
    const ttls = new Set(answers.map(({ ttlRemainingSeconds }) => ttlRemainingSeconds))
    expect([...ttls]).toEqual([first!.ttlRemainingSeconds])
  })

  it('keeps accounts and keys apart', async () => {
    const service = new IdempotencyService({ database, clock: new ManualClock(NOON), presence }, QUEUE)
    const keys = ['k', 'K', 'k ', '"', '{}', 'null', ',', '\\', 'é', 'e\u0301']
    const accounts = [newAccount(), newAccount()]
    const ask = () => Promise.all(accounts.flatMap((account) => keys.map((key) => service.check(account, key, 60))))
    expect((await ask()).every(({ first }) => first)).toBe(true)
    expect((await ask()).some(({ first }) => first)).toBe(false)
  })

  it('opens a key again when its time is over, not before, and not when a later call asked for more', async () => {
    const clock = new ManualClock(NOON)
    const service = new IdempotencyService({ database, clock, presence }, QUEUE)
    const account = newAccount()
    expect(await service.check(account, 'k', 10)).toEqual({ first: true, ttlRemainingSeconds: 10 })
    clock.advance(3500)
    expect(await service.check(account, 'k', 1000)).toEqual({ first: false, ttlRemainingSeconds: 7 })
    clock.advance(6499)
    expect(await service.check(account, 'k', 1)).toEqual({ first: false, ttlRemainingSeconds: 1 })
    clock.advance(1)
    const again = await Promise.all(Array.from({ length: 20 }, () => service.check(account, 'k', 5)))
    expect(again.filter(({ first }) => first)).toEqual([{ first: true, ttlRemainingSeconds: 5 }])
  })

  it('purges what has expired and nothing else, a bounded number at a time', async () => {
    const clock = new ManualClock(NOON + 365 * 86_400_000)
    const service = new IdempotencyService({ database, clock, presence }, QUEUE)
    while ((await service.purge(1000)) > 0);
    const account = newAccount()
    for (const key of ['a', 'b', 'c']) await service.check(account, key, 10)
    await service.check(account, 'lasting', 100)
    expect(await service.purge(2)).toBe(0)
    clock.advance(10_000)
    expect(await service.purge(2)).toBe(2)
    expect(await service.purge(2)).toBe(1)
    expect(await service.check(account, 'lasting', 1)).toMatchObject({ first: false })
    expect(await service.check(account, 'a', 1)).toMatchObject({ first: true })
  })

  describe('over REST', () => {
    it('answers the contract, with a default of an hour', async () => {
      const test = await openTestApp(database)
      const { key } = await test.createAccount()
      const check = (body: object, as = key) => test.api.post('/v1/idempotency/check', body, as)
      expect((await check({ key: 'k' })).body).toEqual({ is_first_call: true, ttl_remaining_seconds: 3600 })
      test.clock.advance(1000)
      expect((await check({ key: 'k', ttl_seconds: 5 })).body).toEqual({ is_first_call: false, ttl_remaining_seconds: 3599 })
      const stranger = await test.createAccount()
      expect((await check({ key: 'k' }, stranger.key)).body).toMatchObject({ is_first_call: true })
      for (const name of ['x'.repeat(256), '😀'.repeat(256)])
        expect((await check({ key: name })).body).toMatchObject({ is_first_call: true })
      for (const ttl_seconds of [1, 2_592_000])
        expect((await check({ key: `ttl ${ttl_seconds}`, ttl_seconds })).body).toEqual({
          is_first_call: true,
          ttl_remaining_seconds: ttl_seconds,
        })
    })

    it.each([
      ['key', {}],
      ['key', { key: '' }],
      ['key', { key: 'x'.repeat(257) }],
      ['key', { key: 'a\0' }],
      ['key', { key: 7 }],
      ['ttl_seconds', { key: 'bad', ttl_seconds: 0 }],
      ['ttl_seconds', { key: 'bad', ttl_seconds: 2_592_001 }],
      ['ttl_seconds', { key: 'bad', ttl_seconds: 1.5 }],
      ['ttl_seconds', { key: 'bad', ttl_seconds: '60' }],
    ])('refuses %s in %j and takes no key', async (field, body) => {
      const test = await openTestApp(database)
      const { key } = await test.createAccount()
      const refused = await test.api.post('/v1/idempotency/check', body, key)
      expect(refused).toMatchObject({ status: 400, body: { error: 'invalid_params' } })
      expect(refused.body.issues.map(({ path }) => path)).toContain(field)
      expect((await test.api.post('/v1/idempotency/check', { key: 'bad' }, key)).body).toMatchObject({ is_first_call: true })
    })
  })
})

describe('idempotency_check in several processes on one PostgreSQL', () => {
  it('has one first call per key, also while keys expire and are purged', async () => {
    const home = await createTestDatabase('postgres')
    const databases = await Promise.all([0, 1].map(() => openDatabase(home)))
    try {
      const clock = new ManualClock(NOON)
      const services = databases.map((database) => new IdempotencyService({ database, clock, presence }, QUEUE))
      const account = newAccount()
      for (let round = 0; round < 5; round++) {
        const answers = await Promise.all(
          Array.from({ length: 200 }, async (_, turn) => {
            if (turn % 50 === 0) await services[turn % 2]!.purge(10)
            const key = `key-${turn % 5}`
            return { key, ...(await services[turn % 2]!.check(account, key, 1)) }
          }),
        )
        for (let index = 0; index < 5; index++)
          expect(answers.filter(({ key, first }) => first && key === `key-${index}`)).toHaveLength(1)
        clock.advance(1000)
      }
    } finally {
      for (const database of databases) await database.close()
      await home.drop()
    }
  })
})
