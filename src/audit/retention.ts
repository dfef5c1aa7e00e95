import type { Clock } from '../core/clock.ts'
import { NIL_UUID } from '../core/ids.ts'
import type { Database } from '../db/client.ts'
import { deleteSealedRows, deleteSealsBefore, type Head, listEnds } from './store.ts'

const DAY_MS = 86_400_000
const ACCOUNTS_PER_ROUND = 200
const ROWS_PER_DELETE = 5_000
const MAX_DELETES = 20

/**
 * Takes the oldest entries from the audit trails once they are older than the operator wants to keep them. Only what is sealed goes, whole seals
 * at a time: the newest of those stays as the base that the first kept entry follows, so that what is left can still be checked. Denials and
 * changes of settings are deleted; holds and ledger stay, since balances are recomputed from them, but are no longer part of the trail.
 *
 * First the seals go, and with them the entries from every answer; their rows go when all accounts have been looked at again, so that an export
 * under way still finds them.
 */
export class AuditRetention {
  readonly #database: Database
  readonly #clock: Clock
  readonly #keep_ms: number | null
  #after = NIL_UUID

  /** @param options `days` to keep; 0 for all */
  constructor(deps: { database: Database; clock: Clock }, options: { days: number }) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#keep_ms = options.days === 0 ? null : options.days * DAY_MS
  }

  /** Looks at some accounts, and at the next call goes on behind them. @returns how many entries it took from the trails */
  async purge(): Promise<number> {
    if (this.#keep_ms === null) return 0
    const before_ms = this.#clock.now() - this.#keep_ms
    const page = await listEnds(this.#database, this.#after, before_ms, ACCOUNTS_PER_ROUND)
    let purged = 0
    for (const { accountId, base, next } of page) {
      if (base !== null) await this.#deleteRows(accountId, base)
      if (next === null) continue
      await deleteSealsBefore(this.#database, accountId, next.firstSeq)
      purged += Number(next.lastSeq - (base?.lastSeq ?? 0n))
    }
    this.#after = page.length < ACCOUNTS_PER_ROUND ? NIL_UUID : (page.at(-1)?.accountId ?? NIL_UUID)
    return purged
  }

  async #deleteRows(accountId: string, base: Head): Promise<void> {
    for (let round = 0; round < MAX_DELETES; round++)
      if ((await deleteSealedRows(this.#database, accountId, base, ROWS_PER_DELETE)) < ROWS_PER_DELETE) return
  }
}
