import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fundedWallet, TREASURY, USD } from '../test/support/billing.ts'
import { payingFetch, signedPayment } from '../test/support/buyer.ts'
import { startChain } from '../test/support/chain.ts'
import { startFacilitator } from '../test/support/facilitator.ts'
import { type Context, preparePostgres, startServer } from './context.ts'
import { fillAccounts } from './fill.ts'
import { short } from './report.ts'
import { median } from './statistics.ts'
import { keyOf } from './workload.ts'

const PAYMENTS = 20
const LIMIT_MS = 100

type Interval = readonly [from_ms: number, to_ms: number]

/** What a top-up over x402 takes of our own time: from request to answer, less the time in which the chain or the facilitator was asked. */
export async function topup(context: Context): Promise<void> {
  const { cleanup, report } = context
  const chain = cleanup.add(await startChain(), (started) => started.stop())
  const facilitator = cleanup.add(await startFacilitator(chain), (started) => started.stop())
  const asked: Interval[] = []
  const fronts = [chain.url, facilitator.url].map((target) => cleanup.add(startFront(target, asked), (front) => front.close()))
  await Promise.all(fronts.map((front) => once(front, 'listening')))
  const [rpc = '', facilitatorUrl = ''] = fronts.map((front) => `http://127.0.0.1:${(front.address() as AddressInfo).port}`)
  const url = await preparePostgres(context, 'bench_topup', (sql) => fillAccounts(sql, { first: 0, accounts: 1, agents: 1 }))
  const server = await startServer(context, {
    url,
    dataDir: context.folder,
    environment: { PAYTO_ADDRESS: TREASURY, BASE_RPC_URL: rpc, X402_FACILITATOR_URL: facilitatorUrl },
  })
  const wallet = await fundedWallet(chain, 1_000n * USD)
  const target = `http://127.0.0.1:${server.port}/v1/account/topup?usd=1`
  const init = { method: 'POST', headers: { authorization: `Bearer ${keyOf(0)}` } }
  // The first loads what payments need.
  await payingFetch(wallet, fetch)(target, init)
  const totals: number[] = []
  const own: number[] = []
  for (let payment = 0; payment < PAYMENTS; payment++) {
    const headers = await signedPayment(wallet, target, init, fetch)
    asked.length = 0
    const began_ms = performance.now()
    const response = await fetch(target, { method: 'POST', headers })
    const ended_ms = performance.now()
    if (response.status !== 200) throw new Error(`a payment was answered ${response.status}: ${await response.text()}`)
    await response.arrayBuffer()
    totals.push(ended_ms - began_ms)
    own.push(ended_ms - began_ms - covered(asked, [began_ms, ended_ms]))
  }
  await server.stop()
  const row = (name: string, times: readonly number[]): string[] => [name, short(median(times)), short(Math.max(...times))]
  report.table({
    title: 'Top-up over x402',
    note: `${PAYMENTS} payments, one after the other, each a signed header sent once; a local chain that makes a block for each transaction, and a facilitator over HTTP.`,
    columns: ['', 'median ms', 'slowest ms'],
    rows: [row('in all', totals), row('while neither chain nor facilitator was asked', own)],
  })
  report.target({
    what: 'x402 top-up, our own time, median',
    wanted: `at most ${LIMIT_MS} ms`,
    measured: `${short(median(own))} ms`,
    isMet: median(own) <= LIMIT_MS,
  })
}

/** Passes requests on and notes when it was asked. */
function startFront(target: string, asked: Interval[]): Server {
  const base = new URL(target)
  return createServer((request, response) => {
    const from_ms = performance.now()
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const path = `${base.pathname.replace(/\/$/, '')}${request.url ?? ''}`
      fetch(new URL(path, base), {
        method: request.method ?? 'POST',
        headers: { 'content-type': 'application/json' },
        body: Buffer.concat(chunks),
      })
        .then(async (answer) => {
          const body = Buffer.from(await answer.arrayBuffer())
          response.writeHead(answer.status, { 'content-type': 'application/json' }).end(body)
          asked.push([from_ms, performance.now()])
        })
        .catch(() => response.destroy())
    })
  }).listen(0, '127.0.0.1')
}

/** How much of a time lies in at least one of the intervals. */
function covered(intervals: readonly Interval[], [begin, end]: Interval): number {
  let sum = 0
  let at = begin
  for (const [from_ms, to_ms] of intervals.toSorted((a, b) => a[0] - b[0])) {
    const start = Math.max(at, from_ms)
    const stop = Math.min(end, to_ms)
    if (stop > start) sum += stop - start
    at = Math.max(at, stop)
  }
  return sum
}
