import {
  type Direction,
  type HistoryRange,
  type HistoryRequest,
  type HistoryRow,
  type Place,
  readHistories,
  readHistory,
} from '../budgets/history.ts'
import type { Database } from '../db/client.ts'
import type { EventRow } from './entries.ts'
import { type AuditEvent, type Head, readEvents, readManyEvents } from './store.ts'

/** At most `limit` events of one account from both sources, in the order of the chain or the other way round. */
export async function readMerged(
  database: Database,
  accountId: string,
  range: HistoryRange,
  limit: number,
  direction: Direction,
): Promise<EventRow[]> {
  const [engine, events] = await Promise.all([
    readHistory(database, accountId, range, limit, direction),
    readEvents(database, accountId, range, limit, direction),
  ])
  return merged(engine, events, limit, direction)
}

/** At most `limit` of the oldest events of each of these accounts; those without any are left out. */
export async function readManyMerged(
  database: Database,
  requests: readonly HistoryRequest[],
  limit: number,
): Promise<Map<string, EventRow[]>> {
  const [engine, events] = await Promise.all([
    readHistories(database, requests, limit),
    readManyEvents(database, requests, limit),
  ])
  const rows = new Map<string, EventRow[]>()
  for (const { accountId } of requests) {
    const found = merged(engine.get(accountId) ?? [], events.get(accountId) ?? [], limit, 'oldest')
    if (found.length > 0) rows.set(accountId, found)
  }
  return rows
}

function merged(engine: readonly HistoryRow[], events: readonly AuditEvent[], limit: number, direction: Direction): EventRow[] {
  const rows: EventRow[] = [
    ...engine.map((row) => ({ source: 'engine' as const, ...row })),
    ...events.map((row) => ({ source: 'event' as const, ...row })),
  ]
  const sign = direction === 'oldest' ? 1 : -1
  return rows.sort((a, b) => sign * comparePlaces(a, b)).slice(0, limit)
}

/** Order of (version, id, rank); ids are lower-case UUIDs, whose text sorts as the database sorts them. */
export function comparePlaces(a: Place, b: Place): number {
  if (a.version !== b.version) return a.version < b.version ? -1 : 1
  if (a.id !== b.id) return a.id < b.id ? -1 : 1
  return a.rank - b.rank
}

/** Where a seal ends. */
export const placeOf = (seal: Head | null): Place | null =>
  seal === null ? null : { version: seal.lastVersion, id: seal.lastId, rank: seal.lastRank }
