import { hash, randomBytes } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { allFulfilled, Batcher } from '../core/batcher.ts'
import { atMost } from '../core/bounded.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { KeyCaller } from '../core/operation.ts'
import { answeredWithin } from '../core/patience.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { type ApiKeyRow, findKeysByHash, findRevokedSince, touchKeys } from './store.ts'

const KEY = /^bg_[0-9a-f]{32}$/
const REVOKED_CHANNEL = 'gvnr_key_revoked'

/** A new bearer key: `bg_` and 128 random bits (contract section 2). Shown once, stored only as its hash. */
export const newApiKey = (): string => `bg_${randomBytes(16).toString('hex')}`
export const hashOf = (key: string): Buffer => hash('sha256', key, 'buffer')

const CACHED_KEYS = 50_000
const KEY_TTL_MS = 60_000
const UNKNOWN_KEYS = 50_000
const UNKNOWN_TTL_MS = 5_000
/** How often the caches look at the clock. */
const TTL_RESOLUTION_MS = 500
/** A revocation is effective on every process within a second, also where a pooler forbids LISTEN. */
const POLL_MS = 400
const POLL_OVERLAP_MS = 30_000
const TOUCH_MS = 10_000

type Known = { readonly caller: KeyCaller; readonly hash: string }

/**
 * Turns bearer keys into callers. Known keys come from a bounded cache that a revocation clears at once through NOTIFY, and through
 * polling in any case; unknown ones are looked up in batches, one statement at a time, so a flood of bad keys costs one connection.
 */
