import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { DEPOSIT_XPUB, fundedWallet, TREASURY, USD } from '../../support/billing.ts'
import { type Fetch, signedPayment } from '../../support/buyer.ts'
import { startChain, type TestChain } from '../../support/chain.ts'
import { Client } from '../../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { startFacilitator, type TestFacilitator } from '../../support/facilitator.ts'
import { type RpcProxy, startRpcProxy } from '../../support/rpc-proxy.ts'
import { type Server, startServer } from '../../support/server.ts'

const PATH = '/v1/account/topup?usd=5'
/** Longer than a dead process keeps the right to settle, and shorter than a living one may. */
const PATIENCE_MS = 20_000

describe('a server that is killed while a payment is under way', () => {
  let chain: TestChain
  let node: RpcProxy
  let facilitator: TestFacilitator
  let home: TestDatabase
  let server: Server
  let client: Client

  beforeAll(async () => {
    chain = await startChain()
    node = await startRpcProxy(chain.url)
    facilitator = await startFacilitator(chain)
    home = await createTestDatabase('postgres')
    server = await startServer({ databaseUrl: home.url, env: environment() })
    client = new Client(() => server.origin)
  })
  afterEach(() => {
    node.fault = null
    facilitator.onStep = null
  })
  afterAll(async () => {
    client?.close()
    await server?.stop()
    await home?.drop()
    await facilitator?.stop()
    await node?.stop()
    await chain?.stop()
  })

  const environment = () => ({
    PAYTO_ADDRESS: TREASURY,
    DEPOSIT_XPUB,
    BASE_RPC_URL: node.url,
    X402_FACILITATOR_URL: facilitator.url,
    SIGNUP_TRIAL_OPS: '0',
  })
  const balance = async (key: string) =>
    (await client.send<{ operations_remaining: number }>({ method: 'GET', path: '/v1/account/balance', key })).body
      .operations_remaining
  const transport: Fetch = (input, init) => fetch(input, init)

  async function buyer() {
    const { key } = await client.createAccount()
    const wallet = await fundedWallet(chain, 20n * USD)
    const url = server.origin + PATH
    const headers = await signedPayment(wallet, url, { method: 'POST', headers: { Authorization: `Bearer ${key}` } }, transport)
    const pay = (origin = server.origin) => fetch(origin + PATH, { method: 'POST', headers })
    const spent = async () => 20n * USD - (await chain.balanceOf(wallet.address))
    return { key, pay, spent }
  }
  async function eventually(key: string, ops: number): Promise<void> {
    const deadline = Date.now() + 30_000
    while ((await balance(key)) !== ops && Date.now() < deadline) await sleep(200)
    expect(await balance(key)).toBe(ops)
  }
  /** As a client does: the same payment until the answer is final. */
  async function payAgain(pay: () => Promise<Response>): Promise<Record<string, unknown>> {
    const deadline = Date.now() + PATIENCE_MS
    for (;;) {
      const response = await pay()
      const body = (await response.json()) as Record<string, unknown>
      if (response.status !== 503 || Date.now() > deadline) return { status: response.status, ...body }
    }
  }
  const settled = async ({ key, pay, spent }: Awaited<ReturnType<typeof buyer>>) => {
    expect(await payAgain(pay)).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await balance(key)).toBe(5000)
    expect(await spent()).toBe(5n * USD)
  }

  it('before the intent is stored: nothing was charged', async () => {
    const one = await buyer()
    node.fault = { only: ['eth_call'], result: () => void server.kill('SIGKILL') }
    await expect(one.pay()).rejects.toThrow()
    node.fault = null
    await server.restart()
    expect(await one.spent()).toBe(0n)
    await settled(one)
  })

  it('after the intent, before the settlement: nothing was charged', async () => {
    const one = await buyer()
    facilitator.onStep = async (step) => {
      if (step === 'asked') throw await server.kill('SIGKILL')
    }
    await expect(one.pay()).rejects.toThrow()
    facilitator.onStep = null
    await server.restart()
    expect(await one.spent()).toBe(0n)
    await settled(one)
  })

  it('after the settlement, before the facilitator answers: credited without a person', async () => {
    const one = await buyer()
    facilitator.onStep = async (step) => {
      if (step === 'settled') await server.kill('SIGKILL')
    }
    await expect(one.pay()).rejects.toThrow()
    facilitator.onStep = null
    expect(await one.spent()).toBe(5n * USD)
    await server.restart()
    await eventually(one.key, 5000)
    await settled(one)
  })

  it('after the facilitator answered, before the credit: credited without a person', async () => {
    const one = await buyer()
    facilitator.onStep = async (step) => {
      if (step === 'settled') node.fault = { only: ['eth_getTransactionReceipt'], result: () => void server.kill('SIGKILL') }
    }
    await expect(one.pay()).rejects.toThrow()
    facilitator.onStep = null
    node.fault = null
    await server.restart()
    await eventually(one.key, 5000)
    await settled(one)
  })

  it('between the credit and its ops: they arrive without a person', async () => {
    const one = await buyer()
    const sql = postgres(home.url!, { max: 2 })
    const held = await sql.begin(async (tx) => {
      // Whoever wants to change this quota has to wait.
      await tx`select 1 from accounts where account_id = (select account_id from api_keys order by created_ms desc limit 1) for update`
      const paying = one.pay().then(
        () => 'answered',
        () => 'cut',
      )
      for (;;) {
        const [row] = await sql`select state from credits order by seen_ms desc limit 1`
        if (row?.state === 'pending') break
        await sleep(20)
      }
      await server.kill('SIGKILL')
      return paying
    })
    expect(held).toBe('cut')
    await sql.end()
    await server.restart()
    await eventually(one.key, 5000)
    await settled(one)
  })

  it('after the credit: it stays', async () => {
    const one = await buyer()
    expect((await one.pay()).status).toBe(200)
    await server.kill('SIGKILL')
    await server.restart()
    expect(await balance(one.key)).toBe(5000)
    await settled(one)
  })

  it('is one of two: one payment sent to both fifty times counts once', async () => {
    const other = await startServer({ databaseUrl: home.url, env: environment() })
    const one = await buyer()
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) => one.pay(index % 2 === 0 ? server.origin : other.origin)),
    )
    expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200))
    const bodies = (await Promise.all(answers.map((answer) => answer.json()))) as Record<string, unknown>[]
    expect(bodies.filter(({ already_credited }) => already_credited === undefined)).toHaveLength(1)
    await settled(one)
    await other.stop()
  })
})
