import { expect, it } from 'vitest'
import { AuditRetention } from '../../../src/audit/retention.ts'
import { verifyExport } from '../../../src/audit/verify.ts'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import type { Database } from '../../../src/db/client.ts'
import { expectStatus, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const DAY = 86_400_000
const DAYS = 30

const seal = async (test: TestApp) => {
  await test.app.sealer.pass()
  test.clock.advance(10_000)
  await test.app.sealer.pass()
  await test.app.sealer.pass()
}
const verdict = (text: string, kept: { seq: number; hash: string } | null = null, base: typeof kept = null) =>
  verifyExport(
    (async function* () {
      yield text
    })(),
    kept,
    base,
  )
const count = async (database: Database, table: string, accountId: string): Promise<number> =>
  Number((await database.sql.unsafe(`select count(*) as n from ${table} where account_id = $1`, [accountId]))[0]?.n)

/** An account with four stretches of entries: two old ones, one that is kept, and one that has no seal yet. */
async function setUp(database: Database) {
  const test = await openTestApp(database)
  const { key, accountId } = await test.createAccount(100)
  const stretch = async () => {
    await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key)
    await test.api.put('/v1/rate/envelope', { agent_id: 'a', provider: 'p', model: 'm', requests_per_minute: 5 }, key)
    await test.api.post('/v1/budget/clear', { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 1000 }, key)
    await test.api.post('/v1/budget/clear', { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 900_000_000 }, key)
  }
  const head = async () => expectStatus(200, await test.api.get('/v1/audit/head', key))
  const exported = async (format = 'ndjson') => (await test.api.get(`/v1/audit?format=${format}`, key)).text
  const kept: { seq: number; hash: string }[] = []
  for (let old = 0; old < 2; old++) {
    await stretch()
    await seal(test)
    const { seq, hash } = await head()
    kept.push({ seq: Number(seq), hash: String(hash) })
    test.clock.advance(DAY)
  }
  test.clock.advance(DAYS * DAY)
  await stretch()
  await seal(test)
  await stretch()
  const retention = new AuditRetention(test, { days: DAYS })
  return { ...test, key, accountId, head, exported, kept, retention }
}

describeEachDatabase('the retention of the audit trail', (openTestDatabase) => {
  it('takes what is sealed and old; what is kept can still be checked', async () => {
    const database = await openTestDatabase()
    const { app, api, key, accountId, head, exported, kept, retention } = await setUp(database)
    const before = await exported()
    expect((await verdict(before)).problems).toEqual([])
    const holds = await count(database, 'holds', accountId)
    expect(await count(database, 'denials', accountId)).toBe(4)

    const [first, second] = kept as [(typeof kept)[0], (typeof kept)[0]]
    expect(await retention.purge()).toBe(second.seq)
    const after = await exported()
    const { problems, baseSeq, entries } = await verdict(after)
    expect({ problems, baseSeq }).toEqual({ problems: [], baseSeq: second.seq })
    expect(entries).toBeGreaterThan(0)
    // The lines that both have are the same, and the oldest one kept is the one behind the base.
    const lines = after.trim().split('\n').slice(1)
    expect(before).toContain(lines.join('\n'))
    expect(JSON.parse(lines.at(-1) as string)).toMatchObject({ seq: second.seq + 1 })
    expect((await head()).base).toEqual(second)
    const page = expectStatus(200, await api.get('/v1/audit?page_size=1000', key))
    expect(page.entries).toHaveLength(lines.length)

    // A head from before the purge: the base itself still proves the chain; an older one cannot.
    expect((await verdict(after, second)).problems).toEqual([])
    expect((await verdict(after, { ...second, hash: first.hash })).problems).toEqual([expect.stringContaining('is not the one')])
    expect((await verdict(after, first)).problems).toEqual([expect.stringContaining('older than what the server keeps')])
    // A CSV has no line that names the base.
    const csv = await exported('csv')
    expect((await verdict(csv)).problems).toEqual([expect.stringContaining('cut off')])
    expect((await verdict(csv, null, second)).problems).toEqual([])
    const at = after.lastIndexOf('gpt-4o')
    const changed = `${after.slice(0, at)}gpt-4x${after.slice(at + 6)}`
    expect((await verdict(changed)).problems).not.toEqual([])

    // The rows go with the next look, when no export reads them any more.
    await retention.purge()
    expect(await count(database, 'denials', accountId)).toBe(2)
    expect(await count(database, 'audit_events', accountId)).toBeLessThan(5)
    expect(await count(database, 'holds', accountId)).toBe(holds)
    expect((await exported()).trim().split('\n').slice(1)).toEqual(lines)
    expect((await verifyBalances(database)).differences).toEqual([])
    await app.sealer.stop()
  })

  it('goes on as the chain does, and takes nothing that has no seal', async () => {
    const database = await openTestDatabase()
    const test = await setUp(database)
    test.clock.advance(2 * DAYS * DAY)
    await test.retention.purge()
    await test.retention.purge()
    expect((await verdict(await test.exported())).problems).toEqual([])
    // Two stretches are sealed and gone but for rows of the last seal; the unsealed one is there.
    const unsealed = (await test.exported()).split('\n').filter((line) => line.includes('"hash":null'))
    expect(unsealed.length).toBeGreaterThan(2)
    await seal(test)
    const { problems, entries, unsealed: open } = await verdict(await test.exported())
    expect({ problems, open }).toEqual({ problems: [], open: 0 })
    expect(entries).toBe(unsealed.length)
    await test.app.sealer.stop()
  })

  it('keeps everything when no limit is set', async () => {
    const database = await openTestDatabase()
    const test = await setUp(database)
    expect(await new AuditRetention(test, { days: 0 }).purge()).toBe(0)
    expect((await verdict(await test.exported())).baseSeq).toBe(0)
    await test.app.sealer.stop()
  })
})
