import { type Answer, type ClearBody, type Client, type Fields, type ResolvedBody, UnansweredError } from './client.ts'
import { pick, type TestSql } from './load.ts'

/** gpt-4o-mini, output: $0.60 per million tokens (contract section 3, "Prices"). */
const MODEL = 'gpt-4o-mini'
const NANOUSD_PER_TOKEN = 600
const NANOUSD_PER_USD = 1_000_000_000

const EXACT_TOKENS = 1000
const EXACT_LIMIT_USD = 1
/** What fits: floor(1 / 0.0006). */
const EXACT_APPROVALS = Math.floor((EXACT_LIMIT_USD * NANOUSD_PER_USD) / (EXACT_TOKENS * NANOUSD_PER_TOKEN))
const QUOTA_OPS = 1500
const RATE_PER_MINUTE = 300
const RATE = { agent_id: 'crawler', provider: 'openai', model: MODEL }
const CHANGING_LIMITS_USD = [0.2, 0.4, 0.8]
const IDEMPOTENCY_NAMES = 400

const TEAM_AGENTS = ['team/a', 'team/b', 'team/b/run-1', 'team/b/run-2', 'solo']

type AccountName = 'exact' | 'team' | 'quota' | 'changing'
type Account = { readonly name: AccountName; readonly key: string; readonly accountId: string }
type Denied = {
  readonly account: AccountName
  readonly reason: string
  readonly remaining_usd: number
  readonly estimate: number
}

/**
 * A mixture of every request that moves state, on four accounts whose limits are reached midway, and a book of every answer, to be
 * compared with the database afterwards:
 * `exact` one cap, one size of clearance, nothing given back · `quota` runs out of ops · `team` a hierarchy with settlements and
 * releases that only lower the spend · `changing` caps that are set and deleted all the time.
 */
export class Workload {
  readonly approved = new Map<string, { account: AccountName; agentId: string }>()
  readonly denied: Denied[] = []
  /** Clearances whose first resolution was answered. */
  readonly resolved = new Set<string>()
  readonly firstCalls = new Map<string, number>()
  rateAllowed = 0
  rateChecks = 0
  /** Answers nobody should ever get. */
  readonly faults: string[] = []
  /** Requests that a 503 answered, and what none did. */
  refused = 0
  unanswered = 0
  answered = 0
  slowest_ms = 0
  readonly #client: () => Client
  readonly #random: () => number
  readonly #open: { account: Account; agentId: string; id: string }[] = []
  #accounts: Account[] = []
  #startedMs = 0

  /** @param client the server that the next request goes to */
  constructor(client: () => Client, random: () => number) {
    this.#client = client
    this.#random = random
  }

  async prepare(): Promise<void> {
    const client = this.#client()
    const ops = { exact: 1_000_000, team: 1_000_000, quota: QUOTA_OPS, changing: 1_000_000 }
    for (const name of ['exact', 'team', 'quota', 'changing'] as const)
      this.#accounts.push({ name, ...(await client.createAccount(ops[name])) })
    await client.setEnvelope(this.#key('exact'), { agent_id: 'crawler', limit_usd: EXACT_LIMIT_USD, window: 'session' })
    await client.setEnvelope(this.#key('quota'), { agent_id: '*', limit_usd: 1_000_000, window: 'session' })
    const team = this.#key('team')
    await client.setEnvelope(team, { agent_id: '*', limits: { session: 1.5, monthly: 2 } })
    await client.setEnvelope(team, { agent_id: 'team', limits: { session: 1, daily: 1.2 } })
    await client.setEnvelope(team, { agent_id: 'team/b', limits: { session: 0.5, hourly: 0.6 } })
    await client.setEnvelope(this.#key('changing'), { agent_id: 'crawler', limit_usd: 0.2, window: 'session' })
    await client.setRate(team, { ...RATE, requests_per_minute: RATE_PER_MINUTE })
    this.#startedMs = Date.now()
  }

  /** Sends one request of a random kind. */
  async step(): Promise<void> {
    const dice = this.#random()
    if (dice < 0.16) return this.#clear('exact', 'crawler', EXACT_TOKENS)
    if (dice < 0.28) return this.#clear('quota', pick(this.#random, ['a', 'b', 'c/d']), 10)
    if (dice < 0.53) return this.#clear('team', pick(this.#random, TEAM_AGENTS), 100 + Math.floor(this.#random() * 2000))
    if (dice < 0.6) return this.#clear('changing', 'crawler', 100 + Math.floor(this.#random() * 500))
    if (dice < 0.63) return this.#changeEnvelope()
    if (dice < 0.73) return this.#settleById()
    if (dice < 0.81) return this.#settleLatest()
    if (dice < 0.86) return this.#release()
    if (dice < 0.92) return this.#rateCheck()
    if (dice < 0.97) return this.#idempotencyCheck()
    return this.#read()
  }

  #account(name: AccountName): Account {
    const account = this.#accounts.find((one) => one.name === name)
    if (account === undefined) throw new Error('prepare the workload first')
    return account
  }

  accountId(name: AccountName): string {
    return this.#account(name).accountId
  }

  #key(name: AccountName): string {
    return this.#account(name).key
  }

  /** null: refused by a 503, or unanswered. Anything but that, 200 and the `expected` codes is a fault. */
  async #answer<B>(sending: Promise<Answer<B>>, ...expected: string[]): Promise<Answer<B> | null> {
    let answer: Answer<B>
    try {
      answer = await sending
    } catch (error) {
      if (!(error instanceof UnansweredError)) throw error
      this.unanswered++
      return null
    }
    this.slowest_ms = Math.max(this.slowest_ms, answer.took_ms)
    const body = answer.body as Fields
    if (answer.status === 200 || expected.includes(String(body.error))) {
      this.answered++
      return answer
    }
    const proper =
      answer.status === 503 &&
      Number(answer.headers['retry-after']) >= 1 &&
      body.error === 'database_unavailable' &&
      typeof body.hint === 'string' &&
      body.retryable === true
    if (proper) this.refused++
    else this.faults.push(`${answer.status} ${JSON.stringify(body)}`)
    return null
  }

