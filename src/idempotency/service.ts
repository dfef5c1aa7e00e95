import { createCipheriv, createDecipheriv, createHash, hkdfSync, randomBytes } from 'node:crypto'
import { allFulfilled, Batcher } from '../core/batcher.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { uuidv7 } from '../core/ids.ts'
import type { Guards, OnceRequest, OperationResult } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { type Presence, UNSEEN_MS } from '../db/presence.ts'
import { Persistence } from './persistence.ts'
import { noRoom, Room } from './room.ts'
import {
  type Claim,
  claimKeys,
  countRows,
  deleteRequest,
  findExpiry,
  findRequest,
  insertRequest,
  type KeyAnswer,
  type KeyCheck,
  purgeExpired,
  storeResponse,
  takeOverRequest,
} from './store.ts'

/** How long a stored response is replayed (contract section 6). */
const RESPONSE_TTL_MS = 24 * 3_600_000
/** Longer than any request may run (statement timeouts bound it). What a process that is gone had begun need not wait for it. */
const LEASE_MS = 30_000

/** What an account without ops may have at a time; each op allows ten more. */
const FREE_KEYS = 100_000
const FREE_RESPONSES = 20_000
const TOO_MANY_KEYS =
  'This account has as many idempotency keys as it may, so no new one can be claimed; keys that are there are still recognized. Wait until some expire, and give keys a shorter ttl_seconds. An account may have 100,000, and 10 more for each operation it has left.'
const TOO_MANY_RESPONSES =
  'This account has as many stored responses as it may, so no further call can bring an Idempotency-Key; they are kept for 24 hours. Leave the header out where a repeat does no harm. An account may have 20,000, and 10 more for each operation it has left.'

/** Idempotency keys of agents, and the `Idempotency-Key` header of REST calls (contract section 6). */
export class IdempotencyService {
  readonly #database: Database
  readonly #clock: Clock
  readonly #presence: Pick<Presence, 'processId' | 'isGone'>
  readonly #checks: Batcher<KeyCheck, KeyAnswer>
  readonly #keyRoom: Room
  readonly #requestRoom: Room
  readonly #persistence: Persistence

