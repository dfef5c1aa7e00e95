import { randomUUID } from 'node:crypto'
import { beforeAll, describe, expect, it } from 'vitest'
import { hashOf } from '../../../src/accounts/keys.ts'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { DomainError } from '../../../src/core/errors.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { createLog } from '../../../src/core/log.ts'
import type { OperationResult } from '../../../src/core/operation.ts'
import { Presence } from '../../../src/db/presence.ts'
import { IdempotencyService } from '../../../src/idempotency/service.ts'
import { ADMIN_SECRET, type ApiResponse, envelopePath, expectStatus, NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const DAY = 86_400_000
const QUEUE = { maxBatch: 64, maxQueue: 1000 }
const CLEAR = '/v1/budget/clear'
const clearBody = { agent_id: 'a', model: 'claude-opus-4-8', estimated_tokens: 40_000 } // $1

const isReplay = ({ headers }: ApiResponse): boolean => headers.get('Idempotent-Replayed') === 'true'
const once = (key: string) => ({ 'Idempotency-Key': key })

describeEachDatabase('the Idempotency-Key header', (openTestDatabase) => {
  let test: TestApp
  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase())
  })

  const newAccount = async (ops = 100) => {
    const account = await test.createAccount(ops)
    expectStatus(200, await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 50 }, account.key))
    return account
  }
  const state = async (key: string) => ({
    ops: (await test.api.get('/v1/account/balance', key)).body.operations_remaining,
    spent: (await test.api.get(envelopePath('a'), key)).body.spent_usd,
  })
  /** As after a crash between the work and the storing of its response: the row says "running", its lease is over. */
  const forgetResponses = (accountId: string) =>
    test.database.sql.unsafe(
      'update idempotent_requests set status = null, response = null, lease_ms = 0 where account_id = $1',
      [accountId],
    )

  it('replays the first response byte for byte, to either spelling of the path', async () => {
    const { key } = await newAccount()
    const first = await test.api.post(CLEAR, clearBody, key, once('k'))
    expect(first).toMatchObject({ status: 200, body: { approved: true, operations_remaining: 99 } })
    expect(isReplay(first)).toBe(false)
    test.clock.advance(60_000)
    for (const path of [CLEAR, `/api${CLEAR}`]) {
      const again = await test.api.post(path, clearBody, key, once('k'))
      expect(isReplay(again)).toBe(true)
      expect(again.text).toBe(first.text)
    }
    expect(await state(key)).toEqual({ ops: 99, spent: 1 })
  })

  it('does not care for the order of fields, but for their values and the operation', async () => {
    const { key } = await newAccount()
    await test.api.post(CLEAR, clearBody, key, once('k'))
    const reordered = Object.fromEntries(Object.entries(clearBody).reverse())
    expect(isReplay(await test.api.post(CLEAR, reordered, key, once('k')))).toBe(true)
    const others = [
      await test.api.post(CLEAR, { ...clearBody, estimated_tokens: 40_001 }, key, once('k')),
      await test.api.post(CLEAR, { ...clearBody, hold_seconds: 60 }, key, once('k')),
      await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 9 }, key, once('k')),
      await test.api.delete(envelopePath('a'), key, once('k')),
    ]
    for (const other of others)
      expect(other).toMatchObject({ status: 422, body: { error: 'idempotency_mismatch', retryable: false } })
    expect(await state(key)).toEqual({ ops: 99, spent: 1 })
  })

  it('replays denials and errors too', async () => {
    const { key } = await newAccount()
    const tooMuch = { ...clearBody, estimated_tokens: 400_000_000 }
    const denied = await test.api.post(CLEAR, tooMuch, key, once('denied'))
    expect(denied.body).toMatchObject({ approved: false, reason: 'envelope_exceeded' })
    const gone = await test.api.delete(envelopePath('nobody'), key, once('gone'))
    expect(gone.status).toBe(404)
    const reconcile = { agent_id: 'a', actual_input_tokens: 0, actual_output_tokens: 5 }
    const nothing = await test.api.post('/v1/budget/reconcile', reconcile, key, once('nothing'))
    expect(nothing).toMatchObject({ status: 400, body: { error: 'no_pending_clearance' } })
    // What would now be decided otherwise is answered as it was.
    await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1_000_000 }, key)
    await test.api.put('/v1/budget/envelope', { agent_id: 'nobody', limit_usd: 5 }, key)
    await test.api.post(CLEAR, clearBody, key)
    const again = [
      [denied, await test.api.post(CLEAR, tooMuch, key, once('denied'))],
      [gone, await test.api.delete(envelopePath('nobody'), key, once('gone'))],
      [nothing, await test.api.post('/v1/budget/reconcile', reconcile, key, once('nothing'))],
    ] as const
    for (const [first, second] of again) {
      expect(second.status).toBe(first.status)
      expect(second.text).toBe(first.text)
      expect(isReplay(second)).toBe(true)
    }
  })

  it('leaves the key free when the request was not valid', async () => {
    const { key } = await newAccount()
    expect((await test.api.post(CLEAR, { ...clearBody, estimated_tokens: 0 }, key, once('k'))).status).toBe(400)
    expect((await test.api.post(CLEAR, clearBody, key, once('k'))).body).toMatchObject({ approved: true })
  })

  it.each([
    ['', 400],
    ['x'.repeat(257), 400],
    ['x'.repeat(256), 200],
    ['"quoted, {odd}"', 200],
    ['é ü', 200],
  ])('takes a key of 1 to 256 characters: %j is answered %d', async (name, status) => {
    const { key } = await newAccount()
    const response = await test.api.post(CLEAR, clearBody, key, once(name))
    expect(response.status).toBe(status)
    if (status === 400) expect(response.body.issues[0]).toMatchObject({ path: 'Idempotency-Key' })
    expect(await state(key)).toEqual(status === 200 ? { ops: 99, spent: 1 } : { ops: 100, spent: 0 })
  })

  it('belongs to the account, and is nothing to reads', async () => {
    const one = await newAccount()
    const other = await newAccount()
    const first = await test.api.post(CLEAR, clearBody, one.key, once('k'))
    const second = await test.api.post(CLEAR, clearBody, other.key, once('k'))
    expect(second.body.clearance_id).not.toBe(first.body.clearance_id)
    expect(isReplay(second)).toBe(false)
    const read = await test.api.get('/v1/account/balance', one.key, once('k'))
    expect(read).toMatchObject({ status: 200, body: { operations_remaining: 99 } })
    expect(isReplay(read)).toBe(false)
  })

  it('lives for 24 hours', async () => {
    const { key } = await newAccount()
    await test.api.post(CLEAR, clearBody, key, once('k'))
    test.clock.advance(DAY - 1)
    expect(isReplay(await test.api.post(CLEAR, clearBody, key, once('k')))).toBe(true)
    test.clock.advance(1)
    const anew = await test.api.post(CLEAR, { ...clearBody, estimated_tokens: 80_000 }, key, once('k'))
    expect(anew.body).toMatchObject({ approved: true, operations_remaining: 98 })
    expect(isReplay(anew)).toBe(false)
  })

  it('burns one op for 200 identical requests at once: the others are replays or are told to wait', async () => {
    const { key } = await newAccount()
    const answers = await Promise.all(Array.from({ length: 200 }, () => test.api.post(CLEAR, clearBody, key, once('k'))))
    const fresh = answers.filter((answer) => answer.status === 200 && !isReplay(answer))
    expect(fresh).toHaveLength(1)
    for (const answer of answers) {
      if (answer.status === 200) expect(answer.text).toBe(fresh[0]!.text)
      else {
        expect(answer).toMatchObject({ status: 409, body: { error: 'idempotency_conflict', retryable: true } })
        expect(Number(answer.headers.get('Retry-After'))).toBeGreaterThanOrEqual(1)
      }
    }
    expect(await state(key)).toEqual({ ops: 99, spent: 1 })
    expect((await test.api.post(CLEAR, clearBody, key, once('k'))).text).toBe(fresh[0]!.text)
  })

  describe('keeps secrets', () => {
    it('stores a new key so that neither it nor anything like it can be read in the table', async () => {
      const { key, accountId } = await newAccount()
      const created = await test.api.post('/v1/account/keys', { name: 'a secret thing' }, key, once('k'))
      expect(created.status).toBe(201)
      const rows = await test.database.sql.unsafe('select * from idempotent_requests where account_id = $1', [accountId])
      expect(rows).toHaveLength(1)
      const stored = rows[0]!.response as Buffer
      expect(stored.length).toBeGreaterThan(created.text.length)
      for (const text of ['bg_', 'api_key', created.body.api_key, 'a secret thing', 'scope']) {
        expect(stored.includes(text)).toBe(false)
        expect(stored.includes(Buffer.from(text).toString('hex'))).toBe(false)
      }
      for (const column of Object.values(rows[0]!)) expect(String(column)).not.toContain('bg_')
      const again = await test.api.post('/v1/account/keys', { name: 'a secret thing' }, key, once('k'))
      expect(again.text).toBe(created.text)
      expect(isReplay(again)).toBe(true)
      expect((await test.api.get('/v1/account/keys', key)).body.keys).toHaveLength(2)
    })

    it('replays it to the key that asked and to no other of the account', async () => {
      const { key } = await newAccount()
      const second = await test.createKey(key, {})
      const created = await test.api.post('/v1/account/keys', { name: 'n' }, key, once('k'))
      const stolen = await test.api.post('/v1/account/keys', { name: 'n' }, second.key, once('k'))
      expect(stolen.status).toBe(422)
      expect(stolen.text).not.toContain(created.body.api_key)
    })
  })

  it('shows a key that is bound to an agent nothing that another key was answered', async () => {
    const { key } = await newAccount()
    const bound = await test.createKey(key, { agent_id: 'b' })
    const { clearance_id } = (await test.api.post(CLEAR, clearBody, key)).body
    const released = await test.api.post('/v1/budget/release', { clearance_id }, key, once('k'))
    const peek = await test.api.post('/v1/budget/release', { clearance_id }, bound.key, once('k'))
    expect([released.status, peek.status]).toEqual([200, 422])
  })

  describe('after a crash between the work and its answer', () => {
    it('holds the key for its lease, then finds the clearance: no second op, no second hold', async () => {
      const { key, accountId } = await newAccount()
      const first = await test.api.post(CLEAR, clearBody, key, once('k'))
      const lease = test.clock.now() + 30_000
      await forgetResponses(accountId)
      await test.database.sql.unsafe('update idempotent_requests set lease_ms = $2 where account_id = $1', [
        accountId,
        String(lease),
      ])
      expect(await test.api.post(CLEAR, clearBody, key, once('k'))).toMatchObject({ status: 409 })
      test.clock.advance(30_000)
      const taken = await test.api.post(CLEAR, clearBody, key, once('k'))
      expect(taken.body).toEqual(first.body)
      expect(isReplay(taken)).toBe(false)
      expect(isReplay(await test.api.post(CLEAR, clearBody, key, once('k')))).toBe(true)
      expect(await state(key)).toEqual({ ops: 99, spent: 1 })
      expect(await test.database.sql.unsafe('select 1 from holds where account_id = $1', [accountId])).toHaveLength(1)
    })

    it('clears when the first run did not come that far', async () => {
      const { key, accountId } = await newAccount()
      await test.api.post(CLEAR, clearBody, key, once('k'))
      await forgetResponses(accountId)
      await test.database.sql.unsafe('update idempotent_requests set operation_id = $2 where account_id = $1', [
        accountId,
        uuidv7(NOON),
      ])
      expect((await test.api.post(CLEAR, clearBody, key, once('k'))).body).toMatchObject({
        approved: true,
        operations_remaining: 98,
      })
    })

    it('lets one of many take it up', async () => {
      const { key, accountId } = await newAccount()
      await test.api.post(CLEAR, clearBody, key, once('k'))
      await forgetResponses(accountId)
      const answers = await Promise.all(Array.from({ length: 50 }, () => test.api.post(CLEAR, clearBody, key, once('k'))))
      expect(answers.filter((answer) => answer.status === 200 && !isReplay(answer))).toHaveLength(1)
      expect(await state(key)).toEqual({ ops: 99, spent: 1 })
    })

    it('reconciles the clearance that the first run took, not the next one', async () => {
      const { key, accountId } = await newAccount()
      await test.api.post(CLEAR, clearBody, key)
      await test.api.post(CLEAR, { ...clearBody, estimated_tokens: 80_000 }, key)
      const usage = { agent_id: 'a', actual_input_tokens: 0, actual_output_tokens: 20_000 }
      const first = await test.api.post('/v1/budget/reconcile', usage, key, once('k'))
      expect(first.body).toMatchObject({ drift_usd: -1.5 })
      await forgetResponses(accountId)
      const again = await test.api.post('/v1/budget/reconcile', usage, key, once('k'))
      expect(again.body).toEqual({ ...first.body, replayed: true })
      expect(await state(key)).toEqual({ ops: 98, spent: 1.5 })
    })

    it('releases once', async () => {
      const { key, accountId } = await newAccount()
      const { clearance_id } = (await test.api.post(CLEAR, clearBody, key)).body
      const first = await test.api.post('/v1/budget/release', { clearance_id }, key, once('k'))
      await forgetResponses(accountId)
      const again = await test.api.post('/v1/budget/release', { clearance_id }, key, once('k'))
      expect(again.body).toEqual({ ...first.body, replayed: true })
    })

    it('grants the operator once', async () => {
      const { key } = await newAccount()
      const grant = () => test.api.admin('/v1/admin/seed', { api_key: key, operations: 5 }, once(`grant ${key}`))
      const first = await grant()
      expect(first.body).toMatchObject({ credited_ops: 5, operations_remaining: 105 })
      await test.database.sql.unsafe(
        "update idempotent_requests set status = null, response = null, lease_ms = 0 where key like 'grant%'",
      )
      expect((await grant()).body).toEqual(first.body)
      expect(isReplay(await grant())).toBe(true)
      expect(await state(key)).toMatchObject({ ops: 105 })
      const rows = await test.database.sql.unsafe('select * from idempotent_requests where key = $1', [`grant ${key}`])
      expect(String(rows[0]!.response)).not.toContain(ADMIN_SECRET)
    })

    it('makes one key; the one that it answers works, and no other does', async () => {
      const { key, accountId } = await newAccount()
      const first = await test.api.post('/v1/account/keys', { name: 'n' }, key, once('k'))
      await forgetResponses(accountId)
      const again = await test.api.post('/v1/account/keys', { name: 'n' }, key, once('k'))
      expect(again.status).toBe(201)
      expect(again.body.key_id).toBe(first.body.key_id)
      const { keys } = (await test.api.get('/v1/account/keys', key)).body
      expect(keys.filter(({ name }) => name === 'n')).toHaveLength(1)
      expect((await test.api.get('/v1/account', again.body.api_key)).status).toBe(200)
      expect((await test.api.get('/v1/account', first.body.api_key)).status).toBe(401)
    })

    it('sets and deletes envelopes as the first run did, also when they have been changed since', async () => {
      const { key, accountId } = await newAccount()
      const set = () => test.api.put('/v1/budget/envelope', { agent_id: 'b', limit_usd: 5 }, key, once('set'))
      const remove = () => test.api.delete(envelopePath('b'), key, once('remove'))
      const first = await set()
      const removed = await remove()
      await test.api.put('/v1/budget/envelope', { agent_id: 'b', limit_usd: 7 }, key)
      await forgetResponses(accountId)
      expect((await set()).body).toEqual(first.body)
      expect((await remove()).body).toEqual(removed.body)
      expect((await test.api.get(envelopePath('b'), key)).body).toMatchObject({ limit_usd: 7 })
    })

    it.each(['revoke_key', 'delete_rate_envelope'])('answers the success of %s that the first run had', async (operation) => {
      const { key, accountId } = await newAccount()
      const share = { agent_id: 'a', provider: 'p', model: 'm', requests_per_minute: 5 }
      await test.api.put('/v1/rate/envelope', share, key)
      const { keyId } = await test.createKey(key, {})
      const path = operation === 'revoke_key' ? `/v1/account/keys/${keyId}` : '/v1/rate/envelope/a/p/m'
      const first = await test.api.delete(path, key, once('k'))
      expect(first.status).toBe(200)
      await forgetResponses(accountId)
      const again = await test.api.delete(path, key, once('k'))
      expect(again.status).toBe(200)
      expect(again.body).toEqual(first.body)
    })
  })

  describe('the guard itself', () => {
    const request = (key: string) => ({
      accountId: uuidv7(NOON),
      key,
      operation: 'o',
      input: { a: 1 },
      boundTo: null,
      sealWith: undefined,
    })
    const ok: OperationResult = { status: 200, body: { done: true } }
    const newGuard = (processId: string | null = null) => {
      const clock = new ManualClock(NOON)
      const { database } = test
      const presence = new Presence({ database, log: createLog('silent') })
      const as = { processId, isGone: presence.isGone.bind(presence) }
      return { clock, guard: new IdempotencyService({ database, clock, presence: as }, QUEUE) }
    }
    const isRunning = (accountId: string) =>
      expect
        .poll(() => test.database.sql.unsafe('select 1 from idempotent_requests where account_id = $1', [accountId]))
        .toHaveLength(1)
    const failing = (error: Error) => async (): Promise<OperationResult> => {
      throw error
    }

    it('answers 409 while the first runs', async () => {
      const { guard } = newGuard()
      const same = request('k')
      let finish: (result: OperationResult) => void = () => {}
      const first = guard.once(same, () => new Promise((resolve) => (finish = resolve)))
      await isRunning(same.accountId)
      await expect(guard.once(same, failing(new Error('ran twice')))).rejects.toMatchObject({ code: 'idempotency_conflict' })
      finish(ok)
      expect(await first).toEqual(ok)
      expect(await guard.once(same, failing(new Error('ran twice')))).toEqual({ ...ok, replayed: true })
    })

    it('frees the key of a request that was refused before it began', async () => {
      const { guard } = newGuard()
      for (const code of ['overloaded', 'rate_limited'] as const) {
        const same = request(code)
        await expect(guard.once(same, failing(new DomainError(code)))).rejects.toMatchObject({ code })
        let ids: unknown[] = []
        await guard.once(same, async (...given) => {
          ids = given
          return ok
        })
        expect(ids[1]).toBe(false)
      }
    })

    it('takes up at once, under the same id, what failed nobody knows how far', async () => {
      const { guard } = newGuard()
      for (const error of [new Error('bug'), new DomainError('database_unavailable')]) {
        const same = request(error.message)
        const ids: string[] = []
        const run = (answer: () => Promise<OperationResult>) => async (id: string, resumed: boolean) => {
          ids.push(`${id} ${resumed}`)
          return await answer()
        }
        await expect(guard.once(same, run(failing(error)))).rejects.toBe(error)
        await guard.once(
          same,
          run(async () => ok),
        )
        expect(ids).toEqual([expect.stringMatching(/ false$/), ids[0]!.replace('false', 'true')])
      }
    })

    it('takes it up as soon as a database that was away can be told so, not after the lease', async () => {
      const { guard } = newGuard()
      const same = request('k')
      const { sql } = test.database
      const broken = guard.once(same, async () => {
        await sql.unsafe('alter table idempotent_requests rename to away')
        throw new DomainError('database_unavailable')
      })
      await expect(broken).rejects.toMatchObject({ code: 'database_unavailable' })
      await sql.unsafe('alter table away rename to idempotent_requests')
      const again = () =>
        guard
          .once(same, async (_id, resumed) => ({ status: 200, body: { resumed } }))
          .then(
            ({ body }) => body,
            (error: unknown) => error,
          )
      await expect.poll(again).toEqual({ resumed: true })
    })

    it('replays what was answered while the database could not store it', async () => {
      const { guard } = newGuard()
      const same = request('k')
      const { sql } = test.database
      const first = await guard.once(same, async () => {
        await sql.unsafe('alter table idempotent_requests rename to away')
        return ok
      })
      await sql.unsafe('alter table away rename to idempotent_requests')
      const again = () => guard.once(same, failing(new Error('ran twice'))).catch((error: unknown) => error)
      await expect.poll(again).toEqual({ ...first, replayed: true })
    })

    it('does not forget an interrupted run because the one that took it up was refused', async () => {
      const { guard } = newGuard()
      const same = request('k')
      const seen: string[] = []
      const run = (error: Error | null) => async (id: string, resumed: boolean) => {
        seen.push(`${id} ${resumed}`)
        if (error) throw error
        return ok
      }
      await guard.once(same, run(new Error('did the work, then broke'))).catch(() => {})
      await guard.once(same, run(new DomainError('overloaded'))).catch(() => {})
      await guard.once(same, run(null))
      const id = seen[0]!.split(' ')[0]
      expect(seen).toEqual([`${id} false`, `${id} true`, `${id} true`])
    })

    it('does not let a run that lost its lease overwrite the answer of the one that took over', async () => {
      const { guard, clock } = newGuard()
      const same = request('k')
      let wake: (result: OperationResult) => void = () => {}
      const sleeper = guard.once(same, () => new Promise((resolve) => (wake = resolve)))
      await isRunning(same.accountId)
      clock.advance(30_000)
      await guard.once(same, async () => ({ status: 200, body: { by: 'the second' } }))
      wake({ status: 200, body: { by: 'the sleeper' } })
      await sleeper
      expect((await guard.once(same, failing(new Error('no')))).body).toEqual({ by: 'the second' })
    })

    describe('of a process that others see', () => {
      const [runner, witness] = [randomUUID(), randomUUID()]
      /** How long ago the runner was last seen. The witness was all the time. */
      const seen = (ago_ms: number) =>
        test.database.sql.unsafe(
          `insert into processes select id, t - 9000, t - ago from (select (extract(epoch from clock_timestamp()) * 1000)::bigint t) now,
             (values ($1::uuid, $2::bigint), ($3::uuid, 0)) u(id, ago)
           on conflict (process_id) do update set seen_ms = excluded.seen_ms, since_ms = excluded.since_ms`,
          [runner, String(ago_ms), witness],
        )
      const begin = async (same: ReturnType<typeof request>) => {
        let finish: (result: OperationResult | Error) => void = () => {}
        let id = ''
        const answer = newGuard(runner).guard.once(same, async (operationId) => {
          id = operationId
          const result = await new Promise<OperationResult | Error>((resolve) => (finish = resolve))
          if (result instanceof Error) throw result
          return result
        })
        answer.catch(() => {})
        await expect.poll(() => id).not.toBe('')
        return { id, answer, finish: (result: OperationResult | Error) => finish(result) }
      }

      it('runs a request for as long as the process lives', async () => {
        const same = request('k')
        await seen(0)
        const { finish, answer } = await begin(same)
        const { guard, clock } = newGuard(witness)
        clock.advance(29_999)
        await seen(4_000)
        await expect(guard.once(same, failing(new Error('ran twice')))).rejects.toMatchObject({ code: 'idempotency_conflict' })
        finish(ok)
        expect(await answer).toEqual(ok)
        expect(await guard.once(same, failing(new Error('ran twice')))).toEqual({ ...ok, replayed: true })
      })

      it('takes it up at once when the process is gone: one of many, under the same id', async () => {
        const same = request('k')
        await seen(0)
        const { id } = await begin(same)
        await seen(6_000)
        const runs: unknown[] = []
        const answers = await Promise.allSettled(
          Array.from({ length: 20 }, () =>
            newGuard(witness).guard.once(same, async (...given) => {
              runs.push(given)
              return ok
            }),
          ),
        )
        expect(runs).toEqual([[id, true]])
        for (const answer of answers) {
          if (answer.status === 'rejected') expect(answer.reason).toMatchObject({ code: 'idempotency_conflict' })
        }
        expect(await newGuard().guard.once(same, failing(new Error('ran twice')))).toEqual({ ...ok, replayed: true })
      })

      it('waits for the lease of a request that names no process', async () => {
        const same = request('k')
        await seen(6_000)
        const { finish } = await begin(same)
        await test.database.sql.unsafe('update idempotent_requests set process_id = null where account_id = $1', [same.accountId])
        const { guard, clock } = newGuard(witness)
        clock.advance(29_999)
        await expect(guard.once(same, failing(new Error('ran twice')))).rejects.toMatchObject({ code: 'idempotency_conflict' })
        clock.advance(1)
        expect(await guard.once(same, async () => ok)).toEqual(ok)
        finish(ok)
      })

      it.each([
        ['a result', { status: 200, body: { by: 'the sleeper' } }],
        ['a refusal', new DomainError('not_found')],
      ])('that comes back with %s gives the answer of the one that took over', async (_, late) => {
        const same = request('k')
        await seen(0)
        const { finish, answer } = await begin(same)
        await seen(6_000)
        const second = { status: 200, body: { by: 'the second' } }
        expect(await newGuard(witness).guard.once(same, async () => second)).toEqual(second)
        finish(late)
        expect(await answer).toEqual({ ...second, replayed: true })
      })

      it('that comes back before the one that took over is done has no answer yet', async () => {
        const same = request('k')
        await seen(0)
        const { finish, answer } = await begin(same)
        await seen(6_000)
        let end: ((result: OperationResult) => void) | undefined
        const second = newGuard(witness).guard.once(same, () => new Promise((resolve) => (end = resolve)))
        await expect.poll(() => end).toBeDefined()
        finish({ status: 200, body: { by: 'the sleeper' } })
        await expect(answer).rejects.toMatchObject({ code: 'idempotency_conflict' })
        end?.(ok)
        expect(await second).toEqual(ok)
        expect(await newGuard().guard.once(same, failing(new Error('ran twice')))).toEqual({ ...ok, replayed: true })
      })

      it('keeps what it was slow to begin when nobody took it up', async () => {
        const same = request('k')
        const { guard, clock } = newGuard(runner)
        const answer = guard.once(same, async (_id, resumed) => ({ status: 200, body: { resumed } }))
        clock.advance(20_000)
        expect(await answer).toEqual({ status: 200, body: { resumed: false } })
        expect(await guard.once(same, failing(new Error('ran twice')))).toMatchObject({
          body: { resumed: false },
          replayed: true,
        })
        const [row] = await test.database.sql.unsafe('select * from idempotent_requests where account_id = $1', [same.accountId])
        // From when it went on; and what is done belongs to no process.
        expect(row).toMatchObject({ lease_ms: BigInt(NOON + 50_000), process_id: null })
      })
    })

    it('does not free the key of a request that another process has taken over', async () => {
      const { guard, clock } = newGuard()
      const same = request('k')
      let wake: (error: Error) => void = () => {}
      const sleeper = guard.once(same, () => new Promise((_, reject) => (wake = reject)))
      await isRunning(same.accountId)
      clock.advance(30_000)
      let finish: ((result: OperationResult) => void) | undefined
      const taken = guard.once(same, () => new Promise((resolve) => (finish = resolve)))
      await expect.poll(() => finish).toBeDefined()
      wake(new DomainError('overloaded'))
      await expect(sleeper).rejects.toMatchObject({ code: 'overloaded' })
      finish?.(ok)
      expect(await taken).toEqual(ok)
      expect(await guard.once(same, failing(new Error('ran twice')))).toEqual({ ...ok, replayed: true })
    })

    it('purges answers that have expired', async () => {
      const { guard, clock } = newGuard()
      clock.advance(400 * DAY)
      while ((await guard.purge(1000)) > 0);
      const same = request('k')
      await guard.once(same, async () => ok)
      expect(await guard.purge(10)).toBe(0)
      clock.advance(DAY)
      expect(await guard.purge(10)).toBe(1)
    })
  })

  it('keeps the books, and keys only as hashes', async () => {
    expect((await verifyBalances(test.database)).differences).toEqual([])
    const { key } = await test.createAccount()
    const [row] = await test.database.sql.unsafe('select key_hash from api_keys where key_hash = $1', [hashOf(key)])
    expect(row?.key_hash).toEqual(hashOf(key))
    expect(test.logged).toEqual([])
  })
})
