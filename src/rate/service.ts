import { LRUCache } from 'lru-cache'
import { allFulfilled, Batcher } from '../core/batcher.ts'
import { atMost } from '../core/bounded.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { uuidv7 } from '../core/ids.ts'
import { actorOf, type Caller } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Recorder } from '../db/recorder.ts'
import {
  type Alongside,
  deleteRateEnvelope,
  findRateEnvelope,
  minuteOf,
  type RateKey,
  takeRequests,
  upsertRateEnvelope,
} from './store.ts'

export type { RateKey } from './store.ts'

const MINUTE = 60_000
const UNLIMITED_KEYS = 20_000
/** How soon a first share holds for the proxy of another process. */
const UNLIMITED_MS = 1_000

export type RateDecision =
  | { readonly allowed: true; readonly left: number }
  | { readonly allowed: false; readonly reason: 'rate_exceeded'; readonly retry_after_ms: number }
  | { readonly allowed: false; readonly reason: 'no_rate_envelope' }

export type RateView = { readonly requestsPerMinute: number; readonly requestsInWindow: number; readonly windowStartMs: number }

/** Shares of requests per minute for (agent, provider, model) (contract section 4). Minutes are fixed, counted in the database. */
export class RateService {
  readonly #database: Database
  readonly #clock: Clock
  readonly #checks: Batcher<RateKey, RateDecision>
  readonly #onExceeded: (key: RateKey) => void
  /** Shares that are known not to be there. */
  readonly #unlimited = new LRUCache<string, true>({ ...atMost(UNLIMITED_KEYS), ttl: UNLIMITED_MS })
  readonly #changes: Recorder | undefined

  /** @param deps `onExceeded` is told of every refusal; it must not throw or take time */
  constructor(
    deps: { database: Database; clock: Clock; onExceeded?: (key: RateKey) => void; changes?: Recorder },
    options: { maxBatch: number; maxQueue: number },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#onExceeded = deps.onExceeded ?? (() => {})
    this.#changes = deps.changes
    this.#checks = new Batcher((keys) => this.#checkAll(keys), options)
  }

  /** Counts one request if it fits. Exact for any number of callers and processes. */
  check(key: RateKey): Promise<RateDecision> {
    return this.#checks.submit(key)
  }

  /**
   * Counts one request where a share exists; most calls have none, and that is remembered for a second, so that they cost no statement.
   * @returns null where there is no share
   */
  async checkIfShared(key: RateKey): Promise<Exclude<RateDecision, { reason: 'no_rate_envelope' }> | null> {
    const name = nameOf(key)
    if (this.#unlimited.has(name)) return null
    const decision = await this.check(key)
    if (decision.allowed || decision.reason === 'rate_exceeded') return decision
    this.#unlimited.set(name, true)
    return null
  }

  async set(key: RateKey, requestsPerMinute: number, caller?: Caller): Promise<void> {
    const recorded = this.#recorded(key, caller, 'rate_share.set', { requests_per_minute: requestsPerMinute })
    await withDatabaseFailure(upsertRateEnvelope(this.#database, key, requestsPerMinute, this.#clock.now(), recorded))
    this.#unlimited.delete(nameOf(key))
  }

  /** For the audit trail, in the transaction of the change. */
  #recorded(key: RateKey, caller: Caller | undefined, type: string, data: Record<string, unknown>): Alongside {
    const { accountId, agentId, provider, model } = key
    const atMs = this.#clock.now()
    const actor = caller === undefined ? 'system' : actorOf(caller)
    const change = { accountId, id: uuidv7(atMs), type, agentId, actor, data: { provider, model, ...data }, atMs }
    return async (runner) => this.#changes?.record(runner, change)
  }

  /** @throws DomainError `not_found` */
  async get(key: RateKey): Promise<RateView> {
    const row = await withDatabaseFailure(findRateEnvelope(this.#database, key))
    if (row === undefined) throw rateNotFound(key)
    const windowStartMs = Math.max(row.windowStartMs, minuteOf(this.#clock.now()))
    return {
      requestsPerMinute: row.requestsPerMinute,
      requestsInWindow: row.windowStartMs < windowStartMs ? 0 : row.requestsInWindow,
      windowStartMs,
    }
  }

  /** @param call resumed: an earlier run of this call may have deleted it already @throws DomainError `not_found` */
  async delete(key: RateKey, call: { readonly resumed: boolean; readonly caller?: Caller }): Promise<void> {
    const recorded = this.#recorded(key, call.caller, 'rate_share.deleted', {})
    const existed = await withDatabaseFailure(deleteRateEnvelope(this.#database, key, recorded))
    if (!existed && !call.resumed) throw rateNotFound(key)
  }

  async #checkAll(keys: RateKey[]): Promise<PromiseSettledResult<RateDecision>[]> {
    const groups = new Map<string, { key: RateKey; indexes: number[] }>()
    for (const [index, key] of keys.entries()) {
      const name = nameOf(key)
      const group = groups.get(name)
      if (group) group.indexes.push(index)
      else groups.set(name, { key, indexes: [index] })
    }
    const now_ms = this.#clock.now()
    const demands = [...groups.values()]
    const grants = await withDatabaseFailure(
      takeRequests(
        this.#database,
        demands.map(({ key, indexes }) => ({ ...key, wanted: indexes.length })),
        now_ms,
      ),
    )
    const decisions: RateDecision[] = new Array(keys.length)
    for (const [position, { key, indexes }] of demands.entries()) {
      const grant = grants[position] ?? null
      if (grant !== null && grant.granted < indexes.length) this.#onExceeded(key)
      for (const [order, index] of indexes.entries()) {
        if (grant === null) decisions[index] = { allowed: false, reason: 'no_rate_envelope' }
        else if (order < grant.granted) decisions[index] = { allowed: true, left: grant.left + grant.granted - order - 1 }
        else
          decisions[index] = {
            allowed: false,
            reason: 'rate_exceeded',
            retry_after_ms: Math.max(1, grant.windowStartMs + MINUTE - now_ms),
          }
      }
    }
    return allFulfilled(decisions)
  }
}

const nameOf = (key: RateKey): string => JSON.stringify([key.accountId, key.agentId, key.provider, key.model])

const rateNotFound = (key: RateKey): DomainError =>
  new DomainError('not_found', {
    hint: `No rate share is set for agent "${key.agentId}", provider "${key.provider}", model "${key.model}". PUT /v1/rate/envelope sets one.`,
  })
