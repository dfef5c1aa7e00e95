import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { ManualClock, SyncedClock } from '../../../src/core/clock.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { createLog } from '../../../src/core/log.ts'
import { SecretBox } from '../../../src/core/secrets.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { type Deliverable, Delivery, type Result } from '../../../src/notifications/delivery.ts'
import { type DomainEvent, EVENTS, type EventName, maskOf, type Priority } from '../../../src/notifications/events.ts'
import { Outbound } from '../../../src/notifications/outbound.ts'
import { EndpointSealing } from '../../../src/notifications/sealing.ts'
import { claimMessages, editEndpoint, insertEvents, oldestDue } from '../../../src/notifications/store.ts'
import { OutboxWorker, type WorkerOptions } from '../../../src/notifications/worker.ts'
import { expectStatus, openTestApp } from '../../support/app.ts'
import { createTestDatabase, describeEachDatabase } from '../../support/databases.ts'
import { press, requestApproval, until } from '../../support/humans.ts'
import { startMailbox } from '../../support/mailbox.ts'

type Arrival = { readonly path: string; readonly id: string; readonly type: string; readonly stream: string; readonly n: number }
type Receiver = {
  readonly origin: string
  readonly arrivals: Arrival[]
  /** How many requests were not answered yet. */
  readonly held: () => number
  /** Answers what is held, and from now on everything. */
  release(): void
  close(): Promise<void>
}

/**
 * Receivers behind one port. What comes to `/held…` is not answered before `release` (to `/mixed`: what is ordinary), `/dead…` answers 500,
 * `/flaky…` does the first time, and the others take everything.
 */
async function startReceivers(): Promise<Receiver> {
  const arrivals: Arrival[] = []
  const waiting = new Set<ServerResponse>()
  const seen = new Set<string>()
  let isReleased = false
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const { type = 'notice', data = {} } = JSON.parse(Buffer.concat(chunks).toString()) as { type?: string; data?: Arrival }
      const path = request.url ?? ''
      const id = String(request.headers['webhook-id'])
      const isFirst = !seen.has(id)
      seen.add(id)
      arrivals.push({ path, id, type, stream: (data as Arrival).stream, n: (data as Arrival).n })
      if (path.startsWith('/dead') || (path.startsWith('/flaky') && isFirst)) return void response.writeHead(500).end()
      const isHeld = path.startsWith('/held') || (path.startsWith('/mixed') && type === 'rate.exceeded')
      if (!isHeld || isReleased) return void response.writeHead(204).end()
      waiting.add(response)
      response.on('close', () => waiting.delete(response))
    })
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    arrivals,
    held: () => waiting.size,
    release() {
      isReleased = true
      for (const response of waiting) response.writeHead(204).end()
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
}

const eventually = (holds: Parameters<typeof until>[0], what: string) => until(holds, what, 30_000)

