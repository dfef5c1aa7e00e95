import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { underLoad, wrongAfter } from '../../support/faults.ts'
import { type Fleet, startFleet } from '../../support/fleet.ts'
import { openSql, type TestSql, watchOvershoot } from '../../support/load.ts'

const DAY_MS = 86_400_000
/** Longer than a month: every window but the session's would begin anew. */
const JUMPS_MS = [40 * DAY_MS, -40 * DAY_MS, 3_600_000, 0]
const SHIFT = pathToFileURL(join(import.meta.dirname, '../../support/shifted-clock.mjs')).href

describe('a server whose wall clock is set', () => {
  let home: TestDatabase
  let file: string
  let sql: TestSql
  let fleet: Fleet

  const setClock = async (shift_ms: number): Promise<void> => {
    writeFileSync(file, String(shift_ms))
    await sleep(100)
  }
  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    file = join(home.dataDir, 'clock-shift')
    writeFileSync(file, '0')
    const env = { NODE_OPTIONS: `--import=${SHIFT}`, CLOCK_SHIFT_FILE: file, LOG_LEVEL: 'debug' }
    fleet = await startFleet(home.url!, 2, { env })
  })
  afterAll(async () => {
    await fleet?.stop()
    await sql?.end()
    await home?.drop()
  })

  /** Whether the server's own clock shows the shift: the time of its newest log line. */
  function shiftOf(index: number): number {
    const lines = fleet.servers[index]!.logs()
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
    const { time } = JSON.parse(lines.at(-1)!) as { time: number | string }
    return new Date(time).getTime() - Date.now()
  }

  it('opens no window anew, ends nothing early and forgets nothing', async () => {
    const [client] = fleet.clients
    const { key } = await client!.createAccount(1000)
    await client!.setEnvelope(key, { agent_id: 'a', limits: { hourly: 0.02, daily: 0.02, weekly: 0.02, monthly: 0.02 } })
    const rate = { agent_id: 'a', provider: 'openai', model: 'gpt-4o' }
    await client!.setRate(key, { ...rate, requests_per_minute: 1 })
    const clear = () => client!.clear(key, { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 1000 })
    const open = await clear()
    const last = await clear()
    expect([open.body.approved, last.body.approved]).toEqual([true, true])
    expect((await client!.idempotencyCheck(key, 'once')).body.is_first_call).toBe(true)
    const body = { agent_id: 'a', action_summary: 'Go on' }
    const asked = await client!.send<{ approval_id: string }>({ method: 'POST', path: '/v1/approval/request', key, body })

    for (const jump_ms of JUMPS_MS) {
      await setClock(jump_ms)
      expect((await clear()).body).toMatchObject({ approved: false, reason: 'envelope_exceeded' })
      expect(Math.abs(shiftOf(0) - jump_ms)).toBeLessThan(60_000)
      expect((await client!.idempotencyCheck(key, 'once')).body.is_first_call).toBe(false)
      const waiting = await client!.send({ method: 'GET', path: `/v1/approval/check/${asked.body.approval_id}`, key })
      expect(waiting.body.decision).toBe('pending')
    }
    await setClock(40 * DAY_MS)
    const usage = { agent_id: 'a', actual_input_tokens: 0, actual_output_tokens: 500 }
    expect((await client!.reconcile(key, { ...usage, clearance_id: open.body.clearance_id! })).status).toBe(200)
    expect((await client!.getEnvelope(key, 'a')).body.spent_usd).toBe(0.015)
    await setClock(0)
  })

  it('decides as ever while it is set, and after a start with a wrong one', async () => {
    const overshoots = await watchOvershoot(sql)
    const loaded = await underLoad(fleet, async () => {
      for (const jump_ms of JUMPS_MS) {
        await setClock(jump_ms)
        await sleep(300)
        if (jump_ms < 0) await fleet.servers[1]!.restart('SIGTERM')
      }
    })
    expect(loaded.workload.approved.size).toBeGreaterThan(20)
    expect(await wrongAfter(loaded, home.url!)).toEqual([])
    expect(await overshoots(loaded.workload.accountId('changing'))).toEqual([])
    for (const server of fleet.servers) expect(server.logs()).not.toMatch(/"level":(50|60)/)
  })
})
