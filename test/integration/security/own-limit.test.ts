import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { isWithin } from '../../../src/core/operation.ts'
import { envelopePath, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

/** Other spellings of "team", "its parent" and "the account" that a sloppy comparison would let through. */
const SPELLINGS = [
  'team',
  'Team',
  'TEAM',
  ' team',
  'team ',
  'team\t',
  'team\u00a0',
  'team\u200b',
  '\ufeffteam',
  'te\u0430m', // Cyrillic a
  '\uff54\uff45\uff41\uff4d', // full width
  't\u0065\u0301am',
  'team.',
  'team\\x',
  'team\\..',
  'teamster',
  'team%2Fx',
  'team%2f..',
  './team',
  '/team',
  '//team',
  '../team',
  'x/../team',
  'team-1/../team',
  '*',
  '**',
  '*/team',
  '* ',
  '%2A',
  '.',
  '..',
  '/',
  'org',
  'org/other',
]

/** Names below "team" as they are spelled: envelopes there can only narrow. */
const BELOW = ['team/', 'team//', 'team/.', 'team/..', 'team/../x', 'team/../../*', 'team/*', 'team/%2e%2e', 'team/\u202e']

describeEachDatabase('an agent cannot lift its own limit', (openTestDatabase) => {
  let test: TestApp
  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase())
  })
  afterAll(() => test.stop())

  /** gpt-4o costs $10 per million output tokens: 1,000 tokens are one cent, the limit of the agent. */
  async function limitedAgent(bound: string) {
    const { key: owner } = await test.createAccount()
    await test.api.put('/v1/budget/envelope', { agent_id: bound, limit_usd: 0.01 }, owner)
    const { key } = await test.createKey(owner, { scope: 'agent', agent_id: bound })
    return { owner, key }
  }
  const clear = (agentId: string, key: string, tokens = 1001) =>
    test.api.post('/v1/budget/clear', { agent_id: agentId, model: 'gpt-4o', estimated_tokens: tokens }, key)

  it.each(SPELLINGS)('by naming %j', async (spelling) => {
    const { owner, key } = await limitedAgent('team')
    const before = await test.api.get('/v1/budget/envelope', owner)
    const put = await test.api.put('/v1/budget/envelope', { agent_id: spelling, limit_usd: 1000 }, key)
    const removed = await test.api.delete(envelopePath(spelling), key)
    expect(put.status).toBe(403)
    // As a whole path segment, dots are taken out of the URL before any server sees them.
    expect(removed.status).toBe(/^\.{1,2}$/.test(spelling) ? 404 : 403)
    expect(await test.api.get('/v1/budget/envelope', owner)).toMatchObject({ text: before.text })
    const spent = await clear(spelling, key)
    if (spelling === 'team') expect(spent.body).toMatchObject({ approved: false, reason: 'envelope_exceeded' })
    else expect(spent.status).toBe(403)
  })

  it.each(BELOW)('by an envelope on %j below it', async (child) => {
    const { owner, key } = await limitedAgent('team')
    expect((await test.api.put('/v1/budget/envelope', { agent_id: child, limit_usd: 1000 }, key)).status).toBe(200)
    for (const agentId of [child, `${child}/x`, 'team'])
      expect((await clear(agentId, key)).body).toMatchObject({ approved: false, reason: 'envelope_exceeded' })
    expect((await clear(child, key, 1000)).body.approved).toBe(true)
    expect((await clear('team', key, 1)).body.approved).toBe(false)
    expect((await test.api.delete(envelopePath(child), key)).status).toBe(200)
    expect((await clear(child, key, 1)).body.approved).toBe(false)
    const { body } = await test.api.get(envelopePath('team'), owner)
    expect(body).toMatchObject({ limit_usd: 0.01, spent_usd: 0.01, remaining_usd: 0 })
  })

  it.each([
    '/v1/budget/envelope/team/child/../../team',
    '/v1/budget/envelope/team/%2e%2e/team',
    '/api/v1/budget/envelope/./team',
  ])('by the path %s', async (path) => {
    const { owner, key } = await limitedAgent('team')
    await test.api.delete(path, key)
    const { body } = await test.api.get(envelopePath('team'), owner)
    expect(body).toMatchObject({ limit_usd: 0.01 })
  })

  it('by a body or query that contradicts the path', async () => {
    const { owner, key } = await limitedAgent('team')
    await test.api.put('/v1/budget/envelope', { agent_id: 'team/a', limit_usd: 1 }, key)
    await test.api.request('DELETE', `${envelopePath('team/a')}?agent_id=team`, { agent_id: 'team' }, key)
    await test.api.put('/v1/budget/envelope', { agent_id: 'team/b', limit_usd: 9, __proto__: { agent_id: 'team' } }, key)
    await test.api.put('/v1/budget/envelope', '{"agent_id":"team/c","limit_usd":9,"__proto__":{"agent_id":"team"}}', key)
    const twice = await test.api.put('/v1/budget/envelope', '{"agent_id":"team/c","limit_usd":9,"agent_id":"team"}', key)
    expect(twice.status).toBe(403)
    expect((await test.api.get(envelopePath('team'), owner)).body).toMatchObject({ limit_usd: 0.01 })
  })

  it('by making, listing or revoking keys, or by granting itself operations', async () => {
    const { owner, key } = await limitedAgent('team')
    const { body } = await test.api.get('/v1/account', owner)
    const statuses = [
      await test.api.post('/v1/account/keys', {}, key),
      await test.api.post('/v1/account/keys', { scope: 'agent', agent_id: 'team/a' }, key),
      await test.api.get('/v1/account/keys', key),
      await test.api.delete(`/v1/account/keys/${(body.key as { key_id: string }).key_id}`, key),
      await test.api.put('/v1/rate/envelope', { agent_id: 'team', provider: 'p', model: 'm', requests_per_minute: 9 }, key),
      await test.api.post('/v1/account/notification-email', { email: 'me@example.com' }, key),
      await test.api.post('/v1/admin/seed', { api_key: key, operations: 9 }, key),
    ].map((response) => response.status)
    expect(statuses).toEqual([403, 403, 403, 403, 403, 403, 401])
  })

  it('by releasing or reconciling what others hold', async () => {
    const { owner, key } = await limitedAgent('team')
    await test.api.put('/v1/budget/envelope', { agent_id: 'boss', limit_usd: 1 }, owner)
    const theirs = await clear('boss', owner)
    const id = theirs.body.clearance_id
    expect(id).toBeTypeOf('string')
    expect((await test.api.post('/v1/budget/release', { clearance_id: id }, key)).status).toBe(400)
    const usage = { actual_input_tokens: 0, actual_output_tokens: 0, clearance_id: id }
    expect((await test.api.post('/v1/budget/reconcile', { ...usage, agent_id: 'team' }, key)).status).toBe(400)
    expect((await test.api.post('/v1/budget/reconcile', { ...usage, agent_id: 'boss' }, key)).status).toBe(403)
  })
})

describe('isWithin', () => {
  it('is the path itself or below it, letter by letter', () => {
    for (const spelling of SPELLINGS) expect(isWithin(spelling, 'team')).toBe(spelling === 'team')
    for (const spelling of BELOW) expect(isWithin(spelling, 'team')).toBe(true)
  })
})
