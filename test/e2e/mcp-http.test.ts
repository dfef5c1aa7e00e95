import { request } from 'node:http'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { type Server, startServer } from '../support/server.ts'

const LIMIT_BYTES = 64 * 1024

type Answer = { status: number; body: string }
type Sent = { headers?: Record<string, string>; chunks: string[] }

describe('MCP over a real connection', () => {
  let server: Server
  let rest: Client
  let key: string
  beforeAll(async () => {
    server = await startServer({ env: { SIGNUP_TRIAL_OPS: '100' } })
    rest = new Client(server.origin)
    key = (await rest.createAccount()).key
  })
  afterAll(async () => {
    rest?.close()
    await server?.stop()
  })

  /** Sends the chunks as they are, with `Transfer-Encoding: chunked` unless a length is given. */
  function post({ headers, chunks }: Sent): Promise<Answer> {
    const all = { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers }
    return new Promise((resolve, reject) => {
      const outgoing = request(`${server.origin}/mcp`, { method: 'POST', headers: all }, (incoming) => {
        let body = ''
        incoming.setEncoding('utf8').on('data', (text: string) => {
          body += text
        })
        incoming.on('end', () => resolve({ status: incoming.statusCode ?? 0, body }))
      })
      // A server that has seen enough answers and closes while we still write; the answer is what counts.
      outgoing.on('error', (error: NodeJS.ErrnoException) => {
        if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') reject(error)
      })
      for (const chunk of chunks) outgoing.write(chunk)
      outgoing.end()
    })
  }
  const balance = JSON.stringify({ jsonrpc: '2.0', id: 7, method: 'tools/call', params: { name: 'get_balance' } })

  it('reads a body that comes in chunks without a declared length', async () => {
    const { status, body } = await post({ chunks: [balance.slice(0, 20), balance.slice(20)] })
    expect(status).toBe(200)
    expect(JSON.parse(body)).toMatchObject({ id: 7, result: { structuredContent: { operations_remaining: 100 } } })
  })

  it('stops reading above 64 KiB, declared or not', async () => {
    const half = 'x'.repeat(LIMIT_BYTES / 2 + 1)
    for (const headers of [{}, { 'content-length': String(2 * half.length) }])
      expect(await post({ headers, chunks: [half, half] })).toMatchObject({ status: 413 })
    expect(await post({ chunks: [balance] })).toMatchObject({ status: 200 })
  })

  it('answers to loopback names only, before it looks at the key', async () => {
    for (const host of ['evil.example', `evil.example:${server.port}`, '10.0.0.1'])
      expect(await post({ headers: { host, authorization: 'Bearer bg_none' }, chunks: [balance] })).toMatchObject({ status: 403 })
    expect(await post({ headers: { host: `localhost:${server.port}` }, chunks: [balance] })).toMatchObject({ status: 200 })
  })

  it('gives one key the same view over MCP and REST', async () => {
    const set = { name: 'set_envelope', arguments: { agent_id: 'crawler', limit_usd: 3 } }
    const message = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: set })
    expect((await post({ chunks: [message] })).status).toBe(200)
    expect((await rest.getEnvelope(key, 'crawler')).body).toMatchObject({ limit_usd: 3, spent_usd: 0 })
  })
})
