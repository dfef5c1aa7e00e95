import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Check, StatusService } from '../../../src/status/service.ts'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

describeEachDatabase('/status', (openTestDatabase) => {
  let t: TestApp
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase())
  })
  afterAll(() => t.stop())
  const get = (path: string, accept?: string) => t.app.request(path, { ...(accept && { headers: { accept } }) })
  type Status = { state: string; checks: { name: string; state: string; detail: string }[] }

  it('says how each thing is, as a page and as JSON', async () => {
    const response = await get('/status.json')
    const status = (await response.json()) as Status
    expect([response.status, status.state]).toEqual([200, 'ok'])
    expect(status.checks.map(({ name, state }) => [name, state])).toEqual([
      ['Database', 'ok'],
      ['Outbox', 'ok'],
      ['Chain', 'off'],
      ['x402 facilitator', 'off'],
    ])
    expect(await (await get('/status', 'application/json')).json()).toEqual(status)
    const page = await get('/status', 'text/html,application/xhtml+xml,*/*;q=0.8')
    expect(page.headers.get('content-type')).toBe('text/html; charset=utf-8')
    expect(await page.text()).toContain('Everything works')
  })

  it('tells when messages wait too long, and looks again after some seconds only', async () => {
    await t.database.sql.unsafe(
      `insert into outbox (account_id, endpoint_id, event_id, event, stream, body, state, attempts, at_ms, due_ms)
       values ($1, $1, $1, 'test', 's', '{}', 0, 0, $2, $2)`,
      ['019ab5c4-8f3e-7c21-b6d0-5a9e1f7c3b28', String(t.clock.now() - 90_000)],
    )
    expect(((await (await get('/status.json')).json()) as Status).state).toBe('ok')
    t.clock.advance(5_000)
    const status = (await (await get('/status.json')).json()) as Status
    expect(status.state).toBe('degraded')
    expect(status.checks[1]).toMatchObject({ state: 'slow', detail: 'the oldest message has waited 95 s' })
  })

  it('asks no dependency more than once for a flood, and gives up on one that hangs', async () => {
    let asked = 0
    const ok = async () => {
      asked++
      return { state: 'ok' as const, detail: 'answers' }
    }
    const hanging: Check = { name: 'hangs', isVital: false, probe: () => new Promise(() => {}) }
    const failing: Check = { name: 'fails', isVital: true, probe: () => Promise.reject(new Error('secret://address')) }
    const flooded = (checks: Check[]) => {
      const service = new StatusService({ clock: t.clock, checks }, { timeout_ms: 50 })
      return Promise.all(Array.from({ length: 500 }, () => service.status()))
    }
    const [degraded] = await flooded([{ name: 'works', isVital: true, probe: ok }, hanging])
    expect(asked).toBe(1)
    expect(degraded).toMatchObject({
      state: 'degraded',
      checks: [{ state: 'ok' }, { state: 'down', detail: 'no answer in time' }],
    })
    const [down] = await flooded([failing])
    expect(down).toMatchObject({ state: 'down', checks: [{ state: 'down', detail: 'does not answer' }] })
    expect(JSON.stringify(down)).not.toContain('secret')
  })

  it('answers 503 when the database is gone', async () => {
    const own = await openTestApp(await openTestDatabase())
    await own.database.close()
    const response = await own.app.request('/status.json')
    expect([response.status, ((await response.json()) as Status).state]).toEqual([503, 'down'])
    expect(await (await own.app.request('/status')).text()).toContain('Not working')
  })
})
