import { z } from 'zod'
import { DomainError } from '../core/errors.ts'
import { defineOperation, type RunContext, type Throttle } from '../core/operation.ts'
import { integer, text } from '../core/text.ts'
import type { CreditRow } from './credits.store.ts'
import { isPack, opsFromUnits, type PackName, type UsdcUnits, unitsFromAmount, unitsOfPack, usdFromUnits } from './packs.ts'
import type { BillingService } from './service.ts'
import type { PaidResult } from './x402.ts'

export type BillingDeps = { readonly billing: BillingService }

const MAX_LISTED = 200
const DEFAULT_LISTED = 50

const usd = z.number().describe('US dollars')
const ops = z.number().int().describe('Governance operations')
const unixMs = z.number().int().describe('Unix milliseconds')
const txHash = z.string().describe('The transaction on the chain')
const cursor = z.uuid().optional().describe('The last id of the page before')
/** From a query string or a JSON body. */
const pageSize = z.coerce.number().int().min(1).max(MAX_LISTED).optional().describe(`How many, at most ${MAX_LISTED}`)
const packName = z.string().max(64).describe('starter, growth or studio')
/** What a wallet signed, as `PAYMENT-SIGNATURE` (version 2) or `X-PAYMENT` (version 1) carries it; checked where it is used. */
const payment = z
  .looseObject({ x402Version: integer(1, 2) })
  .optional()
  .describe('The x402 payment. Clients send it in the PAYMENT-SIGNATURE or X-PAYMENT header; left out, the answer is the terms')

const paidOutput = z.object({
  operations_remaining: ops,
  credited_ops: ops,
  credited_usd: usd,
  already_credited: z.literal(true).optional().describe('This payment was credited before: nothing moved'),
  tx_hash: txHash.optional(),
  payer: z.string().optional(),
  network: z.string().optional(),
})

const requireAmount = (amount: string | number | undefined): UsdcUnits => {
  const units = unitsFromAmount(amount)
  if (typeof units === 'string') throw new DomainError(units)
  return units
}
const requirePack = (pack: string, status?: number): PackName => {
  if (!isPack(pack)) throw new DomainError('invalid_pack', status === undefined ? {} : { status })
  return pack
}

/** Who knows the quota that a payment raised; implemented by the accounts room. */
type Accounts = { readonly accounts: { get(accountId: string): Promise<{ readonly ops: bigint }> } }
type Deps = BillingDeps & Accounts

const remaining = async ({ accounts }: Accounts, accountId: string): Promise<number> =>
  Number((await accounts.get(accountId)).ops)

async function paidBody(deps: Deps, accountId: string, paid: PaidResult): Promise<z.input<typeof paidOutput>> {
  return {
    operations_remaining: await remaining(deps, accountId),
    credited_ops: Number(paid.creditedOps),
    credited_usd: usdFromUnits(paid.creditedUnits),
    ...(!paid.isNew && { already_credited: true as const }),
    tx_hash: paid.txHash,
    payer: paid.payer,
    network: deps.billing.network.id,
  }
}

const X402_ERRORS = [
  'payment_required',
  'payment_failed',
  'already_claimed',
  'settlement_pending',
  'rpc_error',
  'topup_unconfigured',
] as const

export const topup = defineOperation({
  name: 'topup',
  title: 'Buy governance operations over x402',
  description:
    'Buys 1,000 operations per dollar with USDC in one call: an x402 client pays the 402 answer by itself. $1 to $100 in whole cents. The same payment again is credited once and answers the same.',
  tag: 'Top-up',
  method: 'post',
  path: '/v1/account/topup',
  access: { kind: 'key', scopes: ['owner'] },
  input: z.object({
    usd: z
      .union([z.string().max(32), z.number()])
      .optional()
      .describe('Dollars, for example 5 or 7.50'),
    payment,
  }),
  query: ['usd'],
  countsOnce: true,
  output: paidOutput,
  errors: ['invalid_amount', 'below_minimum', 'above_maximum', ...X402_ERRORS],
  async run(deps: Deps, input, { caller }) {
    const paid = await deps.billing.pay(caller.accountId, requireAmount(input.usd), input.payment ?? null)
    return paidBody(deps, caller.accountId, paid)
  },
})

export const topupPack = defineOperation({
  name: 'topup_pack',
  title: 'Buy a pack over x402',
  description: 'As topup, for a preset: starter $19, growth $39, studio $79.',
  tag: 'Top-up',
  method: 'post',
  path: '/v1/account/topup/{pack}',
  access: { kind: 'key', scopes: ['owner'] },
  input: z.object({ pack: packName, payment }),
  countsOnce: true,
  output: paidOutput.extend({ pack: z.string() }),
  errors: ['invalid_pack', ...X402_ERRORS],
  async run(deps: Deps, input, { caller }) {
    const pack = requirePack(input.pack)
    const paid = await deps.billing.pay(caller.accountId, unitsOfPack(pack), input.payment ?? null)
    return { ...(await paidBody(deps, caller.accountId, paid)), pack }
  },
})

