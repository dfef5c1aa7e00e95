import type { Database } from '../db/client.ts'
import { ENVELOPE_COLUMNS, envelopeOf } from './rows.store.ts'
import type { EnvelopeState, HoldState } from './state.ts'
import { HOLD_STATE } from './tables.ts'

/** Most holds looked at of one account: its newest. */
const MAX_HOLDS = 2_000
/** Most unresolved holds counted. */
const MAX_COUNTED = 50_000

type CheckedHold = Pick<
  HoldState,
  'holdId' | 'agentId' | 'kind' | 'state' | 'estimate' | 'actual' | 'charged' | 'takenMs' | 'takenVersion' | 'expiresMs'
>
/** One account at one moment. */
export type CheckedAccount = {
  readonly version: bigint
  readonly envelopes: readonly { readonly agentId: string; readonly envelope: EnvelopeState }[]
  readonly holds: readonly CheckedHold[]
  /** By agent: the last version that changed its limits since the oldest of the holds. */
  readonly limitChanges: ReadonlyMap<string, bigint>
  /** By hold: how often its end was booked. */
  readonly resolutions: ReadonlyMap<string, number>
}

/** Accounts in key order with their versions. */
export async function nextChecked(
  { sql, prepare }: Database,
  after: string,
  limit: number,
): Promise<{ accountId: string; version: bigint }[]> {
  const rows = await sql.unsafe(
    'select account_id, version from accounts where account_id > $1::uuid order by account_id limit $2::int',
    [after, String(limit)],
    { prepare },
  )
  return rows.map((row) => ({ accountId: row.account_id as string, version: row.version as bigint }))
}

export async function readAccount({ sql, prepare }: Database, accountId: string): Promise<CheckedAccount | null> {
  return await sql.begin('isolation level repeatable read read only', async (tx) => {
    const query = (text: string, ...more: string[]) => tx.unsafe(text, [accountId, ...more], { prepare })
    const [account] = await query('select version from accounts where account_id = $1::uuid')
    if (account === undefined) return null
    const envelopes = await query(
      `select e.agent_id, ${ENVELOPE_COLUMNS} from envelopes e where e.account_id = $1::uuid and coalesce(e.limit_hourly_nanousd,
         e.limit_daily_nanousd, e.limit_weekly_nanousd, e.limit_monthly_nanousd, e.limit_session_nanousd) is not null`,
    )
    const holds = await query(
      `select hold_id, agent_id, kind, state, estimate_nanousd, actual_nanousd, charged, taken_ms, taken_version, expires_ms from holds
       where account_id = $1::uuid and taken_version >= 0 order by taken_version desc, hold_id desc limit ${MAX_HOLDS}`,
    )
    const oldest = (holds.at(-1)?.taken_version as bigint | undefined) ?? account.version
    const entries = await query(
      `select kind, agent_id, hold_id, max(version) as version, count(*) as entries from ledger
       where account_id = $1::uuid and version >= 0 and version >= $2::bigint and kind in ('settle', 'release', 'limit', 'approval')
       group by kind, agent_id, hold_id`,
      String(oldest),
    )
    const limitChanges = new Map<string, bigint>()
    const resolutions = new Map<string, number>()
    for (const { hold_id, agent_id, version, entries: count } of entries) {
      if (hold_id !== null) resolutions.set(hold_id, (resolutions.get(hold_id) ?? 0) + Number(count))
      else if (agent_id !== null && version > (limitChanges.get(agent_id) ?? -1n)) limitChanges.set(agent_id, version)
    }
    return {
      version: account.version as bigint,
      envelopes: envelopes.map((row) => ({ agentId: row.agent_id as string, envelope: envelopeOf(row) })),
      holds: holds.map((row) => ({
        holdId: row.hold_id as string,
        agentId: row.agent_id as string,
        kind: row.kind as HoldState['kind'],
        state: row.state as HoldState['state'],
        estimate: row.estimate_nanousd as bigint,
        actual: row.actual_nanousd as bigint | null,
        charged: row.charged as string,
        takenMs: Number(row.taken_ms),
        takenVersion: row.taken_version as bigint,
        expiresMs: Number(row.expires_ms),
      })),
      limitChanges,
      resolutions,
    }
  })
}

/** Holds that nobody has resolved, counted up to a bound. */
export async function countUnresolved({ sql, prepare }: Database, now_ms: number): Promise<{ open: number; expired: number }> {
  const [row] = await sql.unsafe(
    `select count(*) filter (where expires_ms > $1::bigint) as open, count(*) filter (where expires_ms <= $1::bigint) as expired
     from (select expires_ms from holds where state = ${HOLD_STATE.open} limit ${MAX_COUNTED}) h`,
    [String(now_ms)],
    { prepare },
  )
  return { open: Number(row?.open ?? 0), expired: Number(row?.expired ?? 0) }
}
