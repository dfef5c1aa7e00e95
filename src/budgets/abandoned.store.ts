import type { LaneSql } from './rows.store.ts'
import { HOLD_KIND, HOLD_STATE } from './tables.ts'

export type AbandonedReservation = {
  readonly accountId: string
  readonly holdId: string
  readonly agentId: string
  readonly estimate: bigint
}

/** Reservations that expired before a moment and are still open, the oldest first, at most `limit`. */
export async function listAbandoned(
  { sql, prepare }: LaneSql,
  before_ms: number,
  limit: number,
): Promise<AbandonedReservation[]> {
  const rows = await sql.unsafe(
    `select account_id, hold_id, agent_id, estimate_nanousd from holds
     where state = ${HOLD_STATE.open} and kind = ${HOLD_KIND.reservation} and expires_ms < $1::bigint order by expires_ms limit $2::int`,
    [String(before_ms), String(limit)],
    { prepare },
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    holdId: row.hold_id as string,
    agentId: row.agent_id as string,
    estimate: row.estimate_nanousd as bigint,
  }))
}
