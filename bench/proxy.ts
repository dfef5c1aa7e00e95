import {
  type Context,
  commitsOf,
  contenderOf,
  interleave,
  preparePostgres,
  startServer,
  type Variant,
  warmUp,
} from './context.ts'
import { createCommitTable, fillAccounts } from './fill.ts'
import { Worker } from './load.ts'
import { processCpu_us, residentBytes } from './machine.ts'
import { ratioOf, SUMMARY_COLUMNS, SUMMARY_NOTE, short, summarize, summaryCells } from './report.ts'
import { type RunningServer, startPipe, startProvider } from './servers.ts'
import { median } from './statistics.ts'
import { chatBody, keyOf, type Workload } from './workload.ts'

/** What stream-process.ts is asked for: many streams that do not end, or whole calls one after the other. */
export type StreamRequest = {
  readonly kind: 'streams' | 'calls'
  readonly port: number
  readonly key: string
  readonly body: string
  readonly concurrency: number
  readonly warmup_ms: number
  readonly duration_ms: number
}
export type StreamResult = {
  /** Events of streams, or whole calls. */
  readonly answers: number
  readonly errors: number
  readonly firstError: string | null
  readonly elapsed_ms: number
  readonly firstByte_us: number
}
type Clients = Worker<StreamRequest, StreamResult>

const STREAMS = 1000
const EVERY_MS = 100
const STREAM_MS = 5000
const CONNECTIONS = 32
/** Slow beside a database, fast beside a model. */
const ANSWER_MS = 20
const MIB = 1 << 20
const LIMIT_MIB = 200
const RANGE = { first: 0, accounts: 1, agents: 1 }
const CHAT: Workload = { kind: 'chat', transport: 'rest', firstAccount: 0, accounts: 1, agents: 1, distribution: 'uniform' }
const COMMIT = 'a durable commit, 1 connection'

type Way = { readonly name: string; readonly server: RunningServer }

/** What the proxy costs: against the provider itself, and against the least that Node can do in between. */
export async function proxy(context: Context): Promise<void> {
  const url = await preparePostgres(context, 'bench_proxy', async (sql) => {
    await fillAccounts(sql, RANGE)
    await createCommitTable(sql)
  })
  const provider = context.cleanup.add(await startProvider(), (server) => server.stop())
  const pipe = context.cleanup.add(await startPipe(provider.port), (server) => server.stop())
  const gvnr = await startServer(context, {
    url,
    dataDir: context.folder,
    environment: {
      UPSTREAM_OPENAI_URL: `http://127.0.0.1:${provider.port}`,
      UPSTREAM_OPENAI_KEY: 'sk-bench',
      PROXY_MAX_REPEATS: '0',
    },
  })
  const clients: Clients = context.cleanup.add(new Worker(new URL('./stream-process.ts', import.meta.url)), (worker) =>
    worker.stop(),
  )
  const ways: Way[] = [
    { name: 'direct', server: provider },
    { name: 'Node pipe', server: pipe },
    { name: 'proxy', server: gvnr },
  ]
  await warmUp(context, [provider, pipe, gvnr], CHAT)
  await plainCalls(context, ways, url, CHAT)
  await plainCalls(context, ways, url, { ...CHAT, answer_ms: ANSWER_MS })
  await firstBytes(context, ways, clients, url)
  await streams(context, ways, clients)
  for (const server of [gvnr, pipe, provider]) await server.stop()
}

/**
 * As many plain calls as there can be. From a provider that answers at once they measure how client, proxy, provider and database share
 * the machine's cores; from one that takes its time, what a client notices.
 */
async function plainCalls(context: Context, ways: readonly Way[], url: string, workload: Workload): Promise<void> {
  const { report } = context
  const { answer_ms = 0 } = workload
  const provider = answer_ms === 0 ? 'a provider that answers at once' : `a provider that takes ${answer_ms} ms`
  const variants = ways.map(({ name, server }): Variant => ({ name, workload, servers: [server], connections: CONNECTIONS }))
  const samples = await interleave(context, [
    ...variants.map((variant) => contenderOf(context, variant)),
    commitsOf(context, { name: `one commit each, ${CONNECTIONS}`, url, connections: CONNECTIONS }),
  ])
  report.samples(answer_ms === 0 ? 'proxy' : 'proxy, slow provider', samples)
  const direct = samples.get('direct')
  report.table({
    title: `Proxy: plain calls, ${CONNECTIONS} connections, ${provider}`,
    note: `A prompt of 440 characters, an answer of 250 bytes. Each proxied call is two durable decisions: reserved and settled. × direct: to the provider itself. ${SUMMARY_NOTE}`,
    columns: ['', '× direct', ...SUMMARY_COLUMNS],
    rows: [...samples].map(([name, own]) => [name, short(ratioOf(own, direct)), ...summaryCells(summarize(own))]),
  })
  const ratio = ratioOf(samples.get('proxy'), direct)
  report.target({ what: `proxy, plain calls ÷ direct, ${provider}`, wanted: '0.5', measured: short(ratio), isMet: ratio >= 0.5 })
}

