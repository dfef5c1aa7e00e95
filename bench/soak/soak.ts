import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { pick, randomFrom } from '../../test/support/load.ts'
import { describeMachine } from '../machine.ts'
import type { Cleanup } from '../servers.ts'
import { audit } from './audit.ts'
import { Books } from './books.ts'
import type { Fault, Incident } from './faults/fault.ts'
import { faultsOf } from './faults/index.ts'
import { Journal } from './journal.ts'
import { writeReport } from './report.ts'
import { balance, type Deps, drawScenario, read } from './scenarios.ts'
import { Sender } from './sender.ts'
import { approval, Streams } from './special.ts'
import { onDatabase, openStage, type Stage } from './stage.ts'
import { createTenant, type Tenant, type TenantKind } from './tenants.ts'
import { bloatedTables, databaseSize, Watch } from './watch.ts'

export type SoakOptions = {
  readonly entry: string
  readonly folder: string
  readonly results: string | null
  readonly command: string
  readonly minutes: number
  readonly rate: number
  readonly tenants: number
  readonly servers: number
  readonly fault: string
  readonly every_s: number | null
  readonly seed: number
}

/** More than that many requests under way are not piled up: arrivals are left out and counted. */
const MOST_UNDER_WAY = 4_000
const STREAM_SHARE = 0.01
const TENANT_KINDS: readonly TenantKind[] = ['wide', 'tight', 'quota']
/** A stream, or a request that is asked for again until it is known, may take that long after the last arrival. */
const DRAIN_MS = 150_000

/** Runs the load and the faults, compares everything, reports. @returns whether nothing was wrong */
export async function soak(cleanup: Cleanup, options: SoakOptions): Promise<boolean> {
  const faults = faultsOf(options.fault, options.minutes)
  const needs = Object.assign({}, ...faults.map((fault) => fault.needs)) as Fault['needs']
  const startedAt = new Date()
  const stage = await openStage(cleanup, { ...options, needs })
  const books = new Books()
  const journal = new Journal(join(options.folder, 'answered'))
  const random = randomFrom(options.seed)
  const sender = new Sender(() => stage.clients, random, books)
  const deps: Deps = { sender, books, journal, random }
  const tenants: Tenant[] = []
  const [first] = stage.clients
  if (first === undefined) throw new Error('a soak needs a server')
  for (let index = 0; index < options.tenants; index++)
    tenants.push(await createTenant(first, TENANT_KINDS[index % TENANT_KINDS.length] ?? 'wide'))
  const streaming = await createTenant(first, 'wide')
  const streams = new Streams(streaming, () => stage.servers.filter(({ isRunning }) => isRunning).map(({ port }) => port))
  const before = await databaseSize(stage)
  const postgresVersion = await onDatabase(stage, async (sql) => String((await sql`show server_version`)[0]?.server_version))
  console.log(`seed ${options.seed}, ${options.tenants} accounts; ${faults.map(({ what }) => what).join('; ') || 'no faults'}`)

  const watch = new Watch(stage)
  const until = performance.now() + options.minutes * 60_000
  const strikes = strikeAll(stage, books, faults, { until, every_s: options.every_s })
  await arrive(deps, { tenants, streams, streaming, until, rate: options.rate })
  const incidents = await strikes
  await watch.stop()
  for (const tenant of tenants) await tenant.model.calm()
  // The last look, with nothing else under way: exact.
  for (const tenant of tenants) {
    await read(deps, tenant, performance.now())
    await balance(deps, tenant, performance.now())
  }
  console.log('comparing …')
  const sizes = { before, after: await databaseSize(stage) }
  const tables = await bloatedTables(stage)
  const verdict = await audit(stage, { ...options, tenants, streams, journal, books })
  const steady = watch.servers.at(-1)
  const flat = {
    ratio: steady === undefined ? Number.NaN : steady.mean(0.75, 1) / steady.mean(0.25, 0.5),
    of: watch.servers.length > 1 ? 'the server that lives through it all' : 'the server',
  }
  const what = faults.map((fault) => fault.what)
  const run = { ...options, kind: options.fault, what, startedAt, machine: describeMachine(postgresVersion) }
  writeReport(options.results, run, { books, incidents, verdict, watch, sizes, tables, flat })
  return books.faultCount === 0 && verdict.wrong.length === 0
}

type Arrivals = {
  readonly tenants: readonly Tenant[]
  readonly streams: Streams
  readonly streaming: Tenant
  readonly until: number
  readonly rate: number
}

/** Open loop: scenarios begin when they are due, however many are under way; a late answer delays nothing but itself. */
async function arrive(deps: Deps, { tenants, streams, streaming, until, rate }: Arrivals): Promise<void> {
  const { random, books } = deps
  let underWay = 0
  const launch = (due: number): void => {
    if (underWay >= MOST_UNDER_WAY) {
      books.shed++
      return
    }
    const isStream = random() < STREAM_SHARE
    const tenant = isStream ? streaming : pick(random, tenants)
    const scenario = isStream ? streams.stream : drawScenario(tenant, random, approval)
    underWay++
    scenario(deps, tenant, due)
      .catch((error: unknown) => books.fault(`the harness failed: ${error instanceof Error ? error.stack : error}`))
      .finally(() => underWay--)
  }
  const pause_ms = () => (-Math.log(1 - random()) * 1000) / rate
  for (let due = performance.now(); due < until; due += pause_ms()) {
    const early = due - performance.now()
    if (early > 1) await sleep(early)
    launch(due)
  }
  for (const deadline = performance.now() + DRAIN_MS; underWay > 0; await sleep(100))
    if (performance.now() > deadline) {
      books.fault(`${underWay} requests were never answered`)
      return
    }
}

/** One fault at a time, so that each is measured by itself. */
async function strikeAll(
  stage: Stage,
  books: Books,
  faults: readonly Fault[],
  { until, every_s }: { until: number; every_s: number | null },
): Promise<Incident[]> {
  const began = performance.now()
  const incidents: Incident[] = []
  let turn: Promise<unknown> = Promise.resolve()
  const strike = async (fault: Fault): Promise<void> => {
    const at_s = (performance.now() - began) / 1000
    const incident = { fault: fault.name, at_s, ...(await fault.strike(stage, books)) }
    incidents.push(incident)
    console.log(
      `${at_s.toFixed(0)} s ${fault.name}: first decision ${Math.round(incident.recovered_ms)} ms after ${incident.since}. ${incident.note ?? ''}`,
    )
  }
  await Promise.all(
    faults.map(async (fault) => {
      for (let time = 0; time < (fault.times ?? Number.POSITIVE_INFINITY); time++) {
        const pause_ms = (fault.times === undefined ? (every_s ?? fault.every_s) : fault.every_s) * 1000
        // What is struck too late is not seen to recover under load.
        if (performance.now() + pause_ms > until - 3000) return
        await sleep(pause_ms)
        // A fault that cannot be inflicted or recovered from is a finding like others.
        const mine = turn.then(() => strike(fault)).catch((error: unknown) => books.fault(`${fault.name}: ${error}`))
        turn = mine
        await mine
      }
    }),
  )
  return incidents
}
