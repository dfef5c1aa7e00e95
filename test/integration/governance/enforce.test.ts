import { mkdir, mkdtemp, rename, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { createLog } from '../../../src/core/log.ts'
import { openDatabase } from '../../../src/db/client.ts'
import { proxyPolicy } from '../../../src/governance/hook.ts'
import { GovernanceFileError, GovernanceSource } from '../../../src/governance/source.ts'
import { NOON, openTestApp } from '../../support/app.ts'
import { createTestDatabase, describeEachDatabase } from '../../support/databases.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'gvnr-rgf-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

let files = 0
/** A governance file that is followed, with what was logged of it. */
async function sourceOf(text: string | null) {
  const path = join(folder, `${files++}.rgf`)
  if (text !== null) await writeFile(path, text)
  const logged: { msg: string; problems?: string[] }[] = []
  const log = createLog('warn', (line) => logged.push(JSON.parse(line) as (typeof logged)[number]))
  const source = new GovernanceSource({ clock: new ManualClock(NOON), log }, path)
  await source.load({ mustExist: text !== null })
  return { source, path, logged }
}

const RULES = `
[agents.a]
daily_budget = 1
allowed_models = ["gpt-4o"]
max_tokens_per_request = 2_000
allowed_tools = ["web_*"]
[agents."team/x"]
monthly_budget = 0.5
`

describeEachDatabase('a governance file', (openTestDatabase) => {
  const setUp = async (text = RULES) => {
    const followed = await sourceOf(text)
    const database = await openTestDatabase()
    const test = await openTestApp(database, { governance: followed.source })
    const { key, accountId } = await test.createAccount(100)
    const clear = (fields: object) =>
      test.api.post('/v1/budget/clear', { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 1000, ...fields }, key)
    const book = (fields: object) =>
      test.api.post('/v1/book', { agent_id: 'a', resource_type: 'compute', action: 'web_run', cost: 0.4, ...fields }, key)
    const envelope = async (agentId: string, caller = key) =>
      (await test.api.get(`/v1/budget/envelope/${encodeURIComponent(agentId)}`, caller)).body
    return { ...followed, ...test, key, accountId, clear, book, envelope }
  }

  it('caps an agent that has no envelope, counts what it spends, and shows it with its origin', async () => {
    const { book, envelope, database } = await setUp()
    expect(await envelope('a')).toMatchObject({ limit_usd: 1, spent_usd: 0, window: 'daily', origin: 'file' })
    expect((await book({})).body).toMatchObject({ budgets: [{ period: 'daily', remaining: 0.6 }] })
    await book({})
    const { status, body } = await book({})
    expect(status).toBe(403)
    expect(body).toMatchObject({
      reason: 'daily_budget_exceeded',
      message: 'Daily budget exceeded. Limit: $1.00, Spent: $0.80, Required: $0.40',
      limit_usd: 1,
    })
    expect(await envelope('a')).toMatchObject({ spent_usd: 0.8, remaining_usd: 0.2 })
    expect((await verifyBalances(database)).differences).toEqual([])
  })

  it('reaches thresholds like an envelope, at the stricter of the two limits', async () => {
    const { api, key, accountId, book, database } = await setUp()
    expect((await api.post('/v1/webhooks', { url: 'https://example.com/hook', thresholds: [50, 80] }, key)).status).toBe(201)
    await book({}) // $0.40 of the file's $1.00
    await book({ cost: 0.2 })
    await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 0.9 }, key)
    await book({ cost: 0.15 }) // $0.75 of the account's $0.90
    const rows = await database.sql.unsafe(
      `select body from outbox where account_id = $1 and event = 'envelope.threshold' order by event_id`,
      [accountId],
    )
    const events = rows.map(({ body }) => JSON.parse(String(body)) as object)
    expect(events).toMatchObject([
      { agent_id: 'a', window: 'daily', limit_usd: 1, spent_usd: 0.6, threshold_percent: 50, limit_origin: 'file' },
      { limit_usd: 0.9, spent_usd: 0.75, threshold_percent: 80 },
    ])
    expect(events[1]).not.toHaveProperty('limit_origin')
  })

  it('takes the smaller of its limit and the account’s, and says which one it is', async () => {
    const { api, key, envelope, clear } = await setUp()
    await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 5 }, key)
    expect(await envelope('a')).toMatchObject({ limit_usd: 1, origin: 'file', account_limit_usd: 5 })
    await api.put('/v1/budget/envelope', { agent_id: 'a', limits: { daily: 0.015, monthly: 3 } }, key)
    const shown = await envelope('a')
    expect(shown).toMatchObject({ limit_usd: 0.015, window: 'daily' })
    expect(shown.origin).toBeUndefined()
    expect(shown.limits).toHaveLength(2)
    expect((await clear({ estimated_tokens: 1600 })).body).toMatchObject({ approved: false, limit_usd: 0.015 })
  })

  it('offers no approval for a limit that no approval can lift', async () => {
    const { api, key, clear, book } = await setUp()
    await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 5 }, key)
    await book({ cost: 0.99 })
    const { body } = await clear({ estimated_tokens: 2000 })
    expect(body).toMatchObject({ approved: false, reason: 'envelope_exceeded', limit_usd: 1, limit_origin: 'file' })
    expect(body.approval_request).toBeUndefined()
    expect(body.hint).toContain('operator')
  })

  it('is not loosened by a raise that was approved', async () => {
    const { api, key, book, envelope } = await setUp()
    await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 0.5 }, key)
    const asked = { agent_id: 'a', action_summary: 'more', grant: { extra_usd: 50, window: 'daily' } }
    const { body } = await api.post('/v1/approval/request', asked, key)
    const link = new URL(String(body.approval_url))
    const decided = await api.post(`${link.pathname}/decide`, { decision: 'approved' })
    expect(decided.status).toBe(200)
    expect(await envelope('a')).toMatchObject({ limit_usd: 1, origin: 'file' })
    expect((await book({ cost: 1 })).status).toBe(200)
    expect((await book({ cost: 0.01 })).status).toBe(403)
  })

  it('forbids models, tokens and tools, as decisions that are stored', async () => {
    const { clear, book, database, logged } = await setUp()
    expect((await clear({ model: 'o3' })).body).toMatchObject({ approved: false, reason: 'model_not_allowed' })
    expect((await clear({ estimated_tokens: 2001 })).body).toMatchObject({ approved: false, reason: 'max_tokens_exceeded' })
    const denied = await book({ action: 'rm' })
    expect(denied.status).toBe(403)
    expect(denied.body).toMatchObject({ reason: 'tool_not_allowed', message: expect.stringContaining('web_*') })
    expect((await clear({})).body.approved).toBe(true)
    const rows = await database.sql.unsafe(
      "select reason from denials where agent_id = 'a' order by denied_ms desc, denial_id desc limit 3",
    )
    expect(rows.map(({ reason }) => reason)).toEqual(['tool_not_allowed', 'max_tokens_exceeded', 'model_not_allowed'])
    expect(logged).toEqual([])
  })

  it('answers the proxy, and stores what it refused it', async () => {
    const { app, accountId, database, clock, source } = await setUp()
    const ask = proxyPolicy({ policy: () => source.policy, budgets: app.budgets, clock })
    expect(await ask(accountId, { agentId: 'a', model: 'gpt-4o', maxTokens: 2000 })).toBeNull()
    expect(await ask(accountId, { agentId: 'b', model: 'o3', maxTokens: 1e6 })).toBeNull()
    expect(await ask(accountId, { agentId: 'a', model: 'o3', maxTokens: 1 })).toEqual({
      reason: 'model_not_allowed',
      message: `Use gpt-4o: only that is allowed for "a" in the operator's governance file.`,
    })
    expect(await ask(accountId, { agentId: 'a/b', model: 'gpt-4o', maxTokens: 2001 })).toMatchObject({
      reason: 'max_tokens_exceeded',
    })
    const rows = await database.sql.unsafe(
      'select agent_id, kind, model, reason from denials where account_id = $1 order by denial_id',
      [accountId],
    )
    expect(rows).toEqual([
      { agent_id: 'a', kind: 2, model: 'o3', reason: 'model_not_allowed' },
      { agent_id: 'a/b', kind: 2, model: 'gpt-4o', reason: 'max_tokens_exceeded' },
    ])
  })

  it('holds for what is below its path, in every account, and shows no account another’s spend', async () => {
    const { api, book, envelope, createAccount, key } = await setUp()
    const other = await createAccount(10)
    expect((await book({ agent_id: 'team/x/run-1', cost: 0.4 })).status).toBe(200)
    expect((await book({ agent_id: 'team/x/run-2', cost: 0.4 })).body).toMatchObject({ limit_agent_id: 'team/x', limit_usd: 0.5 })
    expect((await book({ agent_id: 'team', cost: 0.4 })).body).toMatchObject({ reason: 'no_envelope' })
    expect(await envelope('team/x', other.key)).toMatchObject({ spent_usd: 0, limit_usd: 0.5 })
    const listed = async (caller: string) =>
      (await api.get('/v1/budget/envelope', caller)).body.envelopes.map(({ agent_id }) => agent_id)
    expect(await listed(key)).toEqual(['team/x'])
    expect(await listed(other.key)).toEqual([])
  })

  it('that changes applies to the next decision, and loses no spend', async () => {
    const { source, path, book, envelope } = await setUp()
    await book({ cost: 0.9 })
    await writeFile(path, '[agents.a]\ndaily_budget = 2\n')
    await source.look()
    expect(await envelope('a')).toMatchObject({ limit_usd: 2, spent_usd: 0.9 })
    expect((await book({ cost: 1 })).status).toBe(200)
    await writeFile(path, '[global]\n')
    await source.look()
    expect((await book({ cost: 0.01 })).body.reason).toBe('no_envelope')
    await writeFile(path, RULES)
    await source.look()
    expect(await envelope('a')).toMatchObject({ limit_usd: 1, spent_usd: 1.9, remaining_usd: 0 })
  })
})

