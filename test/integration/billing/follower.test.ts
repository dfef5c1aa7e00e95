import type { Hex } from 'viem'
import type { HDAccount } from 'viem/accounts'
import { afterAll, beforeAll, beforeEach, expect, it } from 'vitest'
import type { Clock } from '../../../src/core/clock.ts'
import { expectStatus, type JsonBody, type TestApp } from '../../support/app.ts'
import { fundedWallet, openPaidApp, TREASURY, USD } from '../../support/billing.ts'
import { type Fetch, payingFetch, signedPayment } from '../../support/buyer.ts'
import { startChain, type TestChain, TOKEN_ABI, walletAt } from '../../support/chain.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { startFacilitator, type TestFacilitator } from '../../support/facilitator.ts'
import { type RpcProxy, startRpcProxy } from '../../support/rpc-proxy.ts'

const URL_5 = 'http://gvnr.test/v1/account/topup?usd=5'

describeEachDatabase('the follower', (openTestDatabase) => {
  let chain: TestChain
  let node: RpcProxy
  let facilitator: TestFacilitator
  let app: TestApp<Clock>

  beforeAll(async () => {
    chain = await startChain()
    node = await startRpcProxy(chain.url)
    facilitator = await startFacilitator(chain)
    await chain.mint(TREASURY, 123n)
    app = await openPaidApp(await openTestDatabase(), node, {
      FACILITATOR_PRIVATE_KEY: undefined,
      X402_FACILITATOR_URL: facilitator.url,
    })
    expect(await follow()).toBe(true)
  })
  beforeEach(() => {
    facilitator.fault = null
    node.fault = null
  })
  afterAll(async () => {
    await app?.stop()
    await facilitator?.stop()
    await node?.stop()
    await chain?.stop()
  })

  const follow = () => app.app.billing.follow()
  const balance = async (key: string) => (await app.api.get('/v1/account/balance', key)).body.operations_remaining
  const fetchApp: Fetch = async (input, init) => app.app.fetch(new Request(input, init))
  const post = (key: string): RequestInit => ({ method: 'POST', headers: { Authorization: `Bearer ${key}` } })
  const depositAddress = async (key: string) =>
    expectStatus(200, await app.api.get('/v1/account/deposit-address', key)).deposit_address as Hex
  const topups = async (key: string) => (await app.api.get('/v1/account/topups', key)).body.topups as JsonBody[]
  const payments = async (state: string): Promise<JsonBody[]> =>
    (await app.api.request('GET', `/v1/admin/payments?state=${state}`, undefined, undefined, adminHeaders)).body
      .payments as JsonBody[]
  const adminHeaders = { 'X-Admin-Secret': 'operator secret of the tests' }
  /** Everything that came in is accounted for. */
  const expectBalanced = async () => {
    const report = await app.app.billing.verify()
    expect(report.wrong).toEqual([])
    expect(report.differenceUnits).toBe(0n)
    return report
  }

  it('credits a deposit without any call, once it is old enough', async () => {
    const { key } = await app.createAccount(0)
    const address = await depositAddress(key)
    const wallet = await fundedWallet(chain, 10n * USD)
    await chain.transfer(wallet, address, 4n * USD)
    await follow()
    expect(await balance(key)).toBe(0)
    await chain.mine(2)
    await follow()
    expect(await balance(key)).toBe(4000)
    await chain.mine(5)
    await follow()
    await follow()
    expect(await balance(key)).toBe(4000)
    expect(await topups(key)).toMatchObject([{ state: 'credited', source: 'deposit', amount_usd: 4 }])
    await expectBalanced()
  })

  it.each([['lie'], ['down'], ['cut']] as const)('credits a payment whose request came to nothing (%s)', async (kind) => {
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 10n * USD)
    const headers = await signedPayment(wallet, URL_5, post(key), fetchApp)
    // The money moves by the facilitator's hand, and the node fails just then: the request learns nothing.
    facilitator.fault = { kind: 'cut' }
    if (kind === 'cut') node.fault = { down: true, only: ['eth_getLogs', 'eth_getTransactionReceipt'] }
    if (kind === 'lie') node.fault = { result: () => [], only: ['eth_getLogs'] }
    if (kind === 'down') node.fault = { status: 503, only: ['eth_getLogs'] }
    const response = await fetchApp(URL_5, { method: 'POST', headers })
    expect(response.status).not.toBe(200)
    expect(await balance(key)).toBe(0)
    expect(await chain.balanceOf(wallet.address)).toBe(5n * USD)
    node.fault = null
    await follow()
    expect(await balance(key)).toBe(5000)
    // The client tries again and hears of it.
    const again = await fetchApp(URL_5, { method: 'POST', headers })
    expect((await again.json()) as unknown).toMatchObject({ credited_ops: 5000, already_credited: true })
    await expectBalanced()
  })

  it('lists what names no account, for the operator to attribute once', async () => {
    const wallet = await fundedWallet(chain, 10n * USD)
    const tx = await chain.transfer(wallet, TREASURY, 2n * USD)
    await chain.mine(3)
    await follow()
    expect(await app.app.billing.totals()).toMatchObject({ unattributed: 1n, unattributedUnits: 2n * USD })
    const [payment] = await payments('unattributed')
    expect(payment).toMatchObject({ tx_hash: tx, amount_usd: 2, account_id: null, payer: wallet.address.toLowerCase() })
    await expectBalanced()

    const [one, two] = [await app.createAccount(0), await app.createAccount(0)]
    const attribute = (accountId: string, id = payment!.topup_id) =>
      app.api.admin(`/v1/admin/payments/${id as string}/attribute`, { account_id: accountId })
    expect((await attribute('019ab5c4-1f00-7c11-8a52-6f0d3c9b7e21')).body.error).toBe('account_not_found')
    expect((await attribute(one.accountId, 'nonsense')).body.error).toBe('not_found')
    const race = await Promise.all([one, two, one, two].map(({ accountId }) => attribute(accountId)))
    expect(race.map(({ status }) => status).toSorted()).toEqual([200, 200, 409, 409])
    const balances = [await balance(one.key), await balance(two.key)]
    expect(balances.toSorted((a, b) => a - b)).toEqual([0, 2000])
    expect(await payments('unattributed')).toEqual([])
    expect((await app.app.billing.totals())?.unattributed).toBe(0n)
    await expectBalanced()
  })

  it('leaves an unattributed payment to whoever proves it', async () => {
    const { key, accountId } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 10n * USD)
    const tx = await chain.transfer(wallet, TREASURY, 3n * USD)
    await chain.mine(3)
    await follow()
    expect(await payments('unattributed')).toHaveLength(1)
    const signature = await wallet.signMessage({ message: app.app.billing.claimMessage(accountId, tx) })
    expect((await app.api.post('/v1/account/topup-verify', { tx_hash: tx, signature }, key)).body).toMatchObject({
      credited_ops: 3000,
    })
    expect(await payments('unattributed')).toEqual([])
    await expectBalanced()
  })

  it('does not take a move between our own addresses for a payment', async () => {
    const { key } = await app.createAccount(0)
    const address = await depositAddress(key)
    const wallet = await fundedWallet(chain, 10n * USD)
    await chain.transfer(wallet, address, 4n * USD)
    await chain.mine(3)
    await follow()
    await chain.client.impersonateAccount({ address })
    await chain.client.setBalance({ address, value: 10n ** 18n })
    await chain.client.writeContract({
      account: address,
      address: chain.usdc,
      abi: TOKEN_ABI,
      functionName: 'transfer',
      args: [TREASURY, 4n * USD],
    })
    await chain.mine(4)
    await follow()
    await expectBalanced()
    expect(await payments('unattributed')).toEqual([])
    expect((await payments('internal')).map(({ payer }) => payer)).toEqual([address.toLowerCase()])
    expect(await balance(key)).toBe(4000)
    // Money that leaves for elsewhere is known as well.
    await chain.transfer(walletAt(5), walletAt(7).address, USD)
    await expectBalanced()
    await chain.mine(4)
    await follow()
    await expectBalanced()
  })

  it('resumes where it stopped, over a long pause and through a failing node', async () => {
    const { key } = await app.createAccount(0)
    const address = await depositAddress(key)
    const wallet = await fundedWallet(chain, 10n * USD)
    await chain.transfer(wallet, address, USD)
    await chain.mine(300)
    await chain.transfer(wallet, address, USD)
    await chain.mine(3)
    node.fault = { down: true, only: ['eth_getLogs'] }
    await expect(follow()).rejects.toThrow()
    // A node that allows few blocks per query.
    node.fault = {
      only: ['eth_getLogs'],
      error: ({ params }) => {
        const [{ fromBlock, toBlock }] = params as [{ fromBlock: Hex; toBlock: Hex }]
        return BigInt(toBlock) - BigInt(fromBlock) > 50n ? { code: -32005, message: 'query exceeds max block range' } : undefined
      },
    }
    await follow()
    expect(await balance(key)).toBe(2000)
    await expectBalanced()
  })

  it('is one process at a time, and another takes over', async () => {
    const other = await openPaidApp(app.database, node)
    expect(await follow()).toBe(true)
    expect(await other.app.billing.follow()).toBe(false)
    await app.app.billing.stop()
    expect(await other.app.billing.follow()).toBe(true)
    expect(await follow()).toBe(false)
    await other.app.billing.stop()
    expect(await follow()).toBe(true)
  })

  it('races a request for the same payment and one of them credits', async () => {
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 50n * USD)
    const buy = (payer: HDAccount) => payingFetch(payer, fetchApp)(URL_5, post(key))
    let isOver = false
    const following = (async () => {
      while (!isOver) await follow()
    })()
    for (let round = 0; round < 4; round++) expect((await buy(wallet)).status).toBe(200)
    isOver = true
    await following
    expect(await balance(key)).toBe(20_000)
    await chain.mine(4)
    await follow()
    expect(await balance(key)).toBe(20_000)
    await expectBalanced()
  })
})
