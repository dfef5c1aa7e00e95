import { beforeAll, expect, it } from 'vitest'
import { Sealer } from '../../../src/audit/sealer.ts'
import { AuditService } from '../../../src/audit/service.ts'
import { verifyExport } from '../../../src/audit/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { createLog } from '../../../src/core/log.ts'
import type { Database } from '../../../src/db/client.ts'
import { expectStatus, type JsonBody, NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { press, requestApproval } from '../../support/humans.ts'

type Entry = JsonBody & { readonly type: string; readonly seq: number | null; readonly at: number; readonly data: JsonBody }
const entriesOf = (body: JsonBody) => body.entries as unknown as Entry[]
const CLEAR = { model: 'claude-opus-4-8', estimated_tokens: 1000 }

describeEachDatabase('the audit trail', (openTestDatabase) => {
  let database: Database
  let test: TestApp
  beforeAll(async () => {
    database = await openTestDatabase()
    test = await openTestApp(database)
  })

  const clear = (key: string, agent_id: string, fields = {}) =>
    test.api.post('/v1/budget/clear', { agent_id, ...CLEAR, ...fields }, key)
  const cap = (key: string, agent_id: string, limit_usd = 100) =>
    test.api.put('/v1/budget/envelope', { agent_id, limit_usd }, key)
  /** Everything there is to seal, for sure. */
  const seal = async () => {
    await test.app.sealer.pass()
    test.clock.advance(10_000)
    await test.app.sealer.pass()
    await test.app.sealer.pass()
  }
  const exported = async (key: string, query = 'format=ndjson') => {
    const response = await test.api.get(`/v1/audit?${query}`, key)
    expect(response.status).toBe(200)
    return response.text
  }
  const verdict = (text: string, kept?: { seq: number; hash: string }) =>
    verifyExport(
      (async function* () {
        yield text
      })(),
      kept ?? null,
    )
  const head = async (key: string) => {
    const { seq, hash } = expectStatus(200, await test.api.get('/v1/audit/head', key))
    return { seq: Number(seq), hash: String(hash) }
  }

  it('has every decision and every change, newest first, and seals them', async () => {
    const { key, accountId } = await test.createAccount(10)
    await cap(key, 'crawler', 0.06)
    const { body: first } = await clear(key, 'crawler')
    await clear(key, 'crawler', { estimated_tokens: 1_000_000 })
    await test.api.post('/v1/budget/reconcile', { agent_id: 'crawler', actual_input_tokens: 10, actual_output_tokens: 10 }, key)
    const { body: second } = await clear(key, 'crawler')
    await test.api.post('/v1/budget/release', { clearance_id: second.clearance_id }, key)
    const asked = await requestApproval(test.api, key, { grant: { limit_usd: 9, window: 'daily' } })
    await press(test.app, asked.approval_id, 'approved')
    const made = await test.createKey(key, { name: 'bot', scope: 'agent', agent_id: 'crawler' })
    await test.api.request('PATCH', `/v1/account/keys/${made.keyId}`, { name: 'robot' }, key)
    expectStatus(201, await test.api.post(`/v1/account/keys/${made.keyId}/rotate`, { overlap_seconds: 60 }, key))
    await test.api.delete(`/v1/account/keys/${made.keyId}`, key)
    const hook = await test.api.post('/v1/webhooks', { url: 'https://hooks.example.com/x?token=abc' }, key)
    await test.api.request('PATCH', `/v1/webhooks/${String(hook.body.webhook_id)}`, { name: 'renamed' }, key)
    await test.api.delete(`/v1/webhooks/${String(hook.body.webhook_id)}`, key)
    const slack = 'https://hooks.slack.com/services/T0/B0/secretpart'
    await test.api.post('/v1/account/channels', { kind: 'slack', url: slack }, key)
    await test.api.post('/v1/account/notification-email', { email: 'ops@example.com' }, key)
    const share = { agent_id: 'crawler', provider: 'p', model: 'm' }
    await test.api.put('/v1/rate/envelope', { ...share, requests_per_minute: 5 }, key)
    await test.api.delete('/v1/rate/envelope/crawler/p/m', key)
    await test.api.admin('/v1/admin/suspend', { account_id: accountId, agent_id: 'crawler', reason: 'runs away' })
    await clear(key, 'crawler')
    await test.api.admin('/v1/admin/resume', { account_id: accountId, agent_id: 'crawler' })
    await test.api.admin('/v1/admin/reset-daily', { account_id: accountId })
    await test.api.delete('/v1/budget/envelope/crawler', key)

    const want = [
      'envelope.set',
      'envelope.reset',
      'agent.resumed',
      'clearance.denied',
      'agent.suspended',
      'rate_share.deleted',
      'rate_share.set',
      'notification_email.set',
      'channel.created',
      'webhook.deleted',
      'webhook.changed',
      'webhook.created',
      'key.revoked',
      'key.rotated',
      'key.created',
      'key.renamed',
      'key.created',
      'approval.decided',
      'approval.requested',
      'hold.released',
      'clearance.approved',
      'hold.settled',
      'clearance.denied',
      'clearance.approved',
      'envelope.set',
      'quota.granted',
      'account.created',
    ]
    const before = expectStatus(200, await test.api.get('/v1/audit', key))
    expect(entriesOf(before).map(({ type }) => type)).toEqual(want)
    expect(entriesOf(before).every(({ seq, hash }) => seq === null && hash === null)).toBe(true)
    await seal()
    const after = expectStatus(200, await test.api.get('/v1/audit', key))
    expect(entriesOf(after).map(({ type }) => type)).toEqual(want)
    expect(entriesOf(after).map(({ seq }) => seq)).toEqual(want.map((_, index) => want.length - index))
    expect(entriesOf(after).find(({ type }) => type === 'agent.suspended')?.data).toMatchObject({ detail: 'operator: runs away' })
    expect(entriesOf(after).find(({ type }) => type === 'hold.settled')?.data).toMatchObject({ hold_id: first.clearance_id })
    // Nothing in it lets anyone act.
    const text = await exported(key)
    for (const secret of ['bg_', 'secretpart', 'token=abc', 'whsec_', asked.approval_id]) expect(text).not.toContain(secret)

    const kept = await head(key)
    expect(kept.seq).toBe(want.length)
    for (const form of ['ndjson', 'csv'])
      expect(await verdict(await exported(key, `format=${form}`), kept)).toMatchObject({
        accountId,
        entries: want.length,
        unsealed: 0,
        newestSeq: kept.seq,
        problems: [],
      })
    expect(test.logged).toEqual([])
  })

  it('goes on from where it was, and a head that was kept stays in it', async () => {
    const { key } = await test.createAccount()
    await cap(key, 'a')
    const heads = []
    for (let round = 0; round < 4; round++) {
      for (let n = 0; n < 3; n++) await clear(key, 'a')
      await seal()
      heads.push(await head(key))
    }
    expect(new Set(heads.map(({ seq }) => seq)).size).toBe(4)
    await clear(key, 'a')
    const text = await exported(key)
    for (const kept of heads) expect((await verdict(text, kept)).problems).toEqual([])
    expect(await verdict(text)).toMatchObject({ unsealed: 1 })
  })

  it('seals an account that is only denied', async () => {
    const { key } = await test.createAccount()
    await seal()
    const { seq } = await head(key)
    for (let n = 0; n < 3; n++) expect((await clear(key, 'nobody')).body).toMatchObject({ approved: false })
    await seal()
    expect((await head(key)).seq).toBe(seq + 3)
    // Denials of the version that is reached stay where they are sealed, and later ones come after them.
    await clear(key, 'nobody')
    await cap(key, 'nobody')
    await clear(key, 'nobody')
    await seal()
    expect(await verdict(await exported(key))).toMatchObject({ entries: seq + 6, unsealed: 0, problems: [] })
  })

  it('is read in pages and by agent and time, in any depth, sealed or not', async () => {
    const { key } = await test.createAccount()
    await cap(key, '*')
    for (let n = 0; n < 30; n++) {
      await clear(key, ['team', 'team/a', 'teammate'][n % 3] ?? '')
      test.clock.advance(1000)
      if (n % 10 === 4) await test.app.sealer.pass()
    }
    const all: Entry[] = []
    for (let page = 1; ; page++) {
      const body = expectStatus(200, await test.api.get(`/v1/audit?page=${page}&page_size=7`, key))
      all.push(...entriesOf(body))
      if (!body.has_more) break
      expect(entriesOf(body)).toHaveLength(7)
    }
    expect(all.length).toBe(33)
    expect(new Set(all.map(({ id }) => id)).size).toBe(33)
    expect(all.map(({ at }) => at)).toEqual(all.map(({ at }) => at).sort((a, b) => b - a))
    const agents = async (query: string) =>
      entriesOf(expectStatus(200, await test.api.get(`/v1/audit?${query}`, key))).map(({ agent_id }) => agent_id)
    expect(new Set(await agents('agent_id=team'))).toEqual(new Set(['team', 'team/a']))
    expect((await agents('agent_id=team')).length).toBe(20)
    expect((await agents('agent_id=team%2Fa&page_size=3&page=4')).length).toBe(1)
    const middle = all[16]?.at ?? 0
    const older = await test.api.get(`/v1/audit?to=${middle}&page_size=100`, key)
    const newer = await test.api.get(`/v1/audit?from=${middle}&page_size=100`, key)
    expect([...entriesOf(newer.body), ...entriesOf(older.body)].map(({ id }) => id)).toEqual(all.map(({ id }) => id))
    expect((await verdict(await exported(key, `format=ndjson&from=${middle}`))).problems.join()).toMatch(/filter/)
    for (const query of ['page=0', 'page_size=1001', 'page=x', 'format=xml', 'from=-1', 'page=10001'])
      expect((await test.api.get(`/v1/audit?${query}`, key)).status, query).toBe(400)
  })

  it('is the own account only; a bound key sees its path only', async () => {
    const mine = await test.createAccount()
    const other = await test.createAccount()
    await cap(mine.key, '*')
    await clear(mine.key, 'team/a')
    await clear(mine.key, 'elsewhere')
    await seal()
    const lead = await test.createKey(mine.key, { scope: 'read', agent_id: 'team' })
    const agent = await test.createKey(mine.key, { scope: 'agent', agent_id: 'team' })
    const seen = entriesOf(expectStatus(200, await test.api.get('/v1/audit', lead.key)))
    expect(seen.map(({ type, agent_id }) => [type, agent_id])).toEqual([
      ['key.created', 'team'],
      ['key.created', 'team'],
      ['clearance.approved', 'team/a'],
    ])
    expect(await exported(lead.key)).not.toContain('elsewhere')
    expect(await exported(lead.key, 'format=csv')).not.toContain('elsewhere')
    expect((await test.api.get('/v1/audit?agent_id=elsewhere', lead.key)).status).toBe(403)
    expect((await test.api.get('/v1/audit?agent_id=elsewhere&format=csv', lead.key)).status).toBe(403)
    expect((await test.api.get('/v1/audit/head', lead.key)).status).toBe(403)
    expect((await test.api.get('/v1/audit', agent.key)).status).toBe(403)
    for (const form of ['json', 'ndjson', 'csv']) {
      const text = await exported(other.key, `format=${form}`)
      expect(text).not.toContain(mine.accountId)
      expect(text).not.toContain('team/a')
    }
  })

  it('shows what was changed, removed or put in below the server', async () => {
    const tampering: Record<string, string> = {
      removed: "delete from holds where account_id = $1 and agent_id = 'b'",
      changed: "update holds set estimate_nanousd = estimate_nanousd - 1 where account_id = $1 and agent_id = 'b'",
      reordered: "update holds set taken_version = taken_version - 2 where account_id = $1 and agent_id = 'b'",
      'an event removed': 'delete from audit_events where account_id = $1',
      'a seal changed': "update audit_seals set hash = sha256('x') where account_id = $1 and first_seq = 1",
      'the newest removed': "delete from holds where account_id = $1 and agent_id = 'newest'",
      'put in': `insert into denials (account_id, denial_id, agent_id, kind, model, estimate_nanousd, reason, denied_ms, version)
        select account_id, hold_id, agent_id, 0, model, 1, 'no_credits', taken_ms, taken_version from holds where account_id = $1 and agent_id = 'b'`,
    }
    for (const [what, statement] of Object.entries(tampering)) {
      const { key, accountId } = await test.createAccount()
      await cap(key, '*')
      for (const agent of ['a', 'b', 'c']) await clear(key, agent)
      await seal()
      for (const agent of ['d', 'newest']) await clear(key, agent)
      await seal()
      expect((await verdict(await exported(key))).problems, what).toEqual([])
      await database.sql.unsafe(statement, [accountId])
      expect((await verdict(await exported(key))).problems, what).not.toEqual([])
    }
  })

  it('streams, and seals agree, while several processes write and seal', async () => {
    const apps = await Promise.all(Array.from({ length: 3 }, () => openTestApp(database, { clock: test.clock })))
    const owners = await Promise.all(Array.from({ length: 4 }, () => test.createAccount(5000)))
    for (const { key } of owners) await cap(key, '*', 2)
    const sealers = [0, 1].map(
      () =>
        new Sealer({ database, clock: new ManualClock(NOON * 2), log: createLog('silent') }, { lease_ms: 0, closeAfter_ms: 0 }),
    )
    let writing = true
    const sealing = sealers.map(async (sealer) => {
      while (writing) await sealer.pass()
    })
    await Promise.all(
      apps.map(async ({ api }, index) => {
        for (let n = 0; n < 60; n++)
          await Promise.all(
            owners.map(async ({ key }, place) => {
              const made = await api.post('/v1/budget/clear', { agent_id: `a/${index}`, ...CLEAR }, key)
              if (n % 3 === 0)
                await api.post(
                  '/v1/budget/reconcile',
                  { agent_id: `a/${index}`, actual_input_tokens: 1, actual_output_tokens: 1 },
                  key,
                )
              if (n % 20 === place) await api.post('/v1/account/keys', { scope: 'read' }, key)
              return made
            }),
          )
      }),
    )
    writing = false
    await Promise.all(sealing)
    await seal()
    for (const { key, accountId } of owners) {
      const count = `select (select count(*) from holds where account_id = $1) + (select count(*) from denials where account_id = $1)
        + (select count(*) from ledger where account_id = $1) + (select count(*) from audit_events where account_id = $1) as n`
      const [row] = await database.sql.unsafe(count, [accountId])
      expect(await verdict(await exported(key), await head(key))).toMatchObject({
        entries: Number(row?.n),
        unsealed: 0,
        problems: [],
      })
      const [denied] = await database.sql.unsafe('select count(*) as n from denials where account_id = $1', [accountId])
      expect(Number(denied?.n)).toBeGreaterThan(0)
    }
    for (const app of apps) await app.stop()
  }, 120_000)

  it('exports more than fits into one piece, piece by piece', async () => {
    const { key, accountId } = await test.createAccount()
    await database.sql.unsafe(
      `insert into ledger (account_id, entry_id, kind, agent_id, hold_id, ops_delta, amount_nanousd, detail, at_ms, version)
       select $1::uuid, gen_random_uuid(), 'correction', 'bulk', null, 0, 0, 'n ' || n, $2::bigint + n, 1 + n / 1700 from generate_series(1, 5200) n`,
      [accountId, String(NOON)],
    )
    await database.sql.unsafe('update accounts set version = 100 where account_id = $1', [accountId])
    await seal()
    const sealed = (await head(key)).seq
    expect(sealed).toBe(5202)
    const audit = new AuditService({ database, clock: test.clock })
    const { entries } = await audit.export(accountId, { agentId: null, from_ms: null, to_ms: null })
    const sizes = []
    for await (const piece of entries) sizes.push(piece.length)
    expect(sizes.length).toBeGreaterThan(4)
    expect(Math.max(...sizes)).toBeLessThanOrEqual(1000)
    expect(await verdict(await exported(key))).toMatchObject({ entries: sealed, problems: [] })
    const deep = expectStatus(200, await test.api.get('/v1/audit?page=52&page_size=100', key))
    expect(entriesOf(deep).map(({ seq }) => seq)).toEqual(Array.from({ length: 100 }, (_, index) => 102 - index))
    const last = expectStatus(200, await test.api.get('/v1/audit?page=53&page_size=100', key))
    expect(last).toMatchObject({ has_more: false, complete: true })
    expect(entriesOf(last)).toHaveLength(2)
  }, 60_000)
})
