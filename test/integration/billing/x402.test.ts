import type { Hex } from 'viem'
import type { HDAccount } from 'viem/accounts'
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import type { Clock } from '../../../src/core/clock.ts'
import type { TestApp } from '../../support/app.ts'
import { fundedWallet, openPaidApp, TREASURY, USD } from '../../support/billing.ts'
import {
  contractSigner,
  decodeHeader,
  encodeHeader,
  type Fetch,
  type PaymentHeader,
  payingFetch,
  payingFetchV1,
  signedPayment,
} from '../../support/buyer.ts'
import { startChain, type TestChain, TOKEN_ABI, walletAt } from '../../support/chain.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { startRpcProxy } from '../../support/rpc-proxy.ts'

const ORIGIN = 'http://gvnr.test'
const fetchOf =
  (app: TestApp<Clock>): Fetch =>
  async (input, init) =>
    app.app.fetch(new Request(input, init))
const post = (key: string): RequestInit => ({ method: 'POST', headers: { Authorization: `Bearer ${key}` } })

describeEachDatabase('top-up over x402', (openTestDatabase, kind) => {
  let chain: TestChain
  let app: TestApp<Clock>

  beforeAll(async () => {
    chain = await startChain()
    app = await openPaidApp(await openTestDatabase(), chain)
  })
  afterEach(() => {
    expect(app.logged.filter(({ msg }) => msg === 'unexpected failure')).toEqual([])
  })
  afterAll(async () => {
    await app?.stop()
    await chain?.stop()
  })

  const balance = async (key: string) => (await app.api.get('/v1/account/balance', key)).body.operations_remaining
  const topupUrl = (usd: number | string) => `${ORIGIN}/v1/account/topup?usd=${usd}`
  const json = async (response: Response) => (await response.json()) as Record<string, unknown>
  const sign = (wallet: HDAccount, key: string, usd = 5) => signedPayment(wallet, topupUrl(usd), post(key), fetchOf(app))

  it('sells ops to the stock client in one call', async () => {
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 20n * USD)
    const before = await chain.balanceOf(TREASURY)
    const response = await payingFetch(wallet, fetchOf(app))(topupUrl(5), post(key))
    expect(response.status).toBe(200)
    const body = await json(response)
    expect(body).toMatchObject({ operations_remaining: 5000, credited_ops: 5000, credited_usd: 5, network: 'eip155:84532' })
    expect(decodeHeader(response.headers.get('payment-response'))).toEqual({
      success: true,
      transaction: body.tx_hash,
      network: 'eip155:84532',
      payer: wallet.address.toLowerCase(),
    })
    expect(await chain.balanceOf(wallet.address)).toBe(15n * USD)
    expect((await chain.balanceOf(TREASURY)) - before).toBe(5n * USD)
    expect(await balance(key)).toBe(5000)
  })

  it('sells to clients of version 1, which read the terms in the body', async () => {
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 20n * USD)
    const response = await payingFetchV1(wallet, fetchOf(app))(topupUrl('7.50'), post(key))
    expect(response.status).toBe(200)
    expect(await json(response)).toMatchObject({ credited_ops: 7500, credited_usd: 7.5 })
    expect(decodeHeader(response.headers.get('x-payment-response'))).toMatchObject({ success: true, network: 'base-sepolia' })
    expect(await balance(key)).toBe(7500)
  })

  it('sells to contract wallets and sells packs, with the key in the query', async () => {
    const { key } = await app.createAccount(0)
    const owner = await fundedWallet(chain, 1n)
    const wallet = await chain.deployWallet(owner)
    await chain.mint(wallet, 30n * USD)
    const url = `${ORIGIN}/api/v1/account/topup/starter?api_key=${key}`
    const response = await payingFetch(contractSigner(wallet, owner), fetchOf(app))(url, { method: 'POST' })
    expect(response.status).toBe(200)
    expect(await json(response)).toMatchObject({ pack: 'starter', credited_ops: 19_000, credited_usd: 19 })
    expect(await chain.balanceOf(wallet)).toBe(11n * USD)
  })

  it('states its terms for both versions, and never the key', async () => {
    const { key } = await app.createAccount(0)
    const url = `${ORIGIN}/v1/account/topup?api_key=${key}&usd=12.34`
    const response = await fetchOf(app)(url, { method: 'POST' })
    expect(response.status).toBe(402)
    const header = response.headers.get('payment-required')
    const terms = {
      scheme: 'exact',
      asset: chain.usdc,
      payTo: TREASURY,
      maxTimeoutSeconds: 300,
      extra: { name: 'USDC', version: '2' },
    }
    expect(decodeHeader(header)).toMatchObject({
      x402Version: 2,
      resource: { url: topupUrl('12.34') },
      accepts: [{ ...terms, network: 'eip155:84532', amount: '12340000' }],
    })
    const text = await response.text()
    expect(JSON.parse(text)).toMatchObject({
      error: 'payment_required',
      retryable: false,
      x402Version: 1,
      accepts: [{ ...terms, network: 'base-sepolia', maxAmountRequired: '12340000', resource: topupUrl('12.34') }],
    })
    expect(text + Buffer.from(header ?? '', 'base64').toString()).not.toContain(key)
  })

  it('refuses amounts and packs before it asks for money', async () => {
    const { key } = await app.createAccount(0)
    const { key: agentKey } = await app.createKey(key, { scope: 'agent', agent_id: 'crawler' })
    const cases = [
      ['?usd=abc', 'invalid_amount'],
      ['', 'invalid_amount'],
      ['?usd=1.005', 'invalid_amount'],
      ['?usd=-5', 'invalid_amount'],
      ['?usd=1e2', 'invalid_amount'],
      ['?usd=0.99', 'below_minimum'],
      ['?usd=0', 'below_minimum'],
      ['?usd=100.01', 'above_maximum'],
      ['?usd=999999', 'above_maximum'],
      ['/giant', 'invalid_pack'],
    ]
    for (const [path, error] of cases) {
      const { status, body } = await app.api.post(`/v1/account/topup${path}`, undefined, key)
      expect({ path, status, error: body.error }).toEqual({ path, status: 400, error })
    }
    for (const usd of ['1', '1.00', '100'])
      expect((await app.api.post(`/v1/account/topup?usd=${usd}`, undefined, key)).status).toBe(402)
    expect((await app.api.post('/v1/account/topup', { usd: 5 }, key)).status).toBe(402)
    expect((await app.api.post('/v1/account/topup?usd=5')).body.error).toBe('missing_api_key')
    expect((await app.api.post('/v1/account/topup?usd=5', undefined, agentKey)).body.error).toBe('forbidden')
    expect((await app.api.get('/v1/account/topup?usd=5', key)).status).toBe(405)
  })

  it('credits one payment once, sent fifty times at once and again later', async () => {
    const other = await openPaidApp(app.database, chain)
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 20n * USD)
    const headers = await sign(wallet, key)
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) => {
        const one = index % 2 === 0 ? app : other
        return fetchOf(one)(topupUrl(5), { method: 'POST', headers })
      }),
    )
    expect(answers.map(({ status }) => status)).toEqual(Array(50).fill(200))
    const bodies = await Promise.all(answers.map(json))
    expect(bodies.filter(({ already_credited }) => already_credited === undefined)).toHaveLength(1)
    expect(new Set(bodies.map(({ tx_hash }) => tx_hash)).size).toBe(1)
    const again = await fetchOf(other)(topupUrl(5), { method: 'POST', headers })
    expect(await json(again)).toMatchObject({ credited_ops: 5000, already_credited: true })
    expect(await balance(key)).toBe(5000)
    expect(await chain.balanceOf(wallet.address)).toBe(15n * USD)
    await other.app.billing.stop()
  })

  it('answers alike where the chain shows the payment as used because a sibling has settled it', async () => {
    const node = await startRpcProxy(chain.url)
    const slow = await openPaidApp(app.database, node)
    try {
      const { key } = await app.createAccount(0)
      const headers = await sign(await fundedWallet(chain, 20n * USD), key)
      node.fault = { delay_ms: 2000, only: ['eth_call'] }
      const asked = node.calls.length
      const late = fetchOf(slow)(topupUrl(5), { method: 'POST', headers })
      await expect.poll(() => node.calls.slice(asked)).toContain('eth_call')
      expect((await fetchOf(app)(topupUrl(5), { method: 'POST', headers })).status).toBe(200)
      const answer = await late
      expect(await json(answer)).toMatchObject({ credited_ops: 5000, already_credited: true })
      expect(answer.status).toBe(200)
      expect(await balance(key)).toBe(5000)
    } finally {
      await slow.stop()
      await node.stop()
    }
  })

  it('belongs to the account that brought it: another one, or a claim by hash, gets nothing', async () => {
    const [first, second] = [await app.createAccount(0), await app.createAccount(0)]
    const wallet = await fundedWallet(chain, 20n * USD)
    const headers = await sign(wallet, first.key)
    const asSecond = new Headers(headers)
    asSecond.set('authorization', `Bearer ${second.key}`)
    const race = await Promise.all(
      [headers, asSecond].map((sent) => fetchOf(app)(topupUrl(5), { method: 'POST', headers: sent })),
    )
    expect(race.map(({ status }) => status).toSorted()).toEqual([200, 409])
    const winner = race[0]!.status === 200 ? first : second
    const loser = winner === first ? second : first
    const tx = (await json(race.find(({ status }) => status === 200)!)).tx_hash as Hex
    await chain.mine(2)
    const claim = (key: string, signature?: string) =>
      app.api.post('/v1/account/topup-verify', { tx_hash: tx, ...(signature && { signature }) }, key)
    expect((await claim(winner.key)).body).toMatchObject({ credited_ops: 5000, already_credited: true })
    // Even with the payer's signature: who it pays for was said when it was paid.
    const message = app.app.billing.claimMessage(loser.accountId, tx)
    expect((await claim(loser.key, await wallet.signMessage({ message }))).body.error).toBe('already_claimed')
    expect([await balance(winner.key), await balance(loser.key)]).toEqual([5000, 0])
  })

  it('refuses payments that do not fit, and asks again', async () => {
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 20n * USD)
    const poor = await fundedWallet(chain, 1n)
    const original = decodeHeader((await sign(wallet, key)).get('payment-signature')) as PaymentHeader
    type Change = (payment: PaymentHeader) => void
    const changed = (change: Change): string => {
      const copy = structuredClone(original)
      change(copy)
      return encodeHeader(copy)
    }
    const cases: [string, string][] = [
      ['!!!', 'invalid_params'],
      [encodeHeader({ x402Version: 2 }), 'invalid_payload'],
      [
        changed((p) => {
          p.accepted.network = 'eip155:8453'
        }),
        'terms_do_not_match',
      ],
      [
        changed((p) => {
          p.accepted.asset = walletAt(3).address
        }),
        'terms_do_not_match',
      ],
      [
        changed((p) => {
          p.accepted.amount = '1'
        }),
        'terms_do_not_match',
      ],
      [
        changed((p) => {
          p.payload.authorization.to = walletAt(3).address
        }),
        'wrong_receiver',
      ],
      [
        changed((p) => {
          p.payload.authorization.value = '4999999'
        }),
        'wrong_amount',
      ],
      [
        changed((p) => {
          p.payload.authorization.validBefore = '1000'
        }),
        'expired',
      ],
      [
        changed((p) => {
          p.payload.authorization.validBefore = '99999999999'
        }),
        'valid_for_too_long',
      ],
      [
        changed((p) => {
          p.payload.authorization.validAfter = '99999999999'
        }),
        'not_valid_yet',
      ],
      [
        changed((p) => {
          p.payload.authorization.from = walletAt(3).address
        }),
        'invalid_exact_evm_signature',
      ],
      [(await sign(poor, key)).get('payment-signature') ?? '', 'invalid_exact_evm_insufficient_balance'],
    ]
    for (const [header, reason] of cases) {
      const response = await fetchOf(app)(topupUrl(5), {
        ...post(key),
        headers: { Authorization: `Bearer ${key}`, 'PAYMENT-SIGNATURE': header },
      })
      const body = await json(response)
      if (reason === 'invalid_params') {
        expect(body.error).toBe('invalid_params')
        continue
      }
      expect({ status: response.status, error: body.error, reason: body.reason }).toEqual({
        status: 402,
        error: 'payment_failed',
        reason,
      })
      expect(decodeHeader(response.headers.get('payment-response'))).toMatchObject({ success: false, errorReason: reason })
      expect(decodeHeader(response.headers.get('payment-required'))).toMatchObject({ x402Version: 2 })
    }
    // Signed for $5, sent for $50.
    const other = await fetchOf(app)(topupUrl(50), { method: 'POST', headers: await sign(wallet, key) })
    expect(await json(other)).toMatchObject({ reason: 'terms_do_not_match' })
    expect(await balance(key)).toBe(0)
    expect(await chain.balanceOf(wallet.address)).toBe(20n * USD)
  })

  it('does not sell an authorization that is public already to whoever copies it', async () => {
    const payer = await app.createAccount(0)
    const thief = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 20n * USD)
    const { payload } = decodeHeader((await sign(wallet, payer.key)).get('payment-signature')) as PaymentHeader
    const { from, to, value, validAfter, validBefore, nonce } = payload.authorization
    const tx = await chain.walletFor(wallet).writeContract({
      address: chain.usdc,
      abi: TOKEN_ABI,
      functionName: 'transferWithAuthorization',
      args: [from as Hex, to as Hex, BigInt(value), BigInt(validAfter), BigInt(validBefore), nonce as Hex, payload.signature],
    })
    await chain.mine(3)
    const headers = await sign(wallet, thief.key)
    const copied = decodeHeader(headers.get('payment-signature')) as PaymentHeader
    headers.set('payment-signature', encodeHeader({ ...copied, payload }))
    const answer = await json(await fetchOf(app)(topupUrl(5), { method: 'POST', headers }))
    expect(answer).toMatchObject({ error: 'payment_failed', reason: 'authorization_used' })
    // The payer gets it, by hash and signature.
    const signature = await wallet.signMessage({ message: app.app.billing.claimMessage(payer.accountId, tx) })
    const claimed = await app.api.post('/v1/account/topup-verify', { tx_hash: tx, signature }, payer.key)
    expect(claimed.body).toMatchObject({ credited_ops: 5000 })
    expect(await balance(thief.key)).toBe(0)
  })

  it('pays to the own address of the account when there is no shared one', async () => {
    const own = await openPaidApp(app.database, chain, { PAYTO_ADDRESS: undefined })
    const { key } = await own.createAccount(0)
    const wallet = await fundedWallet(chain, 20n * USD)
    const response = await payingFetch(wallet, fetchOf(own))(topupUrl(2), post(key))
    expect(await json(response)).toMatchObject({ credited_ops: 2000 })
    const address = (await own.api.get('/v1/account/deposit-address', key)).body.deposit_address as Hex
    expect(await chain.balanceOf(address)).toBe(2n * USD)
    await own.app.billing.stop()
  })

  it('says that it takes no payments when nothing is configured', async () => {
    const free = await openPaidApp(app.database, chain, { PAYTO_ADDRESS: undefined, DEPOSIT_XPUB: undefined })
    const { key } = await free.createAccount(0)
    const calls = [
      await free.api.post('/v1/account/topup?usd=5', undefined, key),
      await free.api.post('/v1/account/topup/starter', undefined, key),
      await free.api.post('/v1/account/topup-verify', { tx_hash: `0x${'1'.repeat(64)}` }, key),
      await free.api.get('/v1/account/deposit-address', key),
      await free.api.get('/v1/packs/starter/info'),
    ]
    expect(calls.map(({ status, body }) => [status, body.error])).toEqual(Array(5).fill([503, 'topup_unconfigured']))
    expect(kind).toBeTruthy()
  })
})
