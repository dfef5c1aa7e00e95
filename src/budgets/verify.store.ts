import type { QuerySql } from '../db/client.ts'
import { ENVELOPE_COLUMNS, envelopeOf } from './rows.store.ts'
import type { EnvelopeState } from './state.ts'
import { HOLD_KIND, HOLD_STATE } from './tables.ts'

/** A snapshot of one moment. Everything is read from it page by page, in key order. */
export type Snapshot = { readonly sql: QuerySql; readonly prepare: boolean }
/** Account ids, both ends included. */
export type AccountRange = { readonly first: string; readonly last: string }

export const MAX_UUID = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

type Row = Record<string, unknown>
const query = ({ sql, prepare }: Snapshot, text: string, values: string[]): Promise<Row[]> =>
  sql.unsafe(text, values, { prepare })

/** One account's quota as it stands, and what its ledger and its holds, each of which burned one op, add up to. */
export type QuotaRow = { readonly accountId: string; readonly ops: bigint; readonly expectedOps: bigint }

export async function nextQuotas(
  snapshot: Snapshot,
  { first, last }: AccountRange,
  after: { accountId: string },
  limit: number,
): Promise<QuotaRow[]> {
  const rows = await query(
    snapshot,
    `select a.account_id, a.ops, l.granted - h.burned as expected_ops
     from (select account_id, ops from accounts where account_id between $1 and $2 and account_id > $3 order by account_id limit $4) a,
       lateral (select coalesce(sum(ops_delta), 0)::bigint as granted from ledger where account_id = a.account_id) l,
       lateral (select count(*) as burned from holds where account_id = a.account_id) h
     order by a.account_id`,
    [first, last, after.accountId, String(limit)],
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    ops: row.ops as bigint,
    expectedOps: row.expected_ops as bigint,
  }))
}

export type EnvelopeRow = { readonly accountId: string; readonly agentId: string; readonly envelope: EnvelopeState }

export async function nextEnvelopes(
  snapshot: Snapshot,
  { first, last }: AccountRange,
  after: { accountId: string; agentId: string },
  limit: number,
): Promise<EnvelopeRow[]> {
  const rows = await query(
    snapshot,
    `select e.account_id, e.agent_id, ${ENVELOPE_COLUMNS} from envelopes e
     where e.account_id between $1 and $2 and (e.account_id, e.agent_id) > ($3, $4) order by e.account_id, e.agent_id limit $5`,
    [first, last, after.accountId, after.agentId, String(limit)],
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    agentId: row.agent_id as string,
    envelope: envelopeOf(row),
  }))
}

/** `counted`: what a hold weighs in the window instances in which it was taken. */
export type HoldRow = {
  readonly accountId: string
  readonly holdId: string
  readonly agentId: string
  readonly charged: string
  readonly takenMs: number
  readonly takenVersion: bigint
  readonly counted: bigint
}

export async function nextHolds(
  snapshot: Snapshot,
  { first, last }: AccountRange,
  after: { accountId: string; holdId: string },
  limit: number,
): Promise<HoldRow[]> {
  const rows = await query(
    snapshot,
    `select account_id, hold_id, agent_id, charged, taken_ms, taken_version,
       case state when ${HOLD_STATE.settled} then actual_nanousd when ${HOLD_STATE.released} then 0 else estimate_nanousd end as counted
     from holds where account_id between $1 and $2 and (account_id, hold_id) > ($3, $4) order by account_id, hold_id limit $5`,
    [first, last, after.accountId, after.holdId, String(limit)],
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    holdId: row.hold_id as string,
    agentId: row.agent_id as string,
    charged: row.charged as string,
    takenMs: Number(row.taken_ms),
    takenVersion: row.taken_version as bigint,
    counted: row.counted as bigint,
  }))
}

/** A resolved hold and its ledger entry that do not say the same; null where one of the two is missing. */
export type SettlementRow = {
  readonly accountId: string
  readonly holdId: string
  readonly drift: bigint | null
  readonly booked: bigint | null
}

/** Every hold that was resolved (a booking is when it is made) has exactly one ledger entry, of its drift, and every such entry has its hold. @returns those that have not */
export async function brokenSettlements(
  snapshot: Snapshot,
  { first, last }: AccountRange,
  limit: number,
): Promise<SettlementRow[]> {
  const rows = await query(
    snapshot,
    `select account_id, hold_id, h.drift, l.booked
     from (select account_id, hold_id, actual_nanousd - estimate_nanousd as drift from holds
           where state <> ${HOLD_STATE.open} and kind <> ${HOLD_KIND.booking} and account_id between $1 and $2) h
     full join (select account_id, hold_id, sum(amount_nanousd)::bigint as booked, count(*) as entries from ledger
           where kind in ('settle', 'release') and account_id between $1 and $2 group by account_id, hold_id) l using (account_id, hold_id)
     where h.drift is distinct from l.booked or l.entries <> 1 order by account_id, hold_id limit $3`,
    [first, last, String(limit)],
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    holdId: String(row.hold_id),
    drift: row.drift as bigint | null,
    booked: row.booked as bigint | null,
  }))
}
