import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { underLoad, untilDecides, wrongAfter } from '../../support/faults.ts'
import { type Fleet, startFleet } from '../../support/fleet.ts'
import { openSql, type TestSql, watchOvershoot } from '../../support/load.ts'
import { type PostgresServer, startPostgres } from '../../support/postgres.ts'
import { makeSynchronous, PRIMARY_SETTINGS, promote } from '../../support/standby.ts'
import { startSwitch, type TcpSwitch } from '../../support/tcp-switch.ts'

const RESUMED_WITHIN_MS = 10_000

describe('a primary that dies and a synchronous standby that takes over', () => {
  let primary: PostgresServer
  let standby: PostgresServer
  let address: TcpSwitch
  let fleet: Fleet
  let sql: TestSql

  beforeAll(async () => {
    primary = await startPostgres({ settings: PRIMARY_SETTINGS })
    standby = await startPostgres({ standbyOf: primary })
    await makeSynchronous(primary)
    address = await startSwitch(primary.port)
    fleet = await startFleet(`postgres://postgres@127.0.0.1:${address.port}/postgres`, 2)
    sql = openSql(standby.url)
  })
  afterAll(async () => {
    await sql?.end()
    await fleet?.stop()
    await address?.close()
    await primary?.remove()
    await standby?.remove()
  })

  it('loses nothing that was answered, doubles nothing, and goes on by itself', async () => {
    const { key } = await fleet.clients[0]!.createAccount(1000)
    const onPrimary = openSql(primary.url)
    const overshoots = await watchOvershoot(onPrimary)
    await onPrimary.end()
    let approved = 0
    const loaded = await underLoad(fleet, async ({ workload }) => {
      await sleep(1500)
      await primary.stop('kill')
      approved = workload.approved.size
      // What a supervisor needs to see that the primary is gone; the standby answers reads already, and refuses writes.
      await sleep(200)
      address.target(standby.port)
      await sleep(300)
      await promote(standby)
      console.log(`decides again after ${await untilDecides(fleet, key, RESUMED_WITHIN_MS)} ms`)
      await sleep(1000)
    })
    const { workload } = loaded
    expect(workload.unanswered).toBe(0)
    expect(workload.refused).toBeGreaterThan(0)
    expect(approved).toBeGreaterThan(20)
    expect(workload.approved.size).toBeGreaterThan(approved)
    expect(await wrongAfter(loaded, standby.url)).toEqual([])
    expect(await overshoots(workload.accountId('changing'), sql)).toEqual([])
    for (const server of fleet.servers) expect(server.logs()).not.toContain('unexpected failure')
  })
})
