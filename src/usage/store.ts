import { MAX_NANOUSD, type Nanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'

/** Most rows of an account that one question looks at, newest first. An answer that met the bound says so. */
export const MAX_HOLDS = 200_000
const MAX_LOOKED_AT = 5_000

/**
 * A hold's id is a UUIDv7 of the moment its request came, so a range of time is a range of the primary key. Not to the millisecond: a request that was
 * interrupted is taken up under its first id, and a process that makes many ids runs a little ahead.
 */
export const ID_SLACK_MS = 600_000

/** The smallest UUIDv7 of a moment. */
export function firstIdAt(at_ms: number): string {
  const time = Math.max(0, Math.floor(at_ms)).toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-0000-0000-000000000000`
}

const LAST_ID = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
/** What a hold counts as: nothing once released, what was used once settled, its estimate until then. */
export const COUNTED =
  'case h.state when 2 then 0 when 1 then coalesce(h.actual_nanousd, h.estimate_nanousd) else h.estimate_nanousd end'
/** The agent itself and everything below it; all agents for null. */
const within = (parameter: string): string =>
  `(${parameter}::text is null or h.agent_id = ${parameter}::text or starts_with(h.agent_id, ${parameter}::text || '/'))`

export type Range = { readonly agentId: string | null; readonly from_ms: number; readonly to_ms: number }
export type SpendRow = { readonly index: number; readonly spent: Nanousd; readonly calls: number }

export const holdsIn = (columns: string): string =>
  `select ${columns} from (
     select hold_id, agent_id, model, state, estimate_nanousd, actual_nanousd, taken_ms from holds
     where account_id = $1::uuid and hold_id >= $2::uuid and hold_id < $3::uuid order by hold_id desc limit ${MAX_HOLDS}) h
   where h.taken_ms >= $4::bigint and h.taken_ms < $5::bigint and ${within('$6')}`

export const rangeValues = (accountId: string, { agentId, from_ms, to_ms }: Range): (string | null)[] => [
  accountId,
  firstIdAt(from_ms - ID_SLACK_MS),
  firstIdAt(to_ms + ID_SLACK_MS),
  String(from_ms),
  String(to_ms),
  agentId,
]

/** Spend per step of a range, steps without any left out. */
export async function sumSpend(
  { sql: raw, prepare }: Database,
  accountId: string,
  range: Range & { step_ms: number },
): Promise<SpendRow[]> {
  const rows = await raw.unsafe(
    `${holdsIn(`((h.taken_ms - $4::bigint) / $7::bigint)::int as index, least(sum(${COUNTED}), ${MAX_NANOUSD})::bigint as spent, count(*)::int as calls`)} group by 1 order by 1`,
    [...rangeValues(accountId, range), String(range.step_ms)],
    { prepare },
  )
  return rows.map((row) => ({ index: Number(row.index), spent: row.spent as bigint, calls: Number(row.calls) }))
}

export type AgentSpend = { readonly agentId: string; readonly spent: Nanousd; readonly calls: number }

/** Spend per agent in a range, the largest first. */
export async function sumSpendByAgent(
  { sql: raw, prepare }: Database,
  accountId: string,
  range: Range & { limit: number },
): Promise<AgentSpend[]> {
  const rows = await raw.unsafe(
    `${holdsIn(`h.agent_id, least(sum(${COUNTED}), ${MAX_NANOUSD})::bigint as spent, count(*)::int as calls`)} group by 1 order by 2 desc, 1 limit $7::int`,
    [...rangeValues(accountId, range), String(range.limit)],
    { prepare },
  )
  return rows.map((row) => ({ agentId: row.agent_id as string, spent: row.spent as bigint, calls: Number(row.calls) }))
}

export type DecisionKind = 'approved' | 'denied' | 'change'
export type DecisionRow = {
  readonly id: string
  readonly kind: DecisionKind
  readonly atMs: number
  readonly agentId: string | null
  /** The model or what was bought; of a change what was changed (`limit`, `grant`, …). */
  readonly subject: string
  readonly amount: Nanousd
  /** How an approved one ended, or why another was denied; of a change its detail. */
  readonly detail: string
  readonly actual: Nanousd | null
}
export type Page = { readonly boundTo: string | null; readonly limit: number; readonly before: string | null }

const HOLDS = `select h.hold_id as id, h.taken_ms as at_ms, h.agent_id, h.model as subject, h.estimate_nanousd as amount, h.actual_nanousd as actual,
    case h.state when 1 then 'settled' when 2 then 'released' else 'open' end as detail
  from (select * from holds where account_id = $1::uuid and hold_id < $2::uuid order by hold_id desc limit $4::int) h`
const DENIALS = `select h.denial_id as id, h.denied_ms as at_ms, h.agent_id, h.model as subject, h.estimate_nanousd as amount, null::bigint as actual, h.reason as detail
  from (select * from denials where account_id = $1::uuid and denial_id < $2::uuid order by denial_id desc limit $4::int) h`
const CHANGES = `select h.entry_id as id, h.at_ms, h.agent_id, h.kind as subject, h.amount_nanousd as amount, null::bigint as actual, h.detail
  from (select * from ledger where account_id = $1::uuid and entry_id < $2::uuid order by entry_id desc limit $4::int) h`

/** The newest decisions and changes, each kind by its key; a bound key's are looked for among the newest `MAX_LOOKED_AT` of a kind. */
export async function listDecisions({ sql: raw, prepare }: Database, accountId: string, page: Page): Promise<DecisionRow[]> {
  const lookedAt = page.boundTo === null ? page.limit : MAX_LOOKED_AT
  const read = async (kind: DecisionKind, from: string, filter: string, depth: number): Promise<DecisionRow[]> => {
    const rows = await raw.unsafe(
      `${from} where ${within('$3')}${filter} order by 1 desc limit $5::int`,
      [accountId, page.before ?? LAST_ID, page.boundTo, String(depth), String(page.limit)],
      { prepare },
    )
    return rows.map((row) => ({
      id: row.id as string,
      kind,
      atMs: Number(row.at_ms),
      agentId: row.agent_id as string | null,
      subject: row.subject as string,
      amount: row.amount as bigint,
      detail: row.detail as string,
      actual: row.actual as bigint | null,
    }))
  }
  const all = await Promise.all([
    read('approved', HOLDS, '', lookedAt),
    read('denied', DENIALS, '', lookedAt),
    // A settlement is shown with its hold.
    read('change', CHANGES, " and h.kind not in ('settle', 'release')", MAX_LOOKED_AT),
  ])
  return all
    .flat()
    .sort((a, b) => (a.id < b.id ? 1 : -1))
    .slice(0, page.limit)
}

/** Something that changes whenever a decision, a change or an approval request of the account is stored. */
export async function readMarks({ sql: raw, prepare }: Database, accountIds: readonly string[]): Promise<Map<string, string>> {
  const rows = await raw.unsafe(
    `select a.account_id, concat_ws(' ', a.version,
       (select denial_id from denials d where d.account_id = a.account_id order by denial_id desc limit 1),
       (select approval_id from approvals p where p.account_id = a.account_id order by approval_id desc limit 1)) as mark
     from accounts a where a.account_id = any($1::uuid[])`,
    [`{${accountIds.join(',')}}`],
    { prepare },
  )
  return new Map(rows.map((row) => [row.account_id as string, row.mark as string]))
}
