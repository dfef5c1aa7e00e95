import { sql } from 'drizzle-orm'
import { bigint, check, customType, pgTable, primaryKey, smallint, text, uuid } from 'drizzle-orm/pg-core'

const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
const ms = (name: string) => bigint(name, { mode: 'number' })
const big = (name: string) => bigint(name, { mode: 'bigint' })

/**
 * Changes that the decision engine does not make: keys, channels, webhooks, settings. Append only, written in the transaction of the change,
 * which raises the account's version to the one that stands here: so they have their place among the engine's events.
 */
export const auditEvents = pgTable(
  'audit_events',
  {
    accountId: uuid('account_id').notNull(),
    version: big('version').notNull(),
    eventId: uuid('event_id').notNull(),
    type: text('type').notNull(),
    agentId: text('agent_id'),
    /** Who did it: `key:<key_id>`, `operator`, `system`. */
    actor: text('actor').notNull(),
    /** JSON. Holds no credential. */
    detail: text('detail').notNull(),
    atMs: ms('at_ms').notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.version, t.eventId] })],
)

/**
 * The chain of an account's events, a link for every stretch of them: `hash` is that of the last one, which stands at (`last_version`,
 * `last_id`, `last_rank`). The entries in between are computed again from what they were sealed from. Append only.
 */
export const auditSeals = pgTable(
  'audit_seals',
  {
    accountId: uuid('account_id').notNull(),
    firstSeq: big('first_seq').notNull(),
    lastSeq: big('last_seq').notNull(),
    lastVersion: big('last_version').notNull(),
    lastId: uuid('last_id').notNull(),
    lastRank: smallint('last_rank').notNull(),
    hash: bytea('hash').notNull(),
    /** Earliest and latest time of an entry. */
    minMs: ms('min_ms').notNull(),
    maxMs: ms('max_ms').notNull(),
    sealedMs: ms('sealed_ms').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.accountId, t.firstSeq] }),
    check('audit_seals_not_empty', sql`${t.lastSeq} >= ${t.firstSeq} and length(${t.hash}) = 32`),
  ],
)
