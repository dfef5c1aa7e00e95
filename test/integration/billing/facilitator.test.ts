import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { fundedWallet, openPaidApp, TREASURY, USD } from '../../support/billing.ts'
import { signedPayment } from '../../support/buyer.ts'
import { startChain, type TestChain } from '../../support/chain.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { type FacilitatorFault, startFacilitator } from '../../support/facilitator.ts'

const URL_5 = 'http://gvnr.test/v1/account/topup?usd=5'

/** Each case waits for its own time limits, so they run beside each other; each has a facilitator and an account of its own. */
describe.concurrent('a facilitator that cannot be trusted', () => {
  let chain: TestChain
  let home: TestDatabase
  let database: Database

  beforeAll(async () => {
    chain = await startChain()
    home = await createTestDatabase('postgres')
    database = await openDatabase(home)
  })
  afterAll(async () => {
    await database?.close()
    await home?.drop()
    await chain?.stop()
  })

  async function buyer(fault: FacilitatorFault | null) {
    const facilitator = await startFacilitator(chain)
    facilitator.fault = fault
    const app = await openPaidApp(database, chain, {
      FACILITATOR_PRIVATE_KEY: undefined,
      X402_FACILITATOR_URL: facilitator.url,
    })
    const { key } = await app.createAccount(0)
    const wallet = await fundedWallet(chain, 20n * USD)
    const headers = await signedPayment(
      wallet,
      URL_5,
      { method: 'POST', headers: { Authorization: `Bearer ${key}` } },
      (input, init) => Promise.resolve(app.app.fetch(new Request(input, init))),
    )
    const send = async () => {
      const response = await app.app.fetch(new Request(URL_5, { method: 'POST', headers }))
      return { status: response.status, ...((await response.json()) as Record<string, unknown>) }
    }
    const state = async () => ({
      ops: (await app.api.get('/v1/account/balance', key)).body.operations_remaining,
      spent: 20n * USD - (await chain.balanceOf(wallet.address)),
    })
    return { facilitator, send, state, app }
  }
  const nothing = { ops: 0, spent: 0n }
  const bought = { ops: 5000, spent: 5n * USD }

  it('that is honest sells', async () => {
    const { facilitator, send, state } = await buyer(null)
    expect(await send()).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await state()).toEqual(bought)
    await facilitator.stop()
  })

  it('that is down costs nothing, and the same payment goes through later', async () => {
    const { facilitator, send, state } = await buyer({ kind: 'down' })
    expect(await send()).toMatchObject({ status: 503, error: 'settlement_pending', retryable: true })
    expect(await state()).toEqual(nothing)
    facilitator.fault = null
    expect(await send()).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await state()).toEqual(bought)
    await facilitator.stop()
    expect(await send()).toMatchObject({ status: 200, already_credited: true })
  })

  it('that lies about a transaction nobody knows brings no ops', { timeout: 60_000 }, async () => {
    const { facilitator, send, state } = await buyer({ kind: 'lie', transaction: `0x${'ab'.repeat(32)}` })
    expect(await send()).toMatchObject({ status: 503, error: 'settlement_pending' })
    expect(await state()).toEqual(nothing)
    facilitator.fault = null
    expect(await send()).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await state()).toEqual(bought)
    await facilitator.stop()
  })

  it("that shows somebody else's transfer brings no ops", async () => {
    const stranger = await fundedWallet(chain, 5n * USD)
    const transaction = await chain.transfer(stranger, TREASURY, 5n * USD)
    const { facilitator, send, state } = await buyer({ kind: 'lie', transaction })
    expect(await send()).toMatchObject({ status: 503, error: 'settlement_pending' })
    expect(await state()).toEqual(nothing)
    await facilitator.stop()
  })

  it('that settles and says it did not is not believed', async () => {
    const { facilitator, send, state } = await buyer({ kind: 'deny' })
    expect(await send()).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await state()).toEqual(bought)
    await facilitator.stop()
  })

  it('that breaks off after settling loses nothing', async () => {
    const { facilitator, send, state } = await buyer({ kind: 'cut' })
    expect(await send()).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await state()).toEqual(bought)
    await facilitator.stop()
  })

  it('that settles and answers after our time limit loses nothing', { timeout: 60_000 }, async () => {
    const { facilitator, send, state } = await buyer({ kind: 'late', delay_ms: 40_000 })
    expect(await send()).toMatchObject({ status: 200, credited_ops: 5000 })
    expect(await state()).toEqual(bought)
    expect(facilitator.settlements).toBe(1)
    await facilitator.stop()
  })
})
