import type { Address } from 'viem'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Chain, Transfer } from './chain.ts'
import { findCursor } from './follower.store.ts'
import type { UsdcUnits } from './packs.ts'
import { listAddresses } from './receivers.store.ts'
import { sumIncoming, sumOutgoing, sumPayments } from './totals.store.ts'

export type AddressBalance = {
  readonly address: string
  readonly expectedUnits: UsdcUnits
  readonly balanceUnits: UsdcUnits
}
export type BalanceReport = {
  readonly blockNumber: bigint
  readonly creditedUnits: UsdcUnits
  readonly unattributedUnits: UsdcUnits
  /** Expected minus held, over all addresses: 0 when every unit is accounted for. */
  readonly differenceUnits: UsdcUnits
  /** Addresses that hold something else than they should. */
  readonly wrong: readonly AddressBalance[]
}

const ADDRESSES_PER_QUERY = 400

/**
 * Proves that nothing is missing: for each receiving address, what it held when we began plus what we recorded as come in minus what
 * went out is what it holds at the newest block. What is newer than the final part of the chain is read from the chain itself.
 */
export async function verifyBalances(database: Database, chain: Chain): Promise<BalanceReport> {
  const { chainId } = chain.network
  const cursor = await withDatabaseFailure(findCursor(database, chainId))
  if (cursor === undefined)
    throw new Error(
      'this chain was never read: with PAYTO_ADDRESS or DEPOSIT_XPUB set, start the server once; without them there is nothing to verify',
    )
  const head = await chain.head()
  const [addresses, incoming, outgoing, totals] = await withDatabaseFailure(
    Promise.all([
      listAddresses(database, chainId),
      sumIncoming(database, chainId, cursor.finalBlock),
      sumOutgoing(database, chainId, cursor.finalBlock),
      sumPayments(database, chainId),
    ]),
  )
  const recent = await movementsSince(
    chain,
    addresses.map(({ address }) => address as Address),
    cursor.finalBlock + 1n,
    head.number,
  )
  const wrong: AddressBalance[] = []
  let differenceUnits = 0n
  for (const { address, openingUnits } of addresses) {
    const isIdle = !incoming.has(address) && !recent.has(address) && openingUnits === 0n
    if (isIdle) continue
    const expectedUnits =
      openingUnits + (incoming.get(address) ?? 0n) - (outgoing.get(address) ?? 0n) + (recent.get(address) ?? 0n)
    const balanceUnits = await chain.balanceOf(address as Address, head.number)
    differenceUnits += expectedUnits - balanceUnits
    if (expectedUnits !== balanceUnits) wrong.push({ address, expectedUnits, balanceUnits })
  }
  return {
    blockNumber: head.number,
    creditedUnits: totals.creditedUnits,
    unattributedUnits: totals.unattributedUnits,
    differenceUnits,
    wrong,
  }
}

/** What each address gained or lost in a range of blocks. */
async function movementsSince(
  chain: Chain,
  addresses: readonly Address[],
  from: bigint,
  to: bigint,
): Promise<Map<string, UsdcUnits>> {
  const known = new Set<string>(addresses)
  const moved = new Map<string, UsdcUnits>()
  const add = (address: string, units: UsdcUnits) => moved.set(address, (moved.get(address) ?? 0n) + units)
  const hashes = new Set<Transfer['txHash']>()
  for (let at = 0; at < addresses.length && from <= to; at += ADDRESSES_PER_QUERY) {
    const some = addresses.slice(at, at + ADDRESSES_PER_QUERY)
    for (const side of ['to', 'from'] as const)
      for (const { txHash } of await chain.transactionsWith(side, some, from, to)) hashes.add(txHash)
  }
  for (const txHash of hashes)
    for (const { payer, receiver, units } of (await chain.receipt(txHash))?.transfers ?? []) {
      if (known.has(receiver)) add(receiver, units)
      if (known.has(payer)) add(payer, -units)
    }
  return moved
}