  async #clear(account: AccountName, agentId: string, tokens: number): Promise<void> {
    const owner = this.#account(account)
    const input = { agent_id: agentId, model: MODEL, estimated_tokens: tokens }
    const answer = await this.#answer<ClearBody>(this.#client().clear(owner.key, input))
    if (answer === null) return
    const { approved, clearance_id: id, reason = 'none', remaining_usd } = answer.body
    if (remaining_usd < 0) this.faults.push(`remaining ${remaining_usd}`)
    if (!approved) {
      this.denied.push({ account, reason, remaining_usd, estimate: (tokens * NANOUSD_PER_TOKEN) / NANOUSD_PER_USD })
      return
    }
    if (id === undefined || this.approved.has(id)) this.faults.push(`clearance ${id} twice`)
    else this.approved.set(id, { account, agentId })
    if (account === 'team' && id !== undefined) this.#open.push({ account: owner, agentId, id })
  }

  /** Not taken out of the list every time: then it is resolved twice. */
  #takeOpen(): { account: Account; agentId: string; id: string } | undefined {
    if (this.#open.length === 0) return undefined
    const at = Math.floor(this.#random() * this.#open.length)
    return this.#random() < 0.9 ? this.#open.splice(at, 1)[0] : this.#open[at]
  }

  async #settleById(): Promise<void> {
    const hold = this.#takeOpen()
    if (hold === undefined) return
    const input = { agent_id: hold.agentId, clearance_id: hold.id, actual_input_tokens: 0, actual_output_tokens: 50 }
    this.#book(await this.#answer(this.#client().reconcile(hold.account.key, input), 'no_pending_clearance'))
  }

  async #settleLatest(): Promise<void> {
    const input = { agent_id: pick(this.#random, TEAM_AGENTS), actual_input_tokens: 10, actual_output_tokens: 60 }
    this.#book(await this.#answer(this.#client().reconcile(this.#key('team'), input), 'no_pending_clearance'))
  }

  async #release(): Promise<void> {
    const hold = this.#takeOpen()
    if (hold === undefined) return
    this.#book(await this.#answer(this.#client().release(hold.account.key, hold.id), 'no_pending_clearance'))
  }

  #book(answer: Answer<ResolvedBody> | null): void {
    if (answer?.status !== 200 || answer.body.replayed) return
    if (this.resolved.has(answer.body.clearance_id)) this.faults.push(`${answer.body.clearance_id} was resolved twice`)
    this.resolved.add(answer.body.clearance_id)
  }

  async #changeEnvelope(): Promise<void> {
    const key = this.#key('changing')
    if (this.#random() < 0.2) {
      const path = '/v1/budget/envelope/crawler'
      await this.#answer(this.#client().send({ method: 'DELETE', path, key }), 'not_found')
      return
    }
    const body = { agent_id: 'crawler', limit_usd: pick(this.#random, CHANGING_LIMITS_USD), window: 'session' }
    await this.#answer(this.#client().send({ method: 'PUT', path: '/v1/budget/envelope', key, body }))
  }

  async #rateCheck(): Promise<void> {
    const answer = await this.#answer(this.#client().rateCheck(this.#key('team'), RATE))
    if (answer === null) return
    this.rateChecks++
    if (answer.body.allowed) this.rateAllowed++
    else if (answer.body.reason !== 'rate_exceeded') this.faults.push(`rate check: ${answer.body.reason}`)
  }

  async #idempotencyCheck(): Promise<void> {
    const name = `action-${Math.floor(this.#random() * IDEMPOTENCY_NAMES)}`
    const answer = await this.#answer(this.#client().idempotencyCheck(this.#key('team'), name))
    if (answer === null) return
    this.firstCalls.set(name, (this.firstCalls.get(name) ?? 0) + (answer.body.is_first_call ? 1 : 0))
  }

  async #read(): Promise<void> {
    const key = this.#key(pick(this.#random, ['exact', 'team', 'quota', 'changing'] as const))
    const path = pick(this.#random, ['/v1/account', '/v1/account/balance', '/v1/budget/envelope', '/v1/account/keys'])
    await this.#answer(this.#client().send({ method: 'GET', path, key }))
  }

  /**
   * Compares the book with the database. @returns what disagrees
   * @param lossless true when every request was answered: then the database holds nothing more than the book
   */
  async disagreements(sql: TestSql, lossless: boolean): Promise<string[]> {
    const wrong = [...this.faults]
    const holds = await sql<{ hold_id: string; state: number }[]>`
      select hold_id, state from holds where account_id = any(${this.#accounts.map((account) => account.accountId)}::uuid[])`
    const rows = new Map(holds.map((row) => [row.hold_id, row.state]))
    for (const id of this.approved.keys()) if (!rows.has(id)) wrong.push(`clearance ${id} was approved and forgotten`)
    for (const id of this.resolved) if (!((rows.get(id) ?? 0) > 0)) wrong.push(`clearance ${id} was resolved and forgotten`)
    const extra = rows.size - this.approved.size
    if (extra > (lossless ? 0 : this.unanswered + this.refused))
      wrong.push(`${extra} clearances in the database were never asked for`)
    const resolvedRows = holds.filter((row) => row.state > 0).length
    if (lossless && resolvedRows !== this.resolved.size) wrong.push(`${resolvedRows} resolved, ${this.resolved.size} answered`)
    for (const [name, firsts] of this.firstCalls)
      if (firsts > 1 || (lossless && firsts === 0)) wrong.push(`${name}: ${firsts} first calls`)
    wrong.push(...(await this.#wrongDenials(sql)), ...this.#wrongRate(lossless))
    return wrong
  }

  /** Where spend only grows, a refusal at any time must also be right in the end. */
  async #wrongDenials(sql: TestSql): Promise<string[]> {
    const [exact] = await sql`select spent_session_nanousd from envelopes where account_id = ${this.#account('exact').accountId}`
    const left_usd = EXACT_LIMIT_USD - Number(exact?.spent_session_nanousd) / NANOUSD_PER_USD
    const [quota] = await sql`select ops from accounts where account_id = ${this.#account('quota').accountId}`
    const wrong: string[] = []
    for (const { account, reason, remaining_usd, estimate } of this.denied) {
      if (account === 'exact' && !(reason === 'envelope_exceeded' && estimate > left_usd && remaining_usd >= left_usd - 1e-9))
        wrong.push(`exact: ${reason} of ${estimate} with ${left_usd} left`)
      if (account === 'quota' && !(reason === 'no_credits' && quota?.ops === 0n))
        wrong.push(`quota: ${reason} with ${quota?.ops} ops left`)
      if (account === 'team' && reason !== 'envelope_exceeded') wrong.push(`team: ${reason}`)
      if (account === 'changing' && reason === 'no_credits') wrong.push(`changing: ${reason}`)
    }
    return wrong
  }

  /** All checks but those that ran into another minute share one allowance. */
  #wrongRate(lossless: boolean): string[] {
    const minutes = Math.floor(Date.now() / 60_000) - Math.floor(this.#startedMs / 60_000) + 1
    if (this.rateAllowed > RATE_PER_MINUTE * minutes) return [`${this.rateAllowed} requests allowed in ${minutes} minutes`]
    if (lossless && this.rateChecks > 0 && this.rateAllowed < Math.min(RATE_PER_MINUTE, this.rateChecks))
      return [`only ${this.rateAllowed} requests allowed`]
    return []
  }

  /** How many clearances of an account were approved. */
  approvals(account: AccountName): number {
    return [...this.approved.values()].filter((hold) => hold.account === account).length
  }

  denials(account: AccountName): number {
    return this.denied.filter((denial) => denial.account === account).length
  }

  /** What the `exact` and `quota` accounts must have been approved once they have been denied. */
  readonly expectedApprovals = { exact: EXACT_APPROVALS, quota: QUOTA_OPS }

  /** No envelope of `changing` may ever have spent more than its highest cap. */
  readonly highestChangingLimit_nanousd = BigInt(Math.max(...CHANGING_LIMITS_USD) * NANOUSD_PER_USD)
}
