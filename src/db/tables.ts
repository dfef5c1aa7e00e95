import { bigint, pgTable, text, uuid } from 'drizzle-orm/pg-core'

/** Work that one process at a time does for all: who has it, and until when by the database's clock. */
export const leases = pgTable('leases', {
  name: text('name').primaryKey(),
  holder: uuid('holder').notNull(),
  untilMs: bigint('until_ms', { mode: 'number' }).notNull(),
})