  constructor(
    deps: { database: Database; clock: Clock; presence: Pick<Presence, 'processId' | 'isGone'> },
    options: { maxBatch: number; maxQueue: number },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#presence = deps.presence
    this.#keyRoom = new Room(FREE_KEYS, (accountId, most) => countRows(deps.database, 'idempotency_keys', accountId, most))
    this.#requestRoom = new Room(FREE_RESPONSES, (accountId, most) =>
      countRows(deps.database, 'idempotent_requests', accountId, most),
    )
    this.#persistence = new Persistence(deps, options.maxQueue)
    this.#checks = new Batcher((checks) => this.#checkAll(checks), options)
  }

  /**
   * Of any number of simultaneous calls with one key exactly one is first.
   * @returns ttl in whole seconds, rounded up
   * @throws DomainError `rate_limited` for a new key of an account that has too many
   */
  async check(accountId: string, key: string, ttlSeconds: number): Promise<{ first: boolean; ttlRemainingSeconds: number }> {
    const { first, expiresMs } = (await this.#whenFull(accountId, key)) ?? (await this.#claim(accountId, key, ttlSeconds))
    return { first, ttlRemainingSeconds: Math.max(0, Math.ceil((expiresMs - this.#clock.now()) / 1000)) }
  }

  async #claim(accountId: string, key: string, ttlSeconds: number): Promise<KeyAnswer> {
    const answer = await this.#checks.submit({ accountId, key, ttl_ms: ttlSeconds * 1000 })
    if (answer.first) this.#keyRoom.took(accountId)
    return answer
  }

  /** An account that has as many keys as it may is still told of those there are. @returns null when it may have more */
  async #whenFull(accountId: string, key: string): Promise<KeyAnswer | null> {
    if (this.#keyRoom.has(accountId) || (await withDatabaseFailure(this.#keyRoom.look(accountId)))) return null
    const expiresMs = await withDatabaseFailure(findExpiry(this.#database, accountId, key, this.#clock.now()))
    if (expiresMs !== undefined) return { first: false, expiresMs }
    throw noRoom(TOO_MANY_KEYS)
  }

  async #checkAll(checks: KeyCheck[]): Promise<PromiseSettledResult<KeyAnswer>[]> {
    const firstOf = new Map<string, number>()
    for (const [index, check] of checks.entries()) {
      const name = `${check.accountId} ${check.key}`
      if (!firstOf.has(name)) firstOf.set(name, index)
    }
    const distinct = [...firstOf.values()]
    const answers = await withDatabaseFailure(
      claimKeys(
        this.#database,
        distinct.flatMap((index) => checks[index] ?? []),
        this.#clock.now(),
      ),
    )
    const byName = new Map(distinct.map((index, position) => [index, answers[position]]))
    return allFulfilled(
      checks.map((check, index) => {
        const leader = firstOf.get(`${check.accountId} ${check.key}`) ?? index
        const answer = byName.get(leader)
        if (answer === undefined) throw new Error('a key was left unanswered')
        return leader === index ? answer : { ...answer, first: false }
      }),
    )
  }

  /**
   * Runs a request once per (account, key) and replays its response for 24 hours. A first request that died is taken up again under
   * the same operation id, by which the operation finds what it had already done.
   * @throws DomainError `idempotency_conflict` while the first runs, `idempotency_mismatch` for another request under the same key
   */
  readonly once: Guards['once'] = async (request, run) => {
    const now_ms = this.#clock.now()
    const claim = {
      accountId: request.accountId,
      key: request.key,
      fingerprint: fingerprintOf(request),
      operationId: uuidv7(now_ms),
      leaseMs: now_ms + LEASE_MS,
      processId: this.#presence.processId,
      expiresMs: now_ms + RESPONSE_TTL_MS,
    }
    const { accountId } = request
    const hasRoom = this.#requestRoom.has(accountId) || (await withDatabaseFailure(this.#requestRoom.look(accountId)))
    if (hasRoom && (await this.#insert(claim, now_ms))) {
      this.#requestRoom.took(accountId)
      const own = await this.#keep(claim, now_ms)
      if (own !== null) return this.#run(request, own, false, run)
    }

    const stored = await withDatabaseFailure(findRequest(this.#database, request.accountId, request.key))
    if (stored === undefined && !hasRoom) throw noRoom(TOO_MANY_RESPONSES)
    if (stored === undefined) throw stillRunning()
    if (!stored.fingerprint.equals(claim.fingerprint)) throw new DomainError('idempotency_mismatch')
    if (stored.status !== null && stored.response !== null) return replay(request, stored.status, stored.response)
    const isLeft = stored.leaseMs <= now_ms || (await withDatabaseFailure(this.#presence.isGone(stored.processId)))
    if (!isLeft || !(await withDatabaseFailure(takeOverRequest(this.#database, stored, claim)))) throw stillRunning()
    const { leaseMs, processId } = claim
    return this.#run(request, { ...stored, leaseMs, processId }, true, run)
  }

  async #insert(claim: Claim, now_ms: number): Promise<boolean> {
    try {
      return await withDatabaseFailure(insertRequest(this.#database, claim, now_ms))
    } catch (error) {
      // It may be there all the same.
      void this.#giveUp(claim)
      throw error
    }
  }

  /** A process that stood still since it began to take the key asks whether it still has it. @returns null when another one has */
  async #keep(claim: Claim, began_ms: number): Promise<Claim | null> {
    const now_ms = this.#clock.now()
    if (now_ms - began_ms < UNSEEN_MS) return claim
    const renewed = { ...claim, leaseMs: now_ms + LEASE_MS, processId: this.#presence.processId }
    return (await withDatabaseFailure(takeOverRequest(this.#database, claim, renewed))) ? renewed : null
  }

  async #run(request: OnceRequest, claim: Claim, resumed: boolean, run: Parameters<Guards['once']>[1]): Promise<OperationResult> {
    let result: OperationResult
    try {
      result = await run(claim.operationId, resumed)
    } catch (error) {
      if (error instanceof DomainError && error.status < 500 && !error.retryable) {
        const stored = await this.#store(request, claim, { status: error.status, body: error.toBody() })
        if (stored !== null) return stored
      } else if (!resumed && error instanceof DomainError && (error.code === 'overloaded' || error.status < 500)) {
        // Refused before anything was decided, and worth another try: the key is free again. Not so when an earlier run may have done the work.
        await deleteRequest(this.#database, claim).catch(() => {})
      } else await this.#giveUp(claim)
      throw error
    }
    return (await this.#store(request, claim, result)) ?? result
  }

  /** Nobody knows whether it was done: the next try finds out, at once instead of after the lease. */
  async #giveUp(claim: Claim): Promise<void> {
    const nobody = { leaseMs: this.#clock.now(), processId: null }
    await this.#persistence.attempt(claim.leaseMs, () => takeOverRequest(this.#database, claim, nobody))
  }

  /**
   * The work is done. If its response is never stored, a retry runs into the lease and then finds the work by its operation id.
   * @returns the answer of whoever took the request over while this process stood still, as a request has one answer; else null
   * @throws DomainError `idempotency_conflict` when that one is not done yet
   */
  async #store(request: OnceRequest, claim: Claim, result: OperationResult): Promise<OperationResult | null> {
    const body = Buffer.from(JSON.stringify(result.body))
    const response = request.sealWith === undefined ? body : seal(body, request.sealWith)
    const isHeld = await this.#persistence.attempt(claim.leaseMs, () =>
      storeResponse(this.#database, claim, result.status, response),
    )
    if (isHeld !== false) return null
    const stored = await withDatabaseFailure(findRequest(this.#database, claim.accountId, claim.key))
    if (stored?.operationId !== claim.operationId) return null
    if (stored.status === null || stored.response === null) throw stillRunning()
    return replay(request, stored.status, stored.response)
  }

  /** Housekeeping: removes at most `limit` expired rows of each kind. */
  purge(limit: number): Promise<number> {
    return purgeExpired(this.#database, this.#clock.now(), limit)
  }
}

const stillRunning = (): DomainError => new DomainError('idempotency_conflict', { retryAfterSeconds: 1 })

function fingerprintOf(request: OnceRequest): Buffer {
  const hash = createHash('sha256').update(JSON.stringify([request.operation, request.boundTo ?? null, sorted(request.input)]))
  // A sealed response can only be opened by the key that asked for it: another key is another request.
  if (request.sealWith !== undefined) hash.update(createHash('sha256').update(request.sealWith).digest())
  return hash.digest()
}

/** The same fields in another order are the same request. Inputs have been validated: small, and shallow. */
function sorted(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sorted)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, field]) => [name, sorted(field)]),
  )
}

function replay(request: OnceRequest, status: number, response: Buffer): OperationResult {
  const body = request.sealWith === undefined ? response : unseal(response, request.sealWith)
  return { status, body: JSON.parse(body.toString()) as Record<string, unknown>, replayed: true }
}

// Responses that hold a secret (a new key) are stored encrypted under the bearer key that asked, which is itself never stored.
const IV_BYTES = 12
const TAG_BYTES = 16
const sealingKey = (bearer: string, iv: Buffer): Buffer =>
  Buffer.from(hkdfSync('sha256', bearer, iv, 'gvnr idempotent response', 32))

function seal(body: Buffer, bearer: string): Buffer {
  const iv = randomBytes(IV_BYTES)
  const cipher = createCipheriv('aes-256-gcm', sealingKey(bearer, iv), iv)
  return Buffer.concat([iv, cipher.update(body), cipher.final(), cipher.getAuthTag()])
}

function unseal(sealed: Buffer, bearer: string): Buffer {
  const iv = sealed.subarray(0, IV_BYTES)
  const decipher = createDecipheriv('aes-256-gcm', sealingKey(bearer, iv), iv)
  decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES))
  return Buffer.concat([decipher.update(sealed.subarray(IV_BYTES, sealed.length - TAG_BYTES)), decipher.final()])
}
