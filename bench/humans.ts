import { once } from 'node:events'
import { Agent, createServer, get, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { uuidv7 } from '../src/core/ids.ts'
import { type Database, openDatabase } from '../src/db/client.ts'
import { eventBit } from '../src/notifications/events.ts'
import { editEndpoint, insertEvents } from '../src/notifications/store.ts'
import { startBrowser } from '../test/support/browser.ts'
import { type Context, contenderOf, preparePostgres, startServer, warmUp } from './context.ts'
import { fillAccounts, onDatabase } from './fill.ts'
import { residentBytes } from './machine.ts'
import type { Sample } from './measure.ts'
import { ratioOf, SUMMARY_COLUMNS, SUMMARY_NOTE, short, summarize, summaryCells } from './report.ts'
import type { RunningServer } from './servers.ts'
import { median } from './statistics.ts'
import { accountIdOf, keyOf, type Workload } from './workload.ts'

const RANGE = { first: 0, accounts: 2, agents: 100 }
const WORKLOAD: Workload = { kind: 'clear', transport: 'rest', firstAccount: 0, accounts: 1, agents: 1, distribution: 'uniform' }
/** The account whose events are delivered. */
const NOTIFIED = 1
const ENDPOINTS = 8
/** Ten thousand messages: one of each to each endpoint. */
const EVENTS = 1_250
const MESSAGES = ENDPOINTS * EVENTS
const STREAMS = 400
/** The next round begins when so many are delivered; those that failed wait for their next attempt. */
const DELIVERED = 0.9
const WAITERS = 1_000
const VISITS = 15
const MIB = 1 << 20
const KIB = 1 << 10

/** What people cost: messages to them, their waiting agents, their dashboard. */
export async function humans(context: Context): Promise<void> {
  const url = await preparePostgres(context, 'bench_humans', (sql) => fillAccounts(sql, RANGE))
  const server = await startServer(context, {
    url,
    dataDir: context.folder,
    environment: { OUTBOUND_ALLOW_PRIVATE: 'true', SIGNUP_TRIAL_OPS: '1000' },
  })
  await warmUp(context, [server], WORKLOAD)
  await dashboard(context, server)
  await waiters(context, server)
  await outbox(context, server, url)
  await server.stop()
}

/** Clearances while the outbox has ten thousand messages for receivers that fails now and then, against those while it has none. */
async function outbox(context: Context, server: RunningServer, url: string): Promise<void> {
  const { cleanup, effort, report } = context
  const receiver = cleanup.add(startReceiver(), (started) => started.close())
  await once(receiver, 'listening')
  const database = await openDatabase({ url, dataDir: context.folder })
  const samples = new Map<string, Sample[]>()
  const measured = async (name: string): Promise<void> => {
    const sample = await contenderOf(context, { name, workload: WORKLOAD, servers: [server], connections: 64 }).run()
    samples.set(name, [...(samples.get(name) ?? []), sample])
  }
  const sent = (): Promise<number> =>
    onDatabase(url, async (sql) => Number((await sql.unsafe('select count(*) as n from outbox where state <> 0'))[0]?.n))
  const delivered: number[] = []
  try {
    for (let index = 0; index < ENDPOINTS; index++)
      await notify(database, `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/${index}`)
    for (let round = 0; round < effort.rounds; round++) {
      await measured('nothing to deliver')
      const before = await sent()
      await queue(database, EVENTS)
      // What the filling itself leaves behind for others to do is not what is measured.
      await onDatabase(url, (sql) => sql.unsafe('vacuum analyze outbox'))
      const atStart = await sent()
      await measured('10,000 messages to deliver')
      delivered.push((await sent()) - atStart)
      while ((await sent()) < before + DELIVERED * MESSAGES) await sleep(200)
    }
  } finally {
    await database.close()
  }
  const ratio = ratioOf(samples.get('10,000 messages to deliver'), samples.get('nothing to deliver'))
  report.samples('outbox', samples)
  report.table({
    title: 'Clearances beside deliveries',
    note: `One hot agent, 64 connections. The receiver of the webhooks fails one in twenty; ${short(median(delivered))} messages were delivered during a burst, the others after it. ${SUMMARY_NOTE}`,
    columns: ['', '÷ nothing to deliver', ...SUMMARY_COLUMNS],
    rows: [...samples].map(([name, own]) => [
      name,
      short(ratioOf(own, samples.get('nothing to deliver'))),
      ...summaryCells(summarize(own)),
    ]),
  })
  report.target({
    what: 'REST clear with 10,000 messages to deliver ÷ with none',
    wanted: '0.95',
    measured: short(ratio),
    isMet: ratio >= 0.95,
  })
}

function startReceiver(): Server {
  let count = 0
  return createServer((request, response) => {
    request.resume()
    request.on('end', () => {
      count++
      if (count % 40 === 0) request.socket.destroy()
      else response.writeHead(count % 40 === 20 ? 500 : 204).end()
    })
  }).listen(0, '127.0.0.1')
}

async function notify(database: Database, target: string): Promise<void> {
  const row = {
    accountId: accountIdOf(NOTIFIED),
    endpointId: uuidv7(Date.now()),
    role: 'webhook' as const,
    kind: 'webhook' as const,
    name: 'receiver',
    target,
    secret: `whsec_${Buffer.alloc(32).toString('base64')}`,
    eventMask: eventBit('key.created'),
    thresholds: [],
    enabled: true,
    createdMs: 0,
    verifiedMs: null,
  }
  await editEndpoint(database, row.accountId, { kind: 'insert', row }, async () => {})
}

async function queue(database: Database, count: number): Promise<void> {
  for (let from = 0; from < count; from += 1000) {
    const events = Array.from({ length: Math.min(1000, count - from) }, (_, index) => {
      const atMs = Date.now()
      const stream = `s${(from + index) % STREAMS}`
      return { accountId: accountIdOf(NOTIFIED), id: uuidv7(atMs), name: 'key.created' as const, stream, atMs, data: { stream } }
    })
    await insertEvents(database.sql, true, events)
  }
}

/** A thousand agents that wait for a human's decision. */
async function waiters({ report }: Context, server: RunningServer): Promise<void> {
  const call = async (path: string, key: string, body?: unknown): Promise<Record<string, unknown>> => {
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, {
      method: body === undefined ? 'GET' : 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    return (await response.json()) as Record<string, unknown>
  }
  const { approval_id } = await call('/v1/approval/request', keyOf(0), { agent_id: 'agent-0', action: 'wait' })
  const before = residentBytes(server.pid)
  const agent = new Agent({ keepAlive: false, maxSockets: WAITERS })
  const waiting = Array.from({ length: WAITERS }, () =>
    get({
      agent,
      port: server.port,
      host: '127.0.0.1',
      path: `/v1/approval/check/${String(approval_id)}?wait_seconds=20`,
      headers: { authorization: `Bearer ${keyOf(0)}` },
    }).on('error', () => {}),
  )
  await sleep(5_000)
  const grown = (residentBytes(server.pid) - before) / MIB
  for (const request of waiting) request.destroy()
  agent.destroy()
  report.target({
    what: '1,000 agents waiting for a decision, memory more',
    wanted: 'under 50 MiB',
    measured: `${short(grown)} MiB`,
    isMet: grown < 50,
  })
}

/** The dashboard of an account with a hundred agents, in Chromium. */
async function dashboard({ cleanup, report }: Context, server: RunningServer): Promise<void> {
  const origin = `http://127.0.0.1:${server.port}`
  const browser = cleanup.add(await startBrowser(), (started) => started.close())
  const page = await browser.newPage()
  await page.goto(`${origin}/dashboard`)
  await page.fill('input[name=api_key]', keyOf(0))
  await Promise.all([page.waitForURL(`${origin}/dashboard`), page.press('input[name=api_key]', 'Enter')])
  const session = await browser.newPage()
  await session.context().addCookies(await page.context().cookies())
  const paints: number[] = []
  const bytes: number[] = []
  for (let visit = 0; visit < VISITS; visit++) {
    await session.goto(`${origin}/dashboard`, { waitUntil: 'load' })
    const [paint, sent] = (await session.evaluate(`new Promise((resolve) => {
      const done = () => {
        const paint = performance.getEntriesByName('first-contentful-paint')[0]
        if (paint === undefined) return void setTimeout(done, 20)
        const entries = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
        resolve([paint.startTime, entries.reduce((sum, entry) => sum + entry.encodedBodySize, 0)])
      }
      done()
    })`)) as [number, number]
    paints.push(paint)
    bytes.push(sent)
  }
  await browser.close()
  const paint = median(paints)
  const size = Math.max(...bytes) / KIB
  report.target({
    what: 'dashboard, first contentful paint',
    wanted: 'under 200 ms',
    measured: `${short(paint)} ms`,
    isMet: paint < 200,
  })
  report.target({ what: 'dashboard, all it loads', wanted: 'under 100 KiB', measured: `${short(size)} KiB`, isMet: size < 100 })
}
