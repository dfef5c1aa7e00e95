import type { Address, Hex } from 'viem'
import { DomainError } from '../core/errors.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Chain, Receipt, Transfer } from './chain.ts'
import { type CreditRow, findCredits } from './credits.store.ts'
import type { Credits } from './credits.ts'
import { findIntent } from './intents.store.ts'
import type { UsdcUnits } from './packs.ts'
import type { Receivers } from './receivers.ts'

export type ClaimResult = { readonly creditedOps: bigint; readonly creditedUnits: UsdcUnits; readonly isNew: boolean }

const TX_HASH = /^0x[0-9a-f]{64}$/
const HEX = /^0x(?:[0-9a-f]{2}){1,8192}$/i
/** One transaction may pay for many; each payer's signature costs a call to the chain. */
const MAX_PAYERS = 8

/** A claim on a payment by its transaction hash (contract section 7). */
export class HashClaims {
  readonly #database: Database
  readonly #chain: Chain
  readonly #credits: Credits
  readonly #receivers: Receivers
  readonly #minConfirmations: number
  readonly #service: string

  constructor(
    deps: { database: Database; chain: Chain; credits: Credits; receivers: Receivers },
    options: { minConfirmations: number; service: string },
  ) {
    this.#database = deps.database
    this.#chain = deps.chain
    this.#credits = deps.credits
    this.#receivers = deps.receivers
    this.#minConfirmations = options.minConfirmations
    this.#service = options.service
  }

  /** What the paying wallet signs (EIP-191) so that a transfer to the shared address counts for this account and no other. */
  message(accountId: string, txHash: Hex): string {
    return [
      'Gvnr top-up claim',
      '',
      `Service: ${this.#service}`,
      `Account: ${accountId}`,
      `Transaction: ${txHash}`,
      `Chain: ${this.#chain.network.id}`,
    ].join('\n')
  }

  /**
   * Credits what a transaction paid to this account. A transfer to the account's own address needs nothing but the hash; one to the shared
   * address counts when its sender, as the token's log names it, signed `message`.
   * @throws DomainError `invalid_tx_hash`, `tx_not_found`, `tx_failed`, `transfer_not_found`, `rpc_error`, `not_final`, `signature_required`,
   *   `sender_mismatch`, `already_claimed`
   */
  async claim(accountId: string, request: { txHash: string; signature: string | null }): Promise<ClaimResult> {
    const txHash = request.txHash.trim().toLowerCase() as Hex
    if (!TX_HASH.test(txHash)) throw new DomainError('invalid_tx_hash')
    const receipt = await this.#chain.receipt(txHash)
    if (receipt === null) throw new DomainError('tx_not_found', { retryAfterSeconds: 2 })
    if (!receipt.success) throw new DomainError('tx_failed')

    const own = await this.#receivers.own(accountId)
    const toUs = receipt.transfers.filter(
      ({ units, receiver }) => units > 0n && (receiver === own || receiver === this.#receivers.shared),
    )
    if (toUs.length === 0) throw new DomainError('transfer_not_found')
    const known = await withDatabaseFailure(findCredits(this.#database, this.#chain.network.chainId, [txHash]))
    const isMine = (row: CreditRow) => row.accountId === accountId && row.state === 'credited'
    const open = toUs.filter((transfer) => !known.some((row) => row.logIndex === transfer.logIndex && isMine(row)))
    if (open.length === 0) return resultOf(known.filter(isMine), false)

    const allowed = await this.#allowed(accountId, txHash, open, own, request.signature, known.some(isMine))
    if (allowed.length === 0) return resultOf(known.filter(isMine), false)
    this.#requireFinal(receipt)
    const { rows, isNew } = await this.#credits.credit(accountId, 'hash', allowed)
    const mine = rows.filter((row) => row.accountId === accountId)
    if (mine.length === 0 && !known.some(isMine)) throw new DomainError('already_claimed')
    return resultOf([...known.filter(isMine), ...mine], isNew)
  }

  /** The transfers that this caller has proved to be theirs. @throws when there is none and none was credited before */
  async #allowed(
    accountId: string,
    txHash: Hex,
    open: readonly Transfer[],
    own: Address | null,
    signature: string | null,
    hasSome: boolean,
  ): Promise<Transfer[]> {
    const allowed = open.filter(({ receiver }) => receiver === own)
    const shared: Transfer[] = []
    let isTaken = false
    for (const transfer of open.filter(({ receiver }) => receiver !== own)) {
      const bound = await this.#boundTo(transfer)
      if (bound === accountId) allowed.push(transfer)
      else if (bound === null) shared.push(transfer)
      else isTaken = true
    }
    const payers = [...new Set(shared.map(({ payer }) => payer))].slice(0, MAX_PAYERS)
    const message = this.message(accountId, txHash)
    if (payers.length > 0 && signature === null && allowed.length === 0 && !hasSome)
      throw new DomainError('signature_required', { details: { message, sender: payers[0] } })
    if (signature !== null && HEX.test(signature))
      for (const payer of payers)
        if (await this.#chain.verifyMessage(payer, message, signature as Hex))
          allowed.push(...shared.filter((transfer) => transfer.payer === payer))
    if (allowed.length > 0 || hasSome) return allowed
    if (payers.length > 0) throw new DomainError('sender_mismatch', { details: { message, sender: payers[0] } })
    throw new DomainError(isTaken ? 'already_claimed' : 'transfer_not_found')
  }

  /** The account that asked for this payment over x402; its transfer belongs to nobody else. */
  async #boundTo({ payer, nonce, blockNumber }: Transfer): Promise<string | null> {
    if (nonce === null) return null
    const key = { chainId: this.#chain.network.chainId, payer, nonce }
    const intent = await withDatabaseFailure(findIntent(this.#database, key))
    return intent !== undefined && intent.fromBlock < blockNumber ? intent.accountId : null
  }

  #requireFinal({ confirmations }: Receipt): void {
    if (confirmations >= this.#minConfirmations) return
    const details = { confirmations, required_confirmations: this.#minConfirmations }
    throw new DomainError('not_final', { details, retryAfterSeconds: 2 })
  }
}

const resultOf = (rows: readonly CreditRow[], isNew: boolean): ClaimResult => ({
  creditedOps: rows.reduce((sum, row) => sum + row.ops - row.debtPaidOps, 0n),
  creditedUnits: rows.reduce((sum, row) => sum + row.amountUnits, 0n),
  isNew,
})
