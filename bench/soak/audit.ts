import { execFile } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import type postgres from 'postgres'
import { ADMIN_SECRET } from '../../test/support/server.ts'
import type { Books } from './books.ts'
import type { Journal } from './journal.ts'
import { STREAM_COST_NANOUSD, type Streams } from './special.ts'
import { onDatabase, type Stage } from './stage.ts'
import type { Tenant } from './tenants.ts'

const BATCH = 10_000
const FIGURES = ['overshoot_nanousd', 'leaked_holds', 'unattributed_payments'] as const
const FIGURES_TIMEOUT_MS = 180_000
/** By then whichever process computes them has looked at every account once more: a piece at a time, every 15 s. */
const FIGURES_ROUND_MS = 30_000

export type Verdict = {
  readonly wrong: readonly string[]
  readonly verify: string
  readonly figures: Readonly<Record<string, number>>
  readonly approved: number
  readonly deadlocks: number
}

/** Compares the database with everything that was answered, once nothing is under way any more. */
export async function audit(
  stage: Stage,
  run: { tenants: readonly Tenant[]; streams: Streams; journal: Journal; books: Books; entry: string; folder: string },
): Promise<Verdict> {
  const wrong: string[] = []
  const compared = await onDatabase(stage, async (sql) => {
    wrong.push(...(await wrongClearances(sql, run)), ...(await wrongSums(sql)), ...(await wrongStreams(sql, run.streams)))
    const [row] = await sql`select deadlocks::int from pg_stat_database where datname = current_database()`
    return { approved: run.journal.counts.approved, deadlocks: Number(row?.deadlocks) }
  })
  const figures = await selfMeasured(stage)
  for (const name of FIGURES) if (figures[name] !== 0) wrong.push(`${name} is ${figures[name]}`)
  const verify = await verified(run, stage.postgres.url)
  if (verify.code !== 0) wrong.push(`gvnr verify: ${verify.text.slice(0, 2000)}`)
  if (compared.deadlocks > 0) wrong.push(`${compared.deadlocks} deadlocks`)
  return { wrong, verify: verify.text.trim().split('\n').at(-1) ?? '', figures, ...compared }
}

/** What was answered is there, once, in the state that was answered; what is there beyond that is no more than what nobody was told. */
async function wrongClearances(
  sql: postgres.Sql,
  { tenants, journal, books }: { tenants: readonly Tenant[]; journal: Journal; books: Books },
): Promise<string[]> {
  await sql`create temporary table answered (what text, account_id uuid, hold_id uuid)`
  for await (const batch of journal.batches(BATCH)) {
    await sql`insert into answered select * from unnest(${batch.map(({ what }) => what)}::text[],
      ${batch.map(({ accountId }) => accountId)}::uuid[], ${batch.map(({ clearanceId }) => clearanceId)}::uuid[])`
  }
  await sql`analyze answered`
  const [row] = await sql`
    select
      (select count(*) - count(distinct (account_id, hold_id)) from answered where what = 'approved')::int as approved_twice,
      (select count(*) - count(distinct (account_id, hold_id)) from answered where what <> 'approved')::int as resolved_twice,
      (select count(*) from answered a where not exists
        (select from holds h where h.account_id = a.account_id and h.hold_id = a.hold_id))::int as lost,
      (select count(*) from answered a join holds h using (account_id, hold_id)
        where a.what = 'settled' and h.state <> 1 or a.what = 'released' and h.state <> 2)::int as unresolved,
      (select count(*) from holds h where h.account_id = any(${tenants.map(({ accountId }) => accountId)}::uuid[])
        and not exists (select from answered a where a.what = 'approved' and a.account_id = h.account_id and a.hold_id = h.hold_id))::int as unasked`
  const { approved_twice, resolved_twice, lost, unresolved, unasked } = row ?? {}
  const wrong: string[] = []
  if (approved_twice > 0) wrong.push(`${approved_twice} clearances were approved twice`)
  if (resolved_twice > 0) wrong.push(`${resolved_twice} clearances were resolved twice`)
  if (lost > 0) wrong.push(`${lost} answers were forgotten`)
  if (unresolved > 0) wrong.push(`${unresolved} resolutions were forgotten`)
  if (unasked > books.unkeyed) wrong.push(`${unasked} clearances were answered to nobody, ${books.unkeyed} may have been`)
  return wrong
}

/** Quota and spend, summed up anew from what they consist of; written apart from the product's own check. */
async function wrongSums(sql: postgres.Sql): Promise<string[]> {
  const ops = await sql`
    select a.account_id::text, a.ops::text as is,
      (coalesce((select sum(ops_delta) from ledger l where l.account_id = a.account_id), 0)
        - (select count(*) from holds h where h.account_id = a.account_id))::text as should
    from accounts a`
  const spent = await sql`
    select e.account_id::text, e.spent_session_nanousd::text as is,
      coalesce((select sum(case when state = 0 then estimate_nanousd else actual_nanousd end) from holds h
        where h.account_id = e.account_id and h.agent_id = e.agent_id), 0)::text as should
    from envelopes e`
  const differs = (what: string) => (row: postgres.Row) =>
    row.is === row.should ? [] : [`${row.account_id}: ${what} ${row.is}, should be ${row.should}`]
  return [...ops.flatMap(differs('ops')), ...spent.flatMap(differs('spent'))]
}

/** Each completed stream is charged what the provider said; one that was cut off may stand at anything, or not be there. */
async function wrongStreams(sql: postgres.Sql, { accountId, completed, broken }: Streams): Promise<string[]> {
  const [row] = await sql`
    select count(*)::int as holds, count(*) filter (where state = 1 and actual_nanousd = ${STREAM_COST_NANOUSD})::int as whole,
      count(*) filter (where state = 0)::int as open
    from holds where account_id = ${accountId}`
  const { holds, whole } = row ?? {}
  const wrong: string[] = []
  if (holds < completed || holds > completed + broken)
    wrong.push(`${holds} reservations for ${completed} completed streams and ${broken} others`)
  // A server may be killed after the last byte of a stream and before it is settled: then its estimate stands.
  if (whole < completed - broken || whole > completed + broken)
    wrong.push(`${whole} of ${completed} streams are charged what they cost`)
  return wrong
}

async function selfMeasured(stage: Stage): Promise<Record<string, number>> {
  const ended = performance.now()
  for (const deadline = Date.now() + FIGURES_TIMEOUT_MS; ; await sleep(1000)) {
    const response = await fetch(`${stage.servers.at(-1)?.origin}/metrics`, { headers: { 'x-admin-secret': ADMIN_SECRET } })
    const text = await response.text()
    const numberOf = (name: string): number => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? Number.NaN)
    const figures = Object.fromEntries(FIGURES.map((name) => [name, numberOf(name)]))
    const isNew = numberOf('gvnr_figures_age_seconds') * 1000 < performance.now() - ended - FIGURES_ROUND_MS
    if (isNew && Object.values(figures).every((value) => !Number.isNaN(value))) return figures
    if (Date.now() > deadline) throw new Error('nobody computes the figures')
  }
}

async function verified(run: { entry: string; folder: string }, url: string): Promise<{ code: number; text: string }> {
  const cli = run.entry.replace(/main\.js$/, 'cli.js')
  const env = { PATH: process.env.PATH, DATABASE_URL: url, DATA_DIR: run.folder }
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [cli, 'verify'], { env, cwd: run.folder, maxBuffer: 1 << 26 })
    return { code: 0, text: stdout }
  } catch (error) {
    return { code: 1, text: error instanceof Error && 'stdout' in error ? String(error.stdout) : String(error) }
  }
}
