import { MAX_NANOUSD, type Nanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'

const MAX_LOOKED_AT = 5_000
const LAST_ID = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
/** A sum of nano-dollars as a bigint holds it: beyond 9 billion dollars it stays there. */
export const storable = (sum: string): string => `greatest(least(${sum}, ${MAX_NANOUSD}), -${MAX_NANOUSD})::bigint`
/** The agent itself and everything below it; all agents for null. */
export const within = (parameter: string): string =>
  `(${parameter}::text is null or h.agent_id = ${parameter}::text or starts_with(h.agent_id, ${parameter}::text || '/'))`

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
