import { bigint, integer, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core'

/** How many requests a minute one agent may send to one model of one provider, and how many it has sent in the current minute. */
export const rateEnvelopes = pgTable(
  'rate_envelopes',
  {
    accountId: uuid('account_id').notNull(),
    agentId: text('agent_id').notNull(),
    provider: text('provider').notNull(),
    model: text('model').notNull(),
    requestsPerMinute: integer('requests_per_minute').notNull(),
    windowStartMs: bigint('window_start_ms', { mode: 'number' }).notNull(),
    requestsInWindow: integer('requests_in_window').notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.agentId, t.provider, t.model] })],
)
