// Buys $5 of operations from a running `npm run devnet`, in one of three ways: `npm run devnet:buy -- x402|deposit|claim`.
import { existsSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { x402Client } from '@x402/core/client'
import { registerExactEvmScheme } from '@x402/evm/exact/client'
import { wrapFetchWithPayment } from '@x402/fetch'
import { createWalletClient, type Hex, http, publicActions } from 'viem'
import { NETWORKS } from '../src/billing/networks.ts'
import { TOKEN_ABI, walletAt } from '../test/support/chain.ts'

const WAYS = ['x402', 'deposit', 'claim']
const FIVE_USD = 5_000_000n
const way = process.argv[2] ?? ''
const STATE_FILE = '.tmp/devnet.json'
const problem = !WAYS.includes(way)
  ? `Say how to buy: npm run devnet:buy -- ${WAYS.join('|')}`
  : !existsSync(STATE_FILE) && 'Nothing to buy from: start `npm run devnet` in another terminal first.'
if (problem) {
  console.error(problem)
  process.exit(2)
}

const { origin, rpc, key } = JSON.parse(readFileSync(STATE_FILE, 'utf8')) as { origin: string; rpc: string; key: string }
const isUp = await fetch(`${origin}/ready`).then(
  ({ ok }) => ok,
  () => false,
)
if (!isUp) {
  console.error(
    `Nothing to buy from: the devnet that was at ${origin} is gone. Start \`npm run devnet\` in another terminal first.`,
  )
  process.exit(2)
}
const network = NETWORKS['eip155:84532']
const buyer = walletAt(1)
const wallet = createWalletClient({ account: buyer, chain: network.viem, transport: http(rpc), pollingInterval: 200 }).extend(
  publicActions,
)

type Body = Record<string, unknown>
const headers = { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' }
const call = async (method: string, path: string, body?: Body): Promise<Body> => {
  const response = await fetch(origin + path, { method, headers, ...(body && { body: JSON.stringify(body) }) })
  return (await response.json()) as Body
}
const send = async (to: Hex): Promise<Hex> => {
  const hash = await wallet.writeContract({
    address: network.usdc,
    abi: TOKEN_ABI,
    functionName: 'transfer',
    args: [to, FIVE_USD],
  })
  await wallet.waitForTransactionReceipt({ hash })
  console.log(`sent 5 USDC to ${to} in ${hash}`)
  return hash
}
const operations = async () => (await call('GET', '/v1/account/balance')).operations_remaining

console.log(`before: ${await operations()} operations`)
if (way === 'x402') {
  const client = new x402Client()
  registerExactEvmScheme(client, { signer: buyer })
  // The stock client pays at most $1 unless told otherwise.
  client.setSpendControls({ maxAmountPerPayment: '$50' })
  const response = await wrapFetchWithPayment(fetch, client)(`${origin}/v1/account/topup?usd=5`, { method: 'POST', headers })
  console.log(response.status, await response.json())
} else if (way === 'deposit') {
  const before = await operations()
  const { deposit_address } = await call('GET', '/v1/account/deposit-address')
  await send(deposit_address as Hex)
  while ((await operations()) === before) await sleep(500)
} else {
  const { payto_address } = await call('GET', '/v1/packs/starter/info')
  const tx_hash = await send(payto_address as Hex)
  const { message } = await call('POST', '/v1/account/topup-verify', { tx_hash })
  const signature = await buyer.signMessage({ message: String(message) })
  for (;;) {
    const answer = await call('POST', '/v1/account/topup-verify', { tx_hash, signature })
    if (answer.error === 'not_final')
      console.log(`waiting: ${answer.confirmations} of ${answer.required_confirmations} confirmations`)
    else console.log(answer)
    if (answer.retryable !== true) break
    await sleep(1000)
  }
}
console.log(`after: ${await operations()} operations`)
