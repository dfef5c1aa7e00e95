// The whole payment rail without real money: `npm run devnet`. Starts a local chain with USDC at its usual address, the server with an
// in-process facilitator, a buyer with USDC and an account, and says how to buy. Everything is thrown away at the end.
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DEPOSIT_XPUB, FACILITATOR_KEY, TREASURY } from '../test/support/billing.ts'
import { startChain, walletAt } from '../test/support/chain.ts'

/** What devnet-buy.ts needs to know. */
const STATE_FILE = '.tmp/devnet.json'
const PORT = process.env.PORT ?? '8787'
const origin = `http://127.0.0.1:${PORT}`
const START_TRIES = 300

const isUp = async (): Promise<boolean> =>
  fetch(`${origin}/ready`).then(
    ({ ok }) => ok,
    () => false,
  )
// Whoever answers already is another server: the buyer's account would be made there.
if (await isUp()) {
  console.error(`Something answers at ${origin} already. Stop it, or name a free port: PORT=8788 npm run devnet`)
  process.exit(1)
}

const chain = await startChain({ blockTime_s: 1 })
const buyer = walletAt(1)
await chain.mint(buyer.address, 1_000_000_000n)

const dataDir = mkdtempSync(join(tmpdir(), 'gvnr-devnet-'))
const server = spawn(process.execPath, ['dist/main.js'], {
  env: {
    PATH: process.env.PATH,
    PORT,
    DATA_DIR: dataDir,
    PAYTO_ADDRESS: TREASURY,
    DEPOSIT_XPUB,
    BASE_RPC_URL: chain.url,
    FACILITATOR_PRIVATE_KEY: FACILITATOR_KEY,
    ADMIN_SECRET: 'devnet-operator-secret',
    LOG_LEVEL: 'warn',
  },
  stdio: ['ignore', 'ignore', 'inherit'],
})
const end = async (code: number) => {
  server.kill('SIGTERM')
  await chain.stop()
  rmSync(dataDir, { recursive: true, force: true })
  rmSync(STATE_FILE, { force: true })
  process.exit(code)
}
server.once('exit', (code) => void end(code ?? 1))
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void end(0))

for (let tries = 0; !(await isUp()); tries++) {
  if (tries === START_TRIES) await end(1)
  await new Promise((resolve) => setTimeout(resolve, 100))
}
const created = (await (await fetch(`${origin}/v1/account`, { method: 'POST' })).json()) as { api_key: string }
mkdirSync('.tmp', { recursive: true })
writeFileSync(STATE_FILE, JSON.stringify({ origin, rpc: chain.url, key: created.api_key }))

console.log(`
Gvnr with a chain of its own
  server   ${origin}
  chain    ${chain.url} (${chain.network.name}, id ${chain.network.chainId})
  USDC     ${chain.usdc}
  buyer    ${buyer.address}, 1,000 USDC
  key      ${created.api_key}

Buy $5 of operations, in another terminal:
  npm run devnet:buy -- x402      one call of the stock x402 client
  npm run devnet:buy -- deposit   a transfer to the account's own address
  npm run devnet:buy -- claim     a transfer to the shared address, claimed by its hash
Or as a person: ${origin}/pay?usd=5&api_key=${created.api_key}

Ctrl-C ends it.
`)
