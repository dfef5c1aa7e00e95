import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'

/** Where an event stands among those of its account: a total order that never changes once the account has reached the version. */
export type Place = { readonly version: bigint; readonly id: string; readonly rank: number }

/** `rank` of the three sources; other rooms' events come after them. */
export const RANK = { hold: 0, denial: 1, ledger: 2 } as const

/**
 * One event as the decision engine stored it, from those columns that are never written again. What a source does not have is null.
 * `kind`: a ledger kind, or the number of a hold's.
 */
export type HistoryRow = Place & {
  readonly atMs: number
  readonly agentId: string | null
  readonly kind: string
  readonly model: string | null
  readonly amount: bigint
  readonly reason: string | null
  readonly holdId: string | null
  readonly ops: bigint
  readonly rates: string | null
  readonly detail: string | null
}

export type Direction = 'oldest' | 'newest'

/** `after`: not itself. `through`: up to this version, included. */
export type HistoryRange = { readonly after: Place | null; readonly before: Place | null; readonly through: bigint }

const SOURCES = [
  {
    rank: RANK.hold,
    table: 'holds',
    id: 'hold_id',
    version: 'taken_version',
    columns: `taken_ms as at_ms, agent_id, kind::text as kind, model, estimate_nanousd as amount, null::text as reason, null::uuid as ref_id, -1::bigint as ops, rates, detail`,
  },
  {
    rank: RANK.denial,
    table: 'denials',
    id: 'denial_id',
    version: 'version',
    columns: `denied_ms as at_ms, agent_id, kind::text as kind, model, estimate_nanousd as amount, reason, null::uuid as ref_id, 0::bigint as ops, null::text as rates, null::text as detail`,
  },
  {
    rank: RANK.ledger,
    table: 'ledger',
    id: 'entry_id',
    version: 'version',
    columns: `at_ms, agent_id, kind, null::text as model, amount_nanousd as amount, null::text as reason, hold_id as ref_id, ops_delta as ops, null::text as rates, detail`,
  },
] as const

const NO_PLACE: Place = { version: -1n, id: '00000000-0000-0000-0000-000000000000', rank: 0 }
const LAST_PLACE: Place = { version: 9_223_372_036_854_775_807n, id: 'ffffffff-ffff-ffff-ffff-ffffffffffff', rank: 9 }

/** At most `limit` events of one account, in order of (version, id, rank). */
export async function readHistory(
  { sql, prepare }: Pick<Database, 'sql' | 'prepare'>,
  accountId: string,
  { after, before, through }: HistoryRange,
  limit: number,
  direction: Direction,
): Promise<HistoryRow[]> {
  const low = after ?? NO_PLACE
  const high = before ?? LAST_PLACE
  const order = direction === 'oldest' ? 'asc' : 'desc'
  const parts = SOURCES.map(({ rank, table, id, version, columns }) => {
    const above = `(${version}, ${id}) ${rank > low.rank ? '>=' : '>'} ($2::bigint, $3::uuid)`
    const below = `(${version}, ${id}) ${rank < high.rank ? '<=' : '<'} ($4::bigint, $5::uuid)`
    return `(select ${rank} as rank, ${id} as id, ${version} as version, ${columns} from ${table}
      where account_id = $1::uuid and ${version} >= 0 and ${above} and ${below} and ${version} <= $6::bigint
      order by ${version} ${order}, ${id} ${order} limit $7::int)`
  })
  const rows = await sql.unsafe(
    `select * from (${parts.join(' union all ')}) x order by version ${order}, id ${order}, rank ${order} limit $7::int`,
    [accountId, String(low.version), low.id, String(high.version), high.id, String(through), String(limit)],
    { prepare },
  )
  return rows.map(rowOf)
}

const rowOf = (row: Record<string, unknown>): HistoryRow => ({
  rank: Number(row.rank),
  id: row.id as string,
  version: row.version as bigint,
  atMs: Number(row.at_ms),
  agentId: row.agent_id as string | null,
  kind: row.kind as string,
  model: row.model as string | null,
  amount: row.amount as bigint,
  reason: row.reason as string | null,
  holdId: row.ref_id as string | null,
  ops: row.ops as bigint,
  rates: row.rates as string | null,
  detail: row.detail as string | null,
})

