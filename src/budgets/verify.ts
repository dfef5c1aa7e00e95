import { NIL_UUID } from '../core/ids.ts'
import { MAX_NANOUSD, type Nanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { decodeLevels, pathOf } from './path.ts'
import {
  type AccountRange,
  brokenSettlements,
  type EnvelopeRow,
  type HoldRow,
  MAX_UUID,
  nextEnvelopes,
  nextHolds,
  nextQuotas,
  type Snapshot,
} from './verify.store.ts'
import { instanceStart, WINDOWS, type Window } from './windows.ts'

/** A stored balance that is not what the holds and the ledger add up to. */
export type Difference = { readonly accountId: string } & (
  | { readonly kind: 'ops'; readonly stored: bigint; readonly expected: bigint }
  | {
      readonly kind: 'spent'
      readonly agentId: string
      readonly window: Window
      readonly stored: Nanousd
      readonly expected: Nanousd
    }
  /** A resolved hold whose ledger entry is missing, doubled or of another amount (null: there is none). */
  | {
      readonly kind: 'settlement'
      readonly holdId: string
      readonly stored: Nanousd | null
      readonly expected: Nanousd | null
    }
)

export type Verification = {
  readonly accounts: number
  readonly envelopes: number
  /** At most `maxDifferences`; verification ends when there are more. */
  readonly differences: readonly Difference[]
}

export type VerifyOptions = {
  /** Only this account. */
  readonly accountId?: string
  readonly maxDifferences?: number
  /** Rows in memory at a time, of accounts, envelopes and holds each. */
  readonly pageRows?: number
}

const MAX_DIFFERENCES = 1000
const PAGE_ROWS = 5000

/**
 * Recomputes every balance from what is append-only and compares (DESIGN 3): the quota is the sum of the ledger less one op per hold;
 * what an envelope has spent in a window is the sum of the holds charged to it that were taken in the window instance of its last write and not before it was reset,
 * each at its actual cost once settled, at nothing when released, else at its estimate. Reads one consistent snapshot, so it may run
 * beside a working server, in bounded memory.
 */
export async function verifyBalances(database: Database, options: VerifyOptions = {}): Promise<Verification> {
  const range: AccountRange = { first: options.accountId ?? NIL_UUID, last: options.accountId ?? MAX_UUID }
  const found = new Findings(options.maxDifferences ?? MAX_DIFFERENCES)
  const pageRows = options.pageRows ?? PAGE_ROWS
  return await database.sql.begin('isolation level repeatable read read only', async (sql) => {
    // A page takes milliseconds, but the sums of one huge account may take longer than a request ever may.
    await sql.unsafe('set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0')
    const snapshot = { sql, prepare: database.prepare }
    const accounts = await verifyQuotas(snapshot, range, pageRows, found)
    const envelopes = found.isFull ? 0 : await verifyEnvelopes(snapshot, range, pageRows, found)
    if (!found.isFull) {
      for (const { accountId, holdId, drift, booked } of await brokenSettlements(snapshot, range, found.room))
        found.add({ kind: 'settlement', accountId, holdId, stored: booked, expected: drift })
    }
    return { accounts, envelopes, differences: found.differences }
  })
}

/** One line for people. */
export function describeDifference(difference: Difference): string {
  const { accountId, stored, expected } = difference
  switch (difference.kind) {
    case 'ops':
      return `account ${accountId}: has ${stored} operations, ledger and holds add up to ${expected}`
    case 'spent':
      return `account ${accountId}, envelope ${JSON.stringify(difference.agentId)}, ${difference.window}: has spent ${stored} nano-dollars, holds add up to ${expected}`
    case 'settlement':
      return `account ${accountId}, hold ${difference.holdId}: ledger says ${stored ?? 'nothing'}, hold says ${expected ?? 'nothing'} (nano-dollars of drift)`
  }
}

class Findings {
  readonly differences: Difference[] = []
  readonly #max: number

  constructor(max: number) {
    this.#max = max
  }

  get room(): number {
    return this.#max - this.differences.length
  }

  get isFull(): boolean {
    return this.room <= 0
  }

  add(difference: Difference): void {
    if (!this.isFull) this.differences.push(difference)
  }
}

async function verifyQuotas(snapshot: Snapshot, range: AccountRange, limit: number, found: Findings): Promise<number> {
  let accounts = 0
  const pages = inPages({ accountId: NIL_UUID }, limit, (after) => nextQuotas(snapshot, range, after, limit))
  for await (const page of pages) {
    accounts += page.length
    for (const { accountId, ops, expectedOps } of page)
      if (ops !== expectedOps) found.add({ kind: 'ops', accountId, stored: ops, expected: expectedOps })
    if (found.isFull) break
  }
  return accounts
}

/** For each page of envelopes, all holds of its accounts go by once. */
async function verifyEnvelopes(snapshot: Snapshot, range: AccountRange, limit: number, found: Findings): Promise<number> {
  let envelopes = 0
  const start = { accountId: NIL_UUID, agentId: '' }
  for await (const page of inPages(start, limit, (after) => nextEnvelopes(snapshot, range, after, limit))) {
    envelopes += page.length
    const sums = new Map(page.map((row) => [nameOf(row.accountId, row.agentId), new EnvelopeSum(row)]))
    const accounts = { first: page[0]?.accountId ?? NIL_UUID, last: page.at(-1)?.accountId ?? NIL_UUID }
    const holds = inPages({ accountId: NIL_UUID, holdId: NIL_UUID }, limit, (after) =>
      nextHolds(snapshot, accounts, after, limit),
    )
    for await (const rows of holds) {
      for (const hold of rows) {
        const path = pathOf(hold.agentId)
        for (const level of decodeLevels(hold.charged)) sums.get(nameOf(hold.accountId, path[level] ?? ''))?.add(hold)
      }
    }
    for (const sum of sums.values()) for (const difference of sum.differences()) found.add(difference)
    if (found.isFull) break
  }
  return envelopes
}

class EnvelopeSum {
  readonly #row: EnvelopeRow
  readonly #starts: number[]
  readonly #spent: Nanousd[]

  constructor(row: EnvelopeRow) {
    this.#row = row
    this.#starts = WINDOWS.map((window) => instanceStart(window, row.envelope.clockMs))
    this.#spent = WINDOWS.map(() => 0n)
  }

  add(hold: HoldRow): void {
    for (const [index, window] of WINDOWS.entries())
      if (
        instanceStart(window, hold.takenMs) === this.#starts[index] &&
        hold.takenVersion >= (this.#row.envelope.resets?.[index] ?? 0n)
      )
        this.#spent[index] = (this.#spent[index] ?? 0n) + hold.counted
  }

  differences(): Difference[] {
    const { accountId, agentId, envelope } = this.#row
    return WINDOWS.flatMap((window, index) => {
      const stored = envelope.spent[index] ?? 0n
      const expected = this.#spent[index] ?? 0n
      // A counter that was full once stays so until its window is over.
      return stored === expected || stored === MAX_NANOUSD
        ? []
        : [{ kind: 'spent' as const, accountId, agentId, window, stored, expected }]
    })
  }
}

const nameOf = (accountId: string, agentId: string): string => `${accountId} ${agentId}`

/** Pages that begin after the last row of the one before; a short page is the last. */
async function* inPages<Row extends Key, Key>(
  start: Key,
  limit: number,
  next: (after: Key) => Promise<Row[]>,
): AsyncGenerator<Row[]> {
  let after = start
  for (;;) {
    const page = await next(after)
    const last = page.at(-1)
    if (last === undefined) return
    yield page
    if (page.length < limit) return
    after = last
  }
}
