import { x402Client } from '@x402/core/client'
import { type ExactEvmScheme, registerExactEvmScheme } from '@x402/evm/exact/client'
import { wrapFetchWithPayment } from '@x402/fetch'
import type { Address, Hex } from 'viem'
import type { HDAccount } from 'viem/accounts'

export type Fetch = typeof globalThis.fetch
export type Signer = ConstructorParameters<typeof ExactEvmScheme>[0]

/** A contract wallet signs with its owner's key: the signature is checked by the contract (ERC-1271). */
export const contractSigner = (wallet: Address, owner: HDAccount): Signer => ({
  address: wallet,
  signTypedData: (message) => owner.signTypedData(message as Parameters<HDAccount['signTypedData']>[0]),
})

/**
 * The stock client: `fetch` that pays a 402 by itself. Its own limit is $1 per payment, so a buyer of more raises it.
 * @param transport where requests go
 */
export function payingFetch(signer: Signer, transport: Fetch): Fetch {
  const client = new x402Client()
  registerExactEvmScheme(client, { signer })
  client.setSpendControls({ maxAmountPerPayment: '$100' })
  return wrapFetchWithPayment(transport, client) as Fetch
}

/** The same client as if the server knew version 1 only: terms from the body, payment in X-PAYMENT. */
export const payingFetchV1 = (signer: Signer, transport: Fetch): Fetch =>
  payingFetch(signer, async (input, init) => {
    const response = await transport(input, init)
    const headers = new Headers(response.headers)
    headers.delete('payment-required')
    return new Response(response.body, { status: response.status, headers })
  })

/** The headers with which the stock client would repeat its request: a signed payment that is not sent. */
export async function signedPayment(signer: Signer, url: string, init: RequestInit, transport: Fetch): Promise<Headers> {
  let paid: Headers | undefined
  const payer = payingFetch(signer, async (input, options) => {
    const request = new Request(input, options)
    if (!request.headers.has('payment-signature')) return transport(request)
    paid = request.headers
    return new Response('{}', { status: 200 })
  })
  await payer(url, init)
  if (paid === undefined) throw new Error('the client did not pay')
  return paid
}

export const decodeHeader = (value: string | null): Record<string, unknown> =>
  JSON.parse(Buffer.from(value ?? '', 'base64').toString('utf8') || 'null') as Record<string, unknown>

export const encodeHeader = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64')

export type PaymentHeader = {
  x402Version: number
  accepted: Record<string, unknown>
  payload: { signature: Hex; authorization: Record<'from' | 'to' | 'value' | 'validAfter' | 'validBefore' | 'nonce', string> }
}
