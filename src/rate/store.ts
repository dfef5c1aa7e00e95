import { and, eq } from 'drizzle-orm'
import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import { type Runner, runnerOf } from '../db/runner.ts'
import { rateEnvelopes } from './tables.ts'

export type RateKey = { readonly accountId: string; readonly agentId: string; readonly provider: string; readonly model: string }
export type RateEnvelope = typeof rateEnvelopes.$inferSelect
export type RateDemand = RateKey & { readonly wanted: number }
/** How many of the wanted requests fit, and how many are left in the minute that began at `windowStartMs`. */
export type RateGrant = { readonly granted: number; readonly left: number; readonly windowStartMs: number }

const MINUTE = 60_000

/** Start of the minute that contains a moment, Unix ms. */
export const minuteOf = (at_ms: number): number => Math.floor(at_ms / MINUTE) * MINUTE

const whereKey = (key: RateKey) =>
  and(
    eq(rateEnvelopes.accountId, key.accountId),
    eq(rateEnvelopes.agentId, key.agentId),
    eq(rateEnvelopes.provider, key.provider),
    eq(rateEnvelopes.model, key.model),
  )

/** What is written together with a change, in its transaction. */
export type Alongside = (runner: Runner) => Promise<void>

/** Sets the share; the current minute's count stays. */
export async function upsertRateEnvelope(
  { orm }: Database,
  key: RateKey,
  requestsPerMinute: number,
  now_ms: number,
  alongside: Alongside,
): Promise<void> {
  await orm.transaction(async (tx) => {
    await tx
      .insert(rateEnvelopes)
      .values({ ...key, requestsPerMinute, windowStartMs: minuteOf(now_ms), requestsInWindow: 0 })
      .onConflictDoUpdate({
        target: [rateEnvelopes.accountId, rateEnvelopes.agentId, rateEnvelopes.provider, rateEnvelopes.model],
        set: { requestsPerMinute },
      })
    await alongside(runnerOf(tx))
  })
}

export async function findRateEnvelope({ orm }: Database, key: RateKey): Promise<RateEnvelope | undefined> {
  const [row] = await orm.select().from(rateEnvelopes).where(whereKey(key))
  return row
}

/** @returns false when there was none */
export async function deleteRateEnvelope({ orm }: Database, key: RateKey, alongside: Alongside): Promise<boolean> {
  return orm.transaction(async (tx) => {
    const rows = await tx.delete(rateEnvelopes).where(whereKey(key)).returning({ agentId: rateEnvelopes.agentId })
    if (rows.length > 0) await alongside(runnerOf(tx))
    return rows.length > 0
  })
}

/**
 * Counts a batch of demands, each for a different envelope, in one statement. Rows are locked in key order, so batches of several
 * processes cannot deadlock; a minute never runs backwards (`greatest`).
 * @returns one grant per demand in order, null where no envelope exists
 */
export async function takeRequests(
  { sql: raw, prepare }: Database,
  demands: readonly RateDemand[],
  now_ms: number,
): Promise<(RateGrant | null)[]> {
  const p = new Parameters()
  const minute = p.addOne('bigint', minuteOf(now_ms))
  const text = `with demand as (
  select * from unnest(${p.add(
    'integer',
    demands.map((_, index) => index),
    (index, a) => a.raw(index),
  )}, ${p.add('uuid', demands, (d, a) => a.raw(d.accountId))}, ${p.add('text', demands, (d, a) => a.text(d.agentId))}, ${p.add('text', demands, (d, a) => a.text(d.provider))}, ${p.add('text', demands, (d, a) => a.text(d.model))}, ${p.add('integer', demands, (d, a) => a.raw(d.wanted))}) d(position, account_id, agent_id, provider, model, wanted)
), locked as materialized (
  select r.account_id, r.agent_id, r.provider, r.model, d.position, d.wanted, r.requests_per_minute,
    greatest(r.window_start_ms, ${minute}) as window_start_ms, case when r.window_start_ms < ${minute} then 0 else r.requests_in_window end as used
  from rate_envelopes r join demand d on r.account_id = d.account_id and r.agent_id = d.agent_id and r.provider = d.provider and r.model = d.model
  order by r.account_id, r.agent_id, r.provider, r.model for no key update of r
), grants as (
  select *, greatest(0, least(wanted, requests_per_minute - used)) as granted from locked
), counted as (
  update rate_envelopes r set window_start_ms = g.window_start_ms, requests_in_window = g.used + g.granted
  from grants g where r.account_id = g.account_id and r.agent_id = g.agent_id and r.provider = g.provider and r.model = g.model
)
select position, granted, window_start_ms, requests_per_minute - used - granted as "left" from grants`
  const rows = await raw.unsafe(text, p.values(), { prepare })
  const byPosition = new Map(rows.map((row) => [Number(row.position), row]))
  return demands.map((_, position) => {
    const row = byPosition.get(position)
    return row === undefined
      ? null
      : { granted: Number(row.granted), left: Math.max(0, Number(row.left)), windowStartMs: Number(row.window_start_ms) }
  })
}
