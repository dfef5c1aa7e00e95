import { and, eq, lt, or, sql } from 'drizzle-orm'
import { NIL_UUID } from '../core/ids.ts'
import type { Database } from '../db/client.ts'
import { NOW_MS } from '../db/lease.ts'
import type { Transfer } from './chain.ts'
import { chainCursors, outflows } from './tables.ts'

export type Cursor = typeof chainCursors.$inferSelect

const DATABASE_MS = sql.raw(NOW_MS)

export async function insertCursor({ orm }: Database, cursor: Omit<Cursor, 'leaseHolder' | 'leaseMs'>): Promise<void> {
  await orm
    .insert(chainCursors)
    .values({ ...cursor, leaseMs: 0 })
    .onConflictDoNothing()
}

/**
 * Makes this process the one that reads the chain, or keeps it so: a lease by the database's clock, which works behind any pooler.
 * @returns the cursor; null while another process holds the lease; undefined when the chain was never read
 */
export async function leaseCursor(
  { orm }: Database,
  chainId: number,
  holder: string,
  lease_ms: number,
): Promise<Cursor | null | undefined> {
  const [row] = await orm
    .update(chainCursors)
    .set({ leaseHolder: holder, leaseMs: sql`${DATABASE_MS} + ${lease_ms}::bigint` })
    .where(
      and(eq(chainCursors.chainId, chainId), or(eq(chainCursors.leaseHolder, holder), lt(chainCursors.leaseMs, DATABASE_MS))),
    )
    .returning()
  if (row) return row
  return (await findCursor({ orm }, chainId)) === undefined ? undefined : null
}

export async function findCursor({ orm }: Pick<Database, 'orm'>, chainId: number): Promise<Cursor | undefined> {
  return (await orm.select().from(chainCursors).where(eq(chainCursors.chainId, chainId)))[0]
}

/** Moves the cursor while the lease is ours. @returns false when it is not any more */
export async function moveCursor(
  { orm }: Database,
  cursor: Cursor,
  to: Partial<Pick<Cursor, 'scannedBlock' | 'scannedHash' | 'finalBlock'>>,
): Promise<boolean> {
  const rows = await orm
    .update(chainCursors)
    .set(to)
    .where(and(eq(chainCursors.chainId, cursor.chainId), eq(chainCursors.leaseHolder, cursor.leaseHolder ?? NIL_UUID)))
    .returning({ chainId: chainCursors.chainId })
  return rows.length > 0
}

/** Lets another process take over at once. */
export async function releaseCursor({ orm }: Database, chainId: number, holder: string): Promise<void> {
  await orm
    .update(chainCursors)
    .set({ leaseHolder: null, leaseMs: 0 })
    .where(and(eq(chainCursors.chainId, chainId), eq(chainCursors.leaseHolder, holder)))
}

export async function insertOutflow({ orm }: Database, chainId: number, transfer: Transfer): Promise<void> {
  const { txHash, logIndex, payer, receiver, units, blockNumber } = transfer
  await orm
    .insert(outflows)
    .values({ chainId, txHash, logIndex, payer, receiver, amountUnits: units, blockNumber })
    .onConflictDoNothing()
}
