import { afterAll, beforeAll, expect, expectTypeOf, it } from 'vitest'
import { type App, createApp } from '../../../src/app.ts'
import { readConfig } from '../../../src/config.ts'
import { systemClock } from '../../../src/core/clock.ts'
import { createLog } from '../../../src/core/log.ts'
import { type Client, createClient } from '../../client/client.ts'
import { describeEachDatabase } from '../../support/databases.ts'

describeEachDatabase('a client made from openapi.json', (openTestDatabase) => {
  let app: App
  let anonymous: Client
  let owner: Client

  beforeAll(async () => {
    const config = readConfig({ ACCOUNT_RATE_LIMIT_PER_HOUR: '0' })
    const deps = { database: await openTestDatabase(), clock: systemClock, log: createLog('silent') }
    app = createApp(config, deps, { checkResults: true })
    anonymous = createClient(send)
    const account = await anonymous.post('/v1/account', {})
    if (!account.ok) throw new Error(account.error.hint)
    owner = createClient(send, account.data.api_key)
  })
  afterAll(() => app.stop())
  const send = async (path: string, init: RequestInit) => app.request(path, init)

  it('clears, reconciles and reads the envelope', async () => {
    const agent_id = 'team/crawler'
    const set = await owner.put('/v1/budget/envelope', { body: { agent_id, limits: { daily: 1, monthly: 20 } } })
    expect(set).toMatchObject({ ok: true, data: { limit_usd: 1, window: 'daily', limits: { daily: 1, monthly: 20 } } })

    const cleared = await owner.post('/v1/budget/clear', {
      body: { agent_id, model: 'claude-sonnet-4-6', estimated_tokens: 2000 },
    })
    if (!cleared.ok) throw new Error(cleared.error.hint)
    expect(cleared.data).toMatchObject({ approved: true, remaining_usd: 0.97 })
    const { clearance_id } = cleared.data
    if (clearance_id === undefined) throw new Error('approved without a clearance_id')

    const reconciled = await owner.post('/v1/budget/reconcile', {
      body: { agent_id, clearance_id, actual_input_tokens: 300, actual_output_tokens: 1140 },
      headers: { 'Idempotency-Key': 'reconcile-1' },
    })
    expect(reconciled).toMatchObject({ ok: true, data: { drift_usd: -0.012, remaining_usd: 0.982 } })

    const envelope = await owner.get('/v1/budget/envelope/{agent_id}', { path: { agent_id } })
    expect(envelope).toMatchObject({ ok: true, data: { agent_id, spent_usd: 0.018, remaining_usd: 0.982 } })
  })

  it('types a refusal by its codes', async () => {
    const refused = await anonymous.get('/v1/account/balance', {})
    if (refused.ok) throw new Error('answered without a key')
    expectTypeOf<'forbidden'>().toExtend<NonNullable<typeof refused.error.error>>()
    expectTypeOf<'account_not_found'>().not.toExtend<NonNullable<typeof refused.error.error>>()
    expect(refused).toMatchObject({ status: 401, error: { error: 'missing_api_key', retryable: false } })
  })

  it('knows what the document does not have', async () => {
    // @ts-expect-error there is no such path
    expect(await owner.get('/v1/nothing', {})).toMatchObject({ status: 404, error: { error: 'not_found' } })
    // @ts-expect-error this path cannot be posted to
    expect(await owner.post('/v1/account/balance', {})).toMatchObject({ status: 405, error: { error: 'method_not_allowed' } })
    // @ts-expect-error the body is missing
    expect(await owner.put('/v1/budget/envelope', {})).toMatchObject({ status: 400, error: { error: 'invalid_params' } })
    // @ts-expect-error a number is wanted
    const text = await owner.put('/v1/budget/envelope', { body: { agent_id: 'a', limit_usd: '5' } })
    expect(text).toMatchObject({ status: 400, error: { issues: [{ path: 'limit_usd' }] } })
    // @ts-expect-error the path parameter is missing
    expect(await owner.delete('/v1/budget/envelope/{agent_id}', {})).toMatchObject({ status: 404 })
  })
})
