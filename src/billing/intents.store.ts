import { and, eq, lt, lte, type SQL, sql } from 'drizzle-orm'
import type { Database } from '../db/client.ts'
import { NOW_MS } from '../db/lease.ts'
import { paymentIntents } from './tables.ts'

export type IntentRow = typeof paymentIntents.$inferSelect

const DATABASE_MS = sql.raw(NOW_MS)

const intentKey = (key: { chainId: number; payer: string; nonce: string }): SQL | undefined =>
  and(eq(paymentIntents.chainId, key.chainId), eq(paymentIntents.payer, key.payer), eq(paymentIntents.nonce, key.nonce))

export async function findIntent(
  { orm }: Database,
  key: { chainId: number; payer: string; nonce: string },
): Promise<IntentRow | undefined> {
  return (await orm.select().from(paymentIntents).where(intentKey(key)))[0]
}

/** Commits an intent, unless one for this payment is there already. */
export async function insertIntent({ orm }: Database, intent: IntentRow): Promise<void> {
  await orm.insert(paymentIntents).values(intent).onConflictDoNothing()
}

/** Takes the right to ask for the settlement, by the database's clock. @returns false while another request has it */
export async function leaseIntent({ orm }: Database, key: IntentRow, lease_ms: number): Promise<boolean> {
  const rows = await orm
    .update(paymentIntents)
    .set({ leaseMs: sql`${DATABASE_MS} + ${lease_ms}::bigint` })
    .where(and(intentKey(key), lte(paymentIntents.leaseMs, DATABASE_MS)))
    .returning({ nonce: paymentIntents.nonce })
  return rows.length > 0
}

/** Gives the right back and notes the transaction, when there is one. */
export async function releaseIntent({ orm }: Database, key: IntentRow, txHash: string | null): Promise<void> {
  await orm
    .update(paymentIntents)
    .set({ leaseMs: 0, ...(txHash !== null && { txHash }) })
    .where(intentKey(key))
}

/** Ends an intent: credited by this transaction. */
export async function settleIntent(
  { orm }: Database,
  key: { chainId: number; payer: string; nonce: string },
  txHash: string,
): Promise<void> {
  await orm.update(paymentIntents).set({ state: 'settled', txHash }).where(intentKey(key))
}

/** Ends the intents that the chain can no longer settle. */
export async function expireIntents({ orm }: Database, chainId: number, before_ms: number): Promise<void> {
  await orm
    .update(paymentIntents)
    .set({ state: 'expired' })
    .where(
      and(eq(paymentIntents.chainId, chainId), eq(paymentIntents.state, 'open'), lt(paymentIntents.validBeforeMs, before_ms)),
    )
}
