import { randomUUID } from 'node:crypto'
import { request } from 'node:http'
import type { Fields } from '../../test/support/client.ts'
import { chatBody } from '../workload.ts'
import { NOTHING } from './account-model.ts'
import { type Deps, isAnswered, refused, type Scenario } from './scenarios.ts'
import { AGENT, type Tenant } from './tenants.ts'

/** Less than is spent between two requests: caps are reached again and again. */
const EXTRA_USD = 0.002
const APPROVED = 0.8

type Shown = { approval_ref: string; action_summary: string; decision: string }

/**
 * An agent asks a human for more, the human answers at the dashboard, the agent reads the answer. A raise that was approved counts once,
 * and the first decision stands.
 */
export const approval: Scenario = async (deps, tenant, due) => {
  const { sender, books, random } = deps
  if (tenant.kind !== 'tight') return
  const { key } = tenant
  const summary = `Spend more ${randomUUID()}`
  const grant = { extra_usd: EXTRA_USD, window: 'session' }
  const asked = await sender.send<Fields>('approval request', due, true, (client) =>
    client.send({
      method: 'POST',
      path: '/v1/approval/request',
      key,
      idempotencyKey: summary,
      body: { agent_id: AGENT, action_summary: summary, ttl_seconds: 600, grant },
    }),
  )
  if (typeof asked === 'string') return
  const id = asked.answer.body.approval_id
  if (asked.answer.status !== 200) return books.fault(`approval request: ${JSON.stringify(asked.answer.body)}`)
  const listed = await sender.send<{ approvals: Shown[] }>('approval list', performance.now(), true, (client) =>
    client.send({ method: 'GET', path: '/v1/approval?state=pending&limit=100', key }),
  )
  if (typeof listed === 'string') return
  const mine = listed.answer.body.approvals.filter(({ action_summary }) => action_summary === summary)
  const [found] = mine
  if (found === undefined || mine.length > 1) return books.fault(`${mine.length} requests are shown for one approval`)
  const decision = random() < APPROVED ? 'approved' : 'denied'
  const decided = await decide(deps, tenant, found.approval_ref, decision)
  if (decided === null) return
  const opposite = decision === 'approved' ? 'denied' : 'approved'
  if (random() < 0.2) await decide(deps, tenant, found.approval_ref, opposite, decided)
  const checked = await sender.send<Fields>('approval check', performance.now(), true, (client) =>
    client.send({ method: 'GET', path: `/v1/approval/check/${id}`, key }),
  )
  if (typeof checked === 'string') return
  if (checked.answer.body.decision !== decided) books.fault(`decided ${decided}, shown ${JSON.stringify(checked.answer.body)}`)
}

/** @returns the decision that stands, null when there is none */
async function decide(
  deps: Deps,
  tenant: Tenant,
  ref: string,
  decision: 'approved' | 'denied',
  standing?: string,
): Promise<string | null> {
  const raise = decision === 'approved' && standing === undefined ? EXTRA_USD * 1e9 : 0
  const flight = tenant.model.begin({ budgetUp: raise })
  const sent = await deps.sender.send<Fields>('approval decision', performance.now(), true, (client) =>
    client.send({ method: 'POST', path: `/v1/approval/decide/${ref}`, key: tenant.key, body: { decision } }),
  )
  if (!isAnswered(tenant, flight, sent)) return null
  const { status, body } = sent.answer
  if (status === 409 && body.error === 'approval_changed') {
    // Another raise came first: the human would be shown the new terms.
    tenant.model.end(flight, NOTHING)
    return null
  }
  if (status !== 200) {
    refused(deps, tenant, flight, 'approval decision', sent.answer)
    return null
  }
  tenant.model.end(flight, { budget: body.decision === 'approved' ? raise : 0, ops: 0 })
  if (body.decision !== (standing ?? decision)) deps.books.fault(`decided ${decision} after ${standing}, stands ${body.decision}`)
  return String(body.decision)
}

/** gpt-4o, 20 tokens in and 5 out, which the dummy provider reports. */
export const STREAM_COST_NANOUSD = 20 * 2500 + 5 * 10_000
const STREAM_EVENTS = 10
const STREAM_EVERY_MS = 60
const STREAM_TIMEOUT_MS = 60_000

/** An account whose agent streams through the proxy, and how its streams ended. */
export class Streams {
  readonly key: string
  readonly accountId: string
  completed = 0
  /** Begun and cut off, or unanswered: charged in part, in full or not at all. */
  broken = 0
  readonly #ports: () => readonly number[]

  constructor(account: { key: string; accountId: string }, ports: () => readonly number[]) {
    this.key = account.key
    this.accountId = account.accountId
    this.#ports = ports
  }

  readonly stream: Scenario = async ({ books, random }, _tenant, due) => {
    const ports = this.#ports()
    const port = ports[Math.floor(random() * ports.length)] ?? 0
    const outcome = await this.#run(port)
    if (outcome === 'complete') {
      this.completed++
      books.answered('stream', performance.now() - due)
    } else if (outcome === 'broken') {
      this.broken++
      books.error('stream', 'cut off')
    } else {
      books.error('stream', outcome)
      // An answer with an error may come after the reservation was made.
      if (outcome !== 'connection refused') this.broken++
      if (outcome === 'status 403' || outcome === 'status 500') books.fault(`stream: ${outcome}`)
    }
  }

  #run(port: number): Promise<string> {
    return new Promise((resolve) => {
      const headers = { authorization: `Bearer ${this.key}`, 'content-type': 'application/json', 'x-gvnr-agent-id': AGENT }
      const options = {
        port,
        host: '127.0.0.1',
        method: 'POST',
        path: '/v1/chat/completions',
        headers,
        timeout: STREAM_TIMEOUT_MS,
      }
      const outgoing = request(options, (incoming) => {
        let end = ''
        incoming.setEncoding('utf8')
        incoming.on('data', (text: string) => {
          end = (end + text).slice(-400)
        })
        incoming.on('error', () => resolve('broken'))
        incoming.on('end', () => {
          if (incoming.statusCode !== 200) resolve(`status ${incoming.statusCode}`)
          else resolve(end.includes('[DONE]') ? 'complete' : 'broken')
        })
      })
      outgoing.on('error', (error: NodeJS.ErrnoException) =>
        resolve(error.code === 'ECONNREFUSED' ? 'connection refused' : 'broken'),
      )
      outgoing.on('timeout', () => outgoing.destroy())
      outgoing.end(chatBody({ stream: true, metadata: { events: String(STREAM_EVENTS), every_ms: String(STREAM_EVERY_MS) } }))
    })
  }
}
