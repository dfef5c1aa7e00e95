import type { Database } from '../db/client.ts'
import { storable } from './store.ts'

type Sql = Pick<Database, 'sql' | 'prepare'>

/** Below so many versions nobody needs to look how many events they have. */
const FEW_VERSIONS = 8n

type Tokens = 'input_tokens' | 'output_tokens'
/** What was used, as it stands in a settlement's detail. Not read as JSON: what one account may write must not stop a sum. */
export const settledTokens = (name: Tokens): string => `coalesce(substring(l.detail from '"${name}":(\\d{1,15})')::bigint, 0)`
/** The same of a call that was booked after an outage; other bookings have details of their callers' making. */
export const bookedTokens = (name: Tokens): string =>
  `case when h.detail like '{"end":%' then coalesce(substring(h.detail from '"${name}":(\\d{1,15})')::bigint, 0) else 0 end`

/** An account whose events are summed up through `done`, and complete through `version`. */
export type Behind = { readonly accountId: string; readonly version: bigint; readonly done: bigint }

/** Accounts in key order, with those that are up to date. */
export async function listHeads({ sql, prepare }: Sql, after: string, limit: number): Promise<Behind[]> {
  const rows = await sql.unsafe(
    `select a.account_id, a.version, coalesce(h.version, -1) as done
     from (select account_id, version from accounts where account_id > $1::uuid order by account_id limit $2::int) a
     left join usage_heads h on h.account_id = a.account_id order by a.account_id`,
    [after, String(limit)],
    { prepare },
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    version: row.version as bigint,
    done: row.done as bigint,
  }))
}

/** Through which version a step of about so many events goes. A version is not divided, and has as many as a batch has commands. */
export async function nextStep(database: Sql, { accountId, version, done }: Behind, events: number): Promise<bigint> {
  if (version - done <= FEW_VERSIONS) return version
  const { sql, prepare } = database
  const nth = (table: string, column: string, id: string): string =>
    `(select ${column} - 1 from ${table} where account_id = $1::uuid and ${column} >= 0 and ${column} > $2::bigint
      order by ${column}, ${id} offset ${events} limit 1)`
  const [row] = await sql.unsafe(
    `select greatest($2::bigint + 1, least($3::bigint, ${nth('holds', 'taken_version', 'hold_id')}, ${nth('ledger', 'version', 'entry_id')})) as through`,
    [accountId, String(done), String(version)],
    { prepare },
  )
  return row?.through as bigint
}

/**
 * Adds the events of the versions after `done` up to `through`, all of which must be complete: each hold at its estimate, each settlement and
 * release as what it changed, both where the hold was taken. In one step with the head, which only one of several processes moves.
 * @returns false when another process has moved it meanwhile
 */
export async function sumUp({ sql, prepare }: Sql, accountId: string, done: bigint, through: bigint): Promise<boolean> {
  const rows = await sql.unsafe(
    `with moved as (
       insert into usage_heads as h (account_id, version) values ($1::uuid, $3::bigint)
       on conflict (account_id) do update set version = excluded.version where h.version = $2::bigint returning 1),
     events as (
       select agent_id, model, taken_ms, taken_version, estimate_nanousd as spent, 1 as calls,
         ${bookedTokens('input_tokens')} as input_tokens, ${bookedTokens('output_tokens')} as output_tokens
       from holds h where account_id = $1::uuid and taken_version >= 0 and taken_version > $2::bigint and taken_version <= $3::bigint
       union all
       select h.agent_id, h.model, h.taken_ms, h.taken_version, l.amount_nanousd, 0,
         ${settledTokens('input_tokens')}, ${settledTokens('output_tokens')}
       from ledger l join holds h on h.account_id = $1::uuid and h.hold_id = l.hold_id
       where l.account_id = $1::uuid and l.version >= 0 and l.version > $2::bigint and l.version <= $3::bigint and l.kind in ('settle', 'release')),
     summed as (
       insert into usage_spend as u (account_id, span, start_ms, agent_id, model, spent_nanousd, calls, input_tokens, output_tokens, first_version, last_version)
       select $1::uuid, s.span, e.taken_ms - e.taken_ms % s.length_ms, e.agent_id, e.model, ${storable('sum(e.spent)')}, sum(e.calls)::int,
         sum(e.input_tokens)::bigint, sum(e.output_tokens)::bigint, min(e.taken_version), max(e.taken_version)
       from events e cross join (values (0::smallint, 3600000::bigint), (1::smallint, 86400000::bigint)) s (span, length_ms)
       where exists (select 1 from moved) group by 2, 3, 4, 5
       on conflict (account_id, span, start_ms, agent_id, model) do update set
         spent_nanousd = ${storable('u.spent_nanousd::numeric + excluded.spent_nanousd')}, calls = u.calls + excluded.calls,
         input_tokens = u.input_tokens + excluded.input_tokens, output_tokens = u.output_tokens + excluded.output_tokens,
         first_version = least(u.first_version, excluded.first_version), last_version = greatest(u.last_version, excluded.last_version))
     select 1 from moved`,
    [accountId, String(done), String(through)],
    { prepare },
  )
  return rows.length > 0
}
