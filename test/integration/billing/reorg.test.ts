import type { Hex } from 'viem'
import type { HDAccount } from 'viem/accounts'
import { encodeFunctionData } from 'viem/utils'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Clock } from '../../../src/core/clock.ts'
import { expectStatus, type JsonBody, type TestApp } from '../../support/app.ts'
import { fundedWallet, openPaidApp, USD } from '../../support/billing.ts'
import { type Fetch, signedPayment } from '../../support/buyer.ts'
import { startChain, type TestChain, TOKEN_ABI } from '../../support/chain.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const URL_5 = 'http://gvnr.test/v1/account/topup?usd=5'

describeEachDatabase('a reorganisation of the chain', (openTestDatabase) => {
  let chain: TestChain
  let app: TestApp<Clock>

  beforeAll(async () => {
    chain = await startChain({ finalAfter: 32 })
    app = await openPaidApp(await openTestDatabase(), chain)
    await follow()
  })
  afterAll(async () => {
    await app?.stop()
    await chain?.stop()
  })

  const follow = () => app.app.billing.follow()
  const balance = async (key: string) => (await app.api.get('/v1/account/balance', key)).body.operations_remaining
  const topups = async (key: string) => (await app.api.get('/v1/account/topups', key)).body.topups as JsonBody[]
  const fetchApp: Fetch = async (input, init) => app.app.fetch(new Request(input, init))

  async function account() {
    const { key } = await app.createAccount(0)
    const address = expectStatus(200, await app.api.get('/v1/account/deposit-address', key)).deposit_address as Hex
    const wallet = await fundedWallet(chain, 50n * USD)
    return { key, address, wallet }
  }
  /** A signed transfer, which can be sent again after the chain has lost it. */
  async function signTransfer(wallet: HDAccount, to: Hex, units: bigint): Promise<Hex> {
    const client = chain.walletFor(wallet)
    const data = encodeFunctionData({ abi: TOKEN_ABI, functionName: 'transfer', args: [to, units] })
    const request = await client.prepareTransactionRequest({ to: chain.usdc, data })
    return client.signTransaction(request)
  }
  const send = async (raw: Hex) => {
    const hash = await chain.client.sendRawTransaction({ serializedTransaction: raw })
    await chain.client.waitForTransactionReceipt({ hash })
    return hash
  }
  const spend = async (key: string, ops: number) => {
    await app.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 1000 }, key)
    const clear = { agent_id: 'crawler', model: 'gpt-4o-mini', estimated_tokens: 1 }
    for (let index = 0; index < ops; index++) expectStatus(200, await app.api.post('/v1/budget/clear', clear, key))
  }

  it('that undoes a payment takes its ops back; what was spent is paid by the next one', async () => {
    const { key, address, wallet } = await account()
    const raw = await signTransfer(wallet, address, 4n * USD)
    const tx = await send(raw)
    await chain.mine(2)
    await follow()
    expect(await balance(key)).toBe(4000)
    await spend(key, 7)

    await chain.reorganise(3)
    expect(await chain.balanceOf(address)).toBe(0n)
    await follow()
    // It may come back: nothing is undone before a deposit of that age would count.
    expect(await balance(key)).toBe(3993)
    await chain.mine(2)
    await follow()
    expect(await balance(key)).toBe(0)
    expect(await topups(key)).toMatchObject([{ state: 'reversed', tx_hash: tx }])
    expect(await app.app.billing.totals()).toMatchObject({ owedOps: 7n })
    await follow()
    expect(await balance(key)).toBe(0)

    await chain.transfer(await fundedWallet(chain, USD), address, USD)
    await chain.mine(2)
    await follow()
    expect(await balance(key)).toBe(993)
    expect(await app.app.billing.totals()).toMatchObject({ owedOps: 0n })

    // The first payment comes back after all.
    expect(await send(raw)).toBe(tx)
    await chain.mine(2)
    await follow()
    expect(await balance(key)).toBe(4993)
    expect((await app.app.billing.verify()).wrong).toEqual([])
    await chain.mine(70)
    await follow()
    expect(await balance(key)).toBe(4993)
    expect((await app.app.billing.verify()).wrong).toEqual([])
  })

  it('that moves a payment to another block changes nothing', async () => {
    const { key, address, wallet } = await account()
    await chain.mine(1)
    const raw = await signTransfer(wallet, address, 2n * USD)
    await send(raw)
    await chain.mine(2)
    await follow()
    const [before] = await topups(key)
    await chain.reorganise(4, [raw])
    expect(await chain.balanceOf(address)).toBe(2n * USD)
    await chain.mine(3)
    await follow()
    await follow()
    expect(await balance(key)).toBe(2000)
    const after = await topups(key)
    expect(after).toHaveLength(1)
    expect(after[0]).toMatchObject({ topup_id: before!.topup_id, state: 'credited' })
    expect(after[0]!.block_number).not.toBe(before!.block_number)
    await chain.mine(70)
    await follow()
    expect(await balance(key)).toBe(2000)
    expect((await app.app.billing.verify()).wrong).toEqual([])
  })

  it('that undoes an x402 payment lets the same authorization pay again, once', async () => {
    const { key, wallet } = await account()
    const headers = await signedPayment(wallet, URL_5, { method: 'POST', headers: { Authorization: `Bearer ${key}` } }, fetchApp)
    const pay = async () => {
      const response = await fetchApp(URL_5, { method: 'POST', headers })
      return { status: response.status, ...((await response.json()) as JsonBody) }
    }
    const first = await pay()
    expect(first).toMatchObject({ status: 200, credited_ops: 5000 })
    await follow()
    await chain.reorganise(1)
    await chain.mine(3)
    await follow()
    expect(await balance(key)).toBe(0)
    expect(await topups(key)).toMatchObject([{ state: 'reversed' }])
    const second = await pay()
    expect(second).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await pay()).toMatchObject({ already_credited: true })
    expect(await balance(key)).toBe(5000)
    expect(await chain.balanceOf(wallet.address)).toBe(45n * USD)
    await chain.mine(70)
    await follow()
    expect(await balance(key)).toBe(5000)
    expect((await app.app.billing.verify()).wrong).toEqual([])
  })

  it('forgets an unattributed payment that is gone', async () => {
    const wallet = await fundedWallet(chain, 9n * USD)
    await chain.transfer(wallet, app.app.billing.pack('starter').payTo as Hex, 9n * USD)
    await chain.mine(2)
    await follow()
    expect((await app.app.billing.totals())?.unattributed).toBe(1n)
    await chain.reorganise(3)
    await chain.mine(4)
    await follow()
    expect((await app.app.billing.totals())?.unattributed).toBe(0n)
    expect((await app.app.billing.verify()).wrong).toEqual([])
  })
})
