import { describe, expect, it } from 'vitest'
import { DecisionEngine } from '../../../src/budgets/engine.ts'
import { EnvelopeReader } from '../../../src/budgets/reader.ts'
import { BudgetService } from '../../../src/budgets/service.ts'
import { HOLD_KIND } from '../../../src/budgets/tables.ts'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import type { Database } from '../../../src/db/client.ts'
import { createCatalogue } from '../../../src/prices/catalogue.ts'
import { NOON, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const OPTIONS = { lanes: 1, maxBatch: 512, maxQueue: 10_000 }
const HOUR = 3_600_000
/** At $75 per million tokens, the output rate of an unknown model: $0.75 and $0.15. */
const OUTPUT_10K = {
  inputTokens: 0,
  outputTokens: 10_000,
  cachedInputTokens: 0,
  cacheWriteInputTokens: 0,
  cacheWrite1hInputTokens: 0,
}
const OUTPUT_2K = { ...OUTPUT_10K, outputTokens: 2_000 }
const call = () => ({ operationId: uuidv7(NOON), resumed: false })

function budgetsOf(database: Database, clock: ManualClock): BudgetService {
  const engine = new DecisionEngine({ database, clock }, OPTIONS)
  return new BudgetService({ engine, catalogue: createCatalogue(), database, clock })
}

/** Two processes on one account whose agent "a" has a day's cap of $2, with what a test looks at. */
async function setUp(database: Database) {
  const test = await openTestApp(database)
  const { accountId } = await test.createAccount(100)
  const clock = new ManualClock(NOON)
  const here = budgetsOf(database, clock)
  const there = budgetsOf(database, clock)
  await here.setEnvelope(accountId, call(), 'a', { daily: 2, session: 10 })
  const envelopes = new EnvelopeReader({ database, clock })
  const spent = async () => (await envelopes.get(accountId, 'a')).limits.map((limit) => Number(limit.spent) / 1e9)
  const reserve = (budgets: BudgetService, tokens = 10_000) =>
    budgets.clear(accountId, call(), {
      agentId: 'a',
      model: 'unknown-model',
      estimatedTokens: tokens,
      estimatedInputTokens: 0,
      hold_ms: 60_000,
      holdKind: HOLD_KIND.reservation,
    })
  const reserved = async (budgets: BudgetService, tokens?: number): Promise<string> => {
    const outcome = await reserve(budgets, tokens)
    if (!outcome.approved) throw new Error(`denied: ${outcome.reason}`)
    return outcome.holdId
  }
  const settle = (budgets: BudgetService, reservationId: string, usage = OUTPUT_2K) =>
    budgets.settleReservation(accountId, call(), { agentId: 'a', reservationId, usage, detail: 'reported' })
  const isRight = async () => expect((await verifyBalances(database)).differences).toEqual([])
  return { accountId, clock, here, there, spent, reserve, reserved, settle, isRight }
}

describeEachDatabase('kinds of holds', (openTestDatabase) => {
  describe('a booking', () => {
    it('is spent as it is made, burns one op and cannot be settled or released', async () => {
      const { accountId, here, there, spent, isRight } = await setUp(await openTestDatabase())
      const purchase = { agentId: 'a', label: 'api_call:search', cost: 1_500_000_000n, detail: '{"q":"x"}' }
      const booked = await here.book(accountId, call(), purchase)
      expect(booked).toMatchObject({ approved: true, remaining: 500_000_000n, ops: 99n })
      expect(await spent()).toEqual([1.5, 1.5])
      expect(await there.book(accountId, call(), purchase)).toMatchObject({
        approved: false,
        reason: 'envelope_exceeded',
        remaining: 500_000_000n,
        shortfall: 1_000_000_000n,
      })
      const { holdId } = booked as { holdId: string }
      await expect(here.release(accountId, call(), { clearanceId: holdId, boundTo: null })).rejects.toMatchObject({
        code: 'no_pending_clearance',
      })
      for (const clearanceId of [holdId, null])
        await expect(here.reconcile(accountId, call(), { agentId: 'a', clearanceId, usage: OUTPUT_2K })).rejects.toMatchObject({
          code: 'no_pending_clearance',
        })
      await isRight()
    })

    it('taken up again after a crash is made once', async () => {
      const { accountId, here, there, spent, isRight } = await setUp(await openTestDatabase())
      const { operationId } = call()
      const purchase = { agentId: 'a', label: 'compute', cost: 1_000_000_000n, detail: '{}' }
      await here.book(accountId, { operationId, resumed: false }, purchase)
      expect(await there.book(accountId, { operationId, resumed: true }, purchase)).toMatchObject({ approved: true, ops: 99n })
      expect(await spent()).toEqual([1, 1])
      await isRight()
    })
  })

  describe('a reservation', () => {
    it('is no clearance: reconcile and release of the callers do not find it', async () => {
      const { accountId, here, reserved } = await setUp(await openTestDatabase())
      const id = await reserved(here)
      for (const clearanceId of [id, null])
        await expect(here.reconcile(accountId, call(), { agentId: 'a', clearanceId, usage: OUTPUT_2K })).rejects.toMatchObject({
          code: 'no_pending_clearance',
        })
      await expect(here.release(accountId, call(), { clearanceId: id, boundTo: null })).rejects.toMatchObject({
        code: 'no_pending_clearance',
      })
    })

    it('is settled with what was used, from any process, once, and later settlements answer the same', async () => {
      const { here, there, reserved, settle, spent, isRight } = await setUp(await openTestDatabase())
      const id = await reserved(here)
      expect(await spent()).toEqual([0.75, 0.75])
      expect(await settle(there, id)).toMatchObject({ replayed: false, drift: -600_000_000n })
      expect(await settle(here, id, OUTPUT_10K)).toMatchObject({ replayed: true, drift: -600_000_000n })
      expect(await spent()).toEqual([0.15, 0.15])
      await isRight()
    })

    it('counts at its estimate when its process is gone, and is settled late when it is not', async () => {
      const { here, reserved, settle, spent, clock, isRight } = await setUp(await openTestDatabase())
      const id = await reserved(here)
      clock.advance(HOUR)
      expect(await spent()).toEqual([0.75, 0.75])
      await settle(here, id)
      expect(await spent()).toEqual([0.15, 0.15])
      await isRight()
    })

    it('is settled or released in the very batch in which it is renewed', async () => {
      const { accountId, here, reserved, settle, spent, isRight } = await setUp(await openTestDatabase())
      const renew = (id: string) => here.renew(accountId, call(), id, 90_000)
      for (const end of [(id: string) => settle(here, id), (id: string) => here.releaseReservation(accountId, call(), id)]) {
        const id = await reserved(here)
        // What is asked for in one turn of the event loop is decided in one batch.
        const [first, again, , late] = await Promise.all([renew(id), renew(id), end(id), renew(id)])
        expect([first, again, late]).toEqual([true, true, false])
        await isRight()
        expect(await renew(id)).toBe(false)
        expect(await end(id)).toMatchObject({ replayed: true })
      }
      expect(await spent()).toEqual([0.15, 0.15])
    })

    it('is renewed while it is open, never shortened, and not any more once it is resolved', async () => {
      const database = await openTestDatabase()
      const { accountId, here, there, reserved, settle, clock } = await setUp(database)
      const id = await reserved(here)
      const expiry = async () => {
        const [row] = await database.sql.unsafe('select expires_ms from holds where hold_id = $1', [id])
        return Number(row?.expires_ms) - NOON
      }
      expect(await here.renew(accountId, call(), id, 30_000)).toBe(true)
      expect(await expiry()).toBe(60_000)
      clock.advance(50_000)
      expect(await there.renew(accountId, call(), id, 60_000)).toBe(true)
      expect(await expiry()).toBe(110_000)
      await settle(here, id)
      expect(await there.renew(accountId, call(), id, 60_000)).toBe(false)
    })
  })

  describe('setting windows back', () => {
    it('forgets what was spent in them, and what becomes of clearances taken before', async () => {
      const { accountId, here, there, reserved, settle, spent, isRight } = await setUp(await openTestDatabase())
      const before = await reserved(here)
      const released = await reserved(there)
      expect(await spent()).toEqual([1.5, 1.5])
      await there.reset(accountId, call(), 'a', ['daily'], 'operator')
      expect(await spent()).toEqual([0, 1.5])
      const after = await reserved(here)
      await settle(here, before)
      await there.releaseReservation(accountId, call(), released)
      // The day counts what came after; the session still counts all.
      expect(await spent()).toEqual([0.75, 0.9])
      await settle(there, after)
      expect(await spent()).toEqual([0.15, 0.3])
      await isRight()
    })

    it('in the same batch as a clearance keeps that clearance counted', async () => {
      const { accountId, here, reserve, spent, isRight } = await setUp(await openTestDatabase())
      await Promise.all([reserve(here), here.reset(accountId, call(), 'a', ['daily', 'session'], ''), reserve(here)])
      expect(await spent()).toEqual([1.5, 1.5])
      await isRight()
    })

    it('survives new limits, and is refused for an agent that never had any', async () => {
      const { accountId, here, there, reserved, settle, spent, isRight } = await setUp(await openTestDatabase())
      const before = await reserved(here)
      await here.reset(accountId, call(), 'a', ['daily'], '')
      await there.setEnvelope(accountId, call(), 'a', { daily: 3, session: 10 })
      await settle(there, before)
      expect(await spent()).toEqual([0, 0.15])
      await expect(here.reset(accountId, call(), 'nobody', ['daily'], '')).rejects.toMatchObject({ code: 'not_found' })
      await isRight()
    })
  })

  describe('suspending', () => {
    it('stops everything at and below a path with the next decision of any process, until it is resumed', async () => {
      const { accountId, here, there, reserve, isRight } = await setUp(await openTestDatabase())
      expect(await reserve(there)).toMatchObject({ approved: true })
      expect(await here.setSuspended(accountId, call(), 'a', true, 'looping')).toBe(true)
      expect(await here.setSuspended(accountId, call(), 'a', true, 'again')).toBe(false)
      expect(await reserve(there)).toMatchObject({ approved: false, reason: 'suspended', suspendedPath: 'a' })
      await there.setEnvelope(accountId, call(), 'a', { daily: 9 })
      expect(await reserve(here)).toMatchObject({ reason: 'suspended' })
      expect(await there.setSuspended(accountId, call(), 'a', false, '')).toBe(true)
      expect(await reserve(here)).toMatchObject({ approved: true })
      await here.setSuspended(accountId, call(), '*', true, '')
      expect(await reserve(there)).toMatchObject({ reason: 'suspended', suspendedPath: '*' })
      await isRight()
    })
  })
})
