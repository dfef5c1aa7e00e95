import { HDKey } from '@scure/bip32'
import type { Hex } from 'viem'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openChain } from '../../../src/billing/service.ts'
import { findSweepable, sweepOne } from '../../../src/billing/sweep.ts'
import type { Clock } from '../../../src/core/clock.ts'
import { expectStatus, type TestApp } from '../../support/app.ts'
import { DEPOSIT_XPRV, FACILITATOR_KEY, fundedWallet, openPaidApp, TREASURY, USD } from '../../support/billing.ts'
import { keyAt, startChain, type TestChain } from '../../support/chain.ts'
import { describeEachDatabase } from '../../support/databases.ts'

describeEachDatabase('sweeping deposits', (openTestDatabase) => {
  let chain: TestChain
  let app: TestApp<Clock>
  beforeAll(async () => {
    chain = await startChain()
    app = await openPaidApp(await openTestDatabase(), chain)
    await app.app.billing.follow()
  })
  afterAll(async () => {
    await app?.stop()
    await chain?.stop()
  })

  it('moves what the addresses hold to the treasury, without gas on them, and the books stay right', async () => {
    const payer = await fundedWallet(chain, 50n * USD)
    const addresses: Hex[] = []
    for (const amount of [7n, 3n]) {
      const { key } = await app.createAccount(0)
      const address = expectStatus(200, await app.api.get('/v1/account/deposit-address', key)).deposit_address as Hex
      addresses.push(address)
      await chain.transfer(payer, address, amount * USD)
    }
    await chain.mine(3)
    await app.app.billing.follow()

    const { chain: reader, rpcUrls } = openChain({ networkId: chain.network.id, rpcUrls: [chain.url], usdc: null })
    const keys = { depositXprv: DEPOSIT_XPRV, gasKey: FACILITATOR_KEY }
    expect((await findSweepable(app.database, reader, 5n * USD)).map(({ units }) => units)).toEqual([7n * USD])
    const found = await findSweepable(app.database, reader, 1n)
    expect(found.map(({ units }) => units)).toEqual([7n * USD, 3n * USD])
    await expect(sweepOne(reader, rpcUrls, { ...keys, depositXprv: otherXprv() }, found[0]!, TREASURY)).rejects.toThrow(
      'does not belong',
    )
    for (const one of found) await sweepOne(reader, rpcUrls, keys, one, TREASURY)
    expect(await chain.balanceOf(TREASURY)).toBe(10n * USD)
    expect(await Promise.all(addresses.map((address) => chain.balanceOf(address)))).toEqual([0n, 0n])
    expect(await findSweepable(app.database, reader, 1n)).toEqual([])
    expect((await app.app.billing.verify()).wrong).toEqual([])
    await chain.mine(4)
    await app.app.billing.follow()
    const report = await app.app.billing.verify()
    expect(report).toMatchObject({ wrong: [], differenceUnits: 0n, creditedUnits: 10n * USD, unattributedUnits: 0n })
    // A unit that nobody recorded shows.
    await app.database.sql`update credits set amount_units = amount_units - 1 where receiver = ${addresses[0]!.toLowerCase()}`
    expect((await app.app.billing.verify()).wrong).toMatchObject([{ address: addresses[0]!.toLowerCase() }])
  })

  function otherXprv(): string {
    return HDKey.fromMasterSeed(Buffer.from(keyAt(3).slice(2), 'hex')).privateExtendedKey
  }
})
