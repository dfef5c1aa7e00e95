import { randomUUID } from 'node:crypto'
import type { Database } from './client.ts'

/** The database's clock, in SQL: what a lease ends by. */
export const NOW_MS = '(extract(epoch from clock_timestamp()) * 1000)::bigint'

/**
 * The right to do some work that one process at a time should do: a row with an end by the database's clock, which works behind any
 * pooler, where a session's advisory lock would not. It saves work; it is no guarantee against two at once, as a process may stand still
 * for longer than its lease. What the work writes must bear that.
 */
export class Lease {
  readonly #database: Pick<Database, 'sql' | 'prepare'>
  readonly #name: string
  readonly #lease_ms: number
  readonly #holder = randomUUID()

  constructor(database: Pick<Database, 'sql' | 'prepare'>, name: string, lease_ms: number) {
    this.#database = database
    this.#name = name
    this.#lease_ms = lease_ms
  }

  /** Takes or keeps the right. @returns false while another process has it */
  async take(): Promise<boolean> {
    const { sql, prepare } = this.#database
    const rows = await sql.unsafe(
      `insert into leases (name, holder, until_ms) values ($1, $2::uuid, ${NOW_MS} + $3::bigint)
       on conflict (name) do update set holder = excluded.holder, until_ms = excluded.until_ms
       where leases.holder = excluded.holder or leases.until_ms < ${NOW_MS} returning 1`,
      [this.#name, this.#holder, String(this.#lease_ms)],
      { prepare },
    )
    return rows.length > 0
  }

  /** Lets another process take over at once. */
  async release(): Promise<void> {
    const { sql, prepare } = this.#database
    await sql.unsafe('delete from leases where name = $1 and holder = $2::uuid', [this.#name, this.#holder], { prepare })
  }
}
