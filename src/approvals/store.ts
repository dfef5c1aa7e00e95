import { and, asc, desc, eq, gt, isNull, lt, lte, or, sql } from 'drizzle-orm'
import { type Companion, IN_LOCKED } from '../budgets/companion.ts'
import type { Raise } from '../budgets/state.ts'
import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import type { Runner } from '../db/runner.ts'
import { approvals } from './tables.ts'

export type Approval = {
  readonly accountId: string
  readonly approvalId: string
  readonly agentId: string
  readonly actionSummary: string
  readonly raise: Raise | null
  /** What the raise started from when it was asked for. */
  readonly raiseTerms: string | null
  readonly createdMs: number
  readonly expiresMs: number
  readonly decision: 'approved' | 'denied' | 'timeout' | null
  readonly responder: string | null
  readonly decidedMs: number | null
}
/** The links of a request: the one whoever asked is given, and the one that decides where that is another. */
export type Links = { readonly tokenHash: Buffer; readonly decideHash: Buffer | null }
export type NewApproval = Omit<Approval, 'decision' | 'responder' | 'decidedMs'>

type Row = typeof approvals.$inferSelect

/**
 * Stores a request in the caller's transaction. Asked for again after an interruption, the pending one gets the new token, as nobody was
 * given the first. @returns when the stored one expires; null when it has been decided meanwhile
 */
export async function insertApproval(
  runner: Runner,
  prepare: boolean,
  approval: NewApproval,
  { tokenHash, decideHash }: Links,
): Promise<number | null> {
  const { raise } = approval
  const rows = await runner.unsafe(
    `insert into approvals (account_id, approval_id, token_hash, decide_hash, agent_id, action_summary, raise_agent_id, raise_window, raise_kind, raise_nanousd, raise_terms, created_ms, expires_ms)
     values ($1::uuid, $2::uuid, decode($3::text, 'hex'), decode($13::text, 'hex'), $4, $5, $6, $7, $8, $9::bigint, $10, $11::bigint, $12::bigint)
     on conflict (account_id, approval_id) do update set token_hash = excluded.token_hash, decide_hash = excluded.decide_hash where approvals.decision is null
     returning expires_ms`,
    [
      approval.accountId,
      approval.approvalId,
      tokenHash.toString('hex'),
      approval.agentId,
      approval.actionSummary,
      raise?.agentId ?? null,
      raise?.window ?? null,
      raise?.kind ?? null,
      raise === null ? null : raise.amount.toString(),
      approval.raiseTerms,
      String(approval.createdMs),
      String(approval.expiresMs),
      decideHash === null ? null : decideHash.toString('hex'),
    ],
    { prepare },
  )
  return rows[0] === undefined ? null : Number(rows[0].expires_ms)
}

/** A request by either of its links, and whether this one decides. */
export async function findByToken(
  { orm }: Database,
  hash: Buffer,
): Promise<{ approval: Approval; mayDecide: boolean } | undefined> {
  const [row] = await orm
    .select()
    .from(approvals)
    .where(or(eq(approvals.tokenHash, hash), eq(approvals.decideHash, hash)))
  return row && { approval: approvalOf(row), mayDecide: row.decideHash === null || row.decideHash.equals(hash) }
}

export type Listed = {
  /** `pending`: undecided and with time left. */
  readonly state: 'pending' | 'approved' | 'denied' | 'timeout' | null
  readonly boundTo: string | null
  readonly limit: number
  /** Only requests older than this one. */
  readonly before: string | null
  readonly now_ms: number
}

/** Requests of an account, newest first. */
export async function listApprovals({ orm }: Database, accountId: string, wanted: Listed): Promise<Approval[]> {
  const { state, boundTo, before, now_ms } = wanted
  const rows = await orm
    .select()
    .from(approvals)
    .where(
      and(
        eq(approvals.accountId, accountId),
        before === null ? undefined : lt(approvals.approvalId, before),
        state === null
          ? undefined
          : state === 'pending'
            ? and(isNull(approvals.decision), gt(approvals.expiresMs, now_ms))
            : eq(approvals.decision, state),
        boundTo === null
          ? undefined
          : or(eq(approvals.agentId, boundTo), sql`starts_with(${approvals.agentId}, ${`${boundTo}/`})`),
      ),
    )
    .orderBy(desc(approvals.approvalId))
    .limit(wanted.limit)
  return rows.map(approvalOf)
}

