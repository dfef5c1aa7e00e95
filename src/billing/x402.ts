import { setTimeout as sleep } from 'node:timers/promises'
import type { PaymentPayload, PaymentRequirements } from '@x402/core/types'
import { type Address, getAddress, type Hex } from 'viem'
import { verifyTypedData } from 'viem/utils'
import { z } from 'zod'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Chain, Transfer } from './chain.ts'
import { type CreditRow, findCreditByNonce } from './credits.store.ts'
import type { Credits } from './credits.ts'
import type { Facilitator } from './facilitator.ts'
import { findIntent, type IntentRow, insertIntent, leaseIntent, releaseIntent, settleIntent } from './intents.store.ts'
import { AUTHORIZATION_TYPES } from './networks.ts'
import type { UsdcUnits } from './packs.ts'
import type { Receivers } from './receivers.ts'

/** What must be paid: x402's requirements of scheme `exact`, with the names version 1 uses for the same. */
export type PaymentTerms = PaymentRequirements & { readonly v1Network: string }

export type PaidResult = {
  readonly creditedOps: bigint
  readonly creditedUnits: UsdcUnits
  readonly txHash: string
  readonly payer: string
  readonly isNew: boolean
}

/** How long a signed payment is good for, as the terms say, and the most we accept (somebody has to follow it that long). */
const MAX_TIMEOUT_SECONDS = 300
const MAX_VALID_SECONDS = 3_600
const MIN_VALID_SECONDS = 6
/** How long one request may hold the right to settle: longer than the facilitator and the chain together may take. */
const LEASE_MS = 40_000
const RECEIPT_WAIT_MS = 15_000
const REQUEST_WAIT_MS = 28_000
const POLL_MS = 150

const address = z.string().regex(/^0x[0-9a-f]{40}$/i)
const seconds = z.string().regex(/^\d{1,15}$/)
const authorizationSchema = z.object({
  from: address,
  to: address,
  value: z.string().regex(/^\d{1,30}$/),
  validAfter: seconds,
  validBefore: seconds,
  nonce: z.string().regex(/^0x[0-9a-f]{64}$/i),
})
const payloadSchema = z.object({
  signature: z.string().regex(/^0x(?:[0-9a-f]{2}){1,8192}$/i),
  authorization: authorizationSchema,
})
const termsEcho = z.object({ scheme: z.string(), network: z.string(), amount: z.string(), asset: address, payTo: address })
const paymentSchema = z.discriminatedUnion('x402Version', [
  z.object({ x402Version: z.literal(1), scheme: z.string(), network: z.string(), payload: payloadSchema }),
  z.object({ x402Version: z.literal(2), accepted: termsEcho, payload: payloadSchema }),
])
type Signed = z.output<typeof payloadSchema>

const same = (a: string, b: string): boolean => a.toLowerCase() === b.toLowerCase()

/**
 * Payments over x402: the caller signs an authorization (EIP-3009), we commit whose account it is for, have it settled and credit what the
 * chain shows. What the facilitator says decides nothing; an intent that it leaves behind is followed until the chain can no
 * longer settle it.
 */
export class X402Payments {
  readonly #database: Database
  readonly #clock: Clock
  readonly #chain: Chain
  readonly #credits: Credits
  readonly #receivers: Receivers
  readonly #facilitator: () => Promise<Facilitator>
  readonly #log: Log
  readonly #resourceUrl: string

  constructor(
    deps: {
      database: Database
      clock: Clock
      chain: Chain
      credits: Credits
      receivers: Receivers
      facilitator: () => Promise<Facilitator>
      log: Log
    },
    options: { resourceUrl: string },
  ) {
    this.#resourceUrl = options.resourceUrl
    this.#database = deps.database
    this.#clock = deps.clock
    this.#chain = deps.chain
    this.#credits = deps.credits
    this.#receivers = deps.receivers
    this.#facilitator = deps.facilitator
    this.#log = deps.log
  }

