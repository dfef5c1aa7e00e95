import { type Address, getAddress, type Hex } from 'viem'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { Chain } from './chain.ts'
import { type ClaimResult, HashClaims } from './claims.ts'
import { type CreditRow, findCredit, listCredits, listPayments, type PaymentState } from './credits.store.ts'
import { type Announce, Credits, type Quota } from './credits.ts'
import { DepositAddresses } from './deposits.ts'
import { type CdpKey, cdpFacilitator, type Facilitator, httpFacilitator, ownFacilitator } from './facilitator.ts'
import { Follower } from './follower.ts'
import { NETWORKS, type Network, type NetworkId } from './networks.ts'
import { opsFromUnits, PACKS, type PackName, type UsdcUnits, unitsOfPack } from './packs.ts'
import { Receivers } from './receivers.ts'
import { type PaymentTotals, sumPayments } from './totals.store.ts'
import { type BalanceReport, verifyBalances } from './verify.ts'
import { type PaidResult, X402Payments } from './x402.ts'

export type FacilitatorSettings =
  | { readonly kind: 'url'; readonly url: string }
  | { readonly kind: 'cdp'; readonly key: CdpKey }
  | { readonly kind: 'own'; readonly privateKey: Hex }

export type BillingSettings = {
  readonly networkId: NetworkId
  readonly payTo: Address | null
  readonly depositXpub: string | null
  readonly usdc: Address | null
  readonly rpcUrls: readonly string[]
  readonly facilitator: FacilitatorSettings
  readonly minConfirmations: number
  /** The origin people see; names the service in what a wallet signs. */
  readonly publicUrl: string | null
  readonly follow_ms?: number
}

export type BillingDeps = {
  readonly database: Database
  readonly clock: Clock
  readonly log: Log
  readonly quota: Quota
  readonly announce?: Announce
  accountExists(accountId: string): Promise<boolean>
}

export type PackInfo = {
  readonly pack: PackName
  readonly units: UsdcUnits
  readonly ops: bigint
  readonly description: string
  readonly network: Network
  readonly usdc: Address
  readonly payTo: Address | null
}

/** What exists only where money can arrive. */
type Parts = {
  readonly chain: Chain
  readonly credits: Credits
  readonly receivers: Receivers
  readonly claims: HashClaims
  readonly x402: X402Payments
  readonly follower: Follower
}

const nothingAnnounced: Announce = async () => {}

/** Top-ups with USDC (contract section 7): every way money comes in, and what became of it. */
export class BillingService {
  readonly #database: Database
  readonly #parts: Parts | null
  readonly #accountExists: BillingDeps['accountExists']

  /** @throws when DEPOSIT_XPUB is no extended public key */
  constructor(deps: BillingDeps, settings: BillingSettings) {
    this.#database = deps.database
    this.#accountExists = deps.accountExists
    const isConfigured = settings.payTo !== null || settings.depositXpub !== null
    this.#parts = isConfigured ? partsOf(deps, settings) : null
  }

  get isConfigured(): boolean {
    return this.#parts !== null
  }

  /** @throws DomainError `topup_unconfigured` */
  #require(): Parts {
    if (this.#parts === null) throw new DomainError('topup_unconfigured')
    return this.#parts
  }

  /** @param payment a decoded x402 payment; null asks for the terms, which come as the error `payment_required` */
  pay(accountId: string, units: UsdcUnits, payment: unknown): Promise<PaidResult> {
    return this.#require().x402.pay(accountId, units, payment)
  }

  claim(accountId: string, request: { txHash: string; signature: string | null }): Promise<ClaimResult> {
    return this.#require().claims.claim(accountId, request)
  }

  /** What the paying wallet signs so that this transaction counts for this account. */
  claimMessage(accountId: string, txHash: string): string {
    return this.#require().claims.message(accountId, txHash.toLowerCase() as Hex)
  }

  /** Where this account's money can be sent by hand: its own address if there is one, else the shared one. */
  async receiverOf(accountId: string): Promise<{ address: Address; isOwn: boolean }> {
    const { receivers } = this.#require()
    const own = await receivers.own(accountId)
    return { address: getAddress(own ?? (await receivers.forPayment(accountId))), isOwn: own !== null }
  }

  pack(pack: PackName): PackInfo {
    const { chain, receivers } = this.#require()
    const units = unitsOfPack(pack)
    return {
      pack,
      units,
      ops: opsFromUnits(units),
      description: PACKS[pack].description,
      network: chain.network,
      usdc: getAddress(chain.usdc),
      payTo: receivers.shared === null ? null : getAddress(receivers.shared),
    }
  }

  /** The chain that payments run on. */
  get network(): Network {
    return this.#require().chain.network
  }

