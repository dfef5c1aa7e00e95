import { ArrayLiteral } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import { type Companion, IN_LOCKED } from './companion.ts'
import { ACCOUNT_COLUMNS, accountOf, type LaneSql, type LoadedAccount } from './rows.store.ts'
import type { LoopState } from './state.ts'

export type LoopName = readonly [accountId: string, agentId: string, fingerprint: string]
export type LoadedLoop = LoadedAccount & {
  readonly agentId: string
  readonly fingerprint: string
  readonly state: LoopState | null
}

/** What was counted of identical clearances, each with its account's version. */
export async function loadLoops({ sql, prepare }: LaneSql, names: readonly LoopName[]): Promise<LoadedLoop[]> {
  const columns = [new ArrayLiteral(), new ArrayLiteral(), new ArrayLiteral()] as const
  for (const [accountId, agentId, fingerprint] of names) {
    columns[0].raw(accountId)
    columns[1].text(agentId)
    columns[2].text(fingerprint)
  }
  const rows = await sql.unsafe(
    `select ${ACCOUNT_COLUMNS}, u.agent_id, u.fingerprint, l.seen, l.denials, l.started_ms, l.last_ms
     from unnest($1::uuid[], $2::text[], $3::text[]) u(account_id, agent_id, fingerprint)
     join accounts a on a.account_id = u.account_id
     left join loops l on l.account_id = u.account_id and l.agent_id = u.agent_id and l.fingerprint = u.fingerprint`,
    columns.map((column) => column.close()),
    { prepare },
  )
  return rows.map((row) => ({
    ...accountOf(row),
    agentId: row.agent_id as string,
    fingerprint: row.fingerprint as string,
    state:
      row.seen === null
        ? null
        : { count: row.seen, denials: row.denials, startedMs: Number(row.started_ms), lastMs: Number(row.last_ms) },
  }))
}

/** Stores what was counted with the decision that counted it. */
export const loopCounts: Companion = {
  part(changes, p) {
    const rows = changes.flatMap(({ account, loops }) =>
      loops === undefined ? [] : [...loops.values()].map((entry) => ({ accountId: account.accountId, ...entry })),
    )
    if (rows.length === 0) return null
    const columns = [
      p.add('uuid', rows, (r, a) => a.raw(r.accountId)),
      p.add('text', rows, (r, a) => a.text(r.agentId)),
      p.add('text', rows, (r, a) => a.text(r.fingerprint)),
      p.add('integer', rows, (r, a) => a.raw(r.state.count)),
      p.add('integer', rows, (r, a) => a.raw(r.state.denials)),
      p.add('bigint', rows, (r, a) => a.raw(r.state.startedMs)),
      p.add('bigint', rows, (r, a) => a.raw(r.state.lastMs)),
      p.add('bigint', rows, (r, a) => a.raw(r.state.lastMs + r.window_ms)),
    ]
    return {
      sql: `looped as (
  insert into loops (account_id, agent_id, fingerprint, seen, denials, started_ms, last_ms, expires_ms)
  select * from unnest(${columns.join(', ')}) u(account_id) where ${IN_LOCKED}
  on conflict (account_id, agent_id, fingerprint) do update set (seen, denials, started_ms, last_ms, expires_ms) =
    (excluded.seen, excluded.denials, excluded.started_ms, excluded.last_ms, excluded.expires_ms))`,
    }
  },
}

/** Deletes counts whose window has passed. @returns how many, at most `limit` */
export async function purgeLoops({ sql, prepare }: Database, now_ms: number, limit: number): Promise<number> {
  const rows = await sql.unsafe(
    `delete from loops where (account_id, agent_id, fingerprint) in
       (select account_id, agent_id, fingerprint from loops where expires_ms < $1 order by expires_ms limit $2 for update skip locked)
     returning 1`,
    [String(now_ms), String(limit)],
    { prepare },
  )
  return rows.length
}
