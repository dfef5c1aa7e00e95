import { bigint, integer, pgTable, primaryKey, smallint, text, uuid } from 'drizzle-orm/pg-core'

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

/** `usage_spend.span`: how long what a row sums up lasted, from `start_ms` on, in UTC. */
export const SPAN = { hour: 0, day: 1 } as const

/**
 * What was spent per agent, model and span of time, up to the account version in `usage_heads`: sums of holds and ledger, which are written in
 * the same step as that version.
 */
export const usageSpend = pgTable(
  'usage_spend',
  {
    accountId: uuid('account_id').notNull(),
    span: smallint('span').notNull(),
    startMs: ms('start_ms').notNull(),
    agentId: text('agent_id').notNull(),
    model: text('model').notNull(),
    spentNanousd: bigint('spent_nanousd', { mode: 'bigint' }).notNull(),
    calls: integer('calls').notNull(),
    inputTokens: bigint('input_tokens', { mode: 'bigint' }).notNull(),
    outputTokens: bigint('output_tokens', { mode: 'bigint' }).notNull(),
    /** Of the holds it sums up: where to find them, as an account's versions follow each other in time. */
    firstVersion: bigint('first_version', { mode: 'bigint' }).notNull(),
    lastVersion: bigint('last_version', { mode: 'bigint' }).notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.span, t.startMs, t.agentId, t.model] })],
)

/** Up to which version of an account `usage_spend` sums up everything. */
export const usageHeads = pgTable('usage_heads', {
  accountId: uuid('account_id').primaryKey(),
  version: bigint('version', { mode: 'bigint' }).notNull(),
})
