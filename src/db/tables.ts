import { bigint, pgTable, text, uuid } from 'drizzle-orm/pg-core'

/** Work that one process at a time does for all: who has it, and until when by the database's clock. */
export const leases = pgTable('leases', {
  name: text('name').primaryKey(),
  holder: uuid('holder').notNull(),
  untilMs: bigint('until_ms', { mode: 'number' }).notNull(),
})

/** Processes that serve, by the database's clock: whoever has not been seen for seconds is gone, and others finish what it began. */
export const processes = pgTable('processes', {
  processId: uuid('process_id').primaryKey(),
  /** Since when it has been seen without a gap. */
  sinceMs: bigint('since_ms', { mode: 'number' }).notNull(),
  seenMs: bigint('seen_ms', { mode: 'number' }).notNull(),
})
