import { randomUUID } from 'node:crypto'
import { type AnyColumn, type SQL, sql } from 'drizzle-orm'
import type { Log } from '../core/log.ts'
import type { Database } from './client.ts'
import { NOW_MS } from './lease.ts'
import { processes } from './tables.ts'

const BEAT_MS = 1_000
/** After one that failed. */
const RETRY_MS = 250
/** A gap between two beats that says nothing: one was late. What a process begins in its name is its own for as long at least. */
export const UNSEEN_MS = 2_500
/** More than such a gap with the beats before and after it, so that whoever lives is seen in between. */
const GONE_MS = 5_000
const FORGOTTEN_MS = 600_000

/**
 * Says that this process lives, a row with a time by the database's clock, and knows which others do not any more. What a process that is
 * gone has begun may be taken up by others at once.
 *
 * Nobody is gone for not having been seen while the database was away: it counts only when another one was seen all through that time.
 * A process that stood still, or was cut off alone, is gone although it lives, and comes back: what it had begun must bear that.
 */
export class Presence {
  readonly #database: Database
  readonly #log: Log
  readonly #processId = randomUUID()
  /** By the monotonic clock; null before the first time, and after the end. */
  #seenAt_ms: number | null = null
  #hasFailed = false
  #isStopping = false
  #timer: NodeJS.Timeout | undefined
  #beating: Promise<unknown> = Promise.resolve()

  constructor(deps: { database: Database; log: Log }) {
    this.#database = deps.database
    this.#log = deps.log
  }

  /** The name of this process for what it begins now; null when others might not see it, so that a name would not protect anything. */
  get processId(): string | null {
    if (this.#seenAt_ms === null) return null
    return this.#isAlone || performance.now() - this.#seenAt_ms <= UNSEEN_MS ? this.#processId : null
  }

  /** PGlite has one process: nobody else has to see it. */
  get #isAlone(): boolean {
    return this.#database.kind === 'pglite'
  }

  /** Returns when it has been said, or could not be: it is tried again. */
  async start(): Promise<void> {
    this.#isStopping = false
    if (this.#isAlone) await this.#database.orm.delete(processes)
    await this.#beat()
    if (!this.#isAlone) this.#schedule()
  }

  /** Says that this process is gone. Only when nothing of what it has begun is under way any more. */
  async stop(): Promise<void> {
    this.#isStopping = true
    clearTimeout(this.#timer)
    await this.#beating
    if (this.#seenAt_ms === null) return
    this.#seenAt_ms = null
    await this.#database.orm
      .delete(processes)
      .where(sql`${processes.processId} = ${this.#processId}`)
      .catch(() => {}) // then it is not seen any more, which says the same seconds later
  }

  /** Whether a process has ended, or stands still for so long that others may go on without it. Null: it has no name. */
  async isGone(processId: string | null): Promise<boolean> {
    if (processId === null || processId === this.#processId) return false
    const [row] = await this.#database.orm.execute(sql`select ${this.goneIs(sql`${processId}::uuid`)} as gone`)
    return row?.gone === true
  }

  /** `isGone` as a condition on a column: not true of null. One who has no row has said that it stopped, or is long forgotten. */
  goneIs(processId: AnyColumn | SQL): SQL {
    const now = sql.raw(NOW_MS)
    return sql`(${processId} <> ${this.#processId}::uuid and coalesce(
      (select abs(${now} - p.seen_ms) > ${GONE_MS}::bigint and exists (
         select 1 from processes w where abs(${now} - w.seen_ms) <= ${UNSEEN_MS}::bigint and w.since_ms <= ${now} - ${GONE_MS}::bigint)
       from processes p where p.process_id = ${processId}), true))`
  }

  /** Housekeeping: forgets at most `limit` processes that are long gone. @returns how many */
  async purge(limit: number): Promise<number> {
    const rows = await this.#database.orm.execute(
      sql`delete from processes where process_id in (select process_id from processes
            where abs(${sql.raw(NOW_MS)} - seen_ms) > ${FORGOTTEN_MS}::bigint and process_id <> ${this.#processId}::uuid
            limit ${limit} for update skip locked) returning 1`,
    )
    return rows.length
  }

  #schedule(): void {
    if (this.#isStopping) return
    this.#timer = setTimeout(
      () => {
        this.#beating = this.#beat().then(() => this.#schedule())
      },
      this.#hasFailed ? RETRY_MS : BEAT_MS,
    )
    this.#timer.unref()
  }

  async #beat(): Promise<void> {
    const sent_ms = performance.now()
    try {
      // Where no connection can be opened any more, the pool may still have some.
      await this.#say(this.#database.promptSql).catch(() => this.#say(this.#database.sql))
      this.#seenAt_ms = sent_ms
      this.#hasFailed = false
    } catch (error) {
      if (!this.#hasFailed)
        this.#log.warn({ err: error }, 'this process cannot say that it lives: others may take up what it began')
      this.#hasFailed = true
    }
  }

  /** Committed without waiting for disk or standby: what is lost with them is said again a second later. */
  async #say(connection: Database['sql']): Promise<void> {
    await connection.unsafe(
      `insert into processes as p (process_id, since_ms, seen_ms)
       select $1::uuid, ${NOW_MS}, ${NOW_MS} where set_config('synchronous_commit', 'off', true) = 'off'
       on conflict (process_id) do update set seen_ms = excluded.seen_ms,
         since_ms = case when abs(excluded.seen_ms - p.seen_ms) <= $2::bigint then p.since_ms else excluded.seen_ms end`,
      [this.#processId, String(UNSEEN_MS)],
      { prepare: this.#database.prepare },
    )
  }
}
