import { connect, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { type Server, startServer } from '../support/server.ts'

const PEERS = 200
const DRIP_MS = 500
/** headersTimeout or requestTimeout of src/main.ts, and one round of looking at them. */
const HEADERS_LIMIT_MS = 15_000 + 5_000
const REQUEST_LIMIT_MS = 30_000 + 5_000
const SLACK_MS = 10_000

describe('peers that send slowly on purpose', () => {
  let server: Server
  let client: Client
  beforeAll(async () => {
    server = await startServer()
    client = new Client(() => server.origin)
  })
  afterAll(async () => {
    client?.close()
    await server?.stop()
  })

  /** Sends `head`, then a byte every half second, until the server ends it. */
  function drip(head: string): { ended: Promise<{ after_ms: number; answer: string }>; socket: Socket } {
    const started = performance.now()
    const socket = connect(server.port, '127.0.0.1')
    let answer = ''
    socket.setEncoding('latin1').on('data', (text: string) => {
      answer += text
    })
    socket.on('error', () => {})
    socket.write(head)
    const timer = setInterval(() => socket.write('a'), DRIP_MS)
    const ended = new Promise<{ after_ms: number; answer: string }>((resolve) => {
      socket.once('close', () => {
        clearInterval(timer)
        resolve({ after_ms: performance.now() - started, answer })
      })
    })
    return { ended, socket }
  }

  it('keep nobody else waiting and are cut off, in the head as in the body', async () => {
    const heads = Array.from({ length: PEERS }, () => drip('GET /v1/account HTTP/1.1\r\nHost: x\r\nX-A: '))
    const body = 'POST /v1/budget/clear HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 60000\r\n\r\n{'
    // With a key: a request without one is answered before its body is read.
    const { key } = await client.createAccount(10)
    const bodies = Array.from({ length: PEERS }, () => drip(body.replace('Host: x', `Host: x\r\nAuthorization: Bearer ${key}`)))
    await sleep(2_000)
    expect((await client.send({ method: 'GET', path: '/v1/account', key, timeout_ms: 5_000 })).status).toBe(200)
    for (const { after_ms, answer } of await Promise.all(heads.map(({ ended }) => ended))) {
      expect(after_ms).toBeLessThan(HEADERS_LIMIT_MS + SLACK_MS)
      expect(answer).toMatch(/^HTTP\/1\.1 408 /)
    }
    for (const { after_ms } of await Promise.all(bodies.map(({ ended }) => ended)))
      expect(after_ms).toBeLessThan(REQUEST_LIMIT_MS + SLACK_MS)
    expect((await client.send({ method: 'GET', path: '/v1/account', key })).status).toBe(200)
    expect(server.logs()).not.toContain('unexpected failure')
  })
})
