import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { UnansweredError } from '../../support/client.ts'
import { LOAD_WIDTH, underLoad, untilDecides, wrongAfter } from '../../support/faults.ts'
import { type Fleet, startFleet } from '../../support/fleet.ts'
import { type PostgresServer, startPostgres } from '../../support/postgres.ts'

const DOWN_MS = 1500
/** No request may take longer, whatever the database does. */
const LONGEST_MS = 10_000
const RESUMED_WITHIN_MS = 8_000

describe('a database that goes away under load', () => {
  let postgres: PostgresServer
  let fleet: Fleet

  beforeAll(async () => {
    postgres = await startPostgres()
    fleet = await startFleet(postgres.url, 2)
  })
  afterAll(async () => {
    await fleet?.stop()
    await postgres?.remove()
  })

  it.each(['fast', 'immediate', 'kill'] as const)(
    'answers 503 meanwhile, loses nothing and goes on by itself (%s)',
    async (mode) => {
      const { key } = await fleet.clients[0]!.createAccount(1000)
      const loaded = await underLoad(fleet, async () => {
        await sleep(1000)
        await postgres.stop(mode)
        await sleep(DOWN_MS)
        await postgres.restart()
        const resumed = await untilDecides(fleet, key, RESUMED_WITHIN_MS)
        await sleep(1000)
        await postgres.restart(mode)
        const again = await untilDecides(fleet, key, RESUMED_WITHIN_MS)
        await sleep(500)
        console.log(`${mode}: resumed after ${resumed} ms and ${again} ms`)
      })
      const { workload } = loaded
      expect(workload.faults).toEqual([])
      expect(workload.unanswered).toBe(0)
      expect(workload.refused).toBeGreaterThan(LOAD_WIDTH)
      expect(workload.approved.size).toBeGreaterThan(20)
      expect(workload.slowest_ms).toBeLessThan(LONGEST_MS)
      expect(await wrongAfter(loaded, postgres.url)).toEqual([])
      for (const server of fleet.servers) expect(server.logs()).not.toContain('unexpected failure')
    },
  )

  it('answers every kind of request while the database is down', async () => {
    const [client] = fleet.clients
    const { key } = await client!.createAccount(10)
    const other = await client!.createKey(key, { scope: 'read' })
    await client!.setEnvelope(key, { agent_id: 'a', limit_usd: 1 })
    await postgres.stop('fast')
    const get = (path: string) => ({ method: 'GET', path, key }) as const
    const post = (path: string, body: unknown) => ({ method: 'POST', path, key, body }) as const
    const usage = { agent_id: 'a', actual_input_tokens: 1, actual_output_tokens: 1 }
    const rate = { agent_id: 'a', provider: 'p', model: 'm' }
    const requests = [
      post('/v1/account', undefined),
      get('/v1/account'),
      get('/v1/account/balance'),
      get('/v1/account/keys'),
      get('/v1/account/notification-email'),
      post('/v1/account/notification-email', { email: 'a@example.com' }),
      post('/v1/account/keys', {}),
      { method: 'DELETE', path: `/v1/account/keys/${other.keyId}`, key },
      get('/v1/budget/envelope'),
      get('/v1/budget/envelope/a'),
      { method: 'PUT', path: '/v1/budget/envelope', key, body: { agent_id: 'a', limit_usd: 2 } },
      { method: 'DELETE', path: '/v1/budget/envelope/a', key },
      post('/v1/budget/clear', { agent_id: 'a', model: 'm', estimated_tokens: 1 }),
      post('/v1/budget/reconcile', usage),
      post('/v1/budget/release', { clearance_id: 'x' }),
      post('/v1/rate/check', rate),
      get('/v1/rate/envelope/a/p/m'),
      { method: 'PUT', path: '/v1/rate/envelope', key, body: { ...rate, requests_per_minute: 5 } },
      { method: 'DELETE', path: '/v1/rate/envelope/a/p/m', key },
      post('/v1/idempotency/check', { key: 'x' }),
      { method: 'POST', path: '/v1/admin/seed', admin: true, body: { api_key: key, operations: 1 } },
    ] as const
    try {
      const answers = await Promise.all(
        [...requests, ...requests.map((request) => ({ ...request, idempotencyKey: `${request.method} ${request.path}` }))].map(
          async (request) => {
            try {
              const { status, body, headers, took_ms } = await client!.send(request)
              return {
                request: `${request.method} ${request.path}`,
                status,
                error: body.error,
                hasRetryAfter: Number(headers['retry-after']) >= 1,
                hangs: took_ms > LONGEST_MS,
              }
            } catch (error) {
              if (!(error instanceof UnansweredError)) throw error
              return { request: `${request.method} ${request.path}`, status: error.message }
            }
          },
        ),
      )
      expect(answers).toEqual(
        answers.map(({ request }) => ({
          request,
          status: 503,
          error: 'database_unavailable',
          hasRetryAfter: true,
          hangs: false,
        })),
      )
    } finally {
      await postgres.restart()
    }
    console.log(`resumed after ${await untilDecides(fleet, key, RESUMED_WITHIN_MS)} ms`)
  })
})
