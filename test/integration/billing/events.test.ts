import type { Hex } from 'viem'
import { afterAll, beforeAll, expect, it } from 'vitest'
import type { Clock } from '../../../src/core/clock.ts'
import { expectStatus, type TestApp } from '../../support/app.ts'
import { fundedWallet, openPaidApp, USD } from '../../support/billing.ts'
import { startChain, type TestChain } from '../../support/chain.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { type Receiver, startReceiver } from '../../support/humans.ts'

describeEachDatabase('a credited top-up', (openTestDatabase) => {
  let chain: TestChain
  let app: TestApp<Clock>
  let receiver: Receiver

  beforeAll(async () => {
    chain = await startChain()
    receiver = await startReceiver()
    app = await openPaidApp(await openTestDatabase(), chain, { OUTBOUND_ALLOW_PRIVATE: true }, { start: true })
  })
  afterAll(async () => {
    await app?.stop()
    await receiver?.close()
    await chain?.stop()
  })

  it('reaches the webhooks that want it, once, however often it is claimed', async () => {
    const { key } = await app.createAccount(0)
    const other = await app.createAccount(0)
    const webhook = (path: string, events: string[]) => ({ url: receiver.origin + path, events })
    const made = expectStatus(201, await app.api.post('/v1/webhooks', webhook('/topups', ['topup.credited']), key))
    expectStatus(201, await app.api.post('/v1/webhooks', webhook('/denials', ['clearance.denied']), key))
    expectStatus(201, await app.api.post('/v1/webhooks', webhook('/others', ['topup.credited']), other.key))

    const shown = expectStatus(200, await app.api.get('/v1/account/deposit-address', key))
    const wallet = await fundedWallet(chain, 3n * USD)
    const tx_hash = await chain.transfer(wallet, shown.deposit_address as Hex, 3n * USD)
    await chain.mine(2)
    const claims = await Promise.all([1, 2, 3].map(() => app.api.post('/v1/account/topup-verify', { tx_hash }, key)))
    expect(claims.map(({ body }) => body.credited_ops)).toEqual([3000, 3000, 3000])
    const { topups } = expectStatus(200, await app.api.get('/v1/account/topups', key))
    const [topup] = topups as { topup_id: string }[]

    const [message] = await receiver.waitFor(1)
    expect(message?.path).toBe('/topups')
    expect(JSON.parse(message?.body ?? '')).toMatchObject({
      type: 'topup.credited',
      data: {
        topup_id: topup?.topup_id,
        source: 'hash',
        amount_usd: 3,
        ops: 3000,
        payer: wallet.address.toLowerCase(),
        tx_hash,
      },
    })
    await app.app.billing.follow()
    const deliveries = expectStatus(200, await app.api.get(`/v1/webhooks/${made.webhook_id}/deliveries`, key)).deliveries
    expect(deliveries).toHaveLength(1)
    expect(receiver.received).toHaveLength(1)
  })
})
