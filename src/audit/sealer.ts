import { setTimeout as sleep } from 'node:timers/promises'
import { LRUCache } from 'lru-cache'
import { type AccountVersion, closeVersion, listVersions } from '../budgets/history.ts'
import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import { Lease } from '../db/lease.ts'
import { genesisOf, linkOf } from './chain.ts'
import { contentOf } from './entries.ts'
import { placeOf, readMerged } from './history.ts'
import { findHead, findSealedVersions, insertSeal } from './store.ts'

const INTERVAL_MS = 1_000
const LEASE_MS = 30_000
const ACCOUNTS_PER_PAGE = 500
/** Most entries under one seal, and in memory at a time. */
const ENTRIES_PER_SEAL = 500
/** An account that is only denied has no complete version by itself; it gets one after this time. */
const CLOSE_AFTER_MS = 5_000
const REMEMBERED_ACCOUNTS = 100_000
/** Time left to others, as a multiple of the time taken. */
const REST_BETWEEN_PAGES = 9
const REST_BETWEEN_SEALS = 3
const MAX_REST_MS = 1_000
const NIL_UUID = '00000000-0000-0000-0000-000000000000'

export type SealerOptions = { readonly interval_ms?: number; readonly closeAfter_ms?: number; readonly lease_ms?: number }

/**
 * Appends every account's events to its chain, behind the decisions and off their path. Reads only what is complete: all events of
 * versions up to the one an account has reached. A seal is one inserted row, so a process may die anywhere; two that seal at once agree on
 * what comes next, and the row of one of them stays.
 */
export class Sealer {
  readonly #database: Database
  readonly #clock: Clock
  readonly #log: Log
  readonly #lease: Lease
  readonly #interval_ms: number
  readonly #closeAfter_ms: number
  /** Versions up to which an account was found sealed: those without an event of their own need no second look. */
  readonly #done = new LRUCache<string, bigint>({ max: REMEMBERED_ACCOUNTS })
  #timer: NodeJS.Timeout | undefined
  #running: Promise<unknown> = Promise.resolve()
  #stopped = false

  constructor(deps: { database: Database; clock: Clock; log: Log }, options: SealerOptions = {}) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#log = deps.log
    this.#lease = new Lease(deps.database, 'audit.sealer', options.lease_ms ?? LEASE_MS)
    this.#interval_ms = options.interval_ms ?? INTERVAL_MS
    this.#closeAfter_ms = options.closeAfter_ms ?? CLOSE_AFTER_MS
  }

  start(): void {
    this.#stopped = false
    this.#schedule()
  }

  /** Ends after the account under way and lets another process take over. */
  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    await this.#running
    await this.#lease.release().catch(() => {})
  }

  #schedule(): void {
    if (this.#stopped) return
    this.#timer = setTimeout(() => {
      this.#running = this.pass()
        .catch((error: unknown) => this.#log.warn({ err: error }, 'sealing the audit trail failed, will try again'))
        .then(() => this.#schedule())
    }, this.#interval_ms)
    this.#timer.unref()
  }

  /** Seals what is complete of every account. @returns how many entries; null when another process is at it */
  async pass(): Promise<number | null> {
    let sealed = 0
    let after = NIL_UUID
    for (;;) {
      if (!(await this.#lease.take())) return after === NIL_UUID ? null : sealed
      const began_ms = performance.now()
      const page = await listVersions(this.#database, after, ACCOUNTS_PER_PAGE)
      sealed += await this.#sealPage(page)
      const last = page.at(-1)
      if (last === undefined || page.length < ACCOUNTS_PER_PAGE || this.#stopped) return sealed
      after = last.accountId
      await this.#rest(began_ms, REST_BETWEEN_PAGES)
    }
  }

  async #sealPage(page: readonly AccountVersion[]): Promise<number> {
    const open = page.filter(({ accountId, version }) => (this.#done.get(accountId) ?? -1n) < version)
    const versions =
      open.length === 0
        ? new Map<string, bigint>()
        : await findSealedVersions(
            this.#database,
            open.map(({ accountId }) => accountId),
          )
    let sealed = 0
    for (const { accountId, version } of open) {
      if (this.#stopped) return sealed
      if ((versions.get(accountId) ?? -1n) < version) sealed += await this.#sealAccount(accountId, version)
      if (this.#stopped) return sealed
      this.#done.set(accountId, version)
    }
    for (const { accountId, version, openMs } of page)
      if (openMs !== null && openMs <= this.#clock.now() - this.#closeAfter_ms)
        await closeVersion(this.#database, accountId, version)
    return sealed
  }

  /** Nobody waits for a seal: sealing takes a small share of the time, however much there is to seal. */
  async #rest(began_ms: number, share: number): Promise<void> {
    if (!this.#stopped) await sleep(Math.min(MAX_REST_MS, (performance.now() - began_ms) * share))
  }

  async #sealAccount(accountId: string, through: bigint): Promise<number> {
    let sealed = 0
    let head = await findHead(this.#database, accountId)
    for (;;) {
      const began_ms = performance.now()
      const rows = await readMerged(
        this.#database,
        accountId,
        { after: placeOf(head), before: null, through },
        ENTRIES_PER_SEAL,
        'oldest',
      )
      const last = rows.at(-1)
      if (last === undefined) return sealed
      const firstSeq = (head?.lastSeq ?? 0n) + 1n
      let hash = head === null ? genesisOf(accountId) : head.hash.toString('hex')
      for (const [index, row] of rows.entries()) hash = linkOf(hash, contentOf(accountId, Number(firstSeq) + index, row))
      const times = rows.map(({ atMs }) => atMs)
      const seal = {
        accountId,
        firstSeq,
        lastSeq: firstSeq + BigInt(rows.length) - 1n,
        lastVersion: last.version,
        lastId: last.id,
        lastRank: last.rank,
        hash: Buffer.from(hash, 'hex'),
        minMs: Math.min(...times),
        maxMs: Math.max(...times),
        sealedMs: this.#clock.now(),
      }
      if (await insertSeal(this.#database, seal)) {
        sealed += rows.length
        head = seal
      } else head = await findHead(this.#database, accountId)
      if (rows.length < ENTRIES_PER_SEAL || this.#stopped) return sealed
      await this.#rest(began_ms, REST_BETWEEN_SEALS)
    }
  }
}
