import { LRUCache } from 'lru-cache'
import { type AccountVersion, closeVersion, listVersions } from '../budgets/history.ts'
import { atMost } from '../core/bounded.ts'
import type { Clock } from '../core/clock.ts'
import { NIL_UUID } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import { Pace } from '../core/pace.ts'
import type { Database } from '../db/client.ts'
import { LeasedWork } from '../db/leased-work.ts'
import { genesisOf, linkOf } from './chain.ts'
import { contentOf, type EventRow } from './entries.ts'
import { placeOf, readManyMerged } from './history.ts'
import { findHeads, type Head, insertSeals, type Seal } from './store.ts'

const INTERVAL_MS = 1_000
const LEASE_MS = 30_000
const ACCOUNTS_PER_PAGE = 500
/** Accounts sealed together, and entries read for them: few enough that computing them delays nobody by more than some milliseconds. */
const ACCOUNTS_PER_ROUND = 50
const ENTRIES_PER_ROUND = 500
const MIN_ENTRIES_PER_ACCOUNT = 10
/** An account that is only denied has no complete version by itself; it gets one after this time. */
const CLOSE_AFTER_MS = 5_000
const REMEMBERED_ACCOUNTS = 100_000
/** What is left unsealed while many decide is sealed when they have stopped. */
const RESTS = { whenBusy: 19, otherwise: 3 }

export type SealerOptions = { readonly interval_ms?: number; readonly closeAfter_ms?: number; readonly lease_ms?: number }
type SealerDeps = {
  readonly database: Database
  readonly clock: Clock
  readonly log: Log
  /** How many commands this process has decided so far: sealing steps back while that number grows fast. */
  readonly commands?: () => number
}

/**
 * Appends every account's events to its chain, behind the decisions and off their path. Reads only what is complete: all events of
 * versions up to the one an account has reached. A seal is one inserted row, so a process may die anywhere; two that seal at once agree on
 * what comes next, and the row of one of them stays.
 */
export class Sealer {
  readonly #database: Database
  readonly #clock: Clock
  readonly #pace: Pace
  readonly #work: LeasedWork
  readonly #closeAfter_ms: number
  /** Versions up to which an account was found sealed: those without an event of their own need no second look. */
  readonly #done = new LRUCache<string, bigint>(atMost(REMEMBERED_ACCOUNTS))