  get usdc(): Address {
    return getAddress(this.#require().chain.usdc)
  }

  /** An account's credits, newest first. */
  async topups(accountId: string, limit: number, before: string | null): Promise<CreditRow[]> {
    return withDatabaseFailure(listCredits(this.#database, accountId, limit, before))
  }

  explorerUrl(txHash: string): string {
    return `${this.#require().chain.network.explorer}/tx/${txHash}`
  }

  /** For the operator: payments in one state, newest first. */
  payments(state: PaymentState, limit: number, before: string | null): Promise<CreditRow[]> {
    const { chain } = this.#require()
    return withDatabaseFailure(listPayments(this.#database, chain.network.chainId, state, limit, before))
  }

  /**
   * Operator: says whose payment it is.
   * @throws DomainError `not_found`, `already_claimed`, `not_final`
   */
  async attribute(paymentId: string, accountId: string): Promise<CreditRow> {
    const { chain, credits } = this.#require()
    const row = isUuid(paymentId) ? await withDatabaseFailure(findCredit(this.#database, paymentId)) : undefined
    if (row === undefined || row.chainId !== chain.network.chainId)
      throw new DomainError('not_found', {
        hint: 'No payment has this id. GET /v1/admin/payments?state=unattributed lists those without an account.',
      })
    if (row.accountId !== null && row.accountId !== accountId) throw new DomainError('already_claimed')
    if (row.state === 'credited') return row
    if (row.state === 'internal' || !(await this.#accountExists(accountId))) throw new DomainError('account_not_found')
    const receipt = await chain.receipt(row.txHash)
    const transfer = receipt?.transfers.find((one) => one.logIndex === row.logIndex)
    if (transfer === undefined)
      throw new DomainError('not_final', { hint: 'The transaction is not on the chain at the moment. Try again in a minute.' })
    const { rows } = await credits.credit(accountId, 'operator', [transfer])
    const [credited] = rows
    if (credited?.accountId !== accountId) throw new DomainError('already_claimed')
    return (await withDatabaseFailure(findCredit(this.#database, paymentId))) ?? credited
  }

  /** Figures for metrics; null where top-up is not configured. `unattributed` must be 0 in a healthy installation. */
  async totals(): Promise<PaymentTotals | null> {
    if (this.#parts === null) return null
    return withDatabaseFailure(sumPayments(this.#database, this.#parts.chain.network.chainId))
  }

  /** Compares what came in and went out with what each address holds. */
  verify(): Promise<BalanceReport> {
    const { chain } = this.#require()
    return verifyBalances(this.#database, chain)
  }

  /** The newest block that a node of the chain knows. @throws DomainError `rpc_error` */
  async head(): Promise<{ number: bigint; time_ms: number }> {
    return this.#require().chain.head()
  }

  /** Begins to follow the chain. */
  start(): void {
    this.#parts?.follower.start()
  }

  async stop(): Promise<void> {
    await this.#parts?.follower.stop()
  }

  /** One pass over the chain; for tests and commands. */
  follow(): Promise<boolean> {
    return this.#require().follower.pass()
  }
}

/** The chain that the settings name, and the nodes it is read through. */
export function openChain(settings: Pick<BillingSettings, 'networkId' | 'rpcUrls' | 'usdc'>): {
  chain: Chain
  rpcUrls: readonly string[]
} {
  const network = NETWORKS[settings.networkId]
  const rpcUrls = settings.rpcUrls.length > 0 ? settings.rpcUrls : [network.publicRpc]
  return { chain: new Chain(network, { rpcUrls, usdc: settings.usdc ?? network.usdc }), rpcUrls }
}

function partsOf(deps: BillingDeps, settings: BillingSettings): Parts {
  const { database, clock, log, quota } = deps
  const { chain, rpcUrls } = openChain(settings)
  const { network } = chain
  const { chainId } = network
  const shared = settings.payTo === null ? null : (settings.payTo.toLowerCase() as Address)
  const deposits = settings.depositXpub === null ? null : new DepositAddresses(settings.depositXpub)
  const credits = new Credits({ database, clock, quota, announce: deps.announce ?? nothingAnnounced, log }, { chainId })
  const receivers = new Receivers({ database, clock }, { chainId, shared, deposits })
  const service = settings.publicUrl ?? `Gvnr, paid to ${shared ?? 'your deposit address'}`
  const claims = new HashClaims({ database, chain, credits, receivers }, { minConfirmations: settings.minConfirmations, service })
  const x402 = new X402Payments(
    {
      database,
      clock,
      chain,
      credits,
      receivers,
      facilitator: once(() => facilitatorOf(settings.facilitator, network, rpcUrls)),
      log,
    },
    { resourceUrl: `${settings.publicUrl ?? 'http://localhost'}/v1/account/topup` },
  )
  const follower = new Follower(
    { database, clock, chain, credits, receivers, x402, log },
    { minConfirmations: settings.minConfirmations, ...(settings.follow_ms !== undefined && { interval_ms: settings.follow_ms }) },
  )
  return { chain, credits, receivers, claims, x402, follower }
}

async function facilitatorOf(settings: FacilitatorSettings, network: Network, rpcUrls: readonly string[]): Promise<Facilitator> {
  if (settings.kind === 'own') return ownFacilitator(network, rpcUrls, settings.privateKey)
  return settings.kind === 'cdp' ? cdpFacilitator(settings.key) : httpFacilitator(settings.url)
}

/** Runs it at the first call; a failure is not remembered. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | null = null
  return () => {
    made ??= make().catch((error: unknown) => {
      made = null
      throw error
    })
    return made
  }
}
