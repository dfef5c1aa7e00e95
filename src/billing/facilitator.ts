import { createPrivateKey, type KeyObject, randomBytes, sign } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { HTTPFacilitatorClient } from '@x402/core/http'
import { type PaymentPayload, type PaymentRequirements, VerifyError } from '@x402/core/types'
import { type BaseError, createWalletClient, fallback, type Hex, http, NonceTooLowError, publicActions } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import type { Network } from './networks.ts'

/** What a facilitator said about a settlement. Never proof: the chain is read before anything is credited. */
export type Settlement = { readonly success: boolean; readonly reason: string; readonly txHash: Hex | null }

/** Whoever puts x402 payments on the chain. Both methods throw when no answer came, and then nobody knows what was done. */
export type Facilitator = {
  /** null when the payment could be settled, else why not. */
  verify(payload: PaymentPayload, requirements: PaymentRequirements): Promise<string | null>
  settle(payload: PaymentPayload, requirements: PaymentRequirements): Promise<Settlement>
}

const CDP_URL = 'https://api.cdp.coinbase.com/platform/v2/x402'
const CDP_TOKEN_SECONDS = 120
const TIMEOUT_MS = 20_000
const CONFIRMATION_TIMEOUT_MS = 12_000
const POLL_MS = 200
/** Processes that share one gas account collide on its nonces; each collision costs one more try. */
const NONCE_TRIES = 20
const NONCE_WAIT_MS = 100
const TX_HASH = /^0x[0-9a-f]{64}$/i

/** A reason as facilitators word it; anything else (an exception's text may hold a node's URL and key) is not passed on. */
const reasonOf = (reason: string | undefined): string =>
  reason !== undefined && /^[a-z0-9_]{1,80}$/i.test(reason) ? reason : 'settlement_failed'

type Client = Pick<HTTPFacilitatorClient, 'verify' | 'settle'>

function facilitatorOf(client: Client): Facilitator {
  return {
    async verify(payload, requirements) {
      try {
        const { isValid, invalidReason } = await client.verify(payload, requirements)
        return isValid ? null : reasonOf(invalidReason)
      } catch (error) {
        if (error instanceof VerifyError) return reasonOf(error.invalidReason)
        throw error
      }
    },
    async settle(payload, requirements) {
      const { success, errorReason, transaction } = await client.settle(payload, requirements)
      return { success, reason: reasonOf(errorReason), txHash: TX_HASH.test(transaction) ? (transaction as Hex) : null }
    },
  }
}

/** A facilitator that speaks x402's HTTP protocol, such as https://x402.org/facilitator. */
export const httpFacilitator = (url: string, timeout_ms = TIMEOUT_MS): Facilitator =>
  facilitatorOf(new HTTPFacilitatorClient({ url, timeoutMs: timeout_ms }))

export type CdpKey = { readonly id: string; readonly secret: string }

/** Coinbase's facilitator: each call carries a short-lived token signed by the key. */
export function cdpFacilitator(key: CdpKey, url = CDP_URL): Facilitator {
  const signingKey = parseCdpSecret(key.secret)
  const headers = (method: string, path: string) => ({
    Authorization: `Bearer ${cdpToken(key.id, signingKey, `${method} ${new URL(url).host}${new URL(url).pathname}/${path}`)}`,
  })
  const createAuthHeaders = async () => ({
    verify: headers('POST', 'verify'),
    settle: headers('POST', 'settle'),
    supported: headers('GET', 'supported'),
  })
  return facilitatorOf(new HTTPFacilitatorClient({ url, timeoutMs: TIMEOUT_MS, createAuthHeaders }))
}

/**
 * A CDP key's secret: base64 of an Ed25519 seed and public key (64 bytes), or an EC key in PEM (line breaks may be written `\n`).
 * @throws when it is neither
 */
export function parseCdpSecret(secret: string): KeyObject {
  if (secret.includes('BEGIN')) return createPrivateKey(secret.replaceAll('\\n', '\n'))
  const bytes = Buffer.from(secret, 'base64')
  if (bytes.length !== 64) throw new Error('not a CDP key secret')
  const [d, x] = [bytes.subarray(0, 32).toString('base64url'), bytes.subarray(32).toString('base64url')]
  return createPrivateKey({ key: { kty: 'OKP', crv: 'Ed25519', d, x }, format: 'jwk' })
}