const verifyInput = z.object({
  tx_hash: z.string().max(256).describe('Hash of the transaction that moved the USDC'),
  signature: z
    .string()
    .max(20_000)
    .optional()
    .describe('The paying wallet\'s signature (EIP-191) over the message that "signature_required" gives'),
})
const verifyOutput = z.object({
  operations_remaining: ops,
  credited_ops: ops,
  credited_usd: usd,
  already_credited: z.literal(true).optional(),
  pack: z.string().optional(),
})
const VERIFY_ERRORS = [
  'invalid_tx_hash',
  'tx_not_found',
  'tx_failed',
  'transfer_not_found',
  'rpc_error',
  'not_final',
  'signature_required',
  'sender_mismatch',
  'already_claimed',
  'topup_unconfigured',
  'rate_limited',
] as const
const VERIFY_DESCRIPTION =
  "Credits USDC that was sent by hand, named by its transaction. A transfer to the account's own deposit address needs nothing else; one to the shared address needs the sender's signature over the message that the answer gives."

/** Each claim asks the chain, which all accounts share. */
const CLAIMS_PER_MINUTE = 120

function claimThrottle(_deps: Deps, { caller }: RunContext): Throttle | null {
  if (caller.kind !== 'key') return null
  const hint = `At most ${CLAIMS_PER_MINUTE} claims a minute for one account. Wait retry_after_ms.`
  return { subject: `claim:${caller.accountId}`, max: CLAIMS_PER_MINUTE, window_ms: 60_000, hint }
}

async function verifyBody(deps: Deps, accountId: string, input: z.output<typeof verifyInput>) {
  const claimed = await deps.billing.claim(accountId, { txHash: input.tx_hash, signature: input.signature ?? null })
  return {
    operations_remaining: await remaining(deps, accountId),
    credited_ops: Number(claimed.creditedOps),
    credited_usd: usdFromUnits(claimed.creditedUnits),
    ...(!claimed.isNew && { already_credited: true as const }),
  }
}

export const topupVerify = defineOperation({
  name: 'topup_verify',
  title: 'Claim a payment by its transaction',
  description: VERIFY_DESCRIPTION,
  tag: 'Top-up',
  method: 'post',
  path: '/v1/account/topup-verify',
  access: { kind: 'key', scopes: ['owner'] },
  input: verifyInput,
  output: verifyOutput,
  errors: VERIFY_ERRORS,
  throttle: claimThrottle,
  run: (deps: Deps, input, { caller }) => verifyBody(deps, caller.accountId, input),
})

export const topupVerifyPack = defineOperation({
  name: 'topup_verify_pack',
  title: 'Claim a payment for a pack by its transaction',
  description: `${VERIFY_DESCRIPTION} What was paid counts, whatever the pack costs.`,
  tag: 'Top-up',
  method: 'post',
  path: '/v1/account/topup-verify/{pack}',
  access: { kind: 'key', scopes: ['owner'] },
  input: verifyInput.extend({ pack: packName }),
  output: verifyOutput,
  errors: ['invalid_pack', ...VERIFY_ERRORS],
  throttle: claimThrottle,
  async run(deps: Deps, input, { caller }) {
    const pack = requirePack(input.pack)
    return { ...(await verifyBody(deps, caller.accountId, input)), pack }
  },
})

const STATES = ['unattributed', 'pending', 'credited', 'reversing', 'reversed', 'internal'] as const
const paymentView = z.object({
  topup_id: z.string(),
  state: z.enum(STATES).describe('credited; pending and reversing last an instant; reversed: the chain undid the payment'),
  source: z.enum(['x402', 'hash', 'deposit', 'operator']).nullable(),
  amount_usd: usd,
  ops: ops.describe('Operations it brought'),
  payer: z.string(),
  receiver: z.string(),
  tx_hash: txHash,
  explorer_url: z.string(),
  block_number: z.number().int(),
  created_at: unixMs,
  credited_at: unixMs.nullable(),
})
const paymentJson = (billing: BillingService, row: CreditRow): z.input<typeof paymentView> => ({
  topup_id: row.creditId,
  state: row.state,
  source: row.source,
  amount_usd: usdFromUnits(row.amountUnits),
  ops: Number(row.ops - row.debtPaidOps),
  payer: row.payer,
  receiver: row.receiver,
  tx_hash: row.txHash,
  explorer_url: billing.explorerUrl(row.txHash),
  block_number: Number(row.blockNumber),
  created_at: row.seenMs,
  credited_at: row.creditedMs,
})

export const listTopups = defineOperation({
  name: 'list_topups',
  title: 'List receipts',
  description: 'Every payment of the account, newest first, with amount, operations, time and transaction.',
  tag: 'Top-up',
  method: 'get',
  path: '/v1/account/topups',
  access: { kind: 'key', scopes: ['owner', 'read'], agentRule: 'none' },
  input: z.object({ limit: pageSize, before: cursor }),
  output: z.object({ topups: z.array(paymentView) }),
  errors: ['topup_unconfigured'],
  async run({ billing }: BillingDeps, input, { caller }) {
    const rows = await billing.topups(caller.accountId, input.limit ?? DEFAULT_LISTED, input.before ?? null)
    return { topups: rows.map((row) => paymentJson(billing, row)) }
  },
})

