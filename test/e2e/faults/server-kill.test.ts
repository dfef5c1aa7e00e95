import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { underLoad, wrongAfter } from '../../support/faults.ts'
import { type Fleet, startFleet } from '../../support/fleet.ts'
import {
  findDifferences,
  findWrongBalances,
  openSql,
  pick,
  randomFrom,
  runSeed,
  spread,
  type TestSql,
  untilAnswered,
  watchOvershoot,
} from '../../support/load.ts'

const KILLS = 4
const WIDTH = 64
const RETRIED = Number(process.env.E2E_RETRIED ?? 1500)

describe('server processes that are killed', () => {
  let home: TestDatabase
  let sql: TestSql
  let fleet: Fleet

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    fleet = await startFleet(home.url!, 3, { sockets: WIDTH })
  })
  afterAll(async () => {
    await fleet?.stop()
    await sql?.end()
    await home?.drop()
  })

  it('forget nothing they have answered and double nothing', async () => {
    const seed = runSeed()
    const random = randomFrom(seed)
    const overshoots = await watchOvershoot(sql)
    const [victim] = fleet.servers
    const loaded = await underLoad(fleet, async () => {
      for (let kill = 0; kill < KILLS; kill++) {
        await sleep(300 + random() * 700)
        await victim!.kill('SIGKILL')
        await sleep(random() * 300)
        await victim!.restart()
      }
    })
    console.log(`seed ${seed}: ${KILLS} kills`)
    expect(loaded.workload.unanswered).toBeGreaterThan(0)
    expect(loaded.workload.approved.size).toBeGreaterThan(100)
    expect(await wrongAfter(loaded, home.url!)).toEqual([])
    expect(await overshoots(loaded.workload.accountId('changing'))).toEqual([])
  })

  it('do each request once when it is retried with its Idempotency-Key', async () => {
    const seed = runSeed()
    const random = randomFrom(seed)
    const [killed, ...others] = fleet.servers
    const steady = new Client(others[0]!.origin)
    const { key, accountId } = await steady.createAccount(RETRIED * 2)
    await steady.setEnvelope(key, { agent_id: 'worker', limit_usd: 1000, window: 'session' })
    const input = { agent_id: 'worker', model: 'gpt-4o', estimated_tokens: 100 }
    const ids = new Map<string, string>()
    const settled: string[] = []
    let retries = 0

    const killing = (async () => {
      for (let kill = 0; kill < KILLS; kill++) {
        await sleep(150 + random() * 300)
        await killed!.restart('SIGKILL')
      }
    })()
    await spread(RETRIED, WIDTH, async (index) => {
      // Half of all first tries go to the process that is being killed.
      const target = (attempt: number) => {
        if (attempt > 0) retries++
        return attempt === 0 && index % 2 === 0 ? fleet.clients[0]! : pick(random, fleet.clients)
      }
      const name = `clear-${index}`
      const clear = await untilAnswered((attempt) => target(attempt).clear(key, input, { idempotencyKey: name }))
      if (clear.body.clearance_id === undefined) throw new Error(`refused: ${JSON.stringify(clear.body)}`)
      ids.set(name, clear.body.clearance_id)
      if (index % 3 !== 0) return
      const usage = { agent_id: 'worker', actual_input_tokens: 10, actual_output_tokens: 10 }
      const settle = await untilAnswered((attempt) =>
        target(attempt).reconcile(key, usage, { idempotencyKey: `settle-${index}` }),
      )
      if (settle.status !== 200) throw new Error(`not settled: ${JSON.stringify(settle.body)}`)
      settled.push(settle.body.clearance_id)
    })
    await killing
    console.log(`seed ${seed}: ${KILLS} kills, ${retries} tries again`)
    expect(retries).toBeGreaterThan(KILLS)

    expect(ids.size).toBe(RETRIED)
    expect(new Set(ids.values()).size).toBe(RETRIED)
    const holds = await sql<
      { hold_id: string; state: number }[]
    >`select hold_id, state from holds where account_id = ${accountId}`
    expect(holds.map((row) => row.hold_id).sort()).toEqual([...ids.values()].sort())
    expect(new Set(settled).size).toBe(settled.length)
    expect(
      holds
        .filter((row) => row.state === 1)
        .map((row) => row.hold_id)
        .sort(),
    ).toEqual(settled.sort())
    const balance = await steady.send({ method: 'GET', path: '/v1/account/balance', key })
    expect(balance.body).toEqual({ operations_remaining: RETRIED })
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])

    const again = await steady.clear(key, input, { idempotencyKey: 'clear-7' })
    expect(again.body.clearance_id).toBe(ids.get('clear-7'))
    expect(again.headers['idempotent-replayed']).toBe('true')
    steady.close()
  })
})
