import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { migrateDatabase } from '../../../src/db/migrate.ts'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { createTestDatabase, describeEachDatabase, type TestDatabase } from '../../support/databases.ts'
import { type PostgresServer, startPostgres } from '../../support/postgres.ts'
import { LOG_PREFIX, statementsIn, withoutAccount } from '../../support/statements.ts'

const MIGRATIONS = join(import.meta.dirname, '../../../migrations')

/** Tables without an account, or looked up before it is known: docs/operations.md says where each goes when the rest is distributed. */
const SHARED = ['chain_cursors', 'figures', 'gvnr_migrations', 'leases', 'outflows', 'price_lists', 'throttles']
const BY_SECRET = ['api_keys', 'approvals', 'sessions']
const BY_CHAIN = ['credits', 'payment_intents', 'receiving_addresses']
const NOT_DISTRIBUTED = [...SHARED, ...BY_SECRET, ...BY_CHAIN]

const tablesOf = async ({ sql }: Database): Promise<string[]> => {
  const rows = await sql.unsafe(
    `select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition order by 1`,
  )
  return rows.map(({ relname }) => String(relname))
}

describeEachDatabase('the schema', (open) => {
  it('has no sequence, function, trigger, view, rule or foreign key', async () => {
    const { sql } = await open()
    const rows = await sql.unsafe(
      `select 'relation ' || relkind::text || ' ' || relname as what from pg_class where relnamespace = 'public'::regnamespace and relkind not in ('r', 'i')
       union all select 'function ' || proname from pg_proc where pronamespace = 'public'::regnamespace
       union all select 'trigger ' || tgname from pg_trigger where not tgisinternal
       union all select 'rule ' || rulename from pg_rules where schemaname = 'public'
       union all select 'foreign key ' || conname from pg_constraint where contype = 'f'
       union all select 'default ' || column_name from information_schema.columns
         where table_schema = 'public' and (is_identity = 'YES' or column_default like '%(%')`,
    )
    expect(rows.map(({ what }) => what)).toEqual([])
    for (const file of readdirSync(MIGRATIONS).filter((name) => name.endsWith('.sql')))
      expect(readFileSync(join(MIGRATIONS, file), 'utf8'), file).not.toMatch(
        /\b(create (or replace )?(function|procedure|trigger|sequence|rule)|do \$|plpgsql|serial|references)\b/i,
      )
  })

  it('begins every primary key with the account, and has it in every unique index, but for the tables that are named here', async () => {
    const database = await open()
    const rows = await database.sql.unsafe(
      `select c.relname, i.indisprimary, (select array_agg(a.attname order by k.position) from unnest(i.indkey) with ordinality k(number, position)
         join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number) as columns
       from pg_index i join pg_class c on c.oid = i.indrelid where c.relnamespace = 'public'::regnamespace and i.indisunique`,
    )
    const without = rows.flatMap(({ relname, indisprimary, columns }) => {
      const names = String(columns).slice(1, -1).split(',')
      return (indisprimary ? names[0] === 'account_id' : names.includes('account_id')) ? [] : [String(relname)]
    })
    expect(rows.length).toBeGreaterThan(20)
    expect([...new Set(without)].sort()).toEqual([...NOT_DISTRIBUTED].sort())
    const keyed = new Set(rows.filter(({ indisprimary }) => indisprimary).map(({ relname }) => String(relname)))
    expect(await tablesOf(database)).toEqual([...keyed].sort())
  })
})

const ENVELOPE = { agent_id: 'team', limit_usd: 0.02 }
const CLEARANCE = { agent_id: 'team/a', model: 'gpt-4o-mini', estimated_tokens: 1000 }
const RATE = { agent_id: 'team', provider: 'openai', model: 'gpt-4o-mini' }