export class KeyResolver {
  readonly #database: Database
  readonly #clock: Clock
  readonly #log: Log
  readonly #known = new LRUCache<string, Known>({
    ...atMost(CACHED_KEYS),
    ttl: KEY_TTL_MS,
    ttlResolution: TTL_RESOLUTION_MS,
    noDeleteOnStaleGet: true,
  })
  readonly #trustKnown: () => boolean
  readonly #isAway: () => boolean
  readonly #unknown = new LRUCache<string, true>({
    ...atMost(UNKNOWN_KEYS),
    ttl: UNKNOWN_TTL_MS,
    ttlResolution: TTL_RESOLUTION_MS,
  })
  readonly #lookups: Batcher<Buffer, ApiKeyRow | null>
  readonly #used = new Map<string, { accountId: string; keyId: string; usedMs: number }>()
  /** Counts evictions: a lookup that began before one must not be cached after it. */
  #epoch = 0
  #polledMs: number
  #timers: NodeJS.Timeout[] = []
  #unlisten: (() => Promise<void>) | undefined

  /**
   * @param options `trustKnown` whether a key that was good when last looked at stands while the database cannot be asked; `isAway` whether
   * asking it is known to be in vain
   */
  constructor(
    deps: { database: Database; clock: Clock; log: Log },
    options: { maxBatch: number; maxQueue: number; trustKnown?: () => boolean; isAway?: () => boolean },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#log = deps.log
    this.#polledMs = deps.clock.now()
    this.#trustKnown = options.trustKnown ?? (() => false)
    this.#isAway = options.isAway ?? (() => false)
    this.#lookups = new Batcher((hashes) => this.#lookUp(hashes), options)
  }

  /** Begins to follow revocations and to record uses. */
  async start(): Promise<void> {
    this.#unlisten = await this.#database.listen(
      REVOKED_CHANNEL,
      (hash) => this.#evict(hash),
      () => this.#evictAll(),
    )
    this.#every(POLL_MS, () => this.#pollRevoked())
    this.#every(TOUCH_MS, () => this.flushUses())
  }

  async stop(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    await this.#unlisten?.()
    await this.flushUses().catch(() => {})
  }

  /**
   * The caller a key stands for, or null when it is malformed, unknown, expired or revoked.
   * Answers without a promise when the key is cached: the common case costs no turn of the event loop.
   * @throws DomainError `database_unavailable`, `overloaded`
   */
  resolve(key: string): KeyCaller | null | Promise<KeyCaller | null> {
    if (!KEY.test(key)) return null
    const name = hash('sha256', key, 'base64')
    const known = this.#isAway() && this.#trustKnown() ? this.#known.get(name, { allowStale: true }) : this.#known.get(name)
    if (known) return this.#ifLive(known.caller)
    return this.#unknown.has(name) ? null : this.#resolveFromDatabase(name)
  }

  /** The caller of a key that is in use, without looking anywhere; null for every other. */
  remembered(key: string): KeyCaller | null {
    const known = KEY.test(key) ? this.#known.get(hash('sha256', key, 'base64')) : undefined
    return known === undefined ? null : this.#ifLive(known.caller)
  }

  /** Tells every process that a key is dead, this one at once. */
  async announceRevoked(keyHash: Buffer): Promise<void> {
    const hash = keyHash.toString('base64')
    this.#evict(hash)
    // The revocation is committed: without the notification the other processes find it by polling.
    await this.#database
      .notify(REVOKED_CHANNEL, hash)
      .catch((error: unknown) => this.#log.warn({ err: error }, 'announcing a revoked key failed, polling will find it'))
  }

  /** Writes the collected times of use. */
  async flushUses(): Promise<void> {
    if (this.#used.size === 0) return
    const used = [...this.#used.values()]
    this.#used.clear()
    await touchKeys(this.#database, used)
  }

  async #resolveFromDatabase(hash: string): Promise<KeyCaller | null> {
    const epoch = this.#epoch
    const known = this.#trustKnown() ? this.#known.get(hash, { allowStale: true }) : undefined
    let row: ApiKeyRow | null
    try {
      const lookup = this.#lookups.submit(Buffer.from(hash, 'base64'))
      row = await (known === undefined ? lookup : answeredWithin(lookup))
    } catch (error) {
      if (known && error instanceof DomainError && error.code === 'database_unavailable') return this.#ifLive(known.caller)
      throw error
    }
    // A revoked key never comes back, so both may be remembered.
    if (row === null || row.revokedMs !== null) {
      this.#unknown.set(hash, true)
      return null
    }
    const caller: KeyCaller = {
      kind: 'key',
      accountId: row.accountId,
      keyId: row.keyId,
      name: row.name,
      scope: row.scope,
      agentId: row.agentId,
      expiresMs: row.expiresMs,
    }
    if (epoch === this.#epoch) this.#known.set(hash, { caller, hash })
    return this.#ifLive(caller)
  }

  #ifLive(caller: KeyCaller): KeyCaller | null {
    const now_ms = this.#clock.now()
    if (caller.expiresMs !== null && caller.expiresMs <= now_ms) return null
    const use = this.#used.get(caller.keyId)
    if (use) use.usedMs = now_ms
    else if (this.#used.size < CACHED_KEYS)
      this.#used.set(caller.keyId, { accountId: caller.accountId, keyId: caller.keyId, usedMs: now_ms })
    return caller
  }

  async #lookUp(hashes: Buffer[]): Promise<PromiseSettledResult<ApiKeyRow | null>[]> {
    const rows = new Map(
      (await withDatabaseFailure(findKeysByHash(this.#database, hashes))).map((row) => [row.keyHash.toString('base64'), row]),
    )
    return allFulfilled(hashes.map((hash) => rows.get(hash.toString('base64')) ?? null))
  }

  #evict(hash: string): void {
    this.#epoch++
    this.#known.delete(hash)
  }

  #evictAll(): void {
    this.#epoch++
    this.#known.clear()
  }

  async #pollRevoked(): Promise<void> {
    const polled = this.#clock.now()
    // Overlaps, because a revocation commits a little after its time was taken.
    for (const hash of await findRevokedSince(this.#database, this.#polledMs - POLL_OVERLAP_MS)) {
      if (this.#known.has(hash.toString('base64'))) this.#evict(hash.toString('base64'))
    }
    this.#polledMs = polled
  }

  #every(period_ms: number, work: () => Promise<void>): void {
    let running = false
    const timer = setInterval(() => {
      if (running) return
      running = true
      work()
        .catch((error: unknown) => this.#log.warn({ err: error }, 'key housekeeping failed, will try again'))
        .finally(() => {
          running = false
        })
    }, period_ms)
    timer.unref()
    this.#timers.push(timer)
  }
}