  constructor(deps: SealerDeps, options: SealerOptions = {}) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#pace = new Pace(deps.commands ?? (() => 0), RESTS)
    const { lease_ms = LEASE_MS, interval_ms = INTERVAL_MS } = options
    const failure = 'sealing the audit trail failed, will try again'
    this.#work = new LeasedWork(deps, { name: 'audit.sealer', lease_ms, interval_ms, failure }, () => this.pass())
    this.#closeAfter_ms = options.closeAfter_ms ?? CLOSE_AFTER_MS
  }

  start(): void {
    this.#work.start()
  }

  /** Ends after the round under way and lets another process take over. */
  stop(): Promise<void> {
    return this.#work.stop()
  }

  get #stopped(): boolean {
    return this.#work.ending.aborted
  }

  /** Seals what is complete of every account. @returns how many entries; null when another process is at it */
  async pass(): Promise<number | null> {
    if (!(await this.#work.take())) return null
    let sealed = 0
    let after = NIL_UUID
    for (;;) {
      const listing = this.#pace.begin()
      const page = await listVersions(this.#database, after, ACCOUNTS_PER_PAGE)
      await this.#pace.rest(listing, this.#work.ending)
      const open = page.filter(({ accountId, version }) => (this.#done.get(accountId) ?? -1n) < version)
      for (let start = 0; start < open.length && !this.#stopped; start += ACCOUNTS_PER_ROUND) {
        const group = new Chains(this.#database, this.#clock, open.slice(start, start + ACCOUNTS_PER_ROUND))
        for (let isOpen = true; isOpen && !this.#stopped; ) {
          const piece = this.#pace.begin()
          if (!(await this.#work.keep())) return sealed
          const round = await group.sealSome()
          sealed += round.sealed
          isOpen = round.isOpen
          if (!isOpen) for (const { accountId, version } of group.accounts) this.#done.set(accountId, version)
          await this.#pace.rest(piece, this.#work.ending)
        }
      }
      if (this.#stopped) return sealed
      for (const { accountId, version, openMs } of page)
        if (openMs !== null && openMs <= this.#clock.now() - this.#closeAfter_ms)
          await closeVersion(this.#database, accountId, version)
      const last = page.at(-1)
      if (last === undefined || page.length < ACCOUNTS_PER_PAGE) return sealed
      after = last.accountId
    }
  }
}

/** Some accounts' chains while they are brought up to the versions that the accounts have reached. */
class Chains {
  readonly accounts: readonly AccountVersion[]
  readonly #database: Database
  readonly #clock: Clock
  readonly #heads = new Map<string, Head>()
  #open: readonly AccountVersion[]
  /** Whose head is not the one that is stored. */
  #unknown: readonly AccountVersion[]

  constructor(database: Database, clock: Clock, accounts: readonly AccountVersion[]) {
    this.#database = database
    this.#clock = clock
    this.accounts = accounts
    this.#open = accounts
    this.#unknown = accounts
  }

  /** Appends one seal at most to each. @returns whether some may have more to seal */
  async sealSome(): Promise<{ sealed: number; isOpen: boolean }> {
    if (this.#unknown.length > 0) await this.#readHeads()
    if (this.#open.length === 0) return { sealed: 0, isOpen: false }
    const limit = Math.max(MIN_ENTRIES_PER_ACCOUNT, Math.floor(ENTRIES_PER_ROUND / this.#open.length))
    const requests = this.#open.map(({ accountId, version }) => {
      return { accountId, after: placeOf(this.#heads.get(accountId) ?? null), through: version }
    })
    const entries = await readManyMerged(this.#database, requests, limit)
    const seals = [...entries].map(([accountId, rows]) => this.#sealOf(accountId, rows))
    const stored = seals.length === 0 ? new Set<string>() : await insertSeals(this.#database, seals)
    let sealed = 0
    for (const seal of seals) {
      if (!stored.has(seal.accountId)) continue
      this.#heads.set(seal.accountId, seal)
      sealed += entries.get(seal.accountId)?.length ?? 0
    }
    this.#unknown = this.#open.filter(({ accountId }) => entries.has(accountId) && !stored.has(accountId))
    this.#open = this.#open.filter(
      ({ accountId }) =>
        (entries.get(accountId)?.length ?? 0) >= limit || this.#unknown.some((other) => other.accountId === accountId),
    )
    return { sealed, isOpen: this.#open.length > 0 }
  }

  async #readHeads(): Promise<void> {
    const ids = this.#unknown.map(({ accountId }) => accountId)
    for (const [accountId, head] of await findHeads(this.#database, ids)) this.#heads.set(accountId, head)
    this.#unknown = []
    this.#open = this.#open.filter(({ accountId, version }) => !isComplete(this.#heads.get(accountId), version))
  }

  #sealOf(accountId: string, rows: readonly EventRow[]): Seal {
    const head = this.#heads.get(accountId)
    const firstSeq = (head?.lastSeq ?? 0n) + 1n
    let hash = head === undefined ? genesisOf(accountId) : head.hash.toString('hex')
    for (const [index, row] of rows.entries()) hash = linkOf(hash, contentOf(accountId, Number(firstSeq) + index, row))
    const last = rows.at(-1)
    if (last === undefined) throw new Error('a seal needs entries')
    const times = rows.map(({ atMs }) => atMs)
    return {
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
  }
}

/** Whether a chain certainly holds everything up to a version: a seal that was cut short in the middle of one is a long one. */
const isComplete = (head: Head | undefined, version: bigint): boolean =>
  head !== undefined &&
  (head.lastVersion > version || (head.lastVersion === version && head.lastSeq - head.firstSeq + 1n < MIN_ENTRIES_PER_ACCOUNT))
