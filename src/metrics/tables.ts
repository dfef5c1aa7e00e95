import { bigint, doublePrecision, pgTable, text } from 'drizzle-orm/pg-core'

/** Figures of the whole installation, computed by one process at a time and exported by all. */
export const figures = pgTable('figures', {
  name: text('name').primaryKey(),
  value: doublePrecision('value').notNull(),
  atMs: bigint('at_ms', { mode: 'number' }).notNull(),
})
