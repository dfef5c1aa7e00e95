import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { PaymentPayload, PaymentRequirements } from '@x402/core/types'
import { ownFacilitator } from '../../src/billing/facilitator.ts'
import { FACILITATOR_KEY } from './billing.ts'
import type { TestChain } from './chain.ts'

export type FacilitatorFault =
  /** Answers 500 and does nothing. */
  | { kind: 'down' }
  /** Says that it settled, and did not. */
  | { kind: 'lie'; transaction: string }
  /** Says that it failed, and settled. */
  | { kind: 'deny' }
  /** Settles, and answers later than anybody waits. */
  | { kind: 'late'; delay_ms: number }
  /** Settles and breaks the connection. */
  | { kind: 'cut' }

export type TestFacilitator = {
  readonly url: string
  fault: FacilitatorFault | null
  /** Runs when a settlement was asked for, and when it is on the chain. */
  onStep: ((step: 'asked' | 'settled') => Promise<unknown>) | null
  /** Settlements asked for. */
  settlements: number
  /** Headers of the last request. */
  headers: IncomingMessage['headers']
  stop(): Promise<void>
}

type Body = { x402Version: number; paymentPayload: PaymentPayload; paymentRequirements: PaymentRequirements }

/** A facilitator over HTTP on a local chain, honest unless told otherwise. */
export async function startFacilitator(chain: TestChain): Promise<TestFacilitator> {
  const facilitator = await ownFacilitator(chain.network, [chain.url], FACILITATOR_KEY)
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      handle(request, Buffer.concat(chunks).toString()).then(
        (body) => {
          if (body === 'cut') response.destroy()
          else if (body === 'down') response.writeHead(500).end('down')
          else response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(body))
        },
        () => response.destroy(),
      )
    })
  })
  const handle = async (request: IncomingMessage, text: string): Promise<unknown> => {
    state.headers = request.headers
    const { fault } = state
    if (fault?.kind === 'down') return 'down'
    const { x402Version, paymentPayload, paymentRequirements } = JSON.parse(text) as Body
    if (x402Version !== 2) throw new Error(`asked in version ${x402Version}`)
    if (request.url?.endsWith('/verify')) {
      const reason = await facilitator.verify(paymentPayload, paymentRequirements)
      return reason === null ? { isValid: true } : { isValid: false, invalidReason: reason }
    }
    state.settlements++
    await state.onStep?.('asked')
    const { network } = paymentRequirements
    if (fault?.kind === 'lie') return { success: true, transaction: fault.transaction, network }
    const settled = await facilitator.settle(paymentPayload, paymentRequirements)
    await state.onStep?.('settled')
    if (fault?.kind === 'cut') return 'cut'
    if (fault?.kind === 'late') await sleep(fault.delay_ms)
    if (fault?.kind === 'deny') return { success: false, errorReason: 'insufficient_funds', transaction: '', network }
    return {
      success: settled.success,
      transaction: settled.txHash ?? '',
      network,
      ...(!settled.success && { errorReason: settled.reason }),
    }
  }
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const state: TestFacilitator = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/facilitator`,
    fault: null,
    onStep: null,
    settlements: 0,
    headers: {},
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return state
}
