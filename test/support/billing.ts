import { HDKey } from '@scure/bip32'
import type { HDAccount } from 'viem/accounts'
import type { Config } from '../../src/config.ts'
import { type Clock, systemClock } from '../../src/core/clock.ts'
import type { Database } from '../../src/db/client.ts'
import { openTestApp, type TestApp } from './app.ts'
import { keyAt, type TestChain, walletAt } from './chain.ts'

export const USD = 1_000_000n
/** Where the shared money goes in the tests. */
export const TREASURY = walletAt(5).address
/** Pays the gas of the in-process facilitator. */
export const FACILITATOR_KEY = keyAt(0)

const deposits = HDKey.fromMasterSeed(new Uint8Array(32).fill(7))
export const DEPOSIT_XPUB = deposits.publicExtendedKey
export const DEPOSIT_XPRV = deposits.privateExtendedKey

/** The product with top-ups on a local chain. The chain is read only when a test says so (`app.billing.follow()`), unless `start`. */
export function openPaidApp(
  database: Database,
  chain: Pick<TestChain, 'url'>,
  config: Partial<Config> = {},
  options: { start?: boolean } = {},
): Promise<TestApp<Clock>> {
  return openTestApp<Clock>(database, {
    clock: systemClock,
    ...options,
    config: {
      PAYTO_ADDRESS: TREASURY,
      DEPOSIT_XPUB,
      BASE_RPC_URL: chain.url,
      FACILITATOR_PRIVATE_KEY: FACILITATOR_KEY,
      SIGNUP_TRIAL_OPS: 0,
      ...config,
    },
  })
}

let nextWallet = 20

/** An account of its own with USDC and gas. */
export async function fundedWallet(chain: TestChain, units: bigint): Promise<HDAccount> {
  const wallet = walletAt(nextWallet++)
  await chain.client.setBalance({ address: wallet.address, value: 10n ** 20n })
  await chain.mint(wallet.address, units)
  return wallet
}
