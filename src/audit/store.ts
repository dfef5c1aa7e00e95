import { and, desc, eq, lt } from 'drizzle-orm'
import {
  type Direction,
  grouped,
  type HistoryRange,
  type HistoryRequest,
  type Place,
  RANK,
  requestColumns,
} from '../budgets/history.ts'
import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import type { Change } from '../db/recorder.ts'
import type { Runner } from '../db/runner.ts'
import { auditSeals } from './tables.ts'

/** Comes after the engine's events of the same version. */
export const EVENT_RANK = 3

export type AuditEvent = Place & {
  readonly atMs: number
  readonly type: string
  readonly agentId: string | null
  readonly actor: string
  readonly detail: string
}
export type Seal = typeof auditSeals.$inferSelect
/** Where a chain ends. */
export type Head = Pick<Seal, 'firstSeq' | 'lastSeq' | 'lastVersion' | 'lastId' | 'lastRank' | 'hash'>

/** Records a change in the caller's transaction. The account's row is locked until its end, and its version raised. */
export async function insertEvent(runner: Runner, prepare: boolean, event: Change): Promise<void> {
  await runner.unsafe(
    `with raised as (update accounts set version = version + 1 where account_id = $1::uuid returning account_id, version)
     insert into audit_events (account_id, version, event_id, type, agent_id, actor, detail, at_ms)
     select r.account_id, r.version, $2::uuid, $3::text, $4::text, $5::text, $6::text, $7::bigint from raised r`,
    [event.accountId, event.id, event.type, event.agentId, event.actor, JSON.stringify(event.data), String(event.atMs)],
    { prepare },
  )
}

/** At most `limit` recorded changes of one account, in order of (version, id). */
export async function readEvents(
  { sql, prepare }: Database,
  accountId: string,
  { after, before, through }: HistoryRange,
  limit: number,
  direction: Direction,
): Promise<AuditEvent[]> {
  const order = direction === 'oldest' ? 'asc' : 'desc'
  const values = [accountId, String(through), String(limit)]
  const bound = (place: Place | null, operator: string): string => {
    if (place === null) return ''
    values.push(String(place.version), place.id)
    return `and (version, event_id) ${operator} ($${values.length - 1}::bigint, $${values.length}::uuid)`
  }
  const above = bound(after, after !== null && after.rank < EVENT_RANK ? '>=' : '>')
  const below = bound(before, before !== null && before.rank > EVENT_RANK ? '<=' : '<')
  const rows = await sql.unsafe(
    `select version, event_id, type, agent_id, actor, detail, at_ms from audit_events
     where account_id = $1::uuid and version <= $2::bigint ${above} ${below} order by version ${order}, event_id ${order} limit $3::int`,
    values,
    { prepare },
  )
  return rows.map(eventOf)
}

const eventOf = (row: Record<string, unknown>): AuditEvent => ({
  version: row.version as bigint,
  id: row.event_id as string,
  rank: EVENT_RANK,
  type: row.type as string,
  agentId: row.agent_id as string | null,
  actor: row.actor as string,
  detail: row.detail as string,
  atMs: Number(row.at_ms),
})

/** At most `limit` of the oldest recorded changes of each of these accounts, each account's in order. */
export async function readManyEvents(
  { sql, prepare }: Database,
  requests: readonly HistoryRequest[],
  limit: number,
): Promise<Map<string, AuditEvent[]>> {
  const p = new Parameters()
  const asked = requestColumns(requests, p)
  const rows = await sql.unsafe(
    `select u.account_id, x.* from ${asked} cross join lateral (
       select version, event_id, type, agent_id, actor, detail, at_ms from audit_events
       where account_id = u.account_id and (version, event_id) >= (u.after_version, u.after_id) and version <= u.through
         and (${EVENT_RANK} > u.after_rank or (version, event_id) > (u.after_version, u.after_id))
       order by version, event_id limit ${p.addOne('integer', limit)}) x
     order by u.account_id, x.version, x.event_id`,
    p.values(),
    { prepare },
  )
  return grouped(rows, eventOf)
}

/** The newest seals of an account, newest first, those that begin before `beforeSeq` only. */
export async function listSeals({ orm }: Database, accountId: string, beforeSeq: bigint, limit: number): Promise<Seal[]> {
  return orm
    .select()
    .from(auditSeals)
    .where(and(eq(auditSeals.accountId, accountId), lt(auditSeals.firstSeq, beforeSeq)))
    .orderBy(desc(auditSeals.firstSeq))
    .limit(limit)
}

const NO_END = 9_223_372_036_854_775_807n

export async function findHead(database: Database, accountId: string): Promise<Seal | null> {
  return (await listSeals(database, accountId, NO_END, 1))[0] ?? null
}

