import { and, eq, lte, ne, sql } from 'drizzle-orm'
import type { Database } from '../db/client.ts'
import type { UsdcUnits } from './packs.ts'
import { credits, outflows, paymentIntents } from './tables.ts'

export type PaymentTotals = {
  readonly credits: bigint
  readonly creditedUnits: UsdcUnits
  readonly unattributed: bigint
  readonly unattributedUnits: UsdcUnits
  readonly openIntents: bigint
  readonly owedOps: bigint
}

export async function sumPayments({ orm }: Database, chainId: number): Promise<PaymentTotals> {
  const [row] = await orm
    .select({
      credits: sql<bigint>`count(*) filter (where ${credits.state} = 'credited')`,
      creditedUnits: sql<bigint>`coalesce(sum(${credits.amountUnits}) filter (where ${credits.state} = 'credited'), 0)::bigint`,
      unattributed: sql<bigint>`count(*) filter (where ${credits.state} = 'unattributed')`,
      unattributedUnits: sql<bigint>`coalesce(sum(${credits.amountUnits}) filter (where ${credits.state} = 'unattributed'), 0)::bigint`,
      openIntents: sql<bigint>`(select count(*) from ${paymentIntents} where ${paymentIntents.chainId} = ${chainId} and ${paymentIntents.state} = 'open')`,
      owedOps: sql<bigint>`coalesce(sum(${credits.debtOps}), 0)::bigint`,
    })
    .from(credits)
    .where(eq(credits.chainId, chainId))
  if (row === undefined) throw new Error('an aggregate has one row')
  return row
}

/** What should have come in at each address up to a block: by receiver. */
export async function sumIncoming({ orm }: Database, chainId: number, upTo: bigint): Promise<Map<string, UsdcUnits>> {
  const rows = await orm
    .select({ receiver: credits.receiver, units: sql<bigint>`sum(${credits.amountUnits})::bigint` })
    .from(credits)
    .where(and(eq(credits.chainId, chainId), lte(credits.blockNumber, upTo), ne(credits.state, 'reversed')))
    .groupBy(credits.receiver)
  return new Map(rows.map((row) => [row.receiver, row.units]))
}

export async function sumOutgoing({ orm }: Database, chainId: number, upTo: bigint): Promise<Map<string, UsdcUnits>> {
  const rows = await orm
    .select({ payer: outflows.payer, units: sql<bigint>`sum(${outflows.amountUnits})::bigint` })
    .from(outflows)
    .where(and(eq(outflows.chainId, chainId), lte(outflows.blockNumber, upTo)))
    .groupBy(outflows.payer)
  return new Map(rows.map((row) => [row.payer, row.units]))
}
