import {
  type Context,
  commitsOf,
  contenderOf,
  interleave,
  preparePglite,
  preparePostgres,
  startServer,
  type Variant,
  warmUp,
} from './context.ts'
import { accountStatements, createCommitTable, fillAccounts } from './fill.ts'
import { SUMMARY_COLUMNS, SUMMARY_NOTE, short, summarize, summaryCells } from './report.ts'
import { answersMcp, startBare } from './servers.ts'
import { median } from './statistics.ts'
import { keyOf, type Workload } from './workload.ts'

const RATE = 500
const CONNECTIONS = 64
const RANGE = { first: 0, accounts: 1, agents: 1 }
const WORKLOAD: Workload = { kind: 'clear', transport: 'rest', firstAccount: 0, accounts: 1, agents: 1, distribution: 'uniform' }
const COMMIT = 'a durable commit, 1 connection, no pause'

/** How long a clearance takes when the server is far from full, against one round trip of a durable commit. */
export async function latency(context: Context): Promise<void> {
  const url = await preparePostgres(context, 'bench_latency', async (sql) => {
    await fillAccounts(sql, RANGE)
    await createCommitTable(sql)
  })
  const dataDir = await preparePglite(context, 'pglite-latency', accountStatements(RANGE))
  const bare = context.cleanup.add(await startBare(), (server) => server.stop())
  const postgres = await startServer(context, { url, dataDir: context.folder })
  const pglite = await startServer(context, { dataDir })
  await warmUp(context, [bare], { ...WORKLOAD, kind: 'bare' })
  await warmUp(context, [postgres, pglite], WORKLOAD)
  const hasMcp = await answersMcp(postgres.port, keyOf(0))
  if (!hasMcp) context.report.note('MCP left out: /mcp does not answer tools/call')
  const sources: Pick<Variant, 'name' | 'workload' | 'servers'>[] = [
    { name: 'bare route', workload: { ...WORKLOAD, kind: 'bare' }, servers: [bare] },
    { name: 'REST clear, PostgreSQL', workload: WORKLOAD, servers: [postgres] },
    ...(hasMcp
      ? [{ name: 'MCP clear, PostgreSQL', workload: { ...WORKLOAD, transport: 'mcp' as const }, servers: [postgres] }]
      : []),
    { name: 'REST clear, PGlite', workload: WORKLOAD, servers: [pglite] },
  ]
  const variants = sources.map((source): Variant => ({ ...source, connections: CONNECTIONS, rate_per_s: RATE }))
  const samples = await interleave(context, [
    commitsOf(context, { name: COMMIT, url, connections: 1 }),
    commitsOf(context, { name: `a durable commit at ${RATE}/s`, url, connections: 16, rate_per_s: RATE }),
    ...variants.map((variant) => contenderOf(context, variant)),
  ])
  for (const server of [bare, postgres, pglite]) await server.stop()

  const { report } = context
  report.samples('latency', samples)
  const base = samples.get(COMMIT) ?? []
  const ratio = (name: string): number =>
    median((samples.get(name) ?? []).map((sample, round) => sample.p50_us / (base[round]?.p50_us ?? Number.NaN)))
  report.table({
    title: `Latency at ${RATE} requests a second`,
    note: `Open loop; a duration counts from the moment a request was due. × commit: p50 to that of one durable commit (UPDATE … RETURNING of one row), one connection, each sent when the last was answered. ${SUMMARY_NOTE}`,
    columns: ['', '× commit', ...SUMMARY_COLUMNS],
    rows: [...samples].map(([name, own]) => [name, short(ratio(name)), ...summaryCells(summarize(own))]),
  })
  const measured = ratio('REST clear, PostgreSQL')
  report.target({
    what: `p50 at ${RATE}/s, REST clear, PostgreSQL ÷ one durable commit`,
    wanted: 'at most 1.5',
    measured: short(measured),
    isMet: measured <= 1.5,
  })
}
