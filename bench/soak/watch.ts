import { setTimeout as sleep } from 'node:timers/promises'
import { residentBytes } from '../machine.ts'
import { onDatabase, type Stage } from './stage.ts'

const MIB = 1 << 20
const SAMPLE_MS = 1000
const DATABASE_EVERY = 10
/** So many points are kept of each course, however long the run is: when there are more, every other one is left out. */
const MOST_POINTS = 600

/** A value over time, bounded in points. */
class Course {
  points: { at_s: number; value: number }[] = []
  most = 0
  #every = 1
  #skipped = 0

  add(at_s: number, value: number): void {
    this.most = Math.max(this.most, value)
    if (++this.#skipped < this.#every) return
    this.#skipped = 0
    this.points.push({ at_s, value })
    if (this.points.length <= MOST_POINTS) return
    this.points = this.points.filter((_, index) => index % 2 === 0)
    this.#every *= 2
  }

  /** The mean between two shares of the run. */
  mean(from: number, to: number): number {
    const last = this.points.at(-1)?.at_s ?? 0
    const part = this.points.filter(({ at_s }) => at_s >= from * last && at_s <= to * last)
    return part.reduce((sum, { value }) => sum + value, 0) / part.length
  }
}

export type DatabaseSize = { readonly mib: number; readonly live: number; readonly dead: number }

/** Memory of the servers and of this process, and the size of the database, as they go. */
export class Watch {
  readonly servers: readonly Course[]
  readonly harness = new Course()
  readonly database = new Course()
  /** Dead rows for each live one. */
  readonly dead = new Course()
  readonly #stage: Stage
  readonly #began = performance.now()
  #isDone = false
  readonly #sampling: Promise<void>

  constructor(stage: Stage) {
    this.#stage = stage
    this.servers = stage.servers.map(() => new Course())
    this.#sampling = this.#sample()
  }

  async stop(): Promise<void> {
    this.#isDone = true
    await this.#sampling
  }

  async #sample(): Promise<void> {
    for (let round = 0; !this.#isDone; round++) {
      const at_s = (performance.now() - this.#began) / 1000
      for (const [index, server] of this.#stage.servers.entries()) {
        const bytes = residentBytes(server.pid)
        if (server.isRunning && bytes > 0) this.servers[index]?.add(at_s, bytes / MIB)
      }
      this.harness.add(at_s, process.memoryUsage.rss() / MIB)
      if (round % DATABASE_EVERY === 0) {
        // It may be away: that is what some faults are about.
        const size = await databaseSize(this.#stage).catch(() => null)
        if (size !== null) {
          this.database.add(at_s, size.mib)
          this.dead.add(at_s, size.dead / Math.max(1, size.live))
        }
      }
      await sleep(SAMPLE_MS)
    }
  }
}

export const databaseSize = (stage: Stage): Promise<DatabaseSize> =>
  onDatabase(stage, async (sql) => {
    const [row] = await sql`
      select pg_database_size(current_database())::float8 as bytes,
        (select coalesce(sum(n_live_tup), 0)::float8 from pg_stat_user_tables) as live,
        (select coalesce(sum(n_dead_tup), 0)::float8 from pg_stat_user_tables) as dead`
    return { mib: Number(row?.bytes) / MIB, live: Number(row?.live), dead: Number(row?.dead) }
  })

/** The tables with most dead rows. */
export const bloatedTables = (
  stage: Stage,
): Promise<readonly { name: string; mib: number; live: number; dead: number; vacuums: number }[]> =>
  onDatabase(stage, async (sql) => {
    const rows = await sql`
      select relname, pg_total_relation_size(relid)::float8 as bytes, n_live_tup::float8 as live, n_dead_tup::float8 as dead,
        autovacuum_count::float8 as vacuums
      from pg_stat_user_tables order by pg_total_relation_size(relid) desc limit 8`
    return rows.map((row) => ({
      name: String(row.relname),
      mib: Number(row.bytes) / MIB,
      live: Number(row.live),
      dead: Number(row.dead),
      vacuums: Number(row.vacuums),
    }))
  })
