import { LRUCache } from 'lru-cache'
import type { Address } from 'viem'
import { atMost } from '../core/bounded.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { DepositAddresses } from './deposits.ts'
import { insertAddress } from './receivers.store.ts'

const REMEMBERED = 50_000

/** Where an account's money may arrive: the shared address, and its own one when the server can derive it. */
export class Receivers {
  /** PAYTO_ADDRESS in lower case. */
  readonly shared: Address | null
  readonly #deposits: DepositAddresses | null
  readonly #database: Database
  readonly #clock: Clock
  readonly #chainId: number
  readonly #watched = new LRUCache<string, true>(atMost(REMEMBERED))

  constructor(
    deps: { database: Database; clock: Clock },
    options: { chainId: number; shared: Address | null; deposits: DepositAddresses | null },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#chainId = options.chainId
    this.shared = options.shared
    this.#deposits = options.deposits
  }

  /** The account's own address, which is watched from before anybody has seen it; null without DEPOSIT_XPUB. */
  async own(accountId: string): Promise<Address | null> {
    if (this.#deposits === null) return null
    const address = this.#deposits.addressOf(accountId)
    if (!this.#watched.has(accountId)) {
      const row = { chainId: this.#chainId, address, accountId, openingUnits: 0n, createdMs: this.#clock.now() }
      await withDatabaseFailure(insertAddress(this.#database, row))
      this.#watched.set(accountId, true)
    }
    return address
  }

  /** Where an x402 payment for this account goes. */
  async forPayment(accountId: string): Promise<Address> {
    const address = this.shared ?? (await this.own(accountId))
    if (address === null) throw new DomainError('topup_unconfigured')
    return address
  }
}
