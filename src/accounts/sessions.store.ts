import { and, eq, sql } from 'drizzle-orm'
import { ArrayLiteral } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import { sessions } from './tables.ts'

export type NewSession = typeof sessions.$inferInsert
/** A session with the key it was opened with, as both stand now. */
export type SessionRow = {
  readonly tokenHash: string
  readonly accountId: string
  readonly sessionId: string
  readonly keyId: string
  readonly name: string
  readonly scope: 'owner' | 'agent' | 'read'
  readonly agentId: string | null
  readonly keyExpiresMs: number | null
  readonly expiresMs: number
}

/** Stores a session and drops the oldest of its key beyond `keep`. */
export async function insertSession({ orm }: Database, session: NewSession, keep: number): Promise<void> {
  await orm.transaction(async (tx) => {
    await tx.insert(sessions).values(session)
    await tx.execute(
      sql`delete from ${sessions} where account_id = ${session.accountId} and session_id in (
        select session_id from ${sessions} where account_id = ${session.accountId} and key_id = ${session.keyId} order by session_id desc offset ${keep})`,
    )
  })
}

/** The live ones among sessions: not over, their key neither revoked nor expired. Read from the database each time, so that an end is an end at once. */
export async function findSessions(
  { sql: raw, prepare }: Database,
  tokenHashes: readonly Buffer[],
  now_ms: number,
): Promise<SessionRow[]> {
  const array = new ArrayLiteral()
  for (const hash of tokenHashes) array.text(`\\x${hash.toString('hex')}`)
  const rows = await raw.unsafe(
    `select encode(s.token_hash, 'hex') as token_hash, s.account_id, s.session_id, s.key_id, s.expires_ms, k.name, k.scope, k.agent_id, k.expires_ms as key_expires_ms
     from sessions s join api_keys k on k.account_id = s.account_id and k.key_id = s.key_id
     where s.token_hash = any($1::bytea[]) and s.expires_ms > $2::bigint and k.revoked_ms is null and (k.expires_ms is null or k.expires_ms > $2::bigint)`,
    [array.close(), String(now_ms)],
    { prepare },
  )
  return rows.map((row) => ({
    tokenHash: row.token_hash as string,
    accountId: row.account_id as string,
    sessionId: row.session_id as string,
    keyId: row.key_id as string,
    name: row.name as string,
    scope: row.scope as SessionRow['scope'],
    agentId: row.agent_id as string | null,
    keyExpiresMs: row.key_expires_ms === null ? null : Number(row.key_expires_ms),
    expiresMs: Number(row.expires_ms),
  }))
}

export async function deleteSession({ orm }: Database, accountId: string, sessionId: string): Promise<void> {
  await orm.delete(sessions).where(and(eq(sessions.accountId, accountId), eq(sessions.sessionId, sessionId)))
}

/** Deletes sessions that ended before a moment, at most `limit`. */
export async function purgeSessions({ orm }: Database, before_ms: number, limit: number): Promise<void> {
  await orm.execute(
    sql`delete from ${sessions} where (account_id, session_id) in (select account_id, session_id from ${sessions} where expires_ms < ${before_ms} order by expires_ms limit ${limit})`,
  )
}