describeEachDatabase('what somebody waits for', (openTestDatabase, kind) => {
  let database: Database
  let receiver: Receiver
  let accountId: string
  const undo: (() => Promise<unknown>)[] = []

  beforeAll(async () => {
    database = await openTestDatabase()
  })
  beforeEach(async () => {
    await database.sql.unsafe('delete from outbox')
    receiver = await startReceivers()
    accountId = await addAccount()
  })
  afterEach(async () => {
    receiver.release()
    for (const step of undo.splice(0).reverse()) await step()
    await receiver.close()
  })

  async function addAccount(): Promise<string> {
    const id = uuidv7(Date.now())
    await database.sql.unsafe('insert into accounts (account_id, ops, clock_ms, created_ms) values ($1, 0, 0, 0)', [id])
    return id
  }
  async function addWebhook(path: string, events: readonly EventName[], account = accountId): Promise<string> {
    const endpointId = uuidv7(Date.now())
    const row = {
      accountId: account,
      endpointId,
      role: 'webhook' as const,
      kind: 'webhook' as const,
      name: path,
      target: `${receiver.origin}${path}`,
      secret: `whsec_${Buffer.alloc(32).toString('base64')}`,
      eventMask: maskOf(events),
      thresholds: [],
      enabled: true,
      createdMs: 0,
      verifiedMs: null,
    }
    await editEndpoint(database, account, { kind: 'insert', row }, async () => {})
    return endpointId
  }
  /** The n-th event of a stream. */
  function eventOf(name: EventName, stream: string, n: number, account = accountId): DomainEvent {
    const atMs = Date.now()
    return { accountId: account, id: uuidv7(atMs), name, stream, atMs, data: { stream, n } }
  }
  /** As many streams as there are events: all of them are due. */
  async function queue(name: EventName, kind: 'agent' | 'approval', count: number, account = accountId): Promise<void> {
    const events = Array.from({ length: count }, (_, n) => eventOf(name, `${kind}:${n}`, n, account))
    for (let at = 0; at < count; at += 500) await insertEvents(database.sql, true, events.slice(at, at + 500))
  }
  /** @returns what it has attempted, by the receiver's path */
  function startWorker(options: Partial<WorkerOptions> = {}, timeout_ms = 60_000) {
    const outbound = new Outbound({ allowPrivate: true, timeout_ms })
    const attempts = new Map<string, { underWay: number; ended: number }>()
    class Counted extends Delivery {
      override async deliver(message: Deliverable, now_ms: number): Promise<Result> {
        const path = new URL(message.endpoint?.target ?? '').pathname
        const count = attempts.get(path) ?? { underWay: 0, ended: 0 }
        attempts.set(path, count)
        count.underWay++
        const result = await super.deliver(message, now_ms)
        count.underWay--
        count.ended++
        return result
      }
    }
    const delivery = new Counted(
      {
        outbound,
        mailer: null,
        addressOf: async () => null,
        mayMail: async () => ({ allowed: true, retry_after_ms: 0 }),
        sealing: new EndpointSealing(new SecretBox([])),
      },
      { telegramUrl: receiver.origin, mailDomain: 'example.com' },
    )
    const worker = new OutboxWorker(
      { database, clock: new SyncedClock(), log: createLog('silent'), delivery },
      {
        concurrency: 8,
        perEndpoint: 4,
        poll_ms: 20,
        pause_ms: 5,
        busyUtilization: 1,
        backoff_ms: [3_600_000],
        ...options,
      },
    )
    worker.start()
    undo.push(async () => {
      await worker.stop()
      await outbound.close()
    })
    return { worker, attempts }
  }
  const arrivalsOf = (path: string) => receiver.arrivals.filter((one) => one.path === path)
  const states = async () => {
    const rows = await database.sql.unsafe('select state, count(*)::int as n from outbox group by state', [])
    return Object.fromEntries(rows.map(({ state, n }) => [['queued', 'sent', 'failed'][Number(state)], n]))
  }

  it('arrives on every channel while 2,000 messages wait for receivers that are slow, of the same account too', async () => {
    const mailbox = await startMailbox()
    undo.push(() => mailbox.close())
    const config = {
      SMTP_URL: mailbox.url,
      MAIL_FROM: 'Gvnr <gvnr@example.com>',
      OUTBOUND_ALLOW_PRIVATE: true,
      TELEGRAM_API_URL: `${receiver.origin}/telegram`,
    }
    // Ahead of what is queued below, which is due.
    const t = await openTestApp(database, { start: true, config, clock: new ManualClock(Date.now() + 60_000) })
    undo.push(() => t.stop())
    const owner = await t.createAccount()
    const post = async (path: string, body: object) => expectStatus(201, await t.api.post(path, body, owner.key))
    for (const number of [1, 2, 3, 4]) await addWebhook(`/held/${number}`, ['rate.exceeded'])
    await post('/v1/webhooks', { url: `${receiver.origin}/mixed`, events: [...EVENTS] })
    await post('/v1/account/channels', { kind: 'slack', url: `${receiver.origin}/slack` })
    await post('/v1/account/channels', { kind: 'telegram', bot_token: `1:${'x'.repeat(30)}`, chat_id: '5' })
    await t.api.post('/v1/account/notification-email', { email: 'owner@example.com' }, owner.key)
    await queue('rate.exceeded', 'agent', 400)
    await queue('rate.exceeded', 'agent', 400, owner.accountId)
    const claimed = async () => (await database.sql.unsafe('select count(*)::int as n from outbox where attempts > 0', []))[0]?.n
    await eventually(async () => (await claimed()) === 32, 'slow receivers to hold all there is')

    const { approval_id } = await requestApproval(t.api, owner.key)
    await eventually(() => mailbox.mails.length === 1, 'the mail')
    for (const path of ['/slack', '/mixed'])
      await eventually(() => arrivalsOf(path).some(({ type }) => type !== 'rate.exceeded'), path)
    await eventually(() => receiver.arrivals.some(({ path }) => path.startsWith('/telegram')), 'telegram')
    await press(t.app, approval_id, 'approved')
    const ofMixed = () => arrivalsOf('/mixed').flatMap(({ type }) => (type === 'rate.exceeded' ? [] : [type]))
    await eventually(() => ofMixed().length === 2, 'the decision')
    expect(ofMixed()).toEqual(['approval.requested', 'approval.decided'])
    expect(receiver.arrivals.filter(({ type }) => type === 'rate.exceeded').length).toBeLessThan(200)
  }, 60_000)

  it('goes first in a busy process', async () => {
    await addWebhook('/all', ['rate.exceeded', 'approval.requested'])
    await queue('rate.exceeded', 'agent', 500)
    const { worker } = startWorker({ concurrency: 32, perEndpoint: 32, busyUtilization: -1 })
    await eventually(() => receiver.arrivals.length > 0, 'the first message')
    await insertEvents(database.sql, true, [eventOf('approval.requested', 'approval:x', 0)])
    worker.wake('urgent')
    await eventually(() => receiver.arrivals.some(({ type }) => type === 'approval.requested'), 'the notice')
    expect(receiver.arrivals.length).toBeLessThan(100)
  })

  it('leaves the rest moving, however much there is of it', async () => {
    await addWebhook('/held/1', ['approval.requested'])
    await addWebhook('/held/2', ['approval.requested'])
    await addWebhook('/rest', ['rate.exceeded'])
    await queue('approval.requested', 'approval', 1000)
    await queue('rate.exceeded', 'agent', 100)
    startWorker()
    await eventually(() => receiver.held() === 8, 'urgent messages to take all there is')
    await eventually(() => arrivalsOf('/rest').length === 100, 'the others')
    expect(receiver.held()).toBe(8)
  })

  it('does not stand behind what a receiver refuses', async () => {
    await addWebhook('/dead', ['approval.requested'])
    await queue('approval.requested', 'approval', 1500)
    const other = await addAccount()
    await addWebhook('/well', ['approval.requested'], other)
    await queue('approval.requested', 'approval', 1, other)
    // Busy, so that those that were refused are done with when it claims again.
    startWorker({ busyUtilization: -1 })
    await eventually(() => arrivalsOf('/well').length === 1, 'the other receiver')
    expect(arrivalsOf('/dead').length).toBeLessThan(300)
  })

  it('does not stand behind receivers that hang: once they are known, all of them have the places of one', async () => {
    const hanging = Array.from({ length: 6 }, (_, n) => `/held/${n}`)
    for (const path of hanging) await addWebhook(path, ['approval.requested'])
    await queue('approval.requested', 'approval', 200)
    const other = await addAccount()
    await addWebhook('/well', ['approval.requested'], other)
    const { attempts } = startWorker({}, 200)
    const ended = () => hanging.map((path) => attempts.get(path)?.ended ?? 0)
    const sum = (numbers: readonly number[]) => numbers.reduce((all, n) => all + n, 0)
    await eventually(() => Math.min(...ended()) >= 3, 'all of them to be known')
    const known = sum(ended())
    await eventually(() => sum(ended()) >= known + 8, 'what was under way before they were')
    let most = 0
    const watch = setInterval(() => {
      most = Math.max(most, sum(hanging.map((path) => attempts.get(path)?.underWay ?? 0)))
    }, 5)
    undo.push(async () => clearInterval(watch))
    await queue('approval.requested', 'approval', 50, other)
    await eventually(() => arrivalsOf('/well').length === 50, 'the receiver that is well')
    const then = sum(ended())
    await eventually(() => sum(ended()) >= then + 8, 'more attempts at the others')
    expect(most).toBe(4)
  }, 60_000)

  it('comes in the order of its stream and once, among many others, through two workers', async () => {
    await addWebhook('/flaky', ['rate.exceeded', 'approval.requested', 'approval.decided'])
    const ordinary = Array.from({ length: 1500 }, (_, n) => eventOf('rate.exceeded', `agent:${n % 150}`, Math.floor(n / 150)))
    const urgent = Array.from({ length: 120 }, (_, n) =>
      eventOf(n < 60 ? 'approval.requested' : 'approval.decided', `approval:${n % 60}`, Math.floor(n / 60)),
    )
    for (let at = 0; at < 1500; at += 500) await insertEvents(database.sql, true, ordinary.slice(at, at + 500))
    await insertEvents(database.sql, true, urgent)
    const options = { perEndpoint: 8, backoff_ms: Array.from({ length: 20 }, () => 30) }
    for (let n = 0; n < 2; n++) startWorker(options)
    await eventually(async () => (await states()).queued === undefined, 'everything')

    expect(await states()).toEqual({ sent: 1620 })
    // The first attempt of each was refused: what came the second time was taken.
    const first = new Set<string>()
    const taken = receiver.arrivals.filter(({ id }) => first.has(id) || !first.add(id))
    expect(taken).toHaveLength(1620)
    expect(new Set(taken.map(({ id }) => id)).size).toBe(1620)
    const streams = new Map<string, number[]>()
    for (const { stream, n } of taken) streams.set(stream, [...(streams.get(stream) ?? []), n])
    expect(streams.size).toBe(210)
    for (const [stream, numbers] of streams) expect(numbers, stream).toEqual(numbers.map((_, n) => n))
    // Queued last, and done before half of the others.
    const last = taken.findLastIndex(({ type }) => type.startsWith('approval.'))
    expect(taken.slice(0, last).filter(({ type }) => type === 'rate.exceeded').length).toBeLessThan(750)
  }, 90_000)

  it('waits for its turn where the release before queued what comes first in its stream', async () => {
    const endpointId = await addWebhook('/flaky', ['approval.requested', 'approval.decided', 'rate.exceeded'])
    const { id, atMs, data } = eventOf('approval.requested', 'approval:x', 0)
    await database.sql.unsafe(
      `insert into outbox (account_id, endpoint_id, event_id, event, stream, body, state, attempts, at_ms, due_ms)
       values ($1, $2, $3, 'approval.requested', 'approval:x', $4, 0, 0, $5, $5)`,
      [accountId, endpointId, id, JSON.stringify(data), String(atMs)],
    )
    await insertEvents(database.sql, true, [eventOf('approval.decided', 'approval:x', 1)])
    startWorker({ backoff_ms: [30, 30, 30] })
    await eventually(async () => (await states()).queued === undefined, 'both')
    expect(receiver.arrivals.map(({ n }) => n)).toEqual([0, 0, 1, 1])
  })

  it('is known with the rest to whoever asks how long the oldest message has been due', async () => {
    expect(await oldestDue(database)).toBeNull()
    await addWebhook('/all', ['rate.exceeded', 'approval.requested'])
    const due = [eventOf('rate.exceeded', 'agent:a', 0), { ...eventOf('approval.requested', 'approval:x', 0), atMs: 5 }]
    await insertEvents(database.sql, true, due.slice(0, 1))
    expect(await oldestDue(database)).toBe(due[0]!.atMs)
    await insertEvents(database.sql, true, due.slice(1))
    expect(await oldestDue(database)).toBe(5)
  })

  describe('is found by the index', () => {
    const ROWS = 20_000
    /** One connection: each reports for itself what it has read. */
    let one: Database
    beforeEach(async () => {
      const sql = await database.sql.reserve()
      undo.push(async () => sql.release())
      one = { ...database, sql }
    })
    /** Index entries and rows that were read from the table by whatever was done. */
    async function rowsRead(work: () => Promise<unknown>): Promise<number> {
      const read = async () => {
        await one.sql.unsafe('select pg_stat_force_next_flush()')
        const [row] = await one.sql.unsafe(
          `select (select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'outbox')
             + (select seq_tup_read from pg_stat_user_tables where relname = 'outbox') as n`,
        )
        return Number(row?.n)
      }
      const before = await read()
      await work()
      return (await read()) - before
    }
    const fill = (priority: Priority) =>
      one.sql.unsafe(
        `insert into outbox (account_id, endpoint_id, event_id, event, stream, body, state, attempts, at_ms, due_ms, urgent)
         select $1, $2, gen_random_uuid(), 'rate.exceeded', 's' || g, '{}', 0, 0, g, g, $3 from generate_series(1, ${ROWS}) g`,
        [accountId, uuidv7(Date.now()), priority === 'urgent'],
      )
    const claim = (priority: Priority) =>
      claimMessages(one, { priority, now_ms: ROWS * 2, lease_ms: ROWS, limit: 8, perEndpoint: 8, counted: [] })

    it.each([
      ['urgent', 'ordinary'],
      ['ordinary', 'urgent'],
    ] as const)('when it is %s and thousands of the others wait, whatever the statistics say', async (priority, others) => {
      // The statistics of a table in which nearly all are what is claimed below.
      await fill(priority)
      await one.sql.unsafe('analyze outbox')
      await one.sql.unsafe('truncate outbox')
      await fill(others)
      expect(await rowsRead(() => claim(priority))).toBeLessThan(100)
      await one.sql.unsafe('analyze outbox')
      expect(await rowsRead(() => claim(priority))).toBeLessThan(100)
      expect(await claim(others)).toHaveLength(8)
    })

    it.each(['urgent', 'ordinary'] as const)(
      'and not all of them fetched by a plan that was made when no %s one waited',
      async (priority) => {
        const home = await createTestDatabase(kind)
        const fresh = await openDatabase(home)
        const sql = await fresh.sql.reserve()
        undo.push(async () => {
          sql.release()
          await fresh.close()
          await home.drop()
        })
        one = { ...fresh, sql }
        // A plan is kept after the fifth time.
        for (let n = 0; n < 10; n++) await claim(priority)
        await fill(priority)
        // It looks at 500, and fetches those that it takes.
        expect(await rowsRead(() => claim(priority))).toBeLessThan(1000)
      },
    )
  })
})
