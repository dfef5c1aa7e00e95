import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { systemClock } from '../../../src/core/clock.ts'
import { createLog } from '../../../src/core/log.ts'
import type { Database } from '../../../src/db/client.ts'
import { PriceService } from '../../../src/prices/service.ts'
import { expectStatus, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { until } from '../../support/humans.ts'

/** Prices have micro-dollars per million tokens. */
const times = (usd: number, factor: number) => Math.round(usd * factor * 1e6) / 1e6
const REFRESH = '/v1/admin/price-cache/refresh'
const price = (input: number, output: number) => ({ input_usd_per_mtok: input, output_usd_per_mtok: output })
/** In the data set, and in no table of the contract. */
const KNOWN = 'deepseek-chat'

describeEachDatabase('refreshed prices', (openTestDatabase) => {
  let database: Database
  let server: Server
  let url: string
  let served: unknown = {}
  beforeAll(async () => {
    database = await openTestDatabase()
    server = createServer((request, response) => {
      if (request.url?.startsWith('/broken')) response.writeHead(500)
      response.end(typeof served === 'string' ? served : JSON.stringify(served))
    }).listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/prices?secret=1`
  })
  afterAll(() => {
    server.closeAllConnections()
    server.close()
  })
  const service = (options: { operatorPrices?: Record<string, ReturnType<typeof price>>; url?: string | undefined } = {}) =>
    new PriceService({ database, clock: systemClock, log: createLog('silent') }, { operatorPrices: {}, url, ...options })
  const usd = (prices: PriceService, model: string) => {
    const { input, output } = prices.rateFor(model)
    return [Number(input) / 1e6, Number(output) / 1e6]
  }

  it('keep what a shorter list would reprice by more than 2×, until that is accepted, and say what is gone', async () => {
    const prices = service()
    const [input = 0, output = 0] = usd(prices, KNOWN)
    const cached = { cached_input_usd_per_mtok: Number(prices.rateFor(KNOWN).cachedInput) / 1e6 }
    served = { [KNOWN]: { ...price(times(input, 1.1), times(output, 1.1)), ...cached }, 'only-listed': price(1, 2) }
    await prices.refresh([KNOWN, 'only-listed'])
    served = {}
    const shorter = await prices.refresh([])
    expect(shorter.models).toBe(1)
    expect(shorter.applied).toEqual([])
    expect(shorter.quarantined).toMatchObject([{ model: 'only-listed', after: { source: 'default' } }])
    expect(shorter.removed).toMatchObject([{ model: KNOWN }])
    expect(usd(prices, 'only-listed')).toEqual([1, 2])
    expect(usd(prices, KNOWN)).toEqual([input, output])
    expect((await prices.refresh([])).quarantined).toHaveLength(1)
    const accepted = await prices.refresh(['only-listed'])
    expect([accepted.models, accepted.quarantined]).toEqual([0, []])
    expect(accepted.removed).toMatchObject([{ model: 'only-listed', after: { source: 'default' } }])
    expect(usd(prices, 'only-listed')).toEqual([15, 75])
  })

  it('apply to what is not fixed elsewhere, on every process, and after a restart', async () => {
    const prices = service({ operatorPrices: { 'house-model': price(1, 1) } })
    const other = service()
    await other.start()
    const [input = 0, output = 0] = usd(prices, KNOWN)
    served = {
      [KNOWN]: price(times(input, 1.5), times(output, 1.5)),
      'gpt-4o': price(2, 9),
      'house-model': price(1.5, 1.5),
      'brand-new': price(7, 8),
    }
    const refresh = await prices.refresh([])
    expect(refresh.applied.map(({ model, before }) => [model, before === null])).toEqual([
      [KNOWN, false],
      ['brand-new', true],
    ])
    expect(refresh.overruled).toEqual(['gpt-4o', 'house-model'])
    expect(refresh.quarantined).toEqual([])
    expect(usd(prices, KNOWN)).toEqual([times(input, 1.5), times(output, 1.5)])
    expect(usd(prices, 'brand-new-2026-01-01')).toEqual([7, 8])
    expect(usd(prices, 'gpt-4o')).toEqual([2.5, 10])
    expect(usd(prices, 'house-model')).toEqual([1, 1])
    await until(() => usd(other, 'brand-new')[0] === 7, 'the other process', 5000)
    await other.stop()
    const restarted = service({ url: undefined })
    await restarted.start()
    expect(usd(restarted, 'brand-new')).toEqual([7, 8])
    expect(restarted.version).toBe(other.version)
    await restarted.stop()
  })

  it('quarantine changes by more than 2×, until they are accepted', async () => {
    const prices = service()
    await prices.load()
    served = { 'brand-new': price(7, 8) }
    await prices.refresh([KNOWN, 'house-model'])
    const [input = 0, output = 0] = usd(prices, KNOWN)
    served = { [KNOWN]: price(times(input, 2.1), output), 'brand-new': price(7, 3.9) }
    const refused = await prices.refresh([])
    expect(refused.quarantined.map(({ model }) => model).sort()).toEqual(['brand-new', KNOWN])
    expect(usd(prices, KNOWN)).toEqual([input, output])
    expect(usd(prices, 'brand-new')).toEqual([7, 8])
    const accepted = await prices.refresh([KNOWN])
    expect(accepted.quarantined.map(({ model }) => model)).toEqual(['brand-new'])
    expect(usd(prices, KNOWN)).toEqual([times(input, 2.1), output])
    served = { [KNOWN]: price(0, 0), 'brand-new': price(7, 8) }
    expect((await prices.refresh([])).quarantined.map(({ model }) => model)).toEqual([KNOWN])
  })

  it('quarantine an id that would drag other models along', async () => {
    const prices = service()
    await prices.load()
    const before = usd(prices, 'deepseek-reasoner')
    served = { deepseek: price(0.000001, 0.000001), d: price(0.000001, 0.000001) }
    await prices.refresh([])
    expect(usd(prices, 'deepseek-reasoner')).toEqual(before)
    expect(usd(prices, KNOWN)[0]).toBeGreaterThan(0.001)
  })

  it('stay as they are when the source fails or is no price list', async () => {
    const prices = service()
    await prices.load()
    const { version } = prices
    for (const broken of [
      '',
      'no json',
      '[]',
      '{"m":{"input_usd_per_mtok":-1,"output_usd_per_mtok":1}}',
      '{"m":{"input_usd_per_mtok":"1"}}',
    ]) {
      served = broken
      await expect(prices.refresh([]), broken).rejects.toMatchObject({ code: 'price_source_failed' })
    }
    served = {}
    await expect(service({ url: url.replace('/prices', '/broken') }).refresh([])).rejects.toMatchObject({
      code: 'price_source_failed',
    })
    await expect(service({ url: 'http://127.0.0.1:1/' }).refresh([])).rejects.toMatchObject({ code: 'price_source_failed' })
    expect(prices.version).toBe(version)
  })

  it('come from a file as well, through the operator call', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'gvnr-prices-'))
    const file = join(folder, 'prices.json')
    await writeFile(file, JSON.stringify({ 'file-model': price(3, 4) }))
    const test = await openTestApp(await openTestDatabase(), { config: { PRICES_URL: pathToFileURL(file).href } })
    const body = expectStatus(200, await test.api.admin(REFRESH, {}))
    expect(body).toMatchObject({ ok: true, applied: [{ model: 'file-model', before: null, after: price(3, 4) }] })
    const { key } = await test.createAccount()
    const models = (await test.api.get('/v1/models', key)).body.data as { id: string }[]
    expect(models.some(({ id }) => id === 'file-model')).toBe(true)
    const without = await openTestApp(database)
    expect((await without.api.admin(REFRESH, {})).body.error).toBe('price_source_unconfigured')
    await rm(folder, { recursive: true })
  })
})
