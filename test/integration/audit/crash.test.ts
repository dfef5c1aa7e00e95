import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { verifyExport } from '../../../src/audit/verify.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { openTestApp } from '../../support/app.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { until } from '../../support/humans.ts'

const CHILD = fileURLToPath(new URL('./sealer-child.ts', import.meta.url))
const ENTRIES = 40_000

describe('a sealer that is killed', () => {
  let home: TestDatabase
  let database: Database
  const children: ChildProcess[] = []
  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    database = await openDatabase(home)
  })
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL')
    await database.close()
    await home.drop()
  })
  const startSealer = async (): Promise<ChildProcess> => {
    const child = spawn(process.execPath, ['--import', 'tsx', CHILD, home.url!], { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
    await once(child.stdout!, 'data')
    return child
  }

  it('leaves a chain that the next one continues', async () => {
    const test = await openTestApp(database)
    const { key, accountId } = await test.createAccount()
    await database.sql.unsafe(
      `insert into ledger (account_id, entry_id, kind, agent_id, hold_id, ops_delta, amount_nanousd, detail, at_ms, version)
       select $1::uuid, gen_random_uuid(), 'correction', 'bulk', null, 0, 0, 'n ' || n, n, 1 + n / 100 from generate_series(1, $2::int) n`,
      [accountId, String(ENTRIES)],
    )
    await database.sql.unsafe('update accounts set version = 1000000 where account_id = $1', [accountId])
    const sealed = async () => {
      const [row] = await database.sql.unsafe('select coalesce(max(last_seq), 0) as n from audit_seals where account_id = $1', [
        accountId,
      ])
      return Number(row?.n)
    }
    let reached = 0
    let kills = 0
    for (; kills < 4 && (await sealed()) < ENTRIES; kills++) {
      const victim = await startSealer()
      await until(async () => (await sealed()) >= Math.min(ENTRIES, reached + 5_000), 'some seals', 60_000)
      victim.kill('SIGKILL')
      await once(victim, 'exit')
      reached = await sealed()
    }
    expect(kills).toBeGreaterThan(1)
    await startSealer()
    await until(async () => (await sealed()) >= ENTRIES + 2, 'the rest', 60_000)
    const response = await test.app.request('/v1/audit?format=ndjson', { headers: { authorization: `Bearer ${key}` } })
    const text = response.body?.pipeThrough(new TextDecoderStream()) as unknown as AsyncIterable<string>
    expect(await verifyExport(text)).toMatchObject({ entries: ENTRIES + 2, unsealed: 0, problems: [] })
    await test.stop()
  }, 300_000)
})
