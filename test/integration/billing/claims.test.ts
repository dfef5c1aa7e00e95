import { encodeFunctionData, type Hex, parseAbi } from 'viem'
import { serializeErc6492Signature } from 'viem/utils'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Clock } from '../../../src/core/clock.ts'
import { type ApiResponse, expectStatus, type TestApp } from '../../support/app.ts'
import { fundedWallet, openPaidApp, TREASURY, USD } from '../../support/billing.ts'
import { startChain, type TestChain, TOKEN_ABI, walletAt } from '../../support/chain.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { type RpcProxy, startRpcProxy } from '../../support/rpc-proxy.ts'

const CLAIM = '/v1/account/topup-verify'

describeEachDatabase('claims by transaction hash', (openTestDatabase) => {
  let chain: TestChain
  let node: RpcProxy
  let fallback: RpcProxy
  let app: TestApp<Clock>

  beforeAll(async () => {
    chain = await startChain()
    node = await startRpcProxy(chain.url)
    fallback = await startRpcProxy(chain.url)
    app = await openPaidApp(await openTestDatabase(), node, { BASE_RPC_FALLBACK_URL: fallback.url })
  })
  afterAll(async () => {
    await app?.stop()
    await node?.stop()
    await fallback?.stop()
    await chain?.stop()
  })

  const claim = (key: string, tx: string, signature?: string): Promise<ApiResponse> =>
    app.api.post(CLAIM, { tx_hash: tx, ...(signature && { signature }) }, key)
  const messageFor = async (key: string, tx: string): Promise<string> => expectStatus(400, await claim(key, tx)).message as string
  const balance = async (key: string) => (await app.api.get('/v1/account/balance', key)).body.operations_remaining

  async function paid(units = 5n * USD) {
    const wallet = await fundedWallet(chain, units)
    const tx = await chain.transfer(wallet, TREASURY, units)
    return { wallet, tx }
  }
  /** Two dollars that a contract wallet has sent. */
  async function paidByContract() {
    const owner = await fundedWallet(chain, 1n)
    const wallet = await chain.deployWallet(owner)
    await chain.mint(wallet, 2n * USD)
    const data = encodeFunctionData({ abi: TOKEN_ABI, functionName: 'transfer', args: [TREASURY, 2n * USD] })
    const tx = await chain.walletTransfer(owner, wallet, data)
    await chain.mine(2)
    return { owner, tx }
  }

  it('credits a transfer to the shared address to whom its sender names', async () => {
    const { key, accountId } = await app.createAccount(0)
    const { wallet, tx } = await paid()
    const asked = await claim(key, tx)
    expect(asked.body).toMatchObject({ error: 'signature_required', retryable: false })
    const message = asked.body.message as string
    expect(message).toContain(accountId)
    expect(message).toContain(tx)
    expect(message).toContain('eip155:84532')
    const signature = await wallet.signMessage({ message })

    const early = await claim(key, tx, signature)
    expect(early.body).toMatchObject({ error: 'not_final', retryable: true, confirmations: 1, required_confirmations: 3 })
    await chain.mine(2)
    expect((await claim(key, tx, signature)).body).toEqual({
      operations_remaining: 5000,
      credited_ops: 5000,
      credited_usd: 5,
    })
    expect((await claim(key, tx)).body).toEqual({
      operations_remaining: 5000,
      credited_ops: 5000,
      credited_usd: 5,
      already_credited: true,
    })
    const { topups } = (await app.api.get('/v1/account/topups', key)).body as unknown as { topups: unknown[] }
    expect(topups).toMatchObject([
      {
        state: 'credited',
        source: 'hash',
        amount_usd: 5,
        ops: 5000,
        payer: wallet.address.toLowerCase(),
        tx_hash: tx,
        explorer_url: `https://sepolia.basescan.org/tx/${tx}`,
      },
    ])
    expect(await balance(key)).toBe(5000)
  })

  it('takes a transfer to the own deposit address by its hash alone, and only for its owner', async () => {
    const { key } = await app.createAccount(0)
    const other = await app.createAccount(0)
    const shown = expectStatus(200, await app.api.get('/v1/account/deposit-address', key))
    expect(shown).toMatchObject({ is_own: true, chain_id: 84532 })
    const wallet = await fundedWallet(chain, 3n * USD)
    const tx = await chain.transfer(wallet, shown.deposit_address as Hex, 3n * USD)
    await chain.mine(2)
    expect((await claim(other.key, tx)).body).toMatchObject({ error: 'transfer_not_found' })
    expect((await claim(key, tx)).body).toMatchObject({ credited_ops: 3000, credited_usd: 3 })
  })

  it('refuses a signature by somebody else, for another account, or over another transaction', async () => {
    const { key } = await app.createAccount(0)
    const { key: otherKey } = await app.createAccount(0)
    const { wallet, tx } = await paid()
    const second = await paid()
    await chain.mine(2)
    const message = await messageFor(key, tx)
    const wrong = [
      await walletAt(8).signMessage({ message }),
      await wallet.signMessage({ message: await messageFor(otherKey, tx) }),
      await wallet.signMessage({ message: await messageFor(key, second.tx) }),
      'not hex',
      '0x',
    ]
    for (const signature of wrong) expect((await claim(key, tx, signature)).body.error).toBe('sender_mismatch')
    expect((await claim(key, tx, wrong[0])).status).toBe(403)
    expect(await balance(key)).toBe(0)
  })

  it('accepts contract wallets, deployed and not yet deployed', async () => {
    const { owner, tx } = await paidByContract()
    const { key } = await app.createAccount(0)
    const message = await messageFor(key, tx)
    expect((await claim(key, tx, await walletAt(8).signMessage({ message }))).body.error).toBe('sender_mismatch')
    expect((await claim(key, tx, await owner.signMessage({ message }))).body).toMatchObject({ credited_ops: 2000 })

    // The wallet is not there yet; its USDC moved because the chain was told that it sent it.
    const planned = await chain.plannedWallet(owner)
    await chain.mint(planned.address, 4n * USD)
    await chain.client.impersonateAccount({ address: planned.address })
    await chain.client.setBalance({ address: planned.address, value: 10n ** 18n })
    const undeployedTx = await chain.client.writeContract({
      account: planned.address,
      address: chain.usdc,
      abi: TOKEN_ABI,
      functionName: 'transfer',
      args: [TREASURY, 4n * USD],
    })
    await chain.mine(3)
    // Nothing can be deployed at an address that has sent a transaction.
    await chain.client.setNonce({ address: planned.address, nonce: 0 })
    const wanted = await messageFor(key, undeployedTx)
    const signature = serializeErc6492Signature({
      address: planned.factory,
      data: encodeFunctionData({
        abi: parseAbi(['function deploy(address owner, bytes32 salt)']),
        functionName: 'deploy',
        args: [owner.address, planned.salt],
      }),
      signature: await owner.signMessage({ message: wanted }),
    })
    expect((await claim(key, undeployedTx, signature)).body).toMatchObject({ credited_ops: 4000 })
    expect(await balance(key)).toBe(6000)
  })

  it('sums every transfer to us in one transaction, amounts below one op included', async () => {
    const { key } = await app.createAccount(0)
    const own = expectStatus(200, await app.api.get('/v1/account/deposit-address', key)).deposit_address as Hex
    const wallet = await fundedWallet(chain, 10n * USD)
    const tx = await chain.transferAll(wallet, [
      { to: own, units: 1_000_600n },
      { to: walletAt(7).address, units: 3n * USD },
      { to: own, units: 1_000_600n },
      { to: TREASURY, units: 2n * USD },
    ])
    await chain.mine(2)
    // Without a signature only what came to the own address counts: 2.0012 USDC.
    expect((await claim(key, tx)).body).toMatchObject({ credited_ops: 2001, credited_usd: 2.0012 })
    const signature = await wallet.signMessage({ message: app.app.billing.claimMessage(await accountOf(key), tx) })
    expect((await claim(key, tx, signature)).body).toMatchObject({ credited_ops: 4001, credited_usd: 4.0012 })
    expect(await balance(key)).toBe(4001)
  })
  const accountOf = async (key: string) => (await app.api.get('/v1/account', key)).body.account_id

  it('credits one transfer once when two accounts claim it at once', async () => {
    const { wallet, tx } = await paid()
    await chain.mine(2)
    const accounts = [await app.createAccount(0), await app.createAccount(0)]
    const signed = await Promise.all(accounts.map(async ({ key }) => wallet.signMessage({ message: await messageFor(key, tx) })))
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) => claim(accounts[index % 2]!.key, tx, signed[index % 2])),
    )
    const winner = answers.findIndex(({ body }) => body.credited_ops === 5000) % 2
    expect(answers.map(({ status }, index) => (index % 2 === winner ? status === 200 : status === 409)).every(Boolean)).toBe(true)
    expect(answers.filter(({ body }) => body.error === 'already_claimed')).toHaveLength(10)
    const balances = await Promise.all(accounts.map(({ key }) => balance(key)))
    expect(balances.toSorted((a, b) => a - b)).toEqual([0, 5000])
    // The count of first credits is one, however many calls answered.
    expect(answers.filter(({ body }) => body.credited_ops === 5000 && body.already_credited === undefined)).toHaveLength(1)
  })

  it('says what is wrong with a transaction', async () => {
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 50n * USD)
    const cases: [string, string][] = [
      ['0x123', 'invalid_tx_hash'],
      ['', 'invalid_tx_hash'],
      [`0x${'g'.repeat(64)}`, 'invalid_tx_hash'],
      [`0x${'1'.repeat(64)}`, 'tx_not_found'],
      [await chain.failingTransfer(wallet, TREASURY), 'tx_failed'],
      [await chain.transfer(wallet, walletAt(6).address, USD), 'transfer_not_found'],
      [await chain.transfer(wallet, TREASURY, 0n), 'transfer_not_found'],
      [await chain.lookalikeTransfer(wallet, TREASURY, 5n * USD), 'transfer_not_found'],
    ]
    await chain.mine(3)
    for (const [tx, error] of cases) {
      const answer = await claim(key, tx)
      expect({ tx, status: answer.status, error: answer.body.error }).toEqual({ tx, status: 400, error })
      expect(answer.body.retryable).toBe(error === 'tx_not_found')
    }
    expect(await balance(key)).toBe(0)
  })

  it('asks the fallback when the first node fails, lags or is on another chain, and says so when nobody answers', async () => {
    const { key } = await app.createAccount(0)
    const own = expectStatus(200, await app.api.get('/v1/account/deposit-address', key)).deposit_address as Hex
    const wallet = await fundedWallet(chain, 50n * USD)
    const pay = async () => {
      const tx = await chain.transfer(wallet, own, USD)
      await chain.mine(2)
      return tx
    }
    const faults = [
      { down: true },
      { status: 503 },
      { result: () => null, only: ['eth_getTransactionReceipt'] },
      { result: () => '0x1', only: ['eth_chainId'] },
    ]
    for (const fault of faults) {
      const tx = await pay()
      node.fault = { down: true }
      fallback.fault = { down: true }
      expect((await claim(key, tx)).body).toMatchObject({ error: 'rpc_error', retryable: true })
      fallback.fault = null
      node.fault = fault
      expect((await claim(key, tx)).body, JSON.stringify(fault)).toMatchObject({ credited_ops: 1000 })
      node.fault = null
    }
    const tx = await pay()
    const { wallet: payer, tx: shared } = await paid()
    await chain.mine(2)
    node.fault = { down: true }
    fallback.fault = { down: true }
    expect((await claim(key, shared, await payer.signMessage({ message: 'x' }))).body.error).toBe('rpc_error')
    node.fault = null
    fallback.fault = null
    expect((await claim(key, tx)).body).toMatchObject({ credited_ops: 1000 })
    expect(await balance(key)).toBe(faults.length * 1000 + 1000)
  })

  it('does not call a contract wallet an impostor because the node fails during the check', async () => {
    const { owner, tx } = await paidByContract()
    const { key } = await app.createAccount(0)
    const signature = await owner.signMessage({ message: await messageFor(key, tx) })
    node.fault = { down: true, only: ['eth_call', 'eth_blockNumber'] }
    fallback.fault = { down: true, only: ['eth_call', 'eth_blockNumber'] }
    expect((await claim(key, tx, signature)).body.error).toBe('rpc_error')
    node.fault = null
    fallback.fault = null
    expect((await claim(key, tx, signature)).body).toMatchObject({ credited_ops: 2000 })
  })

  it('frees an Idempotency-Key after an answer that asks to try again', async () => {
    const { key } = await app.createAccount(0)
    const own = expectStatus(200, await app.api.get('/v1/account/deposit-address', key)).deposit_address as Hex
    const tx = await chain.transfer(await fundedWallet(chain, USD), own, USD)
    const headers = { 'Idempotency-Key': 'claim-1' }
    expect((await app.api.post(CLAIM, { tx_hash: tx }, key, headers)).body.error).toBe('not_final')
    await chain.mine(2)
    expect((await app.api.post(CLAIM, { tx_hash: tx }, key, headers)).body).toMatchObject({ credited_ops: 1000 })
    expect(await balance(key)).toBe(1000)
  })

  it('asks the chain so often for one account, whatever it is asked', async () => {
    const { key } = await app.createAccount(0)
    const other = await app.createAccount(0)
    const answers = await Promise.all(
      Array.from({ length: 121 }, (_, index) =>
        index % 2 === 0 ? claim(key, 'no hash') : app.api.post(`${CLAIM}/starter`, { tx_hash: 'no hash' }, key),
      ),
    )
    expect(answers.map(({ status }) => status).sort()).toEqual([...Array(120).fill(400), 429])
    expect((await claim(other.key, 'no hash')).body).toMatchObject({ error: 'invalid_tx_hash' })
  })

  it('answers packs and their claims', async () => {
    const { key } = await app.createAccount(0)
    expect((await app.api.get('/v1/packs/growth/info')).body).toMatchObject({
      pack: 'growth',
      amount_usd: 39,
      ops: 39_000,
      network_name: 'Base Sepolia (test network)',
      chain_id: 84532,
      usdc_contract: chain.usdc,
      usdc_amount_raw: '39000000',
      payto_address: TREASURY,
    })
    const unknown = await app.api.get('/v1/packs/giant/info')
    expect([unknown.status, unknown.body.error]).toEqual([404, 'invalid_pack'])
    const refused = await app.api.post(`${CLAIM}/giant`, { tx_hash: `0x${'1'.repeat(64)}` }, key)
    expect([refused.status, refused.body.error]).toEqual([400, 'invalid_pack'])
    expect((await app.api.post(`${CLAIM}/growth`, { tx_hash: `0x${'1'.repeat(64)}` }, key)).body.error).toBe('tx_not_found')
    expect(app.logged.filter(({ msg }) => msg === 'unexpected failure')).toEqual([])
  })
})
