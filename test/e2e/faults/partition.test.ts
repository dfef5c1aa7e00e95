import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { underLoad, untilDecides, wrongAfter } from '../../support/faults.ts'
import { type Fleet, startFleet } from '../../support/fleet.ts'
import { startSwitch, type TcpSwitch } from '../../support/tcp-switch.ts'

/** Silence is noticed within ten seconds, connections that were given up end two later, and opening new ones is tried for five. */
const LONGEST_MS = 20_000
const RESUMED_WITHIN_MS = 15_000

describe('a cable between the servers and the database that is pulled', () => {
  let home: TestDatabase
  let cable: TcpSwitch
  let fleet: Fleet

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    const url = new URL(home.url!)
    cable = await startSwitch(Number(url.port))
    url.port = String(cable.port)
    fleet = await startFleet(url.toString(), 2)
  })
  afterAll(async () => {
    await fleet?.stop()
    await cable?.close()
    await home?.drop()
  })

  /** Two seconds are waited out. In fourteen the connections are given up, and what was on its way on them arrives late. */
  it.each([2, 14])('for %d seconds: nothing is lost or doubled, and service resumes by itself', async (seconds) => {
    const { key } = await fleet.clients[0]!.createAccount(1000)
    const loaded = await underLoad(fleet, async () => {
      await sleep(1000)
      cable.partition()
      await sleep(seconds * 1000)
      cable.heal()
      console.log(`decides again after ${await untilDecides(fleet, key, RESUMED_WITHIN_MS)} ms`)
      await sleep(1000)
    })
    const { workload } = loaded
    expect(workload.faults).toEqual([])
    expect(workload.unanswered).toBe(0)
    expect(workload.approved.size).toBeGreaterThan(20)
    expect(workload.slowest_ms).toBeLessThan(LONGEST_MS)
    if (seconds > 10) expect(workload.refused).toBeGreaterThan(0)
    expect(await wrongAfter(loaded, home.url!)).toEqual([])
    for (const server of fleet.servers) expect(server.logs()).not.toContain('unexpected failure')
  })

  it('for moments, again and again, with every connection cut in between', async () => {
    const { key } = await fleet.clients[0]!.createAccount(1000)
    const loaded = await underLoad(fleet, async () => {
      for (let round = 0; round < 6; round++) {
        await sleep(300)
        cable.partition()
        await sleep(200)
        cable.heal()
        if (round % 2 === 0) cable.cut()
      }
      console.log(`decides again after ${await untilDecides(fleet, key, RESUMED_WITHIN_MS)} ms`)
    })
    expect(loaded.workload.unanswered).toBe(0)
    expect(await wrongAfter(loaded, home.url!)).toEqual([])
  })
})
