import postgres from 'postgres'
import { COMMIT_ROWS, COMMIT_TABLE } from './commits.ts'
import { MODEL, PROVIDER } from './workload.ts'

/** Accounts `first` … `first + accounts - 1`, each with agents `agent-0` … `agent-(agents-1)` under an envelope of their own. */
export type AccountRange = { readonly first: number; readonly accounts: number; readonly agents: number }

const OPS = '1000000000000000'
/** A million dollars: the most an envelope may hold. Some 66 million of the benchmark's clearances. */
const LIMIT_NANOUSD = '1000000000000000'
const INSERT_ROWS = 500_000

type Client = Pick<postgres.Sql, 'unsafe'>

/** Runs SQL on a database with a client of its own, without the limits the server sets itself. */
export async function onDatabase<T>(url: string, work: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(url, { max: 1, fetch_types: false, onnotice: () => {} })
  try {
    return await work(sql)
  } finally {
    await sql.end({ timeout: 5 })
  }
}

export async function createDatabase(adminUrl: string, name: string): Promise<string> {
  await onDatabase(adminUrl, (sql) => sql.unsafe(`create database ${name}`))
  const url = new URL(adminUrl)
  url.pathname = `/${name}`
  return url.toString()
}

/** The statements that make accounts as the product would have; their keys are `keyOf(number)` of workload.ts. */
export function accountStatements({ first, accounts, agents }: AccountRange): string[] {
  const numbers = `generate_series(${first}, ${first + accounts - 1}) i`
  const account = `md5('bench-' || i)::uuid`
  const key = `'bg_' || left(encode(sha256(convert_to('bench-' || i, 'UTF8')), 'hex'), 32)`
  const now = '(extract(epoch from clock_timestamp()) * 1000)::bigint'
  return [
    `insert into accounts (account_id, ops, clock_ms, created_ms) select ${account}, ${OPS}, ${now}, ${now} from ${numbers}`,
    `insert into api_keys (account_id, key_id, key_hash, name, scope, created_ms)
     select ${account}, ${account}, sha256(convert_to(${key}, 'UTF8')), 'owner', 'owner', ${now} from ${numbers}`,
    `insert into envelopes (account_id, agent_id, limit_daily_nanousd, spent_hourly_nanousd, spent_daily_nanousd,
       spent_weekly_nanousd, spent_monthly_nanousd, spent_session_nanousd, clock_ms, created_ms)
     select ${account}, 'agent-' || agent, ${LIMIT_NANOUSD}, 0, 0, 0, 0, 0, ${now}, ${now} from ${numbers}, generate_series(0, ${agents - 1}) agent`,
  ]
}

/** The ledger's side of these accounts' operations, where the books are checked afterwards. */
export const grantStatement = ({ first, accounts }: AccountRange): string =>
  `insert into ledger (account_id, entry_id, kind, ops_delta, amount_nanousd, detail, at_ms)
   select md5('bench-' || i)::uuid, md5('grant-' || i)::uuid, 'grant', ${OPS}, 0, '', 0 from generate_series(${first}, ${first + accounts - 1}) i`

export const rateStatement = (account: number): string =>
  `insert into rate_envelopes (account_id, agent_id, provider, model, requests_per_minute, window_start_ms, requests_in_window)
   values (md5('bench-${account}')::uuid, 'agent-0', '${PROVIDER}', '${MODEL}', 2000000000, 0, 0)`

export async function fillAccounts(sql: Client, range: AccountRange): Promise<void> {
  for (const statement of accountStatements(range)) await sql.unsafe(statement)
}

export async function createCommitTable(sql: Client): Promise<void> {
  await sql.unsafe(`create table ${COMMIT_TABLE} (id integer primary key, n bigint not null)`)
  await sql.unsafe(`insert into ${COMMIT_TABLE} select i, 0 from generate_series(1, ${COMMIT_ROWS}) i`)
}

/**
 * Stores clearances as a past of the accounts: half belong to the first account, the rest evenly to the others; nine in ten settled,
 * the others left to expire. Ids are in order of time within each account, as the product makes them.
 */
export async function fillClearances(sql: Client, range: AccountRange, count: number): Promise<void> {
  for (let from = 0; from < count; from += INSERT_ROWS) {
    const to = Math.min(count, from + INSERT_ROWS) - 1
    await sql.unsafe(
      `insert into holds (account_id, hold_id, agent_id, kind, state, model, estimate_nanousd, rates, charged, taken_ms, expires_ms, resolved_ms, actual_nanousd, outcome)
       select md5('bench-' || a)::uuid, (lpad(to_hex(1600000000000 + i), 12, '0') || '7' || substr(md5(i::text), 1, 3) || '8' || substr(md5(i::text), 5, 15))::uuid,
         'agent-' || i % ${range.agents}, 0, case when i % 10 = 0 then 0 else 1 end, '${MODEL}', 15000000, '3000000,15000000,300000,3750000,6000000', '2',
         1600000000000 + i, 1600003600000 + i, case when i % 10 = 0 then null else 1600000001000 + i end,
         case when i % 10 = 0 then null else 9000000 end, case when i % 10 = 0 then null else '-6000000,900000000000,1000' end
       from (select i, ${range.first} + case when i % 2 = 0 then 0 else (i / 2) % ${range.accounts} end as a from generate_series(${from}, ${to}) i) n`,
    )
  }
}

/** What autovacuum would have done by the time a database has grown to this size, and no writes left over from the filling. */
export async function settleDatabase(sql: Client): Promise<void> {
  await sql.unsafe('vacuum analyze')
  await sql.unsafe('checkpoint')
}
