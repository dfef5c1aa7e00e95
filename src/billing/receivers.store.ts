import { and, eq, isNotNull } from 'drizzle-orm'
import type { Database } from '../db/client.ts'
import { credits, receivingAddresses } from './tables.ts'

type ReceivingAddress = typeof receivingAddresses.$inferSelect

/** @returns false when the address was known before */
export async function insertAddress({ orm }: Database, address: ReceivingAddress): Promise<boolean> {
  const rows = await orm.insert(receivingAddresses).values(address).onConflictDoNothing().returning()
  return rows.length > 0
}

export async function listAddresses({ orm }: Database, chainId: number): Promise<ReceivingAddress[]> {
  return orm.select().from(receivingAddresses).where(eq(receivingAddresses.chainId, chainId))
}

/** Accounts' own addresses that have received something. */
export async function listUsedDepositAddresses(
  { orm }: Database,
  chainId: number,
): Promise<{ address: string; accountId: string }[]> {
  const rows = await orm
    .selectDistinct({ address: receivingAddresses.address, accountId: receivingAddresses.accountId })
    .from(receivingAddresses)
    .innerJoin(credits, and(eq(credits.chainId, receivingAddresses.chainId), eq(credits.receiver, receivingAddresses.address)))
    .where(and(eq(receivingAddresses.chainId, chainId), isNotNull(receivingAddresses.accountId)))
  return rows.map(({ address, accountId }) => ({ address, accountId: accountId ?? '' }))
}
