import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { uuidv7 } from '../../../src/core/ids.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { eventBit } from '../../../src/notifications/events.ts'
import { editEndpoint, insertEvents } from '../../../src/notifications/store.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { until } from '../../support/humans.ts'

const EVENTS = 10_000
const STREAMS = 400
const CHILD = fileURLToPath(new URL('./worker-child.ts', import.meta.url))

describe('the outbox with a receiver that fails in every way', () => {
  let home: TestDatabase
  let database: Database
  let receiver: Server
  const children: ChildProcess[] = []
  /** Per stream, the numbers of the events in the order in which the receiver took them. */
  const taken = new Map<string, number[]>()
  let requests = 0

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    database = await openDatabase(home)
    receiver = createServer((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        requests++
        const fate = Math.random()
        if (fate < 0.04) return void response.writeHead(500).end()
        if (fate < 0.07) return void request.socket.destroy()
        if (fate < 0.08) return // never answers
        const { data } = JSON.parse(Buffer.concat(chunks).toString()) as { data: { stream: string; n: number } }
        taken.set(data.stream, [...(taken.get(data.stream) ?? []), data.n])
        // Taken, and the sender may never learn of it.
        if (fate < 0.1) return void request.socket.destroy()
        response.writeHead(204).end()
      })
    }).listen(0, '127.0.0.1')
    await once(receiver, 'listening')
  })
  afterAll(async () => {
    for (const child of children) child.kill('SIGKILL')
    receiver.closeAllConnections()
    receiver.close()
    await database.close()
    await home.drop()
  })

  const startWorker = async (): Promise<ChildProcess> => {
    const child = spawn(process.execPath, ['--import', 'tsx', CHILD, home.url!], { stdio: ['ignore', 'pipe', 'inherit'] })
    children.push(child)
    await once(child.stdout!, 'data')
    return child
  }

  it(`delivers ${EVENTS} events at least once each and in order, through two workers and a SIGKILL`, async () => {
    const accountId = uuidv7(Date.now())
    const endpointId = uuidv7(Date.now())
    await database.sql.unsafe('insert into accounts (account_id, ops, clock_ms, created_ms) values ($1, 0, 0, 0)', [accountId])
    const target = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`
    const secret = `whsec_${Buffer.alloc(32).toString('base64')}`
    const edit = {
      kind: 'insert' as const,
      row: {
        accountId,
        endpointId,
        role: 'webhook' as const,
        kind: 'webhook' as const,
        name: 'flaky',
        target,
        secret,
        eventMask: eventBit('key.created'),
        thresholds: [],
        enabled: true,
        createdMs: 0,
        verifiedMs: null,
      },
    }
    await editEndpoint(database, accountId, edit, async () => {})
    const events = Array.from({ length: EVENTS }, (_, index) => {
      const atMs = Date.now()
      const stream = `s${index % STREAMS}`
      return {
        accountId,
        id: uuidv7(atMs),
        name: 'key.created' as const,
        stream,
        atMs,
        data: { stream, n: Math.floor(index / STREAMS) },
      }
    })
    for (let at = 0; at < EVENTS; at += 1000) await insertEvents(database.sql, true, events.slice(at, at + 1000))

    const states = async () => {
      const rows = await database.sql.unsafe('select state, count(*)::int as n from outbox group by state', [])
      const count = (state: number) => Number(rows.find((row) => row.state === state)?.n ?? 0)
      return { queued: count(0), sent: count(1), failed: count(2) }
    }
    const [victim] = await Promise.all([startWorker(), startWorker()])
    await until(async () => (await states()).sent > EVENTS / 3, 'a third of the deliveries', 120_000)
    victim.kill('SIGKILL')
    await startWorker()
    await until(async () => (await states()).queued === 0, 'the rest', 120_000)

    expect(await states()).toEqual({ queued: 0, sent: EVENTS, failed: 0 })
    expect(taken.size).toBe(STREAMS)
    for (const [stream, numbers] of taken) {
      const inOrder = numbers.filter((n, index) => numbers.indexOf(n) === index)
      expect(inOrder, stream).toEqual(Array.from({ length: EVENTS / STREAMS }, (_, n) => n))
      // Only the newest can come again: nothing is repeated after a later one was taken.
      expect(numbers, stream).toEqual([...numbers].sort((a, b) => a - b))
    }
    // The receiver did fail: there were more requests than events.
    expect(requests).toBeGreaterThan(EVENTS * 1.05)
  }, 300_000)
})