  async terms(accountId: string, units: UsdcUnits): Promise<PaymentTerms> {
    const { network, usdc } = this.#chain
    return {
      scheme: 'exact',
      network: network.id,
      v1Network: network.v1Name,
      asset: getAddress(usdc),
      amount: String(units),
      payTo: getAddress(await this.#receivers.forPayment(accountId)),
      maxTimeoutSeconds: MAX_TIMEOUT_SECONDS,
      extra: { name: network.domain.name, version: network.domain.version },
    }
  }

  /**
   * Takes a payment of `units`. The same payment again, at once or later, answers the same and moves nothing.
   * @param payment what the client sent; null asks for the terms
   * @throws DomainError `payment_required`, `payment_failed` (both with `terms`), `already_claimed`, `settlement_pending`, `rpc_error`
   */
  async pay(accountId: string, units: UsdcUnits, payment: unknown): Promise<PaidResult> {
    const terms = await this.terms(accountId, units)
    if (payment === null) throw new DomainError('payment_required', { details: { terms } })
    const signed = this.#check(terms, payment)
    const key = {
      chainId: this.#chain.network.chainId,
      payer: signed.authorization.from.toLowerCase(),
      nonce: signed.authorization.nonce.toLowerCase(),
    }
    let intent = await withDatabaseFailure(findIntent(this.#database, key))
    let isFresh = false
    if (intent === undefined) {
      try {
        const fromBlock = await this.#prove(terms, signed)
        intent = await this.#open(accountId, terms, signed, key, fromBlock)
        isFresh = true
      } catch (error) {
        // The same payment, sent beside this one, may have been opened and settled meanwhile.
        intent = await withDatabaseFailure(findIntent(this.#database, key))
        if (intent === undefined) throw error
      }
    }
    if (intent.accountId !== accountId) throw new DomainError('already_claimed')

    const deadline = performance.now() + REQUEST_WAIT_MS
    for (let isFirst = true; ; isFirst = false) {
      const credited = await withDatabaseFailure(findCreditByNonce(this.#database, key))
      if (credited !== undefined) return resultOf(credited, false)
      if (await withDatabaseFailure(leaseIntent(this.#database, intent, LEASE_MS)))
        return await this.#settle(intent, terms, signed, isFresh && isFirst)
      if (performance.now() > deadline) throw pending()
      await sleep(POLL_MS)
    }
  }

  /** Everything that can be said about a payment without asking anybody. */
  #check(terms: PaymentTerms, payment: unknown): Signed {
    const parsed = paymentSchema.safeParse(payment)
    if (!parsed.success) throw failed(terms, 'invalid_payload')
    const { data } = parsed
    const isOurs =
      data.x402Version === 1
        ? data.scheme === 'exact' && (data.network === terms.v1Network || data.network === terms.network)
        : data.accepted.scheme === 'exact' &&
          data.accepted.network === terms.network &&
          data.accepted.amount === terms.amount &&
          same(data.accepted.asset, terms.asset) &&
          same(data.accepted.payTo, terms.payTo)
    if (!isOurs) throw failed(terms, 'terms_do_not_match')
    const { authorization } = data.payload
    if (!same(authorization.to, terms.payTo)) throw failed(terms, 'wrong_receiver')
    if (BigInt(authorization.value) !== BigInt(terms.amount)) throw failed(terms, 'wrong_amount')
    const now_s = this.#clock.now() / 1000
    if (Number(authorization.validAfter) > now_s) throw failed(terms, 'not_valid_yet')
    if (Number(authorization.validBefore) < now_s + MIN_VALID_SECONDS) throw failed(terms, 'expired')
    if (Number(authorization.validBefore) > now_s + MAX_VALID_SECONDS) throw failed(terms, 'valid_for_too_long')
    return data.payload
  }

  /**
   * Before anything is stored: the payer signed it and the chain has not seen it. An authorization that is public already (everybody can
   * read it in the transaction that used it) must not buy ops for whoever sends it here.
   * @returns the block at which it was unused
   */
  async #prove(terms: PaymentTerms, signed: Signed): Promise<bigint> {
    const { from, nonce } = signed.authorization
    const [head, isUsed, refusal] = await Promise.all([
      this.#chain.head(),
      this.#chain.isAuthorizationUsed(from as Address, nonce as Hex),
      this.#refusal(terms, signed),
    ])
    if (isUsed) throw failed(terms, 'authorization_used')
    if (refusal !== null) throw failed(terms, refusal)
    return head.number
  }

  /** An ordinary key's signature is checked here; a contract wallet's by the facilitator, on the chain. */
  async #refusal(terms: PaymentTerms, signed: Signed): Promise<string | null> {
    const { from, to, value, validAfter, validBefore, nonce } = signed.authorization
    const isSigned = await verifyTypedData({
      address: from as Address,
      domain: { ...this.#chain.network.domain, chainId: this.#chain.network.chainId, verifyingContract: this.#chain.usdc },
      types: AUTHORIZATION_TYPES,
      primaryType: 'TransferWithAuthorization',
      message: {
        from: from as Address,
        to: to as Address,
        value: BigInt(value),
        validAfter: BigInt(validAfter),
        validBefore: BigInt(validBefore),
        nonce: nonce as Hex,
      },
      signature: signed.signature as Hex,
    }).catch(() => false)
    if (isSigned) return null
    try {
      const facilitator = await this.#facilitator()
      return await facilitator.verify(payloadOf(terms, signed, this.#resourceUrl), requirementsOf(terms))
    } catch (error) {
      this.#log.warn({ err: error }, 'the facilitator did not answer a verification')
      throw pending(error)
    }
  }

  async #open(
    accountId: string,
    terms: PaymentTerms,
    signed: Signed,
    key: { chainId: number; payer: string; nonce: string },
    fromBlock: bigint,
  ): Promise<IntentRow> {
    const intent: IntentRow = {
      ...key,
      accountId,
      receiver: terms.payTo.toLowerCase(),
      amountUnits: BigInt(terms.amount),
      validBeforeMs: Number(signed.authorization.validBefore) * 1000,
      fromBlock,
      state: 'open',
      txHash: null,
      leaseMs: 0,
      createdMs: this.#clock.now(),
    }
    await withDatabaseFailure(insertIntent(this.#database, intent))
    const stored = await withDatabaseFailure(findIntent(this.#database, key))
    if (stored === undefined) throw new Error('a committed intent is not there')
    return stored
  }

  /** One request at a time per payment. Ends with the credit, or with what can be said about why there is none. */
  async #settle(intent: IntentRow, terms: PaymentTerms, signed: Signed, isFirst: boolean): Promise<PaidResult> {
    let txHash: string | null = null
    try {
      // Not the first try: an earlier one may have got through, whatever it was told.
      let found = isFirst ? null : await this.#creditUsed(intent)
      if (found) return found
      let refusal: string | null = null
      try {
        const facilitator = await this.#facilitator()
        const settlement = await facilitator.settle(payloadOf(terms, signed, this.#resourceUrl), requirementsOf(terms))
        txHash = settlement.txHash
        if (!settlement.success && settlement.txHash === null) refusal = settlement.reason
      } catch (error) {
        this.#log.warn({ err: error, nonce: intent.nonce }, 'the facilitator did not answer a settlement')
      }
      if (txHash !== null) found = await this.#creditFrom(intent, txHash as Hex, RECEIPT_WAIT_MS)
      found ??= await this.#creditUsed(intent)
      if (found) return found
      // A refusal in the facilitators' own words comes before anything is sent. The intent is followed all the same.
      if (refusal !== null && refusal !== 'settlement_failed') throw failed(terms, refusal)
      throw pending()
    } finally {
      await releaseIntent(this.#database, intent, txHash).catch((error: unknown) =>
        this.#log.warn({ err: error }, 'an intent stays leased until its lease ends'),
      )
    }
  }

  async #creditUsed(intent: IntentRow): Promise<PaidResult | null> {
    const txHash = await this.#chain.authorizationTransaction(intent.payer as Address, intent.nonce as Hex, intent.fromBlock)
    return txHash === null ? null : this.#creditFrom(intent, txHash, RECEIPT_WAIT_MS)
  }

  /** Credits the transfer that a transaction made for this intent, once it is mined. @returns null when there is none in time */
  async #creditFrom(intent: IntentRow, txHash: Hex, wait_ms: number): Promise<PaidResult | null> {
    const deadline = performance.now() + wait_ms
    for (;;) {
      const receipt = await this.#chain.receipt(txHash)
      if (receipt !== null) {
        const transfer = receipt.transfers.find((one) => isFor(intent, one))
        return transfer === undefined ? null : await this.credit(intent, transfer)
      }
      if (performance.now() > deadline) return null
      await sleep(POLL_MS)
    }
  }

  /** Credits an intent's transfer. Also called by the follower. */
  async credit(intent: IntentRow, transfer: Transfer): Promise<PaidResult> {
    const { rows, isNew } = await this.#credits.credit(intent.accountId, 'x402', [transfer])
    const [row] = rows
    if (row === undefined || row.accountId !== intent.accountId) throw new DomainError('already_claimed')
    await withDatabaseFailure(settleIntent(this.#database, intent, transfer.txHash))
    return resultOf(row, isNew)
  }
}

/** True when this transfer was made by the intent's authorization, after the intent was committed. */
export const isFor = (intent: IntentRow, transfer: Transfer): boolean =>
  transfer.nonce?.toLowerCase() === intent.nonce &&
  transfer.payer === intent.payer &&
  transfer.receiver === intent.receiver &&
  transfer.blockNumber > intent.fromBlock

const failed = (terms: PaymentTerms, reason: string): DomainError =>
  new DomainError('payment_failed', { details: { reason, terms } })
const pending = (cause?: unknown): DomainError => new DomainError('settlement_pending', { retryAfterSeconds: 3, cause })

const resultOf = (row: CreditRow, isNew: boolean): PaidResult => ({
  creditedOps: row.ops - row.debtPaidOps,
  creditedUnits: row.amountUnits,
  txHash: row.txHash,
  payer: row.payer,
  isNew,
})

function requirementsOf({ v1Network: _v1, ...requirements }: PaymentTerms): PaymentRequirements {
  return requirements
}
/** Always version 2: the authorization of a version 1 payment is the same one. */
const payloadOf = (terms: PaymentTerms, signed: Signed, url: string): PaymentPayload => ({
  x402Version: 2,
  resource: { url, description: 'Gvnr governance operations', mimeType: 'application/json' },
  accepted: requirementsOf(terms),
  payload: signed,
})