/** The last seal of each of these accounts; those without one are left out. */
export async function findHeads({ sql, prepare }: Database, accountIds: readonly string[]): Promise<Map<string, Head>> {
  const rows = await sql.unsafe(
    `select u.account_id, s.first_seq, s.last_seq, s.last_version, s.last_id, s.last_rank, s.hash from unnest($1::uuid[]) u(account_id), lateral (
       select * from audit_seals where account_id = u.account_id order by first_seq desc limit 1) s`,
    [`{${accountIds.join(',')}}`],
    { prepare },
  )
  return new Map(
    rows.map((row) => [
      row.account_id as string,
      {
        firstSeq: row.first_seq as bigint,
        lastSeq: row.last_seq as bigint,
        lastVersion: row.last_version as bigint,
        lastId: row.last_id as string,
        lastRank: Number(row.last_rank),
        hash: row.hash as Buffer,
      },
    ]),
  )
}

/** Appends to the chains. @returns the accounts whose seal was stored: another process has sealed from there already for the others */
export async function insertSeals({ orm }: Database, seals: readonly Seal[]): Promise<Set<string>> {
  const rows = await orm
    .insert(auditSeals)
    .values([...seals])
    .onConflictDoNothing()
    .returning({ accountId: auditSeals.accountId })
  return new Set(rows.map(({ accountId }) => accountId))
}

/**
 * Where a trail begins and may begin. `base`: the oldest seal, when the entries up to its end have been taken away. `next`: the newest seal that
 * is wholly older than the limit, when it is not the base already and not the account's first.
 */
type TrailEnd = {
  readonly accountId: string
  readonly base: Head | null
  readonly next: Head | null
}

/** Accounts in key order that have seals, each with where its trail begins. */
export async function listEnds({ sql, prepare }: Database, after: string, before_ms: number, limit: number): Promise<TrailEnd[]> {
  const columns = ['first_seq', 'last_seq', 'last_version', 'last_id', 'last_rank', 'hash']
  const rows = await sql.unsafe(
    `select a.account_id, ${columns.map((name) => `o.${name} as old_${name}, n.${name} as next_${name}`).join(', ')}
     from (select account_id from accounts where account_id > $1::uuid order by account_id limit $3::int) a
     left join lateral (select * from audit_seals where account_id = a.account_id order by first_seq limit 1) o on true
     left join lateral (select * from audit_seals where account_id = a.account_id and o.max_ms < $2::bigint and max_ms < $2::bigint
       and first_seq > o.first_seq order by first_seq desc limit 1) n on true`,
    [after, String(before_ms), String(limit)],
    { prepare },
  )
  return rows.map((row) => {
    const oldest = headAt(row, 'old_')
    return {
      accountId: row.account_id as string,
      base: oldest !== null && oldest.firstSeq > 1n ? oldest : null,
      next: headAt(row, 'next_'),
    }
  })
}

const headAt = (row: Record<string, unknown>, prefix: string): Head | null =>
  row[`${prefix}first_seq`] === null
    ? null
    : {
        firstSeq: row[`${prefix}first_seq`] as bigint,
        lastSeq: row[`${prefix}last_seq`] as bigint,
        lastVersion: row[`${prefix}last_version`] as bigint,
        lastId: row[`${prefix}last_id`] as string,
        lastRank: Number(row[`${prefix}last_rank`]),
        hash: row[`${prefix}hash`] as Buffer,
      }

export async function deleteSealsBefore({ sql, prepare }: Database, accountId: string, firstSeq: bigint): Promise<void> {
  await sql.unsafe(
    'delete from audit_seals where account_id = $1::uuid and first_seq < $2::bigint',
    [accountId, String(firstSeq)],
    { prepare },
  )
}

/** Deletes denials and recorded changes up to the end of a seal. @returns how many of the one that had more, at most `limit` */
export async function deleteSealedRows(
  { sql, prepare }: Database,
  accountId: string,
  end: Pick<Head, 'lastVersion' | 'lastId' | 'lastRank'>,
  limit: number,
): Promise<number> {
  const tables = [
    ['denials', 'denial_id', RANK.denial],
    ['audit_events', 'event_id', EVENT_RANK],
  ] as const
  let most = 0
  for (const [table, id, rank] of tables) {
    const rows = await sql.unsafe(
      `delete from ${table} where account_id = $1::uuid and version >= 0 and (version, ${id}) in (select version, ${id} from ${table}
         where account_id = $1::uuid and version >= 0 and (version, ${id}) ${rank <= end.lastRank ? '<=' : '<'} ($2::bigint, $3::uuid) order by version, ${id} limit $4::int)
       returning 1`,
      [accountId, String(end.lastVersion), end.lastId, String(limit)],
      { prepare },
    )
    most = Math.max(most, rows.length)
  }
  return most
}

/** The oldest seal of an account. */
export async function findOldest({ orm }: Database, accountId: string): Promise<Seal | null> {
  const [seal] = await orm
    .select()
    .from(auditSeals)
    .where(eq(auditSeals.accountId, accountId))
    .orderBy(auditSeals.firstSeq)
    .limit(1)
  return seal ?? null
}
