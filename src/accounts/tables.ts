import { sql } from 'drizzle-orm'
import { bigint, check, customType, index, integer, pgTable, primaryKey, text, unique, uuid } from 'drizzle-orm/pg-core'

const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
const ms = (name: string) => bigint(name, { mode: 'number' })

/**
 * One row per customer. `ops` and everything else a decision reads belongs to the decision engine: whoever changes it
 * must also raise `version` in the same statement, or another process decides on stale state.
 */
export const accounts = pgTable(
  'accounts',
  {
    accountId: uuid('account_id').primaryKey(),
    ops: bigint('ops', { mode: 'bigint' }).notNull(),
    version: bigint('version', { mode: 'bigint' }).notNull().default(sql`0`),
    /** The latest time any decision of this account was taken at; windows never run backwards behind it. */
    clockMs: ms('clock_ms').notNull(),
    /** Bit set of the events that a webhook of the account wants (notifications room); changing it raises `version`. */
    eventMask: integer('event_mask').notNull().default(0),
    notificationEmail: text('notification_email'),
    /** Who gets a link that decides: whoever asked, or the account's people alone. */
    approvalLinks: text('approval_links', { enum: ['agent', 'owner'] })
      .notNull()
      .default('agent'),
    createdMs: ms('created_ms').notNull(),
  },
  (t) => [check('accounts_ops_not_negative', sql`${t.ops} >= 0`)],
)

/** Keys are stored as SHA-256 only. Looked up by hash before the account is known: the one table that needs routing by hash. */
export const apiKeys = pgTable(
  'api_keys',
  {
    accountId: uuid('account_id').notNull(),
    keyId: uuid('key_id').notNull(),
    keyHash: bytea('key_hash').notNull(),
    name: text('name').notNull(),
    scope: text('scope', { enum: ['owner', 'agent', 'read'] }).notNull(),
    agentId: text('agent_id'),
    createdMs: ms('created_ms').notNull(),
    expiresMs: ms('expires_ms'),
    revokedMs: ms('revoked_ms'),
    lastUsedMs: ms('last_used_ms'),
  },
  (t) => [
    primaryKey({ columns: [t.accountId, t.keyId] }),
    unique('api_keys_hash').on(t.keyHash),
    index('api_keys_revoked').on(t.revokedMs).where(sql`${t.revokedMs} is not null`),
  ],
)

/**
 * Who is signed in at the dashboard. The cookie's token is stored as its SHA-256 only, and the key it was opened with by its id: a session
 * can do what the key can and lives no longer than it.
 */
export const sessions = pgTable(
  'sessions',
  {
    accountId: uuid('account_id').notNull(),
    sessionId: uuid('session_id').notNull(),
    tokenHash: bytea('token_hash').notNull(),
    keyId: uuid('key_id').notNull(),
    createdMs: ms('created_ms').notNull(),
    expiresMs: ms('expires_ms').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.accountId, t.sessionId] }),
    unique('sessions_token').on(t.tokenHash),
    index('sessions_expiry').on(t.expiresMs),
  ],
)

/** Fixed-window counters for callers that have no account yet, keyed by what is limited ("account:ip:203.0.113.7"). */
export const throttles = pgTable(
  'throttles',
  {
    subject: text('subject').primaryKey(),
    windowStartMs: ms('window_start_ms').notNull(),
    count: bigint('count', { mode: 'number' }).notNull(),
  },
  (t) => [index('throttles_window').on(t.windowStartMs)],
)