/** One stream at a time: how much later its first byte comes. */
async function firstBytes(context: Context, ways: readonly Way[], clients: Clients, url: string): Promise<void> {
  const { effort, report } = context
  const body = chatBody({ stream: true, metadata: { events: '5' } })
  const found = new Map<string, number[]>([...ways.map(({ name }): [string, number[]] => [name, []]), [COMMIT, []]])
  const commit = commitsOf(context, { name: COMMIT, url, connections: 1 })
  for (let round = 0; round < effort.rounds; round++) {
    for (const { name, server } of ways) {
      const result = await clients.run(
        { kind: 'calls', port: server.port, key: keyOf(0), body, concurrency: 1, warmup_ms: 200, duration_ms: effort.burst_ms },
        () => {},
      )
      if (result.errors > 0) report.note(`proxy, first byte, ${name}: ${result.errors} errors, the first: ${result.firstError}`)
      found.get(name)?.push(result.firstByte_us / 1000)
    }
    found.get(COMMIT)?.push((await commit.run()).p50_us / 1000)
  }
  const of = (name: string): number => median(found.get(name) ?? [])
  const each = (name: string): number[] => found.get(name) ?? []
  const added = median(each('proxy').map((value, round) => value - (each('direct')[round] ?? 0) - (each(COMMIT)[round] ?? 0)))
  report.table({
    title: 'Proxy: time to the first byte',
    note: 'One stream at a time, milliseconds, medians.',
    columns: ['', 'p50 ms'],
    rows: [...found.keys()].map((name) => [name, short(of(name))]),
  })
  report.target({
    what: 'proxy, added time to the first byte, beyond one durable commit',
    wanted: 'at most 3 ms',
    measured: `${short(added)} ms`,
    isMet: added <= 3,
  })
}

type Course = { readonly rate_per_s: number; readonly cpu_us: number; readonly resident_mib: number; readonly errors: number }

/** A thousand streams at ten events a second each. */
async function streams(context: Context, ways: readonly Way[], clients: Clients): Promise<void> {
  const { effort, report } = context
  const body = chatBody({ stream: true, metadata: { every_ms: String(EVERY_MS) } })
  const found = new Map<string, Course[]>(ways.map(({ name }) => [name, []]))
  for (let round = 0; round < effort.rounds; round++) {
    for (let index = 0; index < ways.length; index++) {
      const way = ways[(round + index) % ways.length]
      if (way === undefined) continue
      let before_us = 0
      const result = await clients.run(
        {
          kind: 'streams',
          port: way.server.port,
          key: keyOf(0),
          body,
          concurrency: STREAMS,
          warmup_ms: 0,
          duration_ms: STREAM_MS,
        },
        () => {
          before_us = processCpu_us(way.server.pid)
        },
      )
      const cpu_us = (processCpu_us(way.server.pid) - before_us) / result.answers
      if (result.errors > 0) report.note(`proxy, streams, ${way.name}: ${result.errors} errors, the first: ${result.firstError}`)
      const rate_per_s = (result.answers / result.elapsed_ms) * 1000
      found.get(way.name)?.push({ rate_per_s, cpu_us, resident_mib: residentBytes(way.server.pid) / MIB, errors: result.errors })
    }
  }
  const of = (name: string, value: (course: Course) => number): number[] => (found.get(name) ?? []).map(value)
  const ratio = (name: string, base: string, value: (course: Course) => number): number =>
    median(of(name, value).map((own, round) => own / (of(base, value)[round] ?? Number.NaN)))
  const rate = (course: Course): number => course.rate_per_s
  const cpu = (course: Course): number => course.cpu_us
  const most = (name: string): number => Math.max(...of(name, (course) => course.resident_mib))
  const errors = (name: string): number => of(name, (course) => course.errors).reduce((sum, count) => sum + count, 0)
  report.table({
    title: `Proxy: ${STREAMS.toLocaleString('en-US')} streams at ${1000 / EVERY_MS} events a second`,
    note: 'CPU µs: of the process in the middle (direct: of the provider), per event. MiB: resident at the end of a burst, the most of all rounds.',
    columns: ['', '× direct', 'events/s', 'CPU µs', 'MiB', 'errors'],
    rows: ways.map(({ name }) => [
      name,
      short(ratio(name, 'direct', rate)),
      short(median(of(name, rate))),
      short(median(of(name, cpu))),
      short(most(name)),
      String(errors(name)),
    ]),
  })
  const share = ratio('proxy', 'direct', rate)
  const work = ratio('proxy', 'Node pipe', cpu)
  const target = (what: string, wanted: string, measured: string, isMet: boolean): void =>
    report.target({ what: `proxy, ${STREAMS.toLocaleString('en-US')} streams, ${what}`, wanted, measured, isMet })
  target('events ÷ direct', '0.95', short(share), share >= 0.95)
  target('errors', 'none', String(errors('proxy')), errors('proxy') === 0)
  target('resident memory', `under ${LIMIT_MIB} MiB`, `${short(most('proxy'))} MiB`, most('proxy') < LIMIT_MIB)
  target('CPU per event ÷ Node pipe', 'at most 1.2', short(work), work <= 1.2)
}