/** Every call of the hot path on several accounts, through two apps that contend for them. */
async function runHotPath(apps: readonly TestApp[], accounts: number): Promise<{ approved: number; denied: number }> {
  const [first, second] = apps
  const counts = { approved: 0, denied: 0 }
  const work = async (number: number): Promise<void> => {
    const { key } = await first!.createAccount()
    await first!.api.put('/v1/budget/envelope', { ...ENVELOPE, loop: { max_repeats: 100, window_seconds: 60 } }, key)
    await first!.api.put('/v1/rate/envelope', { ...RATE, requests_per_minute: 5 }, key)
    const agent = await first!.createKey(key, { scope: 'agent', agent_id: 'team/a' })
    const ids: string[] = []
    await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        const { api } = index % 2 === 0 ? first! : second!
        const { status, body } = await api.post('/v1/budget/clear', CLEARANCE, index % 3 === 0 ? agent.key : key)
        expect(status).toBe(200)
        if (body.approved === true) ids.push(body.clearance_id)
        else counts.denied++
      }),
    )
    counts.approved += ids.length
    const settled = { agent_id: 'team/a', actual_input_tokens: 10, actual_output_tokens: 20 }
    const answers = await Promise.all([
      first!.api.post('/v1/budget/reconcile', { ...settled, clearance_id: ids[0] }, key),
      second!.api.post('/v1/budget/reconcile', settled, key),
      second!.api.post('/v1/budget/release', { clearance_id: ids[1] }, key),
      ...Array.from({ length: 8 }, () => first!.api.post('/v1/rate/check', RATE, key)),
      ...[1, 1, 2].map((n) => second!.api.post('/v1/idempotency/check', { key: `k${n}` }, key)),
      first!.api.post('/v1/budget/clear', { ...CLEARANCE, agent_id: 'team/b' }, key, { 'Idempotency-Key': `i${number}` }),
      first!.api.post('/v1/book', { agent_id: 'team/a', resource_type: 'custom', action: 'x', cost: 0.0001 }, key),
    ])
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    expect((await first!.api.get('/v1/budget/envelope/team', key)).body.spent_usd).toBeLessThanOrEqual(ENVELOPE.limit_usd)
  }
  await Promise.all(Array.from({ length: accounts }, (_, number) => work(number)))
  await Promise.all(apps.map(({ app }) => app.engine.settled()))
  expect(apps.flatMap(({ logged }) => logged)).toEqual([])
  return counts
}

const isWrite = (text: string): boolean => text.startsWith('with locked')

type Scan = { readonly relation: string; readonly index: string | null; readonly condition: string }

async function indexColumns({ sql }: Database): Promise<ReadonlyMap<string, string[]>> {
  const rows = await sql.unsafe(
    `select c.relname, (select string_agg(a.attname, ',' order by k.position) from unnest(i.indkey) with ordinality k(number, position)
       join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number) as columns
     from pg_index i join pg_class c on c.oid = i.indexrelid where c.relnamespace = 'public'::regnamespace`,
  )
  return new Map(rows.map(({ relname, columns }) => [String(relname), String(columns).split(',')]))
}

/** Every place of a plan that reads a table. */
function scansOf(plan: unknown): Scan[] {
  if (Array.isArray(plan)) return plan.flatMap(scansOf)
  if (typeof plan !== 'object' || plan === null) return []
  const node = plan as Record<string, unknown>
  const isScan = /^(Index|Seq|Bitmap)/.test(String(node['Node Type']))
  const scan = { relation: node['Relation Name'], index: node['Index Name'] ?? null, condition: node['Index Cond'] ?? '' }
  return [...(isScan ? [scan as Scan] : []), ...Object.values(node).flatMap(scansOf)]
}

/**
 * Whether a scan goes straight to the rows it wants: by the first columns of its index without a gap, and by more than the account where
 * an account has many rows.
 */
function isByKey({ index, condition }: Scan, columns: ReadonlyMap<string, string[]>): boolean {
  const key = columns.get(index ?? '') ?? []
  const used = key.map((column) => new RegExp(`(^|[ (])"?${column}"? `).test(condition))
  const first = used.indexOf(false) === -1 ? used.length : used.indexOf(false)
  return first >= Math.min(2, key.length) && !used.slice(first).includes(true)
}

