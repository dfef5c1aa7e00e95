import { and, desc, eq, gt, isNull, lt, or, sql } from 'drizzle-orm'
import { ArrayLiteral, Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import { type Runner, runnerOf } from '../db/runner.ts'
import { accounts, apiKeys, throttles } from './tables.ts'

export type ApiKeyRow = typeof apiKeys.$inferSelect
export type NewApiKey = Omit<ApiKeyRow, 'revokedMs' | 'lastUsedMs'>
/** What is written together with a change, in its transaction. */
export type Alongside = (runner: Runner) => Promise<void>

/** Who is given a link that decides an approval: whoever asked for it, or the account's people alone. */
export type ApprovalLinks = 'agent' | 'owner'
export type Account = {
  readonly accountId: string
  readonly ops: bigint
  readonly notificationEmail: string | null
  readonly approvalLinks: ApprovalLinks
  readonly createdMs: number
}

/**
 * Creates an account with its owner key; the caller grants its ops through the decision engine.
 * @returns false when it is there: the same request was carried out before
 */
export async function insertAccount(
  { orm }: Database,
  account: { accountId: string; createdMs: number },
  key: NewApiKey,
  alongside: Alongside,
): Promise<boolean> {
  return orm.transaction(async (tx) => {
    const rows = await tx
      .insert(accounts)
      .values({ ...account, ops: 0n, clockMs: account.createdMs })
      .onConflictDoNothing()
      .returning({ accountId: accounts.accountId })
    if (rows.length === 0) return false
    await tx.insert(apiKeys).values(key)
    await alongside(runnerOf(tx))
    return true
  })
}

export async function findAccount({ orm }: Database, accountId: string): Promise<Account | undefined> {
  const { accountId: id, ops, notificationEmail, approvalLinks, createdMs } = accounts
  const [row] = await orm
    .select({ accountId: id, ops, notificationEmail, approvalLinks, createdMs })
    .from(accounts)
    .where(eq(id, accountId))
  return row
}

export async function updateNotificationEmail(
  { orm }: Database,
  accountId: string,
  email: string | null,
  alongside: Alongside,
): Promise<void> {
  await orm.transaction(async (tx) => {
    await tx.update(accounts).set({ notificationEmail: email }).where(eq(accounts.accountId, accountId))
    await alongside(runnerOf(tx))
  })
}

export async function updateApprovalLinks(
  { orm }: Database,
  accountId: string,
  approvalLinks: ApprovalLinks,
  alongside: Alongside,
): Promise<void> {
  await orm.transaction(async (tx) => {
    await tx.update(accounts).set({ approvalLinks }).where(eq(accounts.accountId, accountId))
    await alongside(runnerOf(tx))
  })
}

/** Keys by hash, in any order; unknown hashes are left out. */
export async function findKeysByHash({ sql: raw, prepare }: Database, hashes: readonly Buffer[]): Promise<ApiKeyRow[]> {
  const array = new ArrayLiteral()
  for (const hash of hashes) array.text(`\\x${hash.toString('hex')}`)
  const rows = await raw.unsafe(
    'select account_id, key_id, key_hash, name, scope, agent_id, created_ms, expires_ms, revoked_ms, last_used_ms from api_keys where key_hash = any($1::bytea[])',
    [array.close()],
    { prepare },
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    keyId: row.key_id as string,
    keyHash: row.key_hash as Buffer,
    name: row.name as string,
    scope: row.scope as ApiKeyRow['scope'],
    agentId: row.agent_id as string | null,
    createdMs: Number(row.created_ms),
    expiresMs: row.expires_ms === null ? null : Number(row.expires_ms),
    revokedMs: row.revoked_ms === null ? null : Number(row.revoked_ms),
    lastUsedMs: row.last_used_ms === null ? null : Number(row.last_used_ms),
  }))
}

/** @returns false when the key id is taken: the same request was carried out before */
export async function insertKey({ orm }: Database, key: NewApiKey, alongside: Alongside): Promise<boolean> {
  return orm.transaction(async (tx) => {
    const rows = await tx.insert(apiKeys).values(key).onConflictDoNothing().returning({ keyId: apiKeys.keyId })
    if (rows.length > 0) await alongside(runnerOf(tx))
    return rows.length > 0
  })
}

/** Makes an existing key row open with another secret; for a creation whose answer never reached its caller. */
export async function replaceKeyHash({ orm }: Database, key: NewApiKey): Promise<void> {
  await orm
    .update(apiKeys)
    .set({ keyHash: key.keyHash })
    .where(and(eq(apiKeys.accountId, key.accountId), eq(apiKeys.keyId, key.keyId), isNull(apiKeys.lastUsedMs)))
}

export async function countLiveKeys({ orm }: Database, accountId: string, now_ms: number): Promise<number> {
  const [row] = await orm
    .select({ n: sql<number>`count(*)::int` })
    .from(apiKeys)
    .where(
      and(
        eq(apiKeys.accountId, accountId),
        isNull(apiKeys.revokedMs),
        or(isNull(apiKeys.expiresMs), gt(apiKeys.expiresMs, now_ms)),
      ),
    )
  return row?.n ?? 0
}

