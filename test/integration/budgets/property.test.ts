import { serialize } from 'node:v8'
import fc from 'fast-check'
import { beforeAll, expect, it } from 'vitest'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { type Api, type ApiResponse, envelopePath, openTestApp, ratePath, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { type ModelRequest, type ModelResponse, ReferenceModel, resetAfter } from '../../support/reference-model.ts'
import { casts, type Draft, type Step, setEnvelope, starts, steps } from './sequences.ts'

/** Longer runs: GVNR_PROPERTY_RUNS=5000; the same run again: GVNR_PROPERTY_SEED=… (a failure prints its seed and path). */
const RUNS = Number(process.env.GVNR_PROPERTY_RUNS ?? 300)
const SEED = process.env.GVNR_PROPERTY_SEED === undefined ? {} : { seed: Number(process.env.GVNR_PROPERTY_SEED) }
const STEPS = 40

describeEachDatabase('the product does what the reference model says', (openTestDatabase) => {
  let servers: TestApp[]
  beforeAll(async () => {
    const database = await openTestDatabase()
    // Two servers on one database, each with its own memory of it and its own clock.
    servers = await Promise.all([0, 1].map(() => openTestApp(database, { clock: new ManualClock(0) })))
  })

  it(
    `in ${RUNS} sequences of up to ${STEPS} steps`,
    async () => {
      await fc.assert(
        fc.asyncProperty(
          starts,
          casts,
          fc.array(setEnvelope, { minLength: 1, maxLength: 3 }),
          fc.array(steps, { minLength: 5, maxLength: STEPS, size: 'max' }),
          async (start, cast, envelopes, sequence) => {
            const run = await Run.begin(servers, start, cast)
            for (const draft of envelopes)
              for (const account of [0, 1]) await run.step({ kind: 'one', account, server: 0, draft })
            for (const step of sequence) await run.step(step)
            await run.finish()
          },
        ),
        { numRuns: RUNS, ...SEED, endOnFailure: process.env.CI !== undefined },
      )
      expect(servers.flatMap(({ logged }) => logged)).toEqual([])
    },
    60_000 + RUNS * 1000,
  )
})

type Account = { key: string; accountId: string; clearances: { id: string; agent: string }[] }

class Run {
  readonly #servers: readonly TestApp[]
  readonly #accounts: readonly Account[]
  readonly #cast: readonly string[]
  #models: readonly ReferenceModel[]

  static async begin(servers: readonly TestApp[], start: number, cast: readonly string[]): Promise<Run> {
    for (const { clock } of servers) clock.advance(start - clock.now())
    const model = new ReferenceModel()
    const [first] = servers
    const accounts: Account[] = []
    for (const ops of [5, 60]) {
      const account = await first!.createAccount(ops)
      model.createAccount(account.accountId, ops, start)
      accounts.push({ ...account, clearances: [] })
    }
    return new Run(servers, accounts, cast, model)
  }

  constructor(servers: readonly TestApp[], accounts: readonly Account[], cast: readonly string[], model: ReferenceModel) {
    this.#servers = servers
    this.#accounts = accounts
    this.#cast = cast
    this.#models = [model]
  }

  async step(step: Step): Promise<void> {
    switch (step.kind) {
      case 'one':
        return await this.#together(step.account, [[step.server, step.draft]])
      case 'together':
        return await this.#together(step.account, step.drafts)
      case 'wait':
        for (const { clock } of this.#servers) clock.advance(step.ms)
        return
      case 'boundary': {
        const now = this.#servers[0]!.clock.now()
        const by = resetAfter(step.window, now) + step.offset_ms - now
        for (const { clock } of this.#servers) clock.advance(by)
        return
      }
      case 'skew': {
        const [one, other] = this.#servers
        other!.clock.advance(one!.clock.now() + step.ms - other!.clock.now())
      }
    }
  }

  /**
   * Sends all at once. Their answers must be those of SOME order, one after the other. Several orders may give the same answers
   * and leave different things behind: all stay possible until a later answer tells them apart.
   */
  async #together(accountIndex: number, drafts: readonly (readonly [server: number, draft: Draft])[]): Promise<void> {
    const account = this.#accounts[accountIndex]!
    const calls = await Promise.all(
      drafts.map(async ([serverIndex, draft]) => {
        const request = this.#resolve(accountIndex, draft)
        const { api, clock } = this.#servers[serverIndex]!
        return { request, now: clock.now(), got: await send(api, account.key, request) }
      }),
    )
    const possible = new Map<string, ReferenceModel>()
    const expected: ModelResponse[][] = []
    for (const before of this.#models) {
      for (const order of permutations(calls)) {
        const model = before.copy()
        const answers = order.map(({ request, now, got }) => model.apply(account.accountId, request, now, got.body.clearance_id))
        expected.push(answers)
        if (order.every(({ got }, index) => same(got, answers[index]!)))
          possible.set(serialize(model.accounts).toString('base64'), model)
      }
    }
    if (possible.size === 0) {
      expect(
        calls.map(({ request, got }) => ({ request, ...comparable(got) })),
        'no order of these requests gives these answers; compared with the order in which they were sent',
      ).toEqual(calls.map(({ request }, index) => ({ request, ...comparableModel(expected[0]![index]!) })))
      throw new Error('compared equal after all')
    }
    this.#models = [...possible.values()]
    for (const { request, got } of calls) {
      if (request.operation !== 'clear' || got.body.approved !== true) continue
      const clearance = { id: got.body.clearance_id, agent: request.input.agent_id }
      if (!account.clearances.some(({ id }) => id === clearance.id)) account.clearances.push(clearance)
    }
  }

  /** Every read, from both servers, and everything that is stored. */
  async finish(): Promise<void> {
    for (const [index, account] of this.#accounts.entries()) {
      const reads: Draft[] = [
        { operation: 'balance' },
        { operation: 'list_envelopes' },
        ...[...this.#cast, 'never set'].map((agent_id): Draft => ({ operation: 'get_envelope', input: { agent_id } })),
      ]
      for (const draft of reads) for (const server of [0, 1]) await this.#together(index, [[server, draft]])
      const { differences } = await verifyBalances(this.#servers[0]!.database, { accountId: account.accountId, pageRows: 3 })
      expect(differences).toEqual([])
    }
  }

  /** Puts the agents of the cast and the ids of clearances into a draft. */
  #resolve(accountIndex: number, { clearance, ...draft }: Draft): ModelRequest {
    const own = this.#accounts[accountIndex]!.clearances
    const foreign = this.#accounts[1 - accountIndex]!.clearances
    const named = clearance === 'foreign' ? foreign.at(-1) : typeof clearance === 'number' ? own.at(-1 - clearance) : undefined
    const request = structuredClone(draft) as { input?: { agent_id?: string; clearance_id?: string } }
    if (request.input && clearance !== undefined && clearance !== null)
      request.input.clearance_id = clearance === 'nonsense' ? 'no-such-id' : (named?.id ?? '0190b3c1-0000-7000-8000-000000000000')
    const agent = request.input?.agent_id
    if (request.input && agent === '#own') request.input.agent_id = (named ?? own.at(-1))?.agent ?? this.#cast[0]!
    else if (request.input && agent?.startsWith('#')) request.input.agent_id = this.#cast[Number(agent.slice(1))]!
    return request as ModelRequest
  }
}

function send(api: Api, key: string, request: ModelRequest): Promise<ApiResponse> {
  const headers: Record<string, string> = 'once' in request && request.once ? { 'Idempotency-Key': ascii(request.once) } : {}
  switch (request.operation) {
    case 'clear':
      return api.post('/v1/budget/clear', request.input, key, headers)
    case 'reconcile':
      return api.post('/v1/budget/reconcile', request.input, key, headers)
    case 'release':
      return api.post('/v1/budget/release', request.input, key, headers)
    case 'set_envelope':
      return api.put('/v1/budget/envelope', request.input, key, headers)
    case 'delete_envelope':
      return api.delete(envelopePath(request.input.agent_id), key, headers)
    case 'get_envelope':
      return api.get(envelopePath(request.input.agent_id), key)
    case 'list_envelopes':
      return api.get('/v1/budget/envelope', key)
    case 'balance':
      return api.get('/v1/account/balance', key)
    case 'grant':
      return api.admin('/v1/admin/seed', { api_key: key, ...request.input })
    case 'set_share':
      return api.put('/v1/rate/envelope', request.input, key, headers)
    case 'get_share':
      return api.get(ratePath(request.input.agent_id, request.input.provider, request.input.model), key)
    case 'delete_share':
      return api.delete(ratePath(request.input.agent_id, request.input.provider, request.input.model), key)
    case 'rate_check':
      return api.post('/v1/rate/check', request.input, key)
    case 'idempotency_check':
      return api.post('/v1/idempotency/check', request.input, key)
  }
}

/** Header values are bytes. */
const ascii = (text: string): string => encodeURIComponent(text)

/** Bodies without prose; lists without their order, which is the database's collation. */
function comparable({ status, headers, body }: ApiResponse): ModelResponse {
  const { hint: _, approval_request: request, ...rest } = body
  const { action_summary: _prose, ...wanted } = (request ?? {}) as Record<string, unknown>
  const asked = request === undefined ? {} : { approval_request: wanted }
  return normalised({ status, body: { ...rest, ...asked }, replayed: headers.get('Idempotent-Replayed') === 'true' })
}
const comparableModel = (response: ModelResponse): ModelResponse => normalised({ replayed: false, ...response })
const normalised = ({ status, body, replayed = false }: ModelResponse): ModelResponse => {
  if (!Array.isArray(body.envelopes)) return { status, body, replayed }
  const envelopes = (body.envelopes as { agent_id: string }[]).toSorted((a, b) => (a.agent_id < b.agent_id ? -1 : 1))
  return { status, body: { ...body, envelopes }, replayed }
}

function same(got: ApiResponse, expected: ModelResponse): boolean {
  try {
    expect(comparable(got)).toEqual(comparableModel(expected))
    return true
  } catch {
    return false
  }
}

function* permutations<T>(items: readonly T[]): Generator<T[]> {
  if (items.length === 0) yield []
  for (const [index, item] of items.entries()) for (const rest of permutations(items.toSpliced(index, 1))) yield [item, ...rest]
}