export async function findApproval({ orm }: Database, accountId: string, approvalId: string): Promise<Approval | undefined> {
  const [row] = await orm
    .select()
    .from(approvals)
    .where(and(eq(approvals.accountId, accountId), eq(approvals.approvalId, approvalId)))
  return row && approvalOf(row)
}

/** Which of these approvals are decided. */
export async function findDecided(
  { sql: raw, prepare }: Database,
  wanted: readonly { readonly accountId: string; readonly approvalId: string }[],
): Promise<{ accountId: string; approvalId: string }[]> {
  const p = new Parameters()
  const rows = await raw.unsafe(
    `select a.account_id, a.approval_id
     from unnest(${p.add('uuid', wanted, (w, a) => a.raw(w.accountId))}, ${p.add('uuid', wanted, (w, a) => a.raw(w.approvalId))}) u(account_id, approval_id)
     join approvals a on a.account_id = u.account_id and a.approval_id = u.approval_id where a.decision is not null`,
    p.values(),
    { prepare },
  )
  return rows.map((row) => ({ accountId: row.account_id as string, approvalId: row.approval_id as string }))
}

/** Pending requests whose time is over, longest first. */
export async function findExpired({ orm }: Database, now_ms: number, limit: number): Promise<Approval[]> {
  const rows = await orm
    .select()
    .from(approvals)
    .where(and(isNull(approvals.decision), lte(approvals.expiresMs, now_ms)))
    .orderBy(asc(approvals.expiresMs))
    .limit(limit)
  return rows.map(approvalOf)
}

/** Deletes requests that were decided before a moment, at most `limit`. The ledger keeps the decisions. */
export async function purgeApprovals({ orm }: Database, before_ms: number, limit: number): Promise<void> {
  await orm.execute(
    sql`delete from ${approvals} where (account_id, approval_id) in (select account_id, approval_id from ${approvals} where decided_ms < ${before_ms} limit ${limit})`,
  )
}

const approvalOf = (row: Row): Approval => ({
  accountId: row.accountId,
  approvalId: row.approvalId,
  agentId: row.agentId,
  actionSummary: row.actionSummary,
  raise:
    row.raiseAgentId === null || row.raiseWindow === null || row.raiseKind === null || row.raiseNanousd === null
      ? null
      : { agentId: row.raiseAgentId, window: row.raiseWindow, kind: row.raiseKind, amount: row.raiseNanousd },
  raiseTerms: row.raiseTerms,
  createdMs: row.createdMs,
  expiresMs: row.expiresMs,
  decision: row.decision,
  responder: row.responder,
  decidedMs: row.decidedMs,
})

/** Writes decisions into the requests' rows, in the statement that makes them. */
export const approvalDecisions: Companion = {
  part(changes, p) {
    const decided = changes.flatMap(({ account, decisions }) =>
      decisions.map((decision) => ({ ...decision, accountId: account.accountId })),
    )
    if (decided.length === 0) return null
    return {
      sql: `approvals_decided as (
  update approvals a set decision = u.decision, responder = u.responder, decided_ms = u.decided_ms
  from unnest(${p.add('uuid', decided, (d, a) => a.raw(d.accountId))}, ${p.add('uuid', decided, (d, a) => a.raw(d.approvalId))}, ${p.add('text', decided, (d, a) => a.raw(d.decision))}, ${p.add('text', decided, (d, a) => a.text(d.responder))}, ${p.add('bigint', decided, (d, a) => a.raw(d.decidedMs))}) u(account_id, approval_id, decision, responder, decided_ms)
  where a.account_id = u.account_id and a.approval_id = u.approval_id and ${IN_LOCKED})`,
    }
  },
}
