import { randomBytes } from 'node:crypto'
import { HDKey } from '@scure/bip32'
import { type Address, createWalletClient, fallback, type Hex, http, parseAbi, publicActions, toHex } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import type { Database } from '../db/client.ts'
import type { Chain } from './chain.ts'
import { depositPath } from './deposits.ts'
import { AUTHORIZATION_TYPES } from './networks.ts'
import type { UsdcUnits } from './packs.ts'
import { listUsedDepositAddresses } from './receivers.store.ts'

export type Sweepable = { readonly address: Address; readonly accountId: string; readonly units: UsdcUnits }
export type SweepKeys = {
  /** The private half of DEPOSIT_XPUB. */
  readonly depositXprv: string
  /** Pays the gas; the deposit addresses hold no ETH. */
  readonly gasKey: Hex
}

const VALID_SECONDS = 3_600
const ABI = parseAbi([
  'function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature)',
])

/** Deposit addresses that hold at least `minimum`, largest first. Needs no key. */
export async function findSweepable(database: Database, chain: Chain, minimum: UsdcUnits): Promise<Sweepable[]> {
  const head = await chain.head()
  const found: Sweepable[] = []
  for (const { address, accountId } of await listUsedDepositAddresses(database, chain.network.chainId)) {
    const units = await chain.balanceOf(address as Address, head.number)
    if (units >= minimum && units > 0n) found.push({ address: address as Address, accountId, units })
  }
  return found.sort((a, b) => (a.units < b.units ? 1 : -1))
}

/**
 * Moves one address's USDC to the treasury: its own key signs an authorization (EIP-3009), the gas account sends it. Run again after any
 * failure: it goes by what the address still holds.
 * @throws when the key is not the address's
 */
export async function sweepOne(
  chain: Chain,
  rpcUrls: readonly string[],
  keys: SweepKeys,
  { address, accountId, units }: Sweepable,
  treasury: Address,
): Promise<Hex> {
  const [high, low] = depositPath(accountId)
  const { privateKey } = HDKey.fromExtendedKey(keys.depositXprv).deriveChild(high).deriveChild(low)
  if (privateKey === null) throw new Error('this is not an extended private key')
  const owner = privateKeyToAccount(toHex(privateKey))
  if (owner.address.toLowerCase() !== address)
    throw new Error(`the key does not belong to DEPOSIT_XPUB: it gives ${owner.address}`)
  const { network, usdc } = chain
  const wallet = createWalletClient({
    account: privateKeyToAccount(keys.gasKey),
    chain: network.viem,
    transport: fallback(rpcUrls.map((url) => http(url))),
  }).extend(publicActions)
  const message = {
    from: address,
    to: treasury,
    value: units,
    validAfter: 0n,
    validBefore: BigInt(Math.floor(Date.now() / 1000) + VALID_SECONDS),
    nonce: toHex(randomBytes(32)),
  }
  const signature = await owner.signTypedData({
    domain: { ...network.domain, chainId: network.chainId, verifyingContract: usdc },
    types: AUTHORIZATION_TYPES,
    primaryType: 'TransferWithAuthorization',
    message,
  })
  const { from, to, value, validAfter, validBefore, nonce } = message
  const hash = await wallet.writeContract({
    address: usdc,
    abi: ABI,
    functionName: 'transferWithAuthorization',
    args: [from, to, value, validAfter, validBefore, nonce, signature],
  })
  const { status } = await wallet.waitForTransactionReceipt({ hash })
  if (status !== 'success') throw new Error(`the transaction ${hash} failed`)
  return hash
}
