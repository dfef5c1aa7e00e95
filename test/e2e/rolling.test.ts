import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Balancer, startBalancer } from '../support/balancer.ts'
import { Client } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { type Fleet, startFleet } from '../support/fleet.ts'
import { findDifferences, findWrongBalances, keepBusy, openSql, type TestSql } from '../support/load.ts'
import { startServer } from '../support/server.ts'

const CHECK_MS = 200
const NOTICE_SECONDS = 2
const WIDTH = 24
const ROUNDS = 2

describe('two processes behind a balancer that asks /ready', () => {
  let home: TestDatabase
  let sql: TestSql
  let fleet: Fleet
  let balancer: Balancer
  let client: Client

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    const env = { DRAIN_NOTICE_SECONDS: String(NOTICE_SECONDS) }
    fleet = await startFleet(home.url!, 2, { env })
    balancer = await startBalancer({
      backends: fleet.servers.map(({ port }) => port),
      balancing: 'round robin',
      check_ms: CHECK_MS,
    })
    client = new Client(balancer.origin, { sockets: WIDTH })
  })
  afterAll(async () => {
    client?.close()
    await balancer?.stop()
    await fleet?.stop()
    await sql?.end()
    await home?.drop()
  })
  const untilReady = (count: number) => expect.poll(() => balancer.ready().length, { timeout: 20_000 }).toBe(count)

  it('are restarted one after the other under load, and no request fails', async () => {
    const { key, accountId } = await client.createAccount(1_000_000)
    await client.setEnvelope(key, { agent_id: 'a', limit_usd: 10_000 })
    const failures: string[] = []
    let approved = 0
    const stop = keepBusy(WIDTH, async () => {
      try {
        const answer = await client.clear(key, { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 10 })
        if (answer.body.approved) approved++
        else failures.push(`${answer.status} ${JSON.stringify(answer.body)}`)
        // Connections that are never idle would hide what happens to the ones that are.
        await sleep(approved % 5)
      } catch (error) {
        failures.push(String(error))
      }
    })
    const restarts: number[] = []
    for (let round = 0; round < ROUNDS; round++) {
      for (const server of fleet.servers) {
        await untilReady(fleet.servers.length)
        await sleep(300)
        const before = approved
        expect(await server.kill('SIGTERM')).toEqual({ code: 0, signal: null })
        expect(balancer.ready()).not.toContain(server.port)
        await server.restart()
        restarts.push(approved - before)
      }
    }
    await untilReady(fleet.servers.length)
    await sleep(300)
    await stop()
    console.log(`${approved} approved through ${restarts.length} restarts (${restarts.join(', ')} meanwhile)`)

    expect(failures.slice(0, 5)).toEqual([])
    for (const meanwhile of restarts) expect(meanwhile).toBeGreaterThan(50)
    expect(await sql`select count(*) from holds where account_id = ${accountId}`).toEqual([{ count: BigInt(approved) }])
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
    for (const server of fleet.servers) expect(server.logs()).not.toMatch(/"level":(50|60)/)
  })

  it('say that they leave before they close, and go on answering until then', async () => {
    const [server] = fleet.servers
    const direct = new Client(server!.origin)
    const { key } = await direct.createAccount()
    const asked = performance.now()
    const exit = server!.kill('SIGTERM')
    const ready = () => direct.send({ method: 'GET', path: '/ready' })
    await expect.poll(async () => (await ready()).status).toBe(503)
    expect((await ready()).body).toMatchObject({ ok: false, error: 'stopping', retryable: true })
    expect((await direct.send({ method: 'GET', path: '/health' })).status).toBe(200)
    const answer = await direct.send({ method: 'GET', path: '/v1/account', key })
    // It is answered, and its connection is not used again.
    expect([answer.status, answer.headers.connection]).toEqual([200, 'close'])
    expect(await exit).toEqual({ code: 0, signal: null })
    expect(performance.now() - asked).toBeGreaterThan(NOTICE_SECONDS * 1000 - 50)
    direct.close()
    await server!.restart()
  })

  it('leave at once when told twice', async () => {
    const patient = await startServer({ databaseUrl: home.url, env: { DRAIN_NOTICE_SECONDS: '600' } })
    const exit = patient.kill('SIGINT')
    await expect.poll(async () => (await fetch(`${patient.origin}/ready`)).status).toBe(503)
    void patient.kill('SIGINT')
    expect(await exit).toEqual({ code: 0, signal: null })
    await patient.stop()
  })
})
