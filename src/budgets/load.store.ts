import { ArrayLiteral } from '../db/array-literal.ts'
import {
  ACCOUNT_COLUMNS,
  accountOf,
  ENVELOPE_COLUMNS,
  envelopeOf,
  HOLD_COLUMNS,
  holdOf,
  type LaneSql,
  LIMITS,
  type LoadedAccount,
  query,
  type Row,
} from './rows.store.ts'
import type { ApprovalDecision, EnvelopeState, HoldState } from './state.ts'
import { HOLD_KIND, HOLD_STATE } from './tables.ts'

export type LoadedEnvelope = LoadedAccount & { readonly agentId: string; readonly envelope: EnvelopeState | null }
export type LoadedHold = LoadedAccount & { readonly hold: HoldState | null }
export type LoadedDecision = LoadedAccount & { readonly decision: ApprovalDecision | null }
export type Pair = readonly [accountId: string, key: string]

const pairLiterals = (pairs: readonly Pair[]): string[] => {
  const accounts = new ArrayLiteral()
  const keys = new ArrayLiteral()
  for (const [account, key] of pairs) {
    accounts.raw(account)
    keys.text(key)
  }
  return [accounts.close(), keys.close()]
}

const loadedHold = (row: Row): LoadedHold => ({ ...accountOf(row), hold: row.hold_id === null ? null : holdOf(row) })

/** The accounts and envelopes of (account, agent) pairs, each with its account's version. Accounts that do not exist are left out. */
export async function loadEnvelopes(lane: LaneSql, pairs: readonly Pair[]): Promise<LoadedEnvelope[]> {
  const rows = await query(
    lane,
    `select ${ACCOUNT_COLUMNS}, u.agent_id, ${ENVELOPE_COLUMNS}
     from unnest($1::uuid[], $2::text[]) u(account_id, agent_id)
     join accounts a on a.account_id = u.account_id
     left join envelopes e on e.account_id = u.account_id and e.agent_id = u.agent_id`,
    pairLiterals(pairs),
  )
  return rows.map((row) => ({
    ...accountOf(row),
    agentId: row.agent_id as string,
    envelope: row.envelope_clock_ms === null ? null : envelopeOf(row),
  }))
}

/** Holds by (account, hold id), each with its account's version. */
export async function loadHolds(lane: LaneSql, pairs: readonly Pair[]): Promise<LoadedHold[]> {
  const rows = await query(
    lane,
    `select ${ACCOUNT_COLUMNS}, ${HOLD_COLUMNS}
     from unnest($1::uuid[], $2::uuid[]) u(account_id, hold_id)
     join accounts a on a.account_id = u.account_id
     left join holds h on h.account_id = u.account_id and h.hold_id = u.hold_id`,
    pairLiterals(pairs),
  )
  return rows.map(loadedHold)
}

/** The newest open clearances of one agent, at most `count`, with the account's version. */
export async function loadLatestOpen(
  lane: LaneSql,
  accountId: string,
  agentId: string,
  now_ms: number,
  count: number,
): Promise<LoadedHold[]> {
  const rows = await query(
    lane,
    `select ${ACCOUNT_COLUMNS}, ${HOLD_COLUMNS}
     from accounts a left join lateral (
       select * from holds where account_id = $1 and agent_id = $2 and state = ${HOLD_STATE.open} and kind = ${HOLD_KIND.clearance} and expires_ms > greatest($3, a.clock_ms)
       order by taken_version desc, hold_id desc limit $4) h on true
     where a.account_id = $1`,
    [accountId, agentId, String(now_ms), String(count)],
  )
  return rows.map(loadedHold)
}

export type LoadedEntry = LoadedAccount & {
  readonly commandId: string
  readonly recorded: boolean
  /** The hold that it resolved. */
  readonly holdId: string | null
  /** The ops that it moved; 0 when it is not recorded. */
  readonly opsDelta: bigint
}

/** Which of these commands an interrupted earlier run has already recorded, as of the account's version. */
export async function loadLedgerEntries(lane: LaneSql, pairs: readonly Pair[]): Promise<LoadedEntry[]> {
  const rows = await query(
    lane,
    `select ${ACCOUNT_COLUMNS}, u.entry_id, l.entry_id is not null as recorded, l.hold_id, coalesce(l.ops_delta, 0) as ops_delta
     from unnest($1::uuid[], $2::uuid[]) u(account_id, entry_id)
     join accounts a on a.account_id = u.account_id
     left join ledger l on l.account_id = u.account_id and l.entry_id = u.entry_id`,
    pairLiterals(pairs),
  )
  return rows.map((row) => ({
    ...accountOf(row),
    commandId: row.entry_id as string,
    recorded: row.recorded as boolean,
    holdId: row.hold_id as string | null,
    opsDelta: row.ops_delta as bigint,
  }))
}

/** What was decided on approvals, by (account, approval id), each with its account's version. The ledger is where the first decision stands. */
export async function loadDecisions(lane: LaneSql, pairs: readonly Pair[]): Promise<LoadedDecision[]> {
  const rows = await query(
    lane,
    `select ${ACCOUNT_COLUMNS}, l.entry_id, l.detail, l.at_ms
     from unnest($1::uuid[], $2::uuid[]) u(account_id, entry_id)
     join accounts a on a.account_id = u.account_id
     left join ledger l on l.account_id = u.account_id and l.entry_id = u.entry_id`,
    pairLiterals(pairs),
  )
  return rows.map((row) => ({
    ...accountOf(row),
    decision:
      row.entry_id === null
        ? null
        : {
            ...(JSON.parse(row.detail as string) as Pick<ApprovalDecision, 'decision' | 'responder'>),
            approvalId: row.entry_id as string,
            decidedMs: Number(row.at_ms),
          },
  }))
}

export type EnvelopeFilter =
  | { readonly agentId: string }
  /** The next `count` in order of agent id after `after`; with `boundTo`, of that path and below. */
  | { readonly after: string; readonly count: number; readonly boundTo: string | null }

/**
 * An account's envelopes that have a limit, and those of `alsoPaths`, by agent id. With the account's clock: its decisions, and so its windows,
 * never run backwards behind it.
 */
export async function readEnvelopes(
  lane: LaneSql,
  accountId: string,
  filter: EnvelopeFilter,
  alsoPaths: readonly string[] = [],
): Promise<{ agentId: string; envelope: EnvelopeState; accountClockMs: number }[]> {
  const also = new ArrayLiteral()
  for (const path of alsoPaths) also.text(path)
  const [where, values] =
    'agentId' in filter
      ? ['e.agent_id = $3', [filter.agentId]]
      : filter.boundTo === null
        ? ['e.agent_id collate "C" > $3 order by e.agent_id collate "C" limit $4', [filter.after, String(filter.count)]]
        : [
            `e.agent_id collate "C" > $3 and (e.agent_id = $5 or starts_with(e.agent_id, $5 || '/')) order by e.agent_id collate "C" limit $4`,
            [filter.after, String(filter.count), filter.boundTo],
          ]
  const rows = await query(
    lane,
    `select e.agent_id, a.clock_ms, ${ENVELOPE_COLUMNS} from envelopes e join accounts a on a.account_id = e.account_id
     where e.account_id = $1 and (coalesce(${LIMITS}) is not null or e.agent_id = any($2::text[])) and ${where}`,
    [accountId, also.close(), ...values],
  )
  return rows.map((row) => ({
    agentId: row.agent_id as string,
    envelope: envelopeOf(row),
    accountClockMs: Number(row.clock_ms),
  }))
}
