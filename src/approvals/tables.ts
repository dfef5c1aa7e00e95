import { sql } from 'drizzle-orm'
import { bigint, customType, index, pgTable, primaryKey, text, unique, uuid } from 'drizzle-orm/pg-core'

const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
const ms = (name: string) => bigint(name, { mode: 'number' })

/**
 * Requests to a human. The link's token is stored as its SHA-256 only, so the table gives nobody a live link; it is looked up by
 * hash before the account is known. `decision` is null while pending and is written only by the decision engine, in the statement
 * that also writes the decision's ledger row and applies the raise.
 */
export const approvals = pgTable(
  'approvals',
  {
    accountId: uuid('account_id').notNull(),
    approvalId: uuid('approval_id').notNull(),
    tokenHash: bytea('token_hash').notNull(),
    /** The link that decides, where it is not the one that the asking agent was given; null: the same. */
    decideHash: bytea('decide_hash'),
    agentId: text('agent_id').notNull(),
    actionSummary: text('action_summary').notNull(),
    /** What approving raises: all null for nothing. */
    raiseAgentId: text('raise_agent_id'),
    raiseWindow: text('raise_window', { enum: ['hourly', 'daily', 'weekly', 'monthly', 'session'] }),
    raiseKind: text('raise_kind', { enum: ['limit', 'extra'] }),
    raiseNanousd: bigint('raise_nanousd', { mode: 'bigint' }),
    /** What the raise started from when it was asked for (`termsOf`). */
    raiseTerms: text('raise_terms'),
    createdMs: ms('created_ms').notNull(),
    expiresMs: ms('expires_ms').notNull(),
    decision: text('decision', { enum: ['approved', 'denied', 'timeout'] }),
    responder: text('responder'),
    decidedMs: ms('decided_ms'),
  },
  (t) => [
    primaryKey({ columns: [t.accountId, t.approvalId] }),
    unique('approvals_token').on(t.tokenHash),
    unique('approvals_decide_token').on(t.decideHash),
    index('approvals_pending_account').on(t.accountId, t.approvalId).where(sql`${t.decision} is null`),
    index('approvals_pending').on(t.expiresMs).where(sql`${t.decision} is null`),
  ],
)
