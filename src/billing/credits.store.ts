import { and, asc, desc, eq, gt, inArray, lt, lte, ne, type SQL, sql } from 'drizzle-orm'
import type { Address, Hex } from 'viem'
import { NIL_UUID } from '../core/ids.ts'
import type { Database } from '../db/client.ts'
import type { Transfer } from './chain.ts'
import { opsFromUnits } from './packs.ts'
import { credits } from './tables.ts'

type CreditColumns = typeof credits.$inferSelect
export type CreditRow = CreditColumns & { readonly txHash: Hex; readonly payer: Address; readonly receiver: Address }
export type CreditSource = NonNullable<CreditColumns['source']>
export type PaymentState = CreditColumns['state']

/** Text columns that only ever hold what `Transfer` gave them. */
const typed = (rows: CreditColumns[]): CreditRow[] => rows as CreditRow[]
const keyOf = (chainId: number, { txHash, logIndex }: { txHash: string; logIndex: number }): SQL | undefined =>
  and(eq(credits.chainId, chainId), eq(credits.txHash, txHash), eq(credits.logIndex, logIndex))

export type Claim = {
  readonly chainId: number
  readonly accountId: string
  readonly source: CreditSource
  readonly now_ms: number
  newId(): string
}

const rowOf = (chainId: number, transfer: Transfer, creditId: string, now_ms: number) => ({
  chainId,
  txHash: transfer.txHash,
  logIndex: transfer.logIndex,
  creditId,
  state: 'unattributed' as const,
  payer: transfer.payer,
  receiver: transfer.receiver,
  amountUnits: transfer.units,
  ops: 0n,
  debtPaidOps: 0n,
  debtOps: 0n,
  nonce: transfer.nonce,
  blockNumber: transfer.blockNumber,
  blockHash: transfer.blockHash,
  isFinal: false,
  seenMs: now_ms,
})

/**
 * Gives transfers of one transaction to an account, in one transaction of ours: those nobody owns yet (or that were reversed and are back)
 * become `pending`, with the ledger entry they are about to write. Owed ops are kept back here.
 * @returns every one of the transfers as it stands, whoever owns it
 */
export async function claimTransfers({ orm }: Database, claim: Claim, transfers: readonly Transfer[]): Promise<CreditRow[]> {
  const txHash = transfers[0]?.txHash
  if (txHash === undefined) return []
  const wanted = new Set(transfers.map((transfer) => transfer.logIndex))
  return orm.transaction(async (tx) => {
    const rows = transfers.map((transfer) => rowOf(claim.chainId, transfer, claim.newId(), claim.now_ms))
    await tx.insert(credits).values(rows).onConflictDoNothing()
    // The whole transaction's rows: amounts below one op add up within it.
    const all = typed(
      await tx
        .select()
        .from(credits)
        .where(and(eq(credits.chainId, claim.chainId), eq(credits.txHash, txHash)))
        .orderBy(asc(credits.logIndex))
        .for('update'),
    )
    const isOurs = (row: CreditRow) => row.accountId === claim.accountId && (row.state === 'pending' || row.state === 'credited')
    const isFree = (row: CreditRow) =>
      wanted.has(row.logIndex) &&
      (row.state === 'unattributed' || (row.state === 'reversed' && row.accountId === claim.accountId))
    let units = all.filter(isOurs).reduce((sum, row) => sum + row.amountUnits, 0n)
    const result: CreditRow[] = []
    for (const row of all) {
      if (!wanted.has(row.logIndex)) continue
      if (!isFree(row)) {
        result.push(row)
        continue
      }
      const ops = opsFromUnits(units + row.amountUnits) - opsFromUnits(units)
      units += row.amountUnits
      const transfer = transfers.find((one) => one.logIndex === row.logIndex)
      const [updated] = await tx
        .update(credits)
        .set({
          state: 'pending',
          source: claim.source,
          accountId: claim.accountId,
          ops,
          debtPaidOps: await payDebts(tx, claim.accountId, ops),
          entryId: claim.newId(),
          isFinal: false,
          ...(transfer && { blockNumber: transfer.blockNumber, blockHash: transfer.blockHash }),
        })
        .where(keyOf(claim.chainId, row))
        .returning()
      if (updated) result.push(updated as CreditRow)
    }
    return result
  })
}

type Tx = Parameters<Parameters<Database['orm']['transaction']>[0]>[0]

/** Reduces what the account owes for reversed credits. @returns how many of `ops` went into it */
async function payDebts(tx: Tx, accountId: string, ops: bigint): Promise<bigint> {
  const debts = await tx
    .select()
    .from(credits)
    .where(and(eq(credits.accountId, accountId), gt(credits.debtOps, 0n)))
    .orderBy(asc(credits.creditId))
    .for('update')
  let left = ops
  for (const debt of debts) {
    if (left === 0n) break
    const paid = smaller(left, debt.debtOps)
    await tx
      .update(credits)
      .set({ debtOps: debt.debtOps - paid })
      .where(eq(credits.creditId, debt.creditId))
    left -= paid
  }
  return ops - left
}

