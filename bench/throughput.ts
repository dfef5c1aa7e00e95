import { runPgbench } from './commits.ts'
import {
  type Contender,
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
import { accountStatements, createCommitTable, fillAccounts, rateStatement } from './fill.ts'
import type { Sample } from './measure.ts'
import { ratioOf, SUMMARY_COLUMNS, SUMMARY_NOTE, short, summarize, summaryCells } from './report.ts'
import { answersMcp, type RunningServer, startBare } from './servers.ts'
import { median } from './statistics.ts'
import { keyOf, type Workload, type WorkloadKind } from './workload.ts'

const HOT = { firstAccount: 0, accounts: 1, agents: 1, distribution: 'uniform' } as const
const MANY = { firstAccount: 1, accounts: 1000, agents: 10, distribution: 'zipf' } as const
const RANGES = [
  { first: 0, accounts: 1, agents: 1 },
  { first: 1, accounts: 1000, agents: 10 },
]
const COMMIT_CONNECTIONS = [1, 8, 64] as const
const bareName = (connections: number): string => `bare route, ${connections}`
const commitName = (connections: number): string => `one commit each, ${connections}`

type Servers = {
  readonly bare: RunningServer
  readonly one: RunningServer
  readonly two: RunningServer
  readonly pglite: RunningServer
}

/** As many requests as fit: against the bare route, and against one commit per decision on the same PostgreSQL. */
export async function throughput(context: Context): Promise<void> {
  const url = await preparePostgres(context, 'bench_throughput', async (sql) => {
    for (const range of RANGES) await fillAccounts(sql, range)
    await sql.unsafe(rateStatement(0))
    await createCommitTable(sql)
    await sql.unsafe('vacuum analyze')
  })
  const dataDir = await preparePglite(context, 'pglite-throughput', [
    ...RANGES.flatMap(accountStatements),
    rateStatement(0),
    'analyze',
  ])
  const servers: Servers = {
    bare: context.cleanup.add(await startBare(), (server) => server.stop()),
    one: await startServer(context, { url, dataDir: context.folder }),
    two: await startServer(context, { url, dataDir: context.folder }),
    pglite: await startServer(context, { dataDir }),
  }
  await warmUp(context, [servers.bare], work('bare', 'rest', HOT))
  await warmUp(context, [servers.one, servers.two, servers.pglite], work('clear', 'rest', MANY))
  const hasMcp = await answersMcp(servers.one.port, keyOf(0))
  if (!hasMcp) context.report.note('MCP left out: /mcp does not answer tools/call')

  const variants = variantsOf(context, servers, hasMcp).filter(({ name }) => name.includes(context.filter))
  const connections = [...new Set(variants.map((variant) => variant.connections))]
  const contenders: Contender[] = [
    ...connections.map((count) =>
      contenderOf(context, {
        name: bareName(count),
        workload: work('bare', 'rest', HOT),
        servers: [servers.bare],
        connections: count,
      }),
    ),
    ...COMMIT_CONNECTIONS.map((connections) => commitsOf(context, { name: commitName(connections), url, connections })),
    ...variants.map((variant) => contenderOf(context, variant)),
  ]
  const samples = await interleave(context, contenders)
  const pgbench = await bestPgbench(context, url)
  for (const server of Object.values(servers)) await server.stop()
  present(context, variants, samples, pgbench)
}

const work = (kind: WorkloadKind, transport: Workload['transport'], traffic: typeof HOT | typeof MANY): Workload => ({
  kind,
  transport,
  ...traffic,
})

function variantsOf({ effort }: Context, servers: Servers, hasMcp: boolean): Variant[] {
  const databases = [
    { name: 'PostgreSQL', servers: [servers.one] },
    { name: 'PostgreSQL, 2 processes', servers: [servers.one, servers.two] },
    { name: 'PGlite', servers: [servers.pglite] },
  ]
  const variants: Variant[] = []
  for (const transport of hasMcp ? (['rest', 'mcp'] as const) : (['rest'] as const)) {
    for (const database of databases) {
      for (const [traffic, where] of [
        [HOT, 'one hot agent'],
        [MANY, '1,000 accounts × 10 agents'],
      ] as const) {
        for (const connections of [64, 256]) {
          const isPlain = database.servers.length === 1 && database.servers[0] === servers.one
          // The quick run keeps 256 connections, and MCP, to the plain case.
          if (effort.name === 'quick' && !isPlain && (connections !== 64 || transport === 'mcp')) continue
          variants.push({
            name: `${transport === 'mcp' ? 'MCP' : 'REST'} clear, ${database.name}, ${where}, ${connections}`,
            workload: work('clear', transport, traffic),
            servers: database.servers,
            connections,
          })
        }
      }
    }
  }
  const others = [
    ['clear + reconcile', 'clear_reconcile', MANY, '1,000 accounts × 10 agents'],
    ['rate_check', 'rate_check', HOT, 'one hot agent'],
    ['idempotency_check', 'idempotency_check', MANY, '1,000 accounts × 10 agents'],
  ] as const
  for (const [label, kind, traffic, where] of others) {
    for (const database of databases.filter(({ servers: { length } }) => length === 1)) {
      variants.push({
        name: `REST ${label}, ${database.name}, ${where}, 64`,
        workload: work(kind, 'rest', traffic),
        servers: database.servers,
        connections: 64,
      })
    }
  }
  return variants
}

async function bestPgbench(context: Context, url: string): Promise<number> {
  const rates: number[] = []
  for (const connections of COMMIT_CONNECTIONS) {
    const each: number[] = []
    for (let round = 0; round < Math.min(3, context.effort.rounds); round++) {
      const rate = await runPgbench({ url, connections, duration_ms: context.effort.burst_ms, folder: context.folder })
      if (rate === null) return Number.NaN
      each.push(rate)
    }
    rates.push(median(each))
  }
  return Math.max(...rates)
}

function present(context: Context, variants: readonly Variant[], samples: ReadonlyMap<string, Sample[]>, pgbench: number): void {
  const { report } = context
  report.samples('throughput', samples)
  const commits = bestCommits(samples)
  const bareOf = (variant: Variant) => samples.get(bareName(variant.connections))
  const rows = variants.map((variant) => {
    const own = samples.get(variant.name) ?? []
    return [variant.name, short(ratioOf(own, bareOf(variant))), short(ratioOf(own, commits)), ...summaryCells(summarize(own))]
  })
  const bases = [...samples.keys()].filter((name) => !variants.some((variant) => variant.name === name))
  const baseRows = bases.map((name) => [name, '', '', ...summaryCells(summarize(samples.get(name) ?? []))])
  report.table({
    title: 'Throughput',
    note: `The last number of a name is that of connections. × bare: to the bare route with as many connections. × commits: to one UPDATE … RETURNING of one row per commit on the same PostgreSQL, by the best of ${COMMIT_CONNECTIONS.join(', ')} connections (pgbench: ${Number.isNaN(pgbench) ? 'not found' : `${short(pgbench)}/s`}). ${SUMMARY_NOTE}`,
    columns: ['', '× bare', '× commits', ...SUMMARY_COLUMNS],
    rows: [...baseRows, ...rows],
  })

  const atLeast = (what: string, name: string, base: readonly Sample[] | undefined, wanted: number, aim: string): void => {
    const own = samples.get(name)
    if (own === undefined || own.length === 0) return
    const ratio = ratioOf(own, base)
    report.target({ what: `${name} ${what}`, wanted: `${wanted}${aim}`, measured: short(ratio), isMet: ratio >= wanted })
  }
  const bare = samples.get(bareName(64))
  const hot = 'REST clear, PostgreSQL, one hot agent, 64'
  const many = 'REST clear, PostgreSQL, 1,000 accounts × 10 agents, 64'
  atLeast('÷ bare route', hot, bare, 0.6, ' (aim 0.8)')
  atLeast('÷ one commit each', hot, commits, 4, '')
  atLeast('÷ bare route', many, bare, 0.45, ' (aim 0.6)')
  for (const where of ['one hot agent', '1,000 accounts × 10 agents']) {
    const name = `REST clear, PGlite, ${where}, 64`
    atLeast('÷ bare route', name, bare, 0.25, '')
    const spread = median((samples.get(name) ?? []).map((sample) => sample.p99_us / sample.p50_us))
    if (!Number.isNaN(spread))
      report.target({ what: `${name} p99 ÷ p50`, wanted: 'at most 10', measured: short(spread), isMet: spread <= 10 })
    atLeast(
      '÷ the same over REST',
      `MCP clear, PostgreSQL, ${where}, 64`,
      samples.get(`REST clear, PostgreSQL, ${where}, 64`),
      0.7,
      '',
    )
  }
}

/** In each round the best number of connections. */
function bestCommits(samples: ReadonlyMap<string, Sample[]>): Sample[] {
  const all = COMMIT_CONNECTIONS.map((count) => samples.get(commitName(count)) ?? [])
  return (all[0] ?? []).map((first, round) =>
    all.reduce((best, one) => ((one[round]?.rate_per_s ?? 0) > best.rate_per_s ? (one[round] ?? best) : best), first),
  )
}