describe('what is sent to the database by the hot path', () => {
  let server: PostgresServer
  const databases: Database[] = []
  const apps: TestApp[] = []
  beforeAll(async () => {
    server = await startPostgres({ settings: { log_statement: 'all', log_line_prefix: LOG_PREFIX } })
    for (let number = 0; number < 2; number++) databases.push(await openDatabase({ url: server.url, dataDir: '' }))
    await migrateDatabase(databases[0]!, MIGRATIONS)
    for (const database of databases) apps.push(await openTestApp(database))
  })
  afterAll(async () => {
    for (const app of apps) await app.stop()
    for (const database of databases) await database.close()
    await server?.remove()
  })

  it('names the account in every part of every statement, but for the key that says who asks', async () => {
    const tables = new Set(await tablesOf(databases[0]!))
    const from = server.log().length
    const { approved, denied } = await runHotPath(apps, 8)
    expect(approved).toBeGreaterThan(0)
    expect(denied).toBeGreaterThan(0)
    const statements = [...new Set(statementsIn(server.log().slice(from), 'gvnr'))]
    const touched = new Set(statements.flatMap((text) => [...tables].filter((table) => new RegExp(`\\b${table}\\b`).test(text))))
    const hot = ['holds', 'denials', 'envelopes', 'ledger', 'loops', 'agents', 'rate_envelopes', 'idempotency_keys']
    expect([...touched].sort()).toEqual(expect.arrayContaining([...hot, 'accounts', 'api_keys', 'idempotent_requests'].sort()))
    expect(statements.length).toBeGreaterThan(15)
    // Two processes met on one account, so the way under the lock was taken or a conflict was decided again.
    expect(apps[0]!.app.engine.stats.conflicts + apps[1]!.app.engine.stats.conflicts).toBeGreaterThan(0)

    const faults = statements.flatMap((text) => {
      const without = withoutAccount(text, tables)
      return without.length === 0 ? [] : [`${without}: ${text.replaceAll(/\s+/g, ' ').slice(0, 300)}`]
    })
    expect(faults).toEqual([expect.stringMatching(/^api_keys: select account_id, .* from api_keys where key_hash = any/)])
  })

  it.each(['postgres', 'pglite'] as const)(
    'finds rows by their keys also when it was planned before there were any, on %s',
    async (kind) => {
      const from = server.log().length
      await runHotPath(apps, 2)
      const sent = [...new Set(statementsIn(server.log().slice(from), 'gvnr'))]
      // How much an account has is counted, rarely, and up to a limit.
      const statements = sent.filter((text) => /^(with|select)\b/.test(text) && (isWrite(text) || !/\bcount\(/.test(text)))
      const empty = await createTestDatabase(kind)
      const database = await openDatabase(empty)
      try {
        const columns = await indexColumns(database)
        const scans: Scan[] = []
        for (const text of statements) {
          const sql = isWrite(text) ? database.laneSql : database.sql
          const [row] = await sql.unsafe(`explain (generic_plan, format json) ${text}`)
          scans.push(...scansOf(row?.['QUERY PLAN']))
        }
        expect(scans.map(({ relation }) => relation)).toEqual(expect.arrayContaining(['accounts', 'envelopes', 'holds']))
        expect(scans.filter((scan) => !isByKey(scan, columns))).toEqual([])
      } finally {
        await database.close()
        await empty.drop()
      }
    },
  )

  it.each([
    ['holds_version', '((account_id = u.account_id) AND (hold_id = u.hold_id))', false],
    ['holds_account_id_hold_id_pk', '(account_id = $1)', false],
    ['holds_account_id_hold_id_pk', '((account_id = u.account_id) AND (hold_id = u.hold_id))', true],
    ['holds_version', '((account_id = $1) AND (taken_version > $2))', true],
    ['accounts_pkey', '(account_id = ANY ($1))', true],
  ])('would notice a scan of %s by %s', async (index, condition, expected) => {
    const columns = await indexColumns(databases[0]!)
    expect(isByKey({ relation: 'holds', index, condition }, columns)).toBe(expected)
  })

  it.each([
    ['holds', 'select * from holds where hold_id = $1'],
    [
      'holds',
      'with locked as (select account_id from accounts a where a.account_id = $1) select h.* from holds h where h.hold_id = $2',
    ],
    ['envelopes', 'update envelopes e set clock_ms = 1 from unnest($1::text[]) u(agent_id) where e.agent_id = u.agent_id'],
    ['ledger', 'select 1 from accounts a join ledger l on l.entry_id = a.version::text where a.account_id = $1'],
    ['holds', 'select 1 from accounts a, lateral (select * from holds where agent_id = $2) h where a.account_id = $1'],
    ['ledger', 'insert into ledger (entry_id) select * from unnest($1::uuid[]) u(account_id)'],
    ['rate_envelopes', 'delete from "rate_envelopes" where "rate_envelopes"."agent_id" = $1'],
  ])('would notice a statement that reaches %s of all accounts', async (table, text) => {
    expect(withoutAccount(text, new Set(await tablesOf(databases[0]!)))).toEqual([table])
  })
})

describe('with every distributed table cut by the hash of the account', () => {
  const PARTS = 4
  let home: TestDatabase
  const databases: Database[] = []
  const apps: TestApp[] = []
  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    for (let number = 0; number < 2; number++) databases.push(await openDatabase({ url: home.url, dataDir: '' }))
    const [database] = databases
    for (const table of (await tablesOf(database!)).filter((name) => !NOT_DISTRIBUTED.includes(name))) {
      await database!.sql.unsafe(`alter table ${table} rename to ${table}_whole`)
      await database!.sql.unsafe(`create table ${table} (like ${table}_whole including all) partition by hash (account_id)`)
      for (let part = 0; part < PARTS; part++)
        await database!.sql.unsafe(
          `create table ${table}_${part} partition of ${table} for values with (modulus ${PARTS}, remainder ${part})`,
        )
      await database!.sql.unsafe(`drop table ${table}_whole`)
    }
    for (const one of databases) apps.push(await openTestApp(one))
  })
  afterAll(async () => {
    for (const app of apps) await app.stop()
    for (const database of databases) await database.close()
    await home?.drop()
  })

  it('the same statements decide the same', async () => {
    const [database] = databases
    const { approved, denied } = await runHotPath(apps, 12)
    expect([approved, denied]).toEqual([12 * 33, 12 * 27])
    const { accounts, differences } = await verifyBalances(database!)
    expect([accounts, differences]).toEqual([12, []])
    const [row] = await database!.sql.unsafe('select count(distinct tableoid)::int as parts from holds')
    expect(row?.parts).toBeGreaterThan(1)
  })
})
