import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import { ADMIN_SECRET } from './server.ts'

export type Fields = Record<string, unknown>

/** One HTTP answer. `body` is its JSON; a body that is none makes the call fail. */
export type Answer<B = Fields> = {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: B
  /** From sending to the last byte. */
  readonly took_ms: number
}

/** The connection broke, or nothing came back in time: nobody knows whether the request was carried out. */
export class UnansweredError extends Error {
  override readonly name = 'UnansweredError'
  /** True when the peer refused the connection: then the request was certainly not carried out. */
  readonly refused: boolean
  constructor(what: string, cause: unknown, refused: boolean) {
    super(`${what} was not answered: ${cause instanceof Error ? cause.message : cause}`, { cause })
    this.refused = refused
  }
}

export type RequestOptions = {
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE'
  readonly path: string
  readonly key?: string | undefined
  readonly admin?: boolean
  /** Sent as JSON; a string goes out as it is. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
  readonly idempotencyKey?: string | undefined
  readonly timeout_ms?: number
}

export type AccountBody = { api_key: string; account_id: string; operations_remaining: number }
export type EnvelopeInput = { agent_id: string; limit_usd?: number; window?: string; limits?: Record<string, number> }
export type ClearInput = {
  agent_id: string
  model: string
  estimated_tokens: number
  estimated_input_tokens?: number
  hold_seconds?: number
}
export type ClearBody = {
  approved: boolean
  remaining_usd: number
  operations_remaining?: number
  clearance_id?: string
  expires_at?: number
  reason?: 'no_credits' | 'no_envelope' | 'envelope_exceeded'
}
export type ReconcileInput = {
  agent_id: string
  actual_input_tokens: number
  actual_output_tokens: number
  clearance_id?: string
}
export type ResolvedBody = {
  ok: boolean
  clearance_id: string
  remaining_usd: number
  operations_remaining: number
  replayed?: true
  error?: string
}
export type EnvelopeBody = { agent_id: string; limit_usd: number; spent_usd: number; remaining_usd: number; window: string }
export type RateInput = { agent_id: string; provider: string; model: string }

/** A keep-alive HTTP client for one server, with a helper for each operation that the tests use often. */
export class Client {
  readonly #origin: () => string
  readonly #agent: Agent

  /** @param origin a function where the server may move */
  constructor(origin: string | (() => string), options: { sockets?: number } = {}) {
    this.#origin = typeof origin === 'string' ? () => origin : origin
    this.#agent = new Agent({ keepAlive: true, maxSockets: options.sockets ?? 64 })
  }

  close(): void {
    this.#agent.destroy()
  }

  /** @throws UnansweredError when no complete answer comes */
  send<B = Fields>(options: RequestOptions): Promise<Answer<B>> {
    const what = `${options.method} ${options.path}`
    const payload = options.body === undefined || typeof options.body === 'string' ? options.body : JSON.stringify(options.body)
    const headers = {
      ...(payload !== undefined && { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(payload)) }),
      ...(options.key !== undefined && { authorization: `Bearer ${options.key}` }),
      ...(options.admin && { 'x-admin-secret': ADMIN_SECRET }),
      ...(options.idempotencyKey !== undefined && { 'idempotency-key': options.idempotencyKey }),
      ...options.headers,
    }
    const sent = performance.now()
    return new Promise((resolve, reject) => {
      const fail = (cause: unknown) => {
        const refused = cause instanceof Error && 'code' in cause && cause.code === 'ECONNREFUSED'
        reject(new UnansweredError(what, cause, refused))
      }
      const outgoing = request(
        this.#origin() + options.path,
        { method: options.method, headers, agent: this.#agent },
        (incoming) => {
          const chunks: Buffer[] = []
          incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
          incoming.on('error', fail)
          incoming.on('end', () => {
            const text = Buffer.concat(chunks).toString()
            const answer = { status: incoming.statusCode ?? 0, headers: incoming.headers, took_ms: performance.now() - sent }
            try {
              resolve({ ...answer, body: (text === '' ? {} : JSON.parse(text)) as B })
            } catch {
              reject(new Error(`${what} answered ${answer.status} with a body that is not JSON: ${text.slice(0, 200)}`))
            }
          })
        },
      )
      outgoing.on('error', fail)
      outgoing.setTimeout(options.timeout_ms ?? 60_000, () =>
        outgoing.destroy(new Error(`no answer within ${options.timeout_ms ?? 60_000} ms`)),
      )
      outgoing.end(payload)
    })
  }

  async createAccount(ops = 0): Promise<{ key: string; accountId: string }> {
    const { status, body } = await this.send<AccountBody>({ method: 'POST', path: '/v1/account' })
    if (status !== 201) throw new Error(`no account: ${status} ${JSON.stringify(body)}`)
    if (ops > 0) await this.seed(body.api_key, ops)
    return { key: body.api_key, accountId: body.account_id }
  }

  async seed(key: string, operations: number, idempotencyKey?: string): Promise<Answer> {
    const body = { api_key: key, operations }
    return this.#expect200(this.send({ method: 'POST', path: '/v1/admin/seed', admin: true, body, idempotencyKey }))
  }

  async createKey(key: string, wanted: Fields): Promise<{ key: string; keyId: string }> {
    const { status, body } = await this.send<{ api_key: string; key_id: string }>({
      method: 'POST',
      path: '/v1/account/keys',
      key,
      body: wanted,
    })
    if (status !== 201) throw new Error(`no key: ${status} ${JSON.stringify(body)}`)
    return { key: body.api_key, keyId: body.key_id }
  }

  setEnvelope(key: string, body: EnvelopeInput): Promise<Answer> {
    return this.#expect200(this.send({ method: 'PUT', path: '/v1/budget/envelope', key, body }))
  }

  getEnvelope(key: string, agentId: string): Promise<Answer<EnvelopeBody>> {
    return this.send({ method: 'GET', path: `/v1/budget/envelope/${encodeURIComponent(agentId)}`, key })
  }

  clear(key: string, body: ClearInput, options: { idempotencyKey?: string } = {}): Promise<Answer<ClearBody>> {
    return this.send({ method: 'POST', path: '/v1/budget/clear', key, body, ...options })
  }

  reconcile(key: string, body: ReconcileInput, options: { idempotencyKey?: string } = {}): Promise<Answer<ResolvedBody>> {
    return this.send({ method: 'POST', path: '/v1/budget/reconcile', key, body, ...options })
  }

  release(key: string, clearanceId: string, options: { idempotencyKey?: string } = {}): Promise<Answer<ResolvedBody>> {
    return this.send({ method: 'POST', path: '/v1/budget/release', key, body: { clearance_id: clearanceId }, ...options })
  }

  setRate(key: string, body: RateInput & { requests_per_minute: number }): Promise<Answer> {
    return this.#expect200(this.send({ method: 'PUT', path: '/v1/rate/envelope', key, body }))
  }

  rateCheck(key: string, body: RateInput): Promise<Answer<{ allowed: boolean; reason?: string }>> {
    return this.send({ method: 'POST', path: '/v1/rate/check', key, body })
  }

  idempotencyCheck(key: string, name: string): Promise<Answer<{ is_first_call: boolean }>> {
    return this.send({ method: 'POST', path: '/v1/idempotency/check', key, body: { key: name } })
  }

  async #expect200(sending: Promise<Answer>): Promise<Answer> {
    const answer = await sending
    if (answer.status !== 200) throw new Error(`answered ${answer.status}: ${JSON.stringify(answer.body)}`)
    return answer
  }
}
