import type { HistoryRange, Place } from '../budgets/history.ts'
import type { Clock } from '../core/clock.ts'
import { isWithin } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Change, Recorder } from '../db/recorder.ts'
import type { Runner } from '../db/runner.ts'
import { type Entry, genesisOf, linkOf } from './chain.ts'
import { contentOf, type EventRow } from './entries.ts'
import { comparePlaces, placeOf, readMerged } from './history.ts'
import { findHead, findOldest, insertEvent, listSeals, type Seal } from './store.ts'

export type AuditFilter = {
  /** This agent and those below it. */
  readonly agentId: string | null
  /** Unix ms, included. */
  readonly from_ms: number | null
  /** Unix ms, not included. */
  readonly to_ms: number | null
}
/** The newest sealed entry. Whoever keeps it can show later that nothing up to it was changed. */
export type Head = { readonly seq: number; readonly hash: string; readonly sealedMs: number | null }
export type AuditPage = { readonly entries: readonly Entry[]; readonly hasMore: boolean; readonly complete: boolean }

/** Entries in memory at a time. */
const CHUNK = 1_000
const SEALS_PER_QUERY = 200
/** Most entries that a page may look at; a filter that finds less in so many says so. */
const MAX_SCANNED = 50_000
const ALL_VERSIONS = 9_223_372_036_854_775_807n

/** Every decision and every change of an account, in one order, with a chain of hashes that a third party can check (contract section 9). */
export class AuditService implements Recorder {
  readonly #database: Database
  readonly #clock: Clock

  constructor(deps: { database: Database; clock: Clock }) {
    this.#database = deps.database
    this.#clock = deps.clock
  }