export const getDepositAddress = defineOperation({
  name: 'get_deposit_address',
  title: 'Where to send USDC',
  description:
    'The address to send USDC to by hand. is_own: it belongs to this account alone and what arrives is credited without any call, also from an exchange. Otherwise claim the transfer with POST /v1/account/topup-verify.',
  tag: 'Top-up',
  method: 'get',
  path: '/v1/account/deposit-address',
  access: { kind: 'key', scopes: ['owner', 'read'], agentRule: 'none' },
  input: z.object({}),
  output: z.object({
    deposit_address: z.string(),
    is_own: z.boolean(),
    network_name: z.string(),
    chain_id: z.number().int(),
    usdc_contract: z.string(),
  }),
  errors: ['topup_unconfigured'],
  async run({ billing }: BillingDeps, _input, { caller }) {
    const { address, isOwn } = await billing.receiverOf(caller.accountId)
    return {
      deposit_address: address,
      is_own: isOwn,
      network_name: billing.network.name,
      chain_id: billing.network.chainId,
      usdc_contract: billing.usdc,
    }
  },
})

export const getPack = defineOperation({
  name: 'get_pack',
  title: 'Price of a pack',
  description: 'What a pack costs and brings, and where to pay it. An unknown pack answers 404.',
  tag: 'Top-up',
  method: 'get',
  path: '/v1/packs/{pack}/info',
  access: { kind: 'public' },
  input: z.object({ pack: packName }),
  output: z.object({
    pack: z.string(),
    amount_usd: usd,
    ops,
    description: z.string(),
    network_name: z.string(),
    chain_id: z.number().int(),
    usdc_contract: z.string(),
    usdc_amount_raw: z.string().describe('In base units of USDC (6 decimals)'),
    payto_address: z.string().nullable().describe('null: this server gives every account its own address'),
  }),
  errors: ['invalid_pack', 'topup_unconfigured'],
  errorStatus: { invalid_pack: 404 },
  async run({ billing }: BillingDeps, input) {
    const info = billing.pack(requirePack(input.pack, 404))
    return {
      pack: info.pack,
      amount_usd: usdFromUnits(info.units),
      ops: Number(opsFromUnits(info.units)),
      description: info.description,
      network_name: info.network.name,
      chain_id: info.network.chainId,
      usdc_contract: info.usdc,
      usdc_amount_raw: String(info.units),
      payto_address: info.payTo,
    }
  },
})

export const listPayments = defineOperation({
  name: 'list_payments',
  title: 'List payments',
  description: 'For the operator: payments in one state, newest first. unattributed: USDC arrived that names no account.',
  tag: 'Admin',
  method: 'get',
  path: '/v1/admin/payments',
  access: { kind: 'admin' },
  input: z.object({ state: z.enum(STATES).optional(), limit: pageSize, before: cursor }),
  output: z.object({ payments: z.array(paymentView.extend({ account_id: z.string().nullable() })) }),
  errors: ['topup_unconfigured'],
  async run({ billing }: BillingDeps, input) {
    const rows = await billing.payments(input.state ?? 'unattributed', input.limit ?? DEFAULT_LISTED, input.before ?? null)
    return { payments: rows.map((row) => ({ ...paymentJson(billing, row), account_id: row.accountId })) }
  },
})

export const attributePayment = defineOperation({
  name: 'attribute_payment',
  title: 'Attribute a payment',
  description: 'For the operator: credits a payment that named no account to the account it was meant for. Once.',
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/payments/{payment_id}/attribute',
  access: { kind: 'admin' },
  input: z.object({ payment_id: text(1, 64), account_id: z.uuid() }),
  output: z.object({ ok: z.literal(true), credited_ops: ops, credited_usd: usd, operations_remaining: ops }),
  errors: ['not_found', 'account_not_found', 'already_claimed', 'not_final', 'rpc_error', 'topup_unconfigured'],
  async run(deps: Deps, input) {
    const accountId = input.account_id.toLowerCase()
    const row = await deps.billing.attribute(input.payment_id.toLowerCase(), accountId)
    return {
      ok: true as const,
      credited_ops: Number(row.ops - row.debtPaidOps),
      credited_usd: usdFromUnits(row.amountUnits),
      operations_remaining: await remaining(deps, accountId),
    }
  },
})

/** Those that answer 402 and take payment headers; every other transport of theirs is as usual. */
export const paidOperations = [topup, topupPack]

export const billingOperations = [
  topup,
  topupPack,
  topupVerify,
  topupVerifyPack,
  listTopups,
  getDepositAddress,
  getPack,
  listPayments,
  attributePayment,
]