/** A token for one method and address: https://docs.cdp.coinbase.com/get-started/authentication/jwt-authentication */
export function cdpToken(keyId: string, key: KeyObject, uri: string): string {
  const isEdwards = key.asymmetricKeyType === 'ed25519'
  const now = Math.floor(Date.now() / 1000)
  const header = { alg: isEdwards ? 'EdDSA' : 'ES256', kid: keyId, typ: 'JWT', nonce: randomBytes(16).toString('hex') }
  const claims = {
    sub: keyId,
    iss: 'cdp',
    aud: ['cdp_service'],
    uris: [uri],
    iat: now,
    nbf: now,
    exp: now + CDP_TOKEN_SECONDS,
  }
  const text = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.')
  const signature = sign(isEdwards ? null : 'sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' })
  return `${text}.${signature.toString('base64url')}`
}

/**
 * Settles payments itself: `privateKey` is an account that pays the gas and never holds the money. Its balance of ETH is the operator's
 * to keep up.
 */
export async function ownFacilitator(network: Network, rpcUrls: readonly string[], privateKey: Hex): Promise<Facilitator> {
  // Loaded only where it is used: most servers have a facilitator elsewhere.
  const [{ x402Facilitator }, { toFacilitatorEvmSigner }, { registerExactEvmScheme }] = await Promise.all([
    import('@x402/core/facilitator'),
    import('@x402/evm'),
    import('@x402/evm/exact/facilitator'),
  ])
  const account = privateKeyToAccount(privateKey)
  const wallet = createWalletClient({
    account,
    chain: network.viem,
    transport: fallback(rpcUrls.map((url) => http(url, { retryCount: 0 }))),
    pollingInterval: POLL_MS,
  }).extend(publicActions)
  // One at a time, each with the nonce that the node gives: a counter of our own would leave a gap for ever when a transaction is lost.
  let last: Promise<unknown> = Promise.resolve()
  const withNonce = (send: () => Promise<Hex>): Promise<Hex> => {
    const sent = last.then(() => sendInTurn(send))
    last = sent.catch(() => {})
    return sent
  }
  type Signer = Parameters<typeof toFacilitatorEvmSigner>[0]
  const signer: Signer = {
    address: account.address,
    getCode: (request) => wallet.getCode(request),
    readContract: (request) => wallet.readContract({ ...request, args: request.args ?? [] }),
    verifyTypedData: (request) => wallet.verifyTypedData(request as Parameters<typeof wallet.verifyTypedData>[0]),
    writeContract: (request) =>
      withNonce(() => wallet.writeContract(request as unknown as Parameters<typeof wallet.writeContract>[0])),
    sendTransaction: (request) => withNonce(() => wallet.sendTransaction(request)),
    waitForTransactionReceipt: (request) => wallet.waitForTransactionReceipt(request),
  }
  const facilitator = registerExactEvmScheme(new x402Facilitator(), {
    signer: toFacilitatorEvmSigner(signer, { confirmationTimeoutMs: CONFIRMATION_TIMEOUT_MS }),
    networks: network.id,
    simulateInSettle: true,
  })
  return facilitatorOf({
    verify: (payload, requirements) => facilitator.verify(payload, requirements),
    settle: (payload, requirements) => facilitator.settle(payload, requirements),
  })
}

/** Other processes may pay gas from the same account: who loses a nonce takes the next one. */
async function sendInTurn(send: () => Promise<Hex>): Promise<Hex> {
  for (let left = NONCE_TRIES; ; left--) {
    try {
      return await send()
    } catch (error) {
      if (left === 0 || !isNonceTaken(error)) throw error
      await sleep(Math.random() * NONCE_WAIT_MS)
    }
  }
}

function isNonceTaken(error: unknown): boolean {
  if (!(error instanceof Error) || !('walk' in error)) return false
  const found = (error as BaseError).walk(
    (cause) =>
      cause instanceof NonceTooLowError ||
      (cause instanceof Error && /replacement transaction underpriced|nonce too low/i.test(cause.message)),
  )
  return found !== null
}
