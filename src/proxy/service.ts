import { hash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Agent } from 'undici'
import { pathOf } from '../budgets/path.ts'
import type { EnvelopeReader } from '../budgets/reader.ts'
import type { Purchase, Refusal } from '../budgets/requests.ts'
import type { BudgetService } from '../budgets/service.ts'
import type { Approval, LoopLimit } from '../budgets/state.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { uuidv7 } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import type { Nanousd } from '../core/money.ts'
import type { KeyCaller } from '../core/operation.ts'
import { answeredWithin } from '../core/patience.ts'
import type { Catalogue } from '../prices/catalogue.ts'
import type { RateService } from '../rate/service.ts'
import { agentOf } from './agent.ts'
import { type Answer, budgetRefusal, failureAnswer, type PolicyRefusal, ProxyError, policyRefusal } from './answers.ts'
import { Call, type Ended, type Reserved, type Sink } from './call.ts'
import { type Charge, chargeAsReserved, chargeFor, detailOf, worstCase } from './charge.ts'
import { type Headers, upstreamHeaders } from './headers.ts'
import { checkRate } from './rate.ts'
import { type PlannedCall, planCall } from './request.ts'
import type { Route } from './routes.ts'
import { addressOf, type Upstream, Upstreams } from './upstreams.ts'

/** What a rule is asked before any money is looked at. */
export type PolicyQuestion = {
  readonly agentId: string
  readonly model: string
  /** The most output tokens the call may produce. */
  readonly maxTokens: number
  /** The same for requests that are the same byte for byte. Computed when read. */
  readonly fingerprint: string
}
export type Policy = (accountId: string, question: PolicyQuestion) => PolicyRefusal | null | Promise<PolicyRefusal | null>

/** What may go on while the database cannot be reached (governance room). */
export type Outage = {
  /** Whether asking the database is known to be in vain. */
  readonly isAway: boolean
  covers(agentId: string, asked: { readonly model: string; readonly maxTokens: number }): boolean
  /** @param options `isOpen`: `settle` will say what it really cost */
  allow(
    accountId: string,
    operationId: string,
    purchase: Purchase,
    asked: { readonly model: string; readonly maxTokens: number },
    options: { readonly isOpen: true },
  ): Promise<boolean>
  settle(operationId: string, cost: Nanousd, detail: string): Promise<void>
}

/** The span of a call that runs, for whoever traces. */
type CallTrace = {
  readonly headers: Readonly<Record<string, string>>
  decidedBy(operationId: string): void
  end(outcome: string): void
}

export type ProxyDeps = {
  readonly budgets: BudgetService
  readonly envelopes: Pick<EnvelopeReader, 'standingOf'>
  readonly rates: RateService
  /** The prices in force; a call is settled at those that were when it began. */
  readonly catalogue: () => Catalogue
  readonly clock: Clock
  readonly log: Log
  readonly policy: Policy
  readonly outage: Outage
  readonly tracing?: { begin(route: string, headers: Headers): CallTrace }
}
export type ProxySettings = {
  readonly upstreams: readonly Upstream[]
  /** Whether an account may call with the operator's keys. */
  readonly mayUseOperatorKeys: (accountId: string) => boolean
  /** Longest silence of a provider, before and during its answer. */
  readonly timeout_ms: number
  readonly cutoff: boolean
  readonly maxCalls: number
  /** How many identical calls are a loop, where no envelope says it; null: none. */
  readonly loop: LoopLimit | null
  /** How often reservations of running calls are renewed. */
  readonly renew_ms?: number
}

export type ProxyRequest = {
  readonly caller: KeyCaller
  readonly route: Route
  readonly agentId: string | undefined
  readonly headers: Headers
  /** With its question mark, without our key; empty when there is none. */
  readonly query: string
  readonly callersKey: string | undefined
  readonly bytes: Buffer
}

/** A reservation outlives its process by this much at most, counted at its estimate; it is renewed long before. */
const HOLD_MS = 120_000
const RENEW_MS = 30_000
const CONNECT_TIMEOUT_MS = 10_000
/** Longest head of a provider's answer; an answer with a longer one cannot be read. */
const MAX_HEADER_BYTES = 64 * 1024
/** While the database is away the last one repeats; what is left of other failures ends with it. */
const SETTLE_DELAYS_MS = [200, 1_000, 5_000, 15_000, 30_000]

type Open = { readonly call: Call; readonly accountId: string; readonly holdId: string | null }