const smaller = (a: bigint, b: bigint): bigint => (b < a ? b : a)

/** Moves a credit from one state to the next, once. @returns false when another process did it first */
export async function advanceCredit(
  { orm }: Database,
  row: CreditRow,
  next: Partial<Pick<CreditColumns, 'state' | 'entryId' | 'debtOps' | 'creditedMs' | 'reversedMs'>>,
): Promise<boolean> {
  const changed = await orm
    .update(credits)
    .set(next)
    .where(and(eq(credits.creditId, row.creditId), eq(credits.state, row.state), eq(credits.entryId, row.entryId ?? NIL_UUID)))
    .returning({ creditId: credits.creditId })
  return changed.length > 0
}

/** Records a transfer that names no account, or one between our own addresses; leaves a known one as it is. */
export async function insertSeen(
  { orm }: Database,
  chainId: number,
  transfer: Transfer,
  as: { state: 'unattributed' | 'internal'; creditId: string; now_ms: number },
): Promise<void> {
  await orm
    .insert(credits)
    .values({ ...rowOf(chainId, transfer, as.creditId, as.now_ms), state: as.state })
    .onConflictDoNothing()
}

export async function findCredits({ orm }: Database, chainId: number, txHashes: readonly string[]): Promise<CreditRow[]> {
  if (txHashes.length === 0) return []
  const where = and(eq(credits.chainId, chainId), inArray(credits.txHash, [...txHashes]))
  return typed(await orm.select().from(credits).where(where).orderBy(asc(credits.logIndex)))
}

/** What an authorization has paid for, unless it was undone. */
export async function findCreditByNonce(
  { orm }: Database,
  key: { chainId: number; payer: string; nonce: string },
): Promise<CreditRow | undefined> {
  const where = and(
    eq(credits.chainId, key.chainId),
    eq(credits.payer, key.payer),
    eq(credits.nonce, key.nonce),
    eq(credits.state, 'credited'),
  )
  return typed(await orm.select().from(credits).where(where))[0]
}

/** Credits that a process left between two states, oldest first. */
export async function findUnfinished({ orm }: Database, chainId: number, limit: number): Promise<CreditRow[]> {
  const where = and(eq(credits.chainId, chainId), inArray(credits.state, ['pending', 'reversing']))
  return typed(await orm.select().from(credits).where(where).orderBy(asc(credits.creditId)).limit(limit))
}

/** Rows that a reorganisation may still undo (up to a block), oldest first. */
export async function findUnfinal(
  { orm }: Database,
  chainId: number,
  upTo: bigint | null,
  limit: number,
  after = NIL_UUID,
): Promise<CreditRow[]> {
  const where = and(
    eq(credits.chainId, chainId),
    sql`not ${credits.isFinal}`,
    upTo === null ? undefined : lte(credits.blockNumber, upTo),
    ne(credits.state, 'reversed'),
    gt(credits.creditId, after),
  )
  return typed(await orm.select().from(credits).where(where).orderBy(asc(credits.creditId)).limit(limit))
}

/** The transaction is in this block now. */
export async function moveCredit(
  { orm }: Database,
  row: CreditRow,
  to: { blockNumber: bigint; blockHash: string; isFinal: boolean },
): Promise<void> {
  await orm.update(credits).set(to).where(eq(credits.creditId, row.creditId))
}

/** Forgets a transfer that nobody was credited for and that is no longer on the chain. */
export async function deleteUncredited({ orm }: Database, row: CreditRow): Promise<void> {
  const where = and(eq(credits.creditId, row.creditId), inArray(credits.state, ['unattributed', 'internal']))
  await orm.delete(credits).where(where)
}

/** An account's credits, newest first. @param before the credit id to go on from */
export async function listCredits(
  { orm }: Database,
  accountId: string,
  limit: number,
  before: string | null,
): Promise<CreditRow[]> {
  const where = and(eq(credits.accountId, accountId), before === null ? undefined : lt(credits.creditId, before))
  return typed(await orm.select().from(credits).where(where).orderBy(desc(credits.creditId)).limit(limit))
}

/** For the operator: payments in one state, newest first. */
export async function listPayments(
  { orm }: Database,
  chainId: number,
  state: PaymentState,
  limit: number,
  before: string | null,
): Promise<CreditRow[]> {
  const where = and(
    eq(credits.chainId, chainId),
    eq(credits.state, state),
    before === null ? undefined : lt(credits.creditId, before),
  )
  return typed(await orm.select().from(credits).where(where).orderBy(desc(credits.creditId)).limit(limit))
}

export async function findCredit({ orm }: Database, creditId: string): Promise<CreditRow | undefined> {
  return typed(await orm.select().from(credits).where(eq(credits.creditId, creditId)))[0]
}