  /** Records a change that the decision engine does not make, in the transaction that makes it. */
  async record(runner: Runner, event: Change): Promise<void> {
    await insertEvent(runner, this.#database.prepare, event)
  }

  async head(accountId: string): Promise<Head> {
    return headOf(accountId, await withDatabaseFailure(findHead(this.#database, accountId)))
  }

  /** The last entry that was taken away because of its age: what is kept begins behind it. seq is 0 when nothing was. */
  async base(accountId: string): Promise<Head> {
    const oldest = await withDatabaseFailure(findOldest(this.#database, accountId))
    return headOf(accountId, isBase(oldest) ? oldest : null)
  }

  /** One page, newest first. @param page from 1 */
  async page(accountId: string, filter: AuditFilter, page: number, pageSize: number): Promise<AuditPage> {
    const skip = (page - 1) * pageSize
    const isPlain = filter.agentId === null && filter.from_ms === null && filter.to_ms === null
    const found: Entry[] = []
    let seen = 0
    let scanned = 0
    for await (const { entries, passed, read } of this.#chunks(accountId, filter, isPlain ? skip : 0)) {
      seen += passed
      scanned += read
      for (const entry of entries) {
        if (++seen > skip) found.push(entry)
        if (found.length > pageSize) return { entries: found.slice(0, pageSize), hasMore: true, complete: true }
      }
      if (scanned >= MAX_SCANNED) return { entries: found, hasMore: true, complete: false }
    }
    return { entries: found, hasMore: false, complete: true }
  }

  /** All entries, newest first, in pieces; as of the moment of the call. The export lies between its base and its head. */
  async export(
    accountId: string,
    filter: AuditFilter,
  ): Promise<{ head: Head; base: Head; entries: AsyncIterable<readonly Entry[]> }> {
    const base = await this.base(accountId)
    const head = await withDatabaseFailure(findHead(this.#database, accountId))
    const chunks = this.#chunks(accountId, filter, 0, { head, baseSeq: BigInt(base.seq) })
    return { head: headOf(accountId, head), base, entries: entriesOf(chunks) }
  }

  /**
   * Everything that fits the filter, newest first, in pieces. @param skip so many may be left out and only counted as `passed`
   * @param known where to start and end, when that was read before
   */
  async *#chunks(
    accountId: string,
    filter: AuditFilter,
    skip: number,
    known?: { head: Seal | null; baseSeq: bigint },
  ): AsyncGenerator<Chunk> {
    const head = known ? known.head : await withDatabaseFailure(findHead(this.#database, accountId))
    const baseSeq = known ? known.baseSeq : BigInt((await this.base(accountId)).seq)
    let left = skip
    for await (const rows of this.#unsealed(accountId, placeOf(head))) {
      const entries = rows.map((row) => unsealedEntry(accountId, row)).filter((entry) => fits(entry, filter))
      yield { passed: 0, read: rows.length, entries }
      left -= rows.length
    }
    let before = (head?.lastSeq ?? 0n) + 1n
    while (before > baseSeq + 1n) {
      // One more than are looked at: the one below says where the lowest of them begins.
      const seals = await withDatabaseFailure(listSeals(this.#database, accountId, before, SEALS_PER_QUERY + 1))
      const end = seals.slice(0, SEALS_PER_QUERY).filter((seal) => seal.firstSeq > baseSeq).length
      for (let at = 0; at < end; ) {
        const group = groupFrom(seals, at, end)
        at += group.length
        before = group.at(-1)?.firstSeq ?? 1n
        const size = Number((group[0]?.lastSeq ?? 0n) - before + 1n)
        if (left >= size) {
          left -= size
          yield { passed: size, read: 0, entries: [] }
        } else if (group.some((seal) => mayFit(seal, filter))) {
          left = 0
          const entries = await this.#sealed(accountId, seals[at] ?? null, group.toReversed())
          yield { passed: 0, read: entries.length, entries: entries.filter((entry) => fits(entry, filter)).reverse() }
        }
      }
      if (end === 0) return
    }
  }

  /** Events after the head, newest first. */
  async *#unsealed(accountId: string, head: Place | null): AsyncGenerator<EventRow[]> {
    let before: Place | null = null
    for (;;) {
      const range: HistoryRange = { after: head, before, through: ALL_VERSIONS }
      const rows: EventRow[] = await withDatabaseFailure(readMerged(this.#database, accountId, range, CHUNK, 'newest'))
      if (rows.length > 0) yield rows
      if (rows.length < CHUNK) return
      before = rows.at(-1) ?? null
    }
  }

  /**
   * The entries of neighbouring seals, oldest first, computed again from the events. Where they no longer give a seal's hash, what follows
   * goes on from the seal as it is stored: so a reader of the export finds the place.
   * @param base the seal below @param seals oldest first
   */
  async #sealed(accountId: string, base: Seal | null, seals: readonly Seal[]): Promise<Entry[]> {
    const top = seals.at(-1) ?? null
    const range: HistoryRange = { after: placeOf(base), before: null, through: top?.lastVersion ?? 0n }
    const end = placeOf(top)
    const entries: Entry[] = []
    let hash = base === null ? genesisOf(accountId) : base.hash.toString('hex')
    let seq = Number(base?.lastSeq ?? 0n)
    let at = 0
    let after = range.after
    for (;;) {
      const rows = await withDatabaseFailure(readMerged(this.#database, accountId, { ...range, after }, CHUNK, 'oldest'))
      for (const row of rows) {
        if (end === null || comparePlaces(row, end) > 0) return entries
        for (let seal = seals[at]; seal && isPast(row, seal); seal = seals[++at]) {
          hash = seal.hash.toString('hex')
          seq = Number(seal.lastSeq)
        }
        const content = contentOf(accountId, ++seq, row)
        hash = linkOf(hash, content)
        entries.push({ ...content, hash })
      }
      if (rows.length < CHUNK) return entries
      after = rows.at(-1) ?? null
    }
  }

  /** The time of an export. */
  now(): number {
    return this.#clock.now()
  }
}

/** `read`: how many were looked at. */
type Chunk = { readonly entries: readonly Entry[]; readonly passed: number; readonly read: number }

async function* entriesOf(chunks: AsyncIterable<Chunk>): AsyncGenerator<readonly Entry[]> {
  for await (const { entries } of chunks) if (entries.length > 0) yield entries
}

const isBase = (oldest: Seal | null): boolean => oldest !== null && oldest.firstSeq > 1n

const headOf = (accountId: string, seal: Seal | null): Head =>
  seal === null
    ? { seq: 0, hash: genesisOf(accountId), sealedMs: null }
    : { seq: Number(seal.lastSeq), hash: seal.hash.toString('hex'), sealedMs: seal.sealedMs }

const unsealedEntry = (accountId: string, row: EventRow): Entry => ({ ...contentOf(accountId, 0, row), seq: null, hash: null })

/** Seals from one on downwards that together have about a chunk of entries; at least one. */
function groupFrom(seals: readonly Seal[], from: number, end: number): Seal[] {
  const group: Seal[] = []
  for (let at = from, size = 0; at < end; at++) {
    const seal = seals[at]
    if (seal === undefined) break
    size += Number(seal.lastSeq - seal.firstSeq) + 1
    if (group.length > 0 && size > CHUNK) break
    group.push(seal)
  }
  return group
}

const isPast = (row: EventRow, seal: Seal): boolean => {
  const end = placeOf(seal)
  return end !== null && comparePlaces(row, end) > 0
}

const mayFit = (seal: Seal, { from_ms, to_ms }: AuditFilter): boolean =>
  (from_ms === null || seal.maxMs >= from_ms) && (to_ms === null || seal.minMs < to_ms)

const fits = (entry: Entry, { agentId, from_ms, to_ms }: AuditFilter): boolean =>
  (agentId === null || (entry.agent_id !== null && isWithin(entry.agent_id, agentId))) &&
  (from_ms === null || entry.at >= from_ms) &&
  (to_ms === null || entry.at < to_ms)