/** The LLM proxy (contract section 9): reserve, forward, stream, settle. */
export class ProxyService {
  readonly #deps: ProxyDeps
  readonly #settings: ProxySettings
  readonly #upstreams: Upstreams
  readonly #dispatcher: Agent
  readonly #open = new Set<Open>()
  readonly #work = new Set<Promise<unknown>>()
  readonly #stopped = new AbortController()
  #renewal: NodeJS.Timeout | undefined

  constructor(deps: ProxyDeps, settings: ProxySettings) {
    this.#deps = deps
    this.#settings = settings
    this.#upstreams = new Upstreams(settings.upstreams)
    const { timeout_ms } = settings
    this.#dispatcher = new Agent({
      headersTimeout: timeout_ms,
      bodyTimeout: timeout_ms,
      maxHeaderSize: MAX_HEADER_BYTES,
      connect: { timeout: CONNECT_TIMEOUT_MS },
    })
  }

  start(): void {
    this.#renewal = setInterval(() => this.#tend(), this.#settings.renew_ms ?? RENEW_MS)
    this.#renewal.unref()
  }

  /** Ends the calls that still run, settles what they used, and closes the connections to providers. */
  async stop(limit_ms: number): Promise<void> {
    clearInterval(this.#renewal)
    for (const { call } of this.#open) call.stop()
    const late = setTimeout(() => this.#stopped.abort(), limit_ms)
    await this.settled()
    clearTimeout(late)
    await this.#dispatcher.destroy()
  }

  /** Waits until no call runs and every one is settled. */
  async settled(): Promise<void> {
    while (this.#work.size > 0) await Promise.allSettled(this.#work)
  }

  get openCalls(): number {
    return this.#open.size
  }

  /**
   * Forwards one call and writes its answer to the sink.
   * @returns the answer to give instead, when nothing was written
   * @throws ProxyError, DomainError for what the caller can act on; only before anything was written
   */
  async forward(request: ProxyRequest, sink: Sink): Promise<Answer | null> {
    const trace = this.#deps.tracing?.begin(`/v1${request.route.path}`, request.headers)
    if (trace === undefined) return this.#forward(request, sink)
    let outcome = 'internal_error'
    try {
      const answer = await this.#forward({ ...request, headers: { ...request.headers, ...trace.headers } }, sink, trace)
      outcome = answer === null ? 'ok' : answer.status === 403 ? 'denied' : 'failed'
      return answer
    } catch (error) {
      if (error instanceof DomainError || error instanceof ProxyError) outcome = error.code
      throw error
    } finally {
      trace.end(outcome)
    }
  }

  async #forward(request: ProxyRequest, sink: Sink, trace?: CallTrace): Promise<Answer | null> {
    const { caller, route } = request
    if (this.#open.size >= this.#settings.maxCalls) throw new DomainError('overloaded', { retryAfterSeconds: 1 })
    const agentId = agentOf(caller, request.agentId)
    const plan = planCall(route, request.bytes, this.#upstreams, request.headers)
    const headers = this.#headersFor(request, plan)
    const target = { ...addressOf(plan.choice.upstream, `${route.path}${request.query}`), headers, route, plan }
    const options = { dispatcher: this.#dispatcher, cutoff: this.#settings.cutoff }
    const refusal = await this.#refusalOf(caller.accountId, agentId, plan, request.bytes)
    if (refusal !== null) return policyRefusal(route.protocol, agentId, refusal)
    await this.#checkRate(caller.accountId, agentId, plan)
    if (route.kind === 'count_tokens') {
      await this.#checkSuspended(caller.accountId, agentId, plan)
      return this.#track(this.#runFree(new Call(target, sink, options), caller, route))
    }
    const { budgets, clock } = this.#deps
    const catalogue = this.#deps.catalogue()
    const { estimate, rates } = worstCase(catalogue, plan)
    const { loop } = this.#settings
    const fingerprint = hash('sha256', request.bytes, 'base64')
    const reservation = { agentId, model: plan.model, estimate, rates, hold_ms: HOLD_MS, fingerprint, ...(loop && { loop }) }
    const id = { operationId: uuidv7(clock.now()), resumed: false }
    const outcome = await this.#orDeferred(caller.accountId, id.operationId, { agentId, plan, estimate }, () =>
      budgets.reserve(caller.accountId, id, reservation),
    )
    trace?.decidedBy(id.operationId)
    if (outcome !== 'deferred' && !outcome.approved) return budgetRefusal(route.protocol, agentId, outcome, estimate)
    const remaining = outcome === 'deferred' ? null : outcome.remaining
    const reserved = { id: id.operationId, estimate, remaining }
    return this.#track(
      this.#runCharged(new Call(target, sink, options), { caller, agentId, route, plan, catalogue, reserved }, sink),
    )
  }

  /**
   * A reservation, or while the database is away what the governance file allows instead.
   * @throws DomainError `database_unavailable` when it allows nothing
   */
  async #orDeferred(
    accountId: string,
    operationId: string,
    { agentId, plan, estimate }: { agentId: string; plan: PlannedCall; estimate: Nanousd },
    reserve: () => Promise<Approval | Refusal>,
  ): Promise<Approval | Refusal | 'deferred'> {
    const { outage } = this.#deps
    const purchase = { agentId, label: plan.model, cost: estimate, detail: DEFERRED }
    const isAllowed = (): Promise<boolean> => outage.allow(accountId, operationId, purchase, askedOf(plan), { isOpen: true })
    if (outage.isAway && (await isAllowed())) return 'deferred'
    try {
      return outage.covers(agentId, askedOf(plan)) ? await answeredWithin(reserve()) : await reserve()
    } catch (error) {
      // It may have been stored, or will be: what is booked afterwards goes by the same id.
      if (isDatabaseAway(error) && (await isAllowed())) return 'deferred'
      throw error
    }
  }

  async #runFree(call: Call, caller: KeyCaller, route: Route): Promise<Answer | null> {
    const open = { call, accountId: caller.accountId, holdId: null }
    this.#open.add(open)
    const ended = await call.run(null).finally(() => this.#open.delete(open))
    return ended.failure === null ? null : failureAnswer(ended.failure, route.protocol)
  }

  async #runCharged(call: Call, context: ChargedCall, sink: Sink): Promise<Answer | null> {
    const { caller, route, reserved } = context
    const open = { call, accountId: caller.accountId, holdId: reserved.remaining === null ? null : reserved.id }
    this.#open.add(open)
    let ended: Ended = { end: 'unreachable', seen: null, isStream: false, failure: null }
    try {
      // Who left while the reservation was made gets no call.
      if (!sink.isClosed) {
        ended = { ...ended, end: 'broken' }
        ended = await call.run(reserved)
      }
    } finally {
      this.#open.delete(open)
      this.#track(this.#settle(context, ended))
    }
    if (ended.failure === null) return null
    this.#deps.log.warn(
      { err: ended.failure.cause, upstream: context.plan.choice.upstream.name, end: ended.end },
      'a provider did not answer',
    )
    return failureAnswer(ended.failure, route.protocol)
  }

  /** What the call used is charged; what never was a call is given back. Tried again while the database is away. */
  async #settle(context: ChargedCall, ended: Ended): Promise<void> {
    const { caller, agentId, reserved, plan } = context
    const { budgets, clock, log } = this.#deps
    const charge = this.#chargeOf(context, ended)
    if (reserved.remaining === null) {
      const detail = charge === null ? JSON.stringify({ end: ended.end }) : detailOf(ended.end, charge)
      return this.#deps.outage.settle(reserved.id, charge?.cost ?? 0n, detail)
    }
    const operationId = uuidv7(clock.now())
    for (let attempt = 0; ; attempt++) {
      const call = { operationId, resumed: attempt > 0 }
      try {
        if (charge === null) await budgets.releaseReservation(caller.accountId, call, reserved.id)
        else {
          const { usage, cost } = charge
          const detail = detailOf(ended.end, charge)
          await budgets.settleReservation(caller.accountId, call, { agentId, reservationId: reserved.id, usage, cost, detail })
        }
        return
      } catch (error) {
        const delay_ms = SETTLE_DELAYS_MS[attempt] ?? (isDatabaseAway(error) ? SETTLE_DELAYS_MS.at(-1) : undefined)
        const isOver =
          delay_ms === undefined || this.#stopped.signal.aborted || !(error instanceof DomainError && error.retryable)
        if (isOver) {
          log.error({ err: error, hold_id: reserved.id, model: plan.model }, 'a call cannot be settled: its estimate stands')
          return
        }
        await sleep(delay_ms, undefined, { signal: this.#stopped.signal }).catch(() => {})
      }
    }
  }

  /** @returns null when nothing is to be paid (docs/proxy.md, "What is charged") */
  #chargeOf({ route, plan, catalogue, reserved }: ChargedCall, { end, seen, isStream }: Ended): Charge | null {
    if (end === 'refused' || end === 'unreachable' || (end === 'reset' && !plan.runsOn)) return null
    if (seen === null) return chargeAsReserved(plan, reserved.estimate)
    const isOver = seen.isComplete || !plan.runsOn
    if (isOver && seen.failed && seen.pieces === 0 && seen.usage === null) return null
    const charge = chargeFor(catalogue, route.kind, plan, seen, { isWhole: end === 'complete', isStream })
    return charge.isEstimated && charge.cost > reserved.estimate ? { ...charge, cost: reserved.estimate } : charge
  }

  #headersFor({ caller, route, headers, callersKey }: ProxyRequest, { choice }: PlannedCall) {
    const { upstream } = choice
    if (callersKey === undefined && upstream.key === undefined && upstream.needsKey)
      throw new ProxyError(
        400,
        'upstream_key_missing',
        `This server has no key for ${upstream.name}. Send yours in the X-Upstream-Authorization header.`,
      )
    if (callersKey === undefined && !this.#settings.mayUseOperatorKeys(caller.accountId))
      throw new ProxyError(
        403,
        'upstream_key_missing',
        `The operator's key for ${upstream.name} is not for this account. Send your own in the X-Upstream-Authorization header.`,
      )
    return upstreamHeaders(headers, route.protocol, upstream, callersKey)
  }

  async #refusalOf(accountId: string, agentId: string, plan: PlannedCall, bytes: Buffer): Promise<PolicyRefusal | null> {
    let fingerprint: string | undefined
    for (const { model, bound } of plan.models) {
      const refusal = await this.#deps.policy(accountId, {
        agentId,
        model,
        maxTokens: bound.outputTokens,
        get fingerprint() {
          fingerprint ??= hash('sha256', bytes, 'base64')
          return fingerprint
        },
      })
      if (refusal !== null) return refusal
    }
    return null
  }

  async #checkRate(accountId: string, agentId: string, plan: PlannedCall): Promise<void> {
    const { rates, outage } = this.#deps
    const mayGoOn = outage.covers(agentId, askedOf(plan))
    if (mayGoOn && outage.isAway) return
    await checkRate(rates, { accountId, agentId }, plan, { mayGoOn, isDatabaseAway })
  }

  /** What is not charged makes no reservation, which would say so otherwise. */
  async #checkSuspended(accountId: string, agentId: string, { bound, model }: PlannedCall): Promise<void> {
    const path = pathOf(agentId)
    const { envelopes, outage } = this.#deps
    const mayGoOn = outage.covers(agentId, { model, maxTokens: bound.outputTokens })
    if (mayGoOn && outage.isAway) return
    const standing = await envelopes.standingOf(accountId, path).catch((error: unknown) => {
      if (mayGoOn && isDatabaseAway(error)) return null
      throw error
    })
    const level = path.find((one) => typeof standing?.get(one)?.suspendedMs === 'number')
    if (level !== undefined)
      throw new ProxyError(
        403,
        'suspended',
        `Spending of "${level}" is suspended. Only the operator of this server can resume it.`,
      )
  }

  /** Keeps reservations of running calls from expiring, and lets go of clients that do not read. */
  #tend(): void {
    const { budgets, clock, log } = this.#deps
    for (const { call, accountId, holdId } of this.#open) {
      if (call.blocked_ms > this.#settings.timeout_ms) call.dropClient()
      if (holdId === null) continue
      const renewing = budgets.renew(accountId, { operationId: uuidv7(clock.now()), resumed: false }, holdId, HOLD_MS)
      this.#track(renewing.catch((error: unknown) => log.warn({ err: error }, 'renewing a reservation failed, will try again')))
    }
  }

  #track<T>(work: Promise<T>): Promise<T> {
    this.#work.add(work)
    const done = (): void => void this.#work.delete(work)
    work.then(done, done)
    return work
  }
}

type ChargedCall = {
  readonly caller: KeyCaller
  readonly agentId: string
  readonly route: Route
  readonly plan: PlannedCall
  readonly catalogue: Catalogue
  readonly reserved: Reserved
}

/** Until it is known what a call of an outage has used. */
const DEFERRED = JSON.stringify({ end: 'unknown' })
const isDatabaseAway = (error: unknown): boolean => error instanceof DomainError && error.code === 'database_unavailable'
const askedOf = ({ model, bound }: PlannedCall) => ({ model, maxTokens: bound.outputTokens })