/** What to read of one account: events after a place, of versions up to `through`. */
export type HistoryRequest = { readonly accountId: string; readonly after: Place | null; readonly through: bigint }

/** At most `limit` of the oldest events of each of these accounts, each account's in order. */
export async function readHistories(
  { sql, prepare }: Pick<Database, 'sql' | 'prepare'>,
  requests: readonly HistoryRequest[],
  limit: number,
): Promise<Map<string, HistoryRow[]>> {
  const p = new Parameters()
  const asked = requestColumns(requests, p)
  const count = p.addOne('integer', limit)
  const parts = SOURCES.map(
    ({
      rank,
      table,
      id,
      version,
      columns,
    }) => `(select ${rank} as rank, ${id} as id, ${version} as version, ${columns} from ${table}
      where account_id = u.account_id and ${version} >= 0 and (${version}, ${id}) >= (u.after_version, u.after_id) and ${version} <= u.through
        and (${rank} > u.after_rank or (${version}, ${id}) > (u.after_version, u.after_id))
      order by ${version}, ${id} limit ${count})`,
  )
  const rows = await sql.unsafe(
    `select u.account_id, x.* from ${asked}
     cross join lateral (select * from (${parts.join(' union all ')}) y order by version, id, rank limit ${count}) x
     order by u.account_id, version, id, rank`,
    p.values(),
    { prepare },
  )
  return grouped(rows, rowOf)
}

/** Requests as a table `u` of a statement. */
export function requestColumns(requests: readonly HistoryRequest[], p: Parameters): string {
  const place = ({ after }: HistoryRequest): Place => after ?? NO_PLACE
  return `unnest(${p.add('uuid', requests, (r, a) => a.raw(r.accountId))}, ${p.add('bigint', requests, (r, a) => a.raw(place(r).version))}, ${p.add('uuid', requests, (r, a) => a.raw(place(r).id))}, ${p.add('smallint', requests, (r, a) => a.raw(place(r).rank))}, ${p.add('bigint', requests, (r, a) => a.raw(r.through))}) u(account_id, after_version, after_id, after_rank, through)`
}

/** Rows by their `account_id`, in their order. */
export function grouped<T>(
  rows: readonly Record<string, unknown>[],
  make: (row: Record<string, unknown>) => T,
): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const row of rows) {
    const accountId = row.account_id as string
    const group = groups.get(accountId)
    if (group === undefined) groups.set(accountId, [make(row)])
    else group.push(make(row))
  }
  return groups
}

/** An account that may have events after `sealedVersion`. `openMs`: when the oldest denial of the version that is not complete yet was decided. */
export type AccountVersion = { readonly accountId: string; readonly version: bigint; readonly openMs: number | null }

/** Accounts in key order, each with how far its history is complete: every event of a version up to it is there, and none will be added. */
export async function listVersions(
  { sql, prepare }: Pick<Database, 'sql' | 'prepare'>,
  after: string,
  limit: number,
): Promise<AccountVersion[]> {
  const rows = await sql.unsafe(
    `select a.account_id, a.version, (select d.denied_ms from denials d where d.account_id = a.account_id and d.version >= 0 and d.version > a.version
       order by d.version, d.denial_id limit 1) as open_ms
     from (select account_id, version from accounts where account_id > $1::uuid order by account_id limit $2::int) a`,
    [after, String(limit)],
    { prepare },
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    version: row.version as bigint,
    openMs: row.open_ms === null ? null : Number(row.open_ms),
  }))
}

/**
 * Raises an account's version, so that the denials of the one before are complete. Whoever is deciding on the old version meanwhile
 * decides again.
 */
export async function closeVersion(
  { sql, prepare }: Pick<Database, 'sql' | 'prepare'>,
  accountId: string,
  version: bigint,
): Promise<void> {
  await sql.unsafe(
    'update accounts set version = version + 1 where account_id = $1::uuid and version = $2::bigint',
    [accountId, String(version)],
    { prepare },
  )
}
