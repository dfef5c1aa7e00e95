import { readFileSync } from 'node:fs'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { type Server, startServer } from '../support/server.ts'

type Decided = { decision: string; decided_at?: number; responder?: string; error?: string }

const RACES = 1000
const RACES_AT_ONCE = 12
/** An account may ask thirty times a minute. */
const RACES_PER_ACCOUNT = 25
const WAITERS = 1000
const MEBIBYTE = 1024 * 1024

describe('approvals on two processes', () => {
  let home: TestDatabase
  let servers: Server[]
  let clients: Client[]

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    servers = [await startServer({ databaseUrl: home.url }), await startServer({ databaseUrl: home.url })]
    clients = servers.map(({ origin }) => new Client(origin, { sockets: WAITERS + 64 }))
  })
  afterAll(async () => {
    for (const client of clients ?? []) client.close()
    for (const server of servers ?? []) await server.stop()
    await home?.drop()
  })
  const [first, second] = [() => clients[0]!, () => clients[1]!]

  const request = async (key: string, fields: Record<string, unknown>): Promise<string> => {
    const path = '/v1/approval/request'
    const { status, body } = await first().send<{ approval_id: string }>({ method: 'POST', path, key, body: fields })
    if (status !== 200) throw new Error(`no approval: ${status} ${JSON.stringify(body)}`)
    return body.approval_id
  }
  const decide = (client: Client, id: string, decision: string) =>
    client.send<Decided>({ method: 'POST', path: `/approve/${id}/decide`, body: { decision, responder: decision } })
  const check = (client: Client, key: string, id: string, wait = 0) =>
    client.send<Decided>({ method: 'GET', path: `/v1/approval/check/${id}?wait_seconds=${wait}`, key })

  it(`are decided once in ${RACES} races, and raise a limit once or never`, async () => {
    const outcomes = { approved: 0, denied: 0 }
    const race = async (key: string, agentId: string): Promise<void> => {
      await first().setEnvelope(key, { agent_id: agentId, limit_usd: 5 })
      const id = await request(key, { agent_id: agentId, action_summary: 'race', grant: { extra_usd: 1 } })
      const order = Math.random() < 0.5 ? (['approved', 'denied'] as const) : (['denied', 'approved'] as const)
      const answers = await Promise.all(
        order.flatMap((decision) => [decide(first(), id, decision), decide(second(), id, decision)]),
      )
      const [checked, again] = await Promise.all([check(first(), key, id), check(second(), key, id)])
      const seen = [...answers, checked, again]
      expect(seen.map(({ status }) => status)).toEqual(seen.map(() => 200))
      const told = new Set(seen.map(({ body }) => `${body.decision} at ${body.decided_at} by ${body.responder}`))
      expect([...told]).toHaveLength(1)
      const { decision } = checked.body
      expect(checked.body.responder).toBe(decision)
      if (decision !== 'approved' && decision !== 'denied') throw new Error(`decided as ${decision}`)
      outcomes[decision]++
      const envelope = (await second().getEnvelope(key, agentId)).body as { extra_usd?: number; remaining_usd: number }
      expect([envelope.extra_usd, envelope.remaining_usd]).toEqual(decision === 'approved' ? [1, 6] : [undefined, 5])
    }
    let next = 0
    const keys: string[] = []
    for (let n = 0; n < RACES / RACES_PER_ACCOUNT; n++) keys.push((await first().createAccount(1)).key)
    const runner = async (): Promise<void> => {
      for (let n = next++; n < RACES; n = next++) await race(keys[n % keys.length]!, `agent-${n}`)
    }
    await Promise.all(Array.from({ length: RACES_AT_ONCE }, runner))
    expect(outcomes.approved + outcomes.denied).toBe(RACES)
    // Both sides win at times: the races are races.
    expect(Math.min(outcomes.approved, outcomes.denied)).toBeGreaterThan(RACES / 20)

    const sql = postgres(home.url!, { max: 1 })
    const [counts] = await sql`
      select (select count(*) from approvals where decision is not null)::int as decided,
        (select count(*) from ledger where kind = 'approval')::int as entries,
        (select count(*) from ledger where kind = 'approval' and amount_nanousd = 1000000000)::int as raises`
    await sql.end()
    expect(counts).toEqual({ decided: RACES, entries: RACES, raises: outcomes.approved })
  })

  it(`let ${WAITERS} callers wait on one subscription and little memory`, async () => {
    const { key } = await first().createAccount(1)
    const id = await request(key, { agent_id: 'crawler', action_summary: 'wait for me' })
    const listeners = async (): Promise<number> => {
      const sql = postgres(home.url!, { max: 1 })
      const rows = await sql`select 1 from pg_stat_activity where datname = current_database() and query ilike 'listen%'`
      await sql.end()
      return rows.length
    }
    const before = { listeners: await listeners(), rss: rssOf(servers[1]!.pid) }
    // They wait on the process that the decision does not reach directly, each on a connection of its own.
    const waiting = Array.from({ length: WAITERS }, () => check(second(), key, id, 30))
    await new Promise((resolve) => setTimeout(resolve, 3000))
    const during = { listeners: await listeners(), rss: rssOf(servers[1]!.pid) }
    await decide(first(), id, 'approved')
    const answers = await Promise.all(waiting)
    expect(answers.every(({ status, body }) => status === 200 && body.decision === 'approved')).toBe(true)
    expect(during.listeners).toBe(before.listeners)
    expect(before.listeners).toBe(servers.length)
    expect((during.rss - before.rss) / MEBIBYTE).toBeLessThan(50)
  })

  it('end their waits when the process is told to stop', async () => {
    const { key } = await first().createAccount(1)
    const id = await request(key, { agent_id: 'crawler', action_summary: 'wait for me' })
    const waiting = check(second(), key, id, 30)
    await new Promise((resolve) => setTimeout(resolve, 300))
    const exit = servers[1]!.kill('SIGTERM')
    expect((await waiting).body.decision).toBe('pending')
    clients[1]!.close()
    expect(await exit).toEqual({ code: 0, signal: null })
  })
})

/** Resident memory of a process, bytes. */
function rssOf(pid: number): number {
  const [, kibibytes] = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kibibytes) * 1024
}