describe('following a governance file', () => {
  it('refuses to start with mistakes, or without a file that was named', async () => {
    await expect(sourceOf('[agents.a]\nbudget = 1\n')).rejects.toThrow(/\.rgf:2:1: there is no setting "budget"/)
    await expect(sourceOf('')).rejects.toThrow('empty')
    const source = new GovernanceSource({ clock: new ManualClock(NOON), log: createLog('silent') }, join(folder, 'none.rgf'))
    await expect(source.load({ mustExist: true })).rejects.toBeInstanceOf(GovernanceFileError)
    await source.load({ mustExist: false })
    expect(source.policy).toBeNull()
  })

  it('takes "allow" over only where what it allows can be noted, and as soon as it can', async () => {
    const path = join(folder, `${files++}.rgf`)
    const journalFolder = join(folder, 'no-folder')
    await writeFile(journalFolder, '')
    const allow = '[global]\nfail_safe_action = "allow"\n'
    await writeFile(path, allow)
    const open = () => new GovernanceSource({ clock: new ManualClock(NOON), log: createLog('silent') }, path, { journalFolder })
    await expect(open().load({ mustExist: true })).rejects.toThrow(/^RGF_JOURNAL_DIR .* cannot be written/)
    await writeFile(path, '[global]\n')
    const source = open()
    await source.load({ mustExist: true })
    await writeFile(path, allow)
    await source.look()
    await source.look()
    expect(source.failSafe).toBe('deny')
    expect(source.status).toMatchObject({ problems: [expect.stringMatching(/^RGF_JOURNAL_DIR/)], failures: 1 })
    await rm(journalFolder)
    await mkdir(journalFolder)
    await source.look()
    expect(source.failSafe).toBe('allow')
    expect(source.status.problems).toEqual([])
  })

  it('keeps the last good one when the next has a mistake, is emptied or is gone, and says so once', async () => {
    const { source, path, logged } = await sourceOf(RULES)
    const limit = () => source.policy?.limits('a')?.[1]
    await writeFile(path, '[agents.a]\ndaily_budget = "lots"\n')
    await source.look()
    await source.look()
    expect(limit()).toBe(1_000_000_000n)
    expect(source.status.problems).toEqual([expect.stringMatching(/:2:1: daily_budget must be an amount/)])
    expect(logged).toHaveLength(1)
    await writeFile(path, '')
    await source.look()
    await rm(path)
    await source.look()
    await source.look()
    expect(limit()).toBe(1_000_000_000n)
    expect(logged).toHaveLength(3)
    await writeFile(path, '[agents.a]\ndaily_budget = 3\n')
    await source.look()
    expect(limit()).toBe(3_000_000_000n)
    expect(source.status).toMatchObject({ problems: [], reloads: 1, failures: 3 })
  })

  it('sees changes by itself: written in place, replaced atomically again and again, and appearing late', async () => {
    const { source, path } = await sourceOf(null)
    source.start()
    try {
      for (let budget = 1; budget <= 4; budget++) {
        const target = budget % 2 === 0 ? `${path}.new` : path
        await writeFile(target, `[agents.a]\ndaily_budget = ${budget}\n`)
        if (target !== path) await rename(target, path)
        await expect.poll(() => source.policy?.limits('a')?.[1], { timeout: 8000 }).toBe(BigInt(budget) * 1_000_000_000n)
      }
    } finally {
      await source.stop()
    }
  })

  it('shows in /ready that the file on disk is not the one in force', async () => {
    const { source, path } = await sourceOf(RULES)
    const home = await createTestDatabase('postgres')
    const database = await openDatabase(
      home.url === undefined ? { dataDir: home.dataDir } : { url: home.url, dataDir: home.dataDir },
    )
    try {
      const { api } = await openTestApp(database, { governance: source })
      expect((await api.get('/ready')).body.governance_file).toBe('ok')
      await writeFile(path, 'oops')
      await source.look()
      expect((await api.get('/ready')).body).toMatchObject({ ok: true, governance_file: 'unusable' })
    } finally {
      await database.close()
      await home.drop()
    }
  })
})
