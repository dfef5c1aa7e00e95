import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import type { Balancing } from '../test/support/balancer.ts'
import { type Contender, type Context, interleave, preparePostgres, startServer, warmUp } from './context.ts'
import { fillAccounts, grantStatement, onDatabase, settleDatabase } from './fill.ts'
import { processCpu_us } from './machine.ts'
import type { Sample } from './measure.ts'
import { ratioOf, short, summarize } from './report.ts'
import { type RunningServer, startBalancers } from './servers.ts'
import { median } from './statistics.ts'
import type { Workload } from './workload.ts'

const PROCESSES = [1, 2, 3, 4] as const
const BALANCINGS: readonly Balancing[] = ['round robin', 'sticky']
const CONNECTIONS = 64
/** What a call of the benchmark costs, and how many of them the small caps hold. */
const ESTIMATE_NANOUSD = 15_000_000
const FITTING = 2_000
const WARM_REQUESTS = 4_000
const ASKED = 3_000
/** Accounts 0 and 1 … 1,000 carry the load; those from here on have a cap that is reached. */
const FIRST_CAPPED = 1_001

const hot: Workload = { kind: 'clear', transport: 'rest', firstAccount: 0, accounts: 1, agents: 1, distribution: 'uniform' }
const many: Workload = { ...hot, firstAccount: 1, accounts: 1_000, agents: 10, distribution: 'zipf' }
const TRAFFIC = [
  ['one hot agent', hot],
  ['1,000 accounts × 10 agents', many],
] as const

/** What a burst did besides answering. */
type Extra = { readonly conflicts: number; readonly locked: number; readonly balancer_us: number }
type Line = {
  readonly name: string
  readonly base: string
  readonly balancer: number
  readonly servers: readonly RunningServer[]
  readonly workload: Workload
}

/**
 * One to four server processes behind a balancer on one PostgreSQL. They share the cores with the balancer, the database and the load, so a rate can only
 * grow while cores are idle: CPU per request says what more machines would give. Afterwards the books are checked, and caps that were reached.
 */
export async function scaleOut(context: Context): Promise<void> {
  const cappedAccounts = PROCESSES.length * BALANCINGS.length
  const url = await preparePostgres(context, 'bench_scale_out', async (sql) => {
    const ranges = [
      { first: 0, accounts: 1, agents: 1 },
      { first: 1, accounts: 1_000, agents: 10 },
      { first: FIRST_CAPPED, accounts: cappedAccounts, agents: 1 },
    ]
    for (const range of ranges) {
      await fillAccounts(sql, range)
      await sql.unsafe(grantStatement(range))
    }
    await sql.unsafe(
      `update envelopes set limit_daily_nanousd = ${FITTING * ESTIMATE_NANOUSD} where account_id in (${Array.from({ length: cappedAccounts }, (_, index) => `md5('bench-${FIRST_CAPPED + index}')::uuid`).join(', ')})`,
    )
    await settleDatabase(sql)
  })
  const servers: RunningServer[] = []
  const environment = { METRICS_PUBLIC: 'on', LOG_LEVEL: 'warn' }
  for (const _ of PROCESSES) servers.push(await startServer(context, { url, dataDir: context.folder, environment }))
  const ways = BALANCINGS.flatMap((balancing) => PROCESSES.map((count) => ({ balancing, count })))
  const balancers = context.cleanup.add(
    await startBalancers(
      ways.map(({ balancing, count }) => ({ balancing, backends: servers.slice(0, count).map(({ port }) => port) })),
    ),
    (running) => running.stop(),
  )
  await warmUp(context, servers, many)

  const nameOf = (where: string, balancing: Balancing, count: number) => `${where}, ${balancing}, N=${count}`
  const lines: Line[] = TRAFFIC.flatMap(([where, workload]) =>
    ways.map(({ balancing, count }, index) => ({
      name: nameOf(where, balancing, count),
      base: nameOf(where, balancing, 1),
      balancer: balancers.ports[index] ?? 0,
      servers: servers.slice(0, count),
      workload,
    })),
  )
  const extras = new Map<string, Extra[]>(lines.map(({ name }) => [name, []]))
  const samples = await interleave(
    context,
    lines.map((line) => contenderOf(context, line, balancers.pid, extras)),
  )
  const wrong = await checkCaps(context, url, lines.slice(0, cappedAccounts))
  for (const server of servers) await server.stop()
  const verdict = verify(context, url)

  present(context, lines, samples, extras)
  context.report.target({
    what: `caps of ${FITTING.toLocaleString('en-US')} calls under ${ASKED.toLocaleString('en-US')}, ${cappedAccounts} ways: approvals too many or too few`,
    wanted: 'none',
    measured: wrong.length === 0 ? 'none' : wrong.join('; '),
    isMet: wrong.length === 0,
  })
  context.report.target({ what: 'gvnr verify afterwards', wanted: 'every balance is right', ...verdict })
}

