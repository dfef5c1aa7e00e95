import { bigint, pgTable, text, uuid } from 'drizzle-orm/pg-core'

/** Price lists that an operator has fetched; the newest is in force on every process. The same for all accounts. */
export const priceLists = pgTable('price_lists', {
  /** UUIDv7: the newest is the largest. */
  listId: uuid('list_id').primaryKey(),
  source: text('source').notNull(),
  /** JSON, as `operatorPricesSchema` has it. */
  prices: text('prices').notNull(),
  createdMs: bigint('created_ms', { mode: 'number' }).notNull(),
})
