import { desc, gt, notInArray } from 'drizzle-orm'
import type { Database } from '../db/client.ts'
import { priceLists } from './tables.ts'

export type PriceList = typeof priceLists.$inferSelect

/** The newest list, if it is newer than `known`. */
export async function findNewerList({ orm }: Database, known: string): Promise<PriceList | undefined> {
  const rows = await orm.select().from(priceLists).where(gt(priceLists.listId, known)).orderBy(desc(priceLists.listId)).limit(1)
  return rows[0]
}

/** Stores a list and forgets all but the newest `keep`. */
export async function insertList({ orm }: Database, list: PriceList, keep: number): Promise<void> {
  await orm.transaction(async (tx) => {
    await tx.insert(priceLists).values(list)
    const newest = tx.select({ id: priceLists.listId }).from(priceLists).orderBy(desc(priceLists.listId)).limit(keep)
    await tx.delete(priceLists).where(notInArray(priceLists.listId, newest))
  })
}