function contenderOf(context: Context, line: Line, balancerPid: number, extras: Map<string, Extra[]>): Contender {
  return {
    name: line.name,
    async run() {
      // What the accounts' last process knew of them is stale in the others: that is not what is measured.
      await burst(context, line, WARM_REQUESTS)
      const before = await countersOf(line.servers)
      const cpu = processCpu_us(balancerPid)
      const sample = await burst(context, line, null)
      const after = await countersOf(line.servers)
      // The first burst is thrown away; interleave keeps one sample per round, and so do we.
      extras.get(line.name)?.push({
        conflicts: (after.conflicts - before.conflicts) / Math.max(1, after.commands - before.commands),
        locked: (after.locked - before.locked) / Math.max(1, after.commands - before.commands),
        balancer_us: (processCpu_us(balancerPid) - cpu) / sample.answers,
      })
      return sample
    },
  }
}

const burst = (context: Context, line: Line, maxRequests: number | null): Promise<Sample> =>
  context.measure.load(
    {
      ports: [line.balancer],
      connections: CONNECTIONS,
      workload: line.workload,
      warmup_ms: maxRequests === null ? context.effort.warmup_ms : 0,
      duration_ms: maxRequests === null ? context.effort.burst_ms : 60_000,
      maxRequests,
      rate_per_s: null,
    },
    line.servers.map(({ pid }) => pid),
  )

type Counters = { readonly commands: number; readonly conflicts: number; readonly locked: number }

async function countersOf(servers: readonly RunningServer[]): Promise<Counters> {
  const texts = await Promise.all(servers.map(async ({ port }) => (await fetch(`http://127.0.0.1:${port}/metrics`)).text()))
  const sum = (name: string) =>
    texts.reduce((total, text) => total + Number(new RegExp(`^gvnr_engine_${name}_total (\\S+)$`, 'm').exec(text)?.[1]), 0)
  return { commands: sum('commands'), conflicts: sum('conflicts'), locked: sum('locked') }
}

/** Asks for more than fits, each way on an account of its own. @returns what did not come out at the cap exactly */
async function checkCaps(context: Context, url: string, lines: readonly Line[]): Promise<string[]> {
  const wrong: string[] = []
  for (const [index, line] of lines.entries()) {
    const workload = { ...hot, firstAccount: FIRST_CAPPED + index }
    await burst(context, { ...line, workload }, ASKED)
    const [held, spent] = await onDatabase(url, async (sql) => {
      const account = `md5('bench-${FIRST_CAPPED + index}')::uuid`
      const [row] = await sql.unsafe(
        `select (select count(*) from holds where account_id = ${account}) as held, (select spent_daily_nanousd from envelopes where account_id = ${account}) as spent`,
      )
      return [Number(row?.held), Number(row?.spent)]
    })
    if (held !== FITTING || spent !== FITTING * ESTIMATE_NANOUSD) wrong.push(`${line.name}: ${held}`)
  }
  return wrong
}

function verify(context: Context, url: string): { measured: string; isMet: boolean } {
  const cli = join(context.entry, '../cli.js')
  try {
    const text = execFileSync(process.execPath, [cli, 'verify'], { env: { PATH: process.env.PATH, DATABASE_URL: url } })
    return { measured: text.toString().trim(), isMet: true }
  } catch (error) {
    const said = error instanceof Error && 'stdout' in error ? String(error.stdout).slice(0, 500) : ''
    return { measured: `${error} ${said}`.trim(), isMet: false }
  }
}

function present(
  { report }: Context,
  lines: readonly Line[],
  samples: ReadonlyMap<string, Sample[]>,
  extras: ReadonlyMap<string, Extra[]>,
): void {
  report.samples('scale-out', samples)
  report.table({
    title: 'Server processes on one PostgreSQL',
    note: `REST clear through a balancer, ${CONNECTIONS} connections: whole connections in turn (round robin) or each request by its key (sticky). × N=1: to one process behind the same balancer. conflicts: accounts that another process had moved, and so decided again, per 100 decisions; locked: batches decided under a lock, per 100 decisions. CPU µs per request of all server processes, of all of PostgreSQL, of the balancer and of the load generator, which share the cores here.`,
    columns: [
      '',
      '× N=1',
      'req/s',
      'p50 ms',
      'p99 ms',
      'conflicts',
      'locked',
      'server µs',
      'database µs',
      'balancer µs',
      'client µs',
      'others',
    ],
    rows: lines.map(({ name, base }) => {
      const own = samples.get(name) ?? []
      const summary = summarize(own)
      const extra = (extras.get(name) ?? []).slice(-own.length)
      return [
        name,
        short(ratioOf(own, samples.get(base))),
        short(summary.rate_per_s),
        short(summary.p50_ms),
        short(summary.p99_ms),
        short(100 * median(extra.map(({ conflicts }) => conflicts))),
        short(100 * median(extra.map(({ locked }) => locked))),
        short(summary.server_us),
        short(summary.database_us),
        short(median(extra.map(({ balancer_us }) => balancer_us))),
        short(summary.client_us),
        summary.otherCores.toFixed(2),
      ]
    }),
  })
}
