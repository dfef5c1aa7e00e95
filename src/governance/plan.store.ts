import type { Nanousd } from '../core/money.ts'
import type { QuerySql } from '../db/client.ts'

export type PlanSnapshot = { readonly sql: QuerySql; readonly prepare: boolean }
export type PlannedHold = {
  readonly accountId: string
  readonly holdId: string
  readonly agentId: string
  readonly isBooking: boolean
  /** The model, or `resource_type:action` of a booking. */
  readonly model: string
  readonly estimate: Nanousd
  /** What it counts as now: its actual cost, nothing when released, else its estimate. */
  readonly counted: Nanousd
  readonly takenMs: number
  /** The most tokens it can have asked for, if all of its estimate was for them: how many were input is not stored. */
  readonly mostTokens: number
}
export type Position = { readonly accountId: string; readonly holdId: string }

const PICO_PER_NANO = 1_000n
/** `holds.kind` of a booking (budgets room). A call that was forwarded in an outage is booked too, with how it ended. */
const BOOKING = 1

/** Approved spends of every account from a moment on, by account and then as they came; a page of them. */
export async function nextHolds(
  { sql, prepare }: PlanSnapshot,
  from: { from_ms: number; firstId: string },
  after: Position,
  limit: number,
): Promise<PlannedHold[]> {
  const rows = await sql.unsafe(
    `select account_id, hold_id, agent_id, kind = ${BOOKING} and coalesce(detail, '') not like '{"end":%' as is_booking, model, estimate_nanousd, rates, taken_ms,
       case state when 1 then coalesce(actual_nanousd, estimate_nanousd) when 2 then 0 else estimate_nanousd end as counted
     from holds where (account_id, hold_id) > ($1::uuid, $2::uuid) and hold_id >= $3::uuid and taken_ms >= $4::bigint
     order by account_id, hold_id limit $5::int`,
    [after.accountId, after.holdId, from.firstId, String(from.from_ms), String(limit)],
    { prepare },
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    holdId: row.hold_id as string,
    agentId: row.agent_id as string,
    isBooking: row.is_booking as boolean,
    model: row.model as string,
    estimate: row.estimate_nanousd as bigint,
    counted: row.counted as bigint,
    takenMs: Number(row.taken_ms),
    mostTokens: mostTokens(row.rates as string, row.estimate_nanousd as bigint),
  }))
}

/** Rates are pico-dollars per token, input first, then output; input-only models have the former alone. Bookings have none. */
function mostTokens(rates: string, estimate: Nanousd): number {
  const [input = 0n, output = 0n] = rates.split(',').map(BigInt)
  const rate = output > 0n ? output : input
  return rate === 0n ? 0 : Number((estimate * PICO_PER_NANO) / rate)
}

/** How many were denied already from a moment on. */
export async function countDenials({ sql, prepare }: PlanSnapshot, from_ms: number): Promise<number> {
  const [row] = await sql.unsafe(
    'select count(*)::float8 as denied from denials where denied_ms >= $1::bigint',
    [String(from_ms)],
    {
      prepare,
    },
  )
  return Number(row?.denied)
}
