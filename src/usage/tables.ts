import { bigint, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core'

const ms = (name: string) => bigint(name, { mode: 'number' })

/** Agents that ever asked for something, approved or not, so that listing them needs no walk through all their decisions. */
export const agents = pgTable(
  'agents',
  {
    accountId: uuid('account_id').notNull(),
    agentId: text('agent_id').notNull(),
    firstMs: ms('first_ms').notNull(),
    /** Within a minute of the last decision: written with a decision, at most once a minute and process. */
    lastMs: ms('last_ms').notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.agentId] })],
)