export async function findKey({ orm }: Database, accountId: string, keyId: string): Promise<ApiKeyRow | undefined> {
  return (await orm.select().from(apiKeys).where(keyOf(accountId, keyId)))[0]
}

/** Lets a key end at a moment, unless it ends before. */
export async function expireKey(
  { orm }: Database,
  accountId: string,
  keyId: string,
  expiresMs: number,
  alongside: Alongside,
): Promise<void> {
  await orm.transaction(async (tx) => {
    await tx
      .update(apiKeys)
      .set({ expiresMs: sql`least(${apiKeys.expiresMs}, ${expiresMs}::bigint)` })
      .where(keyOf(accountId, keyId))
    await alongside(runnerOf(tx))
  })
}

export async function renameKey(
  { orm }: Database,
  accountId: string,
  keyId: string,
  name: string,
  alongside: Alongside,
): Promise<void> {
  await orm.transaction(async (tx) => {
    await tx.update(apiKeys).set({ name }).where(keyOf(accountId, keyId))
    await alongside(runnerOf(tx))
  })
}

const keyOf = (accountId: string, keyId: string) => and(eq(apiKeys.accountId, accountId), eq(apiKeys.keyId, keyId))

/** Newest first, revoked ones included, at most `limit`. */
export async function listKeys({ orm }: Database, accountId: string, limit: number): Promise<ApiKeyRow[]> {
  return orm.select().from(apiKeys).where(eq(apiKeys.accountId, accountId)).orderBy(desc(apiKeys.keyId)).limit(limit)
}

/** @returns the hash of the revoked key, or undefined when the account has no such key that is live (or, with `evenRevoked`, none at all) */
export async function revokeKey(
  { orm }: Database,
  accountId: string,
  keyId: string,
  { now_ms, evenRevoked }: { now_ms: number; evenRevoked: boolean },
  alongside: Alongside,
): Promise<Buffer | undefined> {
  return orm.transaction(async (tx) => {
    const [row] = await tx
      .update(apiKeys)
      .set({ revokedMs: sql`coalesce(${apiKeys.revokedMs}, ${now_ms})` })
      .where(and(eq(apiKeys.accountId, accountId), eq(apiKeys.keyId, keyId), evenRevoked ? undefined : isNull(apiKeys.revokedMs)))
      .returning({ keyHash: apiKeys.keyHash })
    if (row) await alongside(runnerOf(tx))
    return row?.keyHash
  })
}

/** Hashes of keys revoked after a moment, for processes that missed the notification. */
export async function findRevokedSince({ sql: raw, prepare }: Database, since_ms: number): Promise<Buffer[]> {
  const rows = await raw.unsafe('select key_hash from api_keys where revoked_ms > $1::bigint', [String(since_ms)], { prepare })
  return rows.map((row) => row.key_hash as Buffer)
}

/** Records when keys were last used; never moves a time backwards. */
export async function touchKeys(
  { sql: raw, prepare }: Database,
  used: readonly { accountId: string; keyId: string; usedMs: number }[],
): Promise<void> {
  const p = new Parameters()
  await raw.unsafe(
    `update api_keys k set last_used_ms = u.used_ms
     from unnest(${p.add('uuid', used, (u, a) => a.raw(u.accountId))}, ${p.add('uuid', used, (u, a) => a.raw(u.keyId))}, ${p.add('bigint', used, (u, a) => a.raw(u.usedMs))}) u(account_id, key_id, used_ms)
     where k.account_id = u.account_id and k.key_id = u.key_id and coalesce(k.last_used_ms, 0) < u.used_ms`,
    p.values(),
    { prepare },
  )
}

/** Counts one event in the fixed window that began at `windowStartMs`. @returns the count including this one */
export async function countEvent({ orm }: Database, subject: string, windowStartMs: number): Promise<number> {
  const [row] = await orm
    .insert(throttles)
    .values({ subject, windowStartMs, count: 1 })
    .onConflictDoUpdate({
      target: throttles.subject,
      set: {
        count: sql`case when ${throttles.windowStartMs} < ${windowStartMs} then 1 else ${throttles.count} + 1 end`,
        windowStartMs: sql`greatest(${throttles.windowStartMs}, ${windowStartMs})`,
      },
    })
    .returning({ count: throttles.count })
  return row?.count ?? 1
}

/** Deletes counters of windows that began before a moment, at most `limit`. */
export async function purgeThrottles({ orm }: Database, before_ms: number, limit: number): Promise<number> {
  const rows = await orm.execute(
    sql`delete from ${throttles} where subject in (select subject from ${throttles} where ${lt(throttles.windowStartMs, before_ms)} limit ${limit}) and window_start_ms < ${before_ms} returning 1`,
  )
  return rows.length
}
