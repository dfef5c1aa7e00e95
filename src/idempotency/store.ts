import { and, eq, gt, lte, sql } from 'drizzle-orm'
import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import { idempotencyKeys, idempotentRequests } from './tables.ts'

export type KeyCheck = { readonly accountId: string; readonly key: string; readonly ttl_ms: number }
export type KeyAnswer = { readonly first: boolean; readonly expiresMs: number }

/**
 * Claims a batch of different keys, in key order so that batches of several processes cannot deadlock. A key is claimed by the insert,
 * or by renewing a row that has expired; whoever does neither is told the expiry that the first call stored.
 */
export async function claimKeys(
  { sql: raw, prepare }: Database,
  checks: readonly KeyCheck[],
  now_ms: number,
): Promise<KeyAnswer[]> {
  const p = new Parameters()
  const claimed = await raw.unsafe(
    `insert into idempotency_keys as k (account_id, key, expires_ms)
     select * from unnest(${p.add('uuid', checks, (c, a) => a.raw(c.accountId))}, ${p.add('text', checks, (c, a) => a.text(c.key))}, ${p.add('bigint', checks, (c, a) => a.raw(now_ms + c.ttl_ms))}) u(account_id, key, expires_ms)
     order by 1, 2
     on conflict (account_id, key) do update set expires_ms = excluded.expires_ms where k.expires_ms <= ${p.addOne('bigint', now_ms)}
     returning account_id, key, expires_ms`,
    p.values(),
    { prepare },
  )
  const answers = new Map<string, KeyAnswer>(
    claimed.map((row) => [`${row.account_id} ${row.key}`, { first: true, expiresMs: Number(row.expires_ms) }]),
  )
  const repeats = checks.filter((check) => !answers.has(nameOf(check)))
  if (repeats.length > 0) {
    const q = new Parameters()
    const rows = await raw.unsafe(
      `select k.account_id, k.key, k.expires_ms from idempotency_keys k
       join unnest(${q.add('uuid', repeats, (c, a) => a.raw(c.accountId))}, ${q.add('text', repeats, (c, a) => a.text(c.key))}) u(account_id, key) on k.account_id = u.account_id and k.key = u.key`,
      q.values(),
      { prepare },
    )
    for (const row of rows) answers.set(`${row.account_id} ${row.key}`, { first: false, expiresMs: Number(row.expires_ms) })
  }
  // A repeat whose row was purged in between had expired by then: nothing is left of its time.
  return checks.map((check) => answers.get(nameOf(check)) ?? { first: false, expiresMs: now_ms })
}

const nameOf = (check: KeyCheck): string => `${check.accountId} ${check.key}`

export type IdempotentRequest = typeof idempotentRequests.$inferSelect
export type Claim = Pick<IdempotentRequest, 'accountId' | 'key' | 'fingerprint' | 'operationId' | 'leaseMs' | 'expiresMs'>

/** Takes a key for a first request; an expired row counts as none. @returns false when a live row is there */
export async function insertRequest({ orm }: Database, claim: Claim, now_ms: number): Promise<boolean> {
  const rows = await orm
    .insert(idempotentRequests)
    .values(claim)
    .onConflictDoUpdate({
      target: [idempotentRequests.accountId, idempotentRequests.key],
      set: {
        fingerprint: claim.fingerprint,
        operationId: claim.operationId,
        leaseMs: claim.leaseMs,
        expiresMs: claim.expiresMs,
        status: null,
        response: null,
      },
      setWhere: lte(idempotentRequests.expiresMs, now_ms),
    })
    .returning({ key: idempotentRequests.key })
  return rows.length > 0
}

export async function findRequest({ orm }: Database, accountId: string, key: string): Promise<IdempotentRequest | undefined> {
  const [row] = await orm.select().from(idempotentRequests).where(requestIs(accountId, key))
  return row
}

/** Gives a request whose response is not stored yet a new lease. @returns false when someone else was quicker */
export async function takeOverRequest({ orm }: Database, request: Claim, leaseMs: number): Promise<boolean> {
  const rows = await orm
    .update(idempotentRequests)
    .set({ leaseMs })
    .where(and(...heldAs(request), sql`${idempotentRequests.status} is null`))
    .returning({ key: idempotentRequests.key })
  return rows.length > 0
}

/** Stores the response of the process that holds the lease; one that lost it while it stood still changes nothing. */
export async function storeResponse({ orm }: Database, claim: Claim, status: number, response: Buffer): Promise<void> {
  await orm
    .update(idempotentRequests)
    .set({ status, response })
    .where(and(...heldAs(claim)))
}

/** Frees a key whose request failed in a way that trying again may cure, unless another process has taken the request over. */
export async function deleteRequest({ orm }: Database, claim: Claim): Promise<void> {
  await orm.delete(idempotentRequests).where(and(...heldAs(claim), sql`${idempotentRequests.status} is null`))
}

const requestIs = (accountId: string, key: string) =>
  and(eq(idempotentRequests.accountId, accountId), eq(idempotentRequests.key, key))
/** The request under the very lease that was claimed: nobody has taken it over since. */
const heldAs = (claim: Claim) => [
  requestIs(claim.accountId, claim.key),
  eq(idempotentRequests.operationId, claim.operationId),
  eq(idempotentRequests.leaseMs, claim.leaseMs),
]

/** Deletes rows that have expired, at most `limit` of each kind. @returns how many */
export async function purgeExpired({ orm }: Database, now_ms: number, limit: number): Promise<number> {
  let purged = 0
  for (const table of [idempotencyKeys, idempotentRequests]) {
    const rows = await orm.execute(
      sql`delete from ${table} t using (select account_id, key from ${table} where expires_ms <= ${now_ms} order by expires_ms limit ${limit} for update skip locked) e
          where t.account_id = e.account_id and t.key = e.key and t.expires_ms <= ${now_ms} returning 1`,
    )
    purged += rows.length
  }
  return purged
}

/** An account's ops (null for the operator, who has no account), and how many rows it has in a table, counted up to `most`. */
export async function countRows(
  { sql: raw, prepare }: Database,
  table: 'idempotency_keys' | 'idempotent_requests',
  accountId: string,
  most: number,
): Promise<{ ops: bigint | null; rows: number }> {
  const [row] = await raw.unsafe(
    `select (select ops from accounts where account_id = $1::uuid) as ops,
       (select count(*) from (select 1 from ${table} where account_id = $1::uuid limit $2::int) x) as rows`,
    [accountId, String(most)],
    { prepare },
  )
  return { ops: (row?.ops ?? null) as bigint | null, rows: Number(row?.rows) }
}

/** When a key expires that is not over yet. */
export async function findExpiry({ orm }: Database, accountId: string, key: string, now_ms: number): Promise<number | undefined> {
  const [row] = await orm
    .select({ expiresMs: idempotencyKeys.expiresMs })
    .from(idempotencyKeys)
    .where(and(eq(idempotencyKeys.accountId, accountId), eq(idempotencyKeys.key, key), gt(idempotencyKeys.expiresMs, now_ms)))
  return row?.expiresMs
}
