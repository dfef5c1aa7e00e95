import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { operations } from '../../src/operations.ts'
import { Client, UnansweredError } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { openSql, type TestSql } from '../support/load.ts'
import { ADMIN_SECRET, type Server, startServer } from '../support/server.ts'

const CRLF = '\r\n'

describe('the logs', () => {
  let home: TestDatabase
  let sql: TestSql
  let server: Server
  let client: Client

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    server = await startServer({ databaseUrl: home.url, env: { LOG_LEVEL: 'trace' } })
    client = new Client(() => server.origin)
  })
  afterAll(async () => {
    client?.close()
    await server?.stop()
    await sql?.end()
    await home?.drop()
  })

  const raw = (bytes: string) =>
    new Promise<void>((resolve) => {
      const socket = connect(server.port, '127.0.0.1')
      socket.on('data', () => {})
      socket.on('error', () => {})
      socket.on('close', () => resolve())
      socket.end(bytes)
    })

  it('hold no key and no secret, whatever happens', async () => {
    const { key } = await client.createAccount(50)
    const agent = await client.createKey(key, { scope: 'agent', agent_id: 'a' })
    const revoked = await client.createKey(key, {})
    await client.send({ method: 'DELETE', path: `/v1/account/keys/${revoked.keyId}`, key })
    const expired = await client.createKey(key, { expires_in_seconds: 1 })
    await new Promise((resolve) => setTimeout(resolve, 1100))
    const unknown = `bg_${'7'.repeat(32)}`
    const upper = `BG_${'AB'.repeat(16)}`
    const keys = [key, agent.key, revoked.key, expired.key, unknown, upper]

    for (const one of keys) {
      for (const { method, path } of operations) {
        const request = { method: method.toUpperCase() as 'GET', path: path.replaceAll(/\{\w+\}/g, 'a') }
        const body =
          method === 'get' ? undefined : { agent_id: 'a', key: one, name: one, api_key: one, email: `${one}@example.com` }
        await client.send({ ...request, body, key: one })
        await client.send({ ...request, body, headers: { 'x-api-key': one } })
        for (const parameter of ['api_key', 'key', 'access_token', 'token', 'x'])
          await client.send({ ...request, body, path: `${request.path}?a=b&${parameter}=${one}&c=d` })
        await client.send({ ...request, body, path: `${request.path}?api_key=${one.replace('_', '%5F')}` })
        await client.send({
          ...request,
          body,
          headers: { authorization: `Basic ${one}`, 'x-request-id': one, 'idempotency-key': one },
        })
        await client.send({ ...request, body: '{"broken', key: one })
      }
      for (const path of [
        `/v1/${one}`,
        `/v1/budget/envelope/${one}`,
        `/v1/rate/envelope/${one}/${one}/${one}`,
        `/v1/none?api_key=${one}`,
      ])
        await client.send({ method: 'GET', path, key: one })
      await client.clear(key, { agent_id: one, model: one, estimated_tokens: 1 })
      await client.setEnvelope(key, { agent_id: one, limit_usd: 1 })
      await client.clear(key, { agent_id: one, model: one, estimated_tokens: 1 }, { idempotencyKey: one })
      await client.send({ method: 'POST', path: '/v1/admin/seed', admin: true, body: { api_key: one, operations: 1 } })
      await client.send({
        method: 'POST',
        path: '/v1/admin/seed',
        headers: { 'x-admin-token': `${ADMIN_SECRET}x` },
        body: { api_key: one },
      })
      await client.send({
        method: 'POST',
        path: '/v1/admin/seed',
        headers: { authorization: `Bearer ${ADMIN_SECRET}` },
        body: {},
      })
      await raw(`GET /v1/acc ount?api_key=${one} HTTP/1.1${CRLF}Host: x${CRLF}Authorization: Bearer ${one}${CRLF}${CRLF}`)
      await raw(`GET /v1/account?api_key=${one} HTTP/1.1${CRLF}Authorization: Bearer ${one}${CRLF}${CRLF}`)
      await raw(`POST /v1/budget/clear?api_key=${one} HTTP/1.1${CRLF}Host: x${CRLF}Content-Length: 50${CRLF}${CRLF}{"x":"${one}`)
    }

    // Failures that nobody foresaw: their messages and stacks are logged too.
    await sql`alter table envelopes rename to envelopes_gone`
    await sql`alter table api_keys rename to api_keys_gone`
    for (const one of keys) {
      const failed = await client.send({ method: 'GET', path: `/v1/budget/envelope?api_key=${one}` })
      expect([401, 500]).toContain(failed.status)
      await client.clear(key, { agent_id: one, model: one, estimated_tokens: 1 })
      await client.send({ method: 'POST', path: '/v1/account/keys', key, body: { name: one }, idempotencyKey: one })
    }
    await sql`alter table envelopes_gone rename to envelopes`
    await sql`alter table api_keys_gone rename to api_keys`
    // The connections break under a request.
    const broken = client.clear(key, { agent_id: key, model: key, estimated_tokens: 1 }).catch((error: unknown) => {
      if (!(error instanceof UnansweredError)) throw error
    })
    await sql`select pg_terminate_backend(pid) from pg_stat_activity
      where application_name = 'gvnr' and datname = current_database()`
    await broken
    await server.kill('SIGTERM')

    const logs = server.logs()
    // The test is worth something: requests were logged with their paths, and failures with their stacks.
    expect(logs.match(/"msg":"request"/g)?.length).toBeGreaterThan(1000)
    expect(logs).toContain('unexpected failure')
    expect(logs).toContain('/v1/budget/envelope')
    expect(logs).not.toContain(ADMIN_SECRET)
    for (const one of keys) expect(logs.toLowerCase()).not.toContain(one.slice(3).toLowerCase())
    expect(logs).not.toMatch(/bg_[0-9a-f]{32}/i)
  })
})
