import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { createLog } from '../../../src/core/log.ts'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { Presence } from '../../../src/db/presence.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { type PostgresServer, startPostgres } from '../../support/postgres.ts'

const NOW_MS = '(extract(epoch from clock_timestamp()) * 1000)::bigint'
const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS

type Row = { readonly since_ms: bigint; readonly seen_ms: bigint }

/** What tests do to the table of processes. */
const tableOf = (database: Database) => ({
  /** A process that was seen so long ago, without a gap since `since_ms` ago. */
  async put(since_ms: number, seen_ms: number): Promise<string> {
    const id = randomUUID()
    await database.sql.unsafe(`insert into processes values ($1, ${NOW_MS} - $2::bigint, ${NOW_MS} - $3::bigint)`, [
      id,
      String(since_ms),
      String(seen_ms),
    ])
    return id
  },
  async row(id: string): Promise<Row | undefined> {
    const [row] = await database.sql.unsafe('select since_ms, seen_ms from processes where process_id = $1', [id])
    return row as Row | undefined
  },
  ids: async (): Promise<string[]> =>
    (await database.sql.unsafe('select process_id from processes')).map(({ process_id }) => String(process_id)),
})

describeEachDatabase('processes on one database', (openTestDatabase, kind) => {
  let database: Database
  let table: ReturnType<typeof tableOf>
  const started: Presence[] = []
  const logged: string[] = []

  beforeAll(async () => {
    database = await openTestDatabase()
    table = tableOf(database)
  })
  beforeEach(async () => {
    await database.sql.unsafe('delete from processes')
  })
  afterEach(async () => {
    for (const one of started.splice(0)) await one.stop()
    logged.length = 0
  })

  const newPresence = (on: Database = database): Presence => {
    const presence = new Presence({ database: on, log: createLog('warn', (line) => logged.push(line)) })
    started.push(presence)
    return presence
  }
  const start = async (on?: Database): Promise<{ presence: Presence; id: string }> => {
    const presence = newPresence(on)
    await presence.start()
    return { presence, id: presence.processId ?? '' }
  }

  describe('whether one is gone', () => {
    it.each([
      ['was seen now', 0, false],
      ['was seen a moment ago', 4_000, false],
      ['has not been seen for seconds', 6_000, true],
      ['has not been seen for a day', DAY_MS, true],
      ['was last seen before the clock was set back', -HOUR_MS, true],
    ])('%s', async (_, seen_ms, isGone) => {
      await table.put(6_000, 100)
      expect(await newPresence().isGone(await table.put(DAY_MS, seen_ms))).toBe(isGone)
    })

    it('cannot be said after an outage of the database, before everybody has had the time to come back', async () => {
      const other = await table.put(DAY_MS, 10_000)
      await table.put(3_000, 100)
      expect(await newPresence().isGone(other)).toBe(false)
    })

    it.each([
      ['nobody', []],
      ['another that was not seen either', [DAY_MS, 10_000]],
      ['one that has just gone too', [DAY_MS, 4_000]],
    ])('cannot be said while %s is there to see it', async (_, witness) => {
      const other = await table.put(DAY_MS, 10_000)
      if (witness.length > 0) await table.put(witness[0]!, witness[1]!)
      expect(await newPresence().isGone(other)).toBe(false)
    })

    it('of itself it knows better', async () => {
      const { presence, id } = await start()
      await table.put(DAY_MS, 0)
      await database.sql.unsafe('update processes set seen_ms = 0 where process_id = $1', [id])
      expect(await presence.isGone(id)).toBe(false)
    })

    it('is not said of a request that names no process', async () => {
      await table.put(DAY_MS, 0)
      expect(await newPresence().isGone(null)).toBe(false)
    })

    it('once it has said so, at once', async () => {
      const { presence, id } = await start()
      expect(await newPresence().isGone(id)).toBe(false)
      await presence.stop()
      expect(presence.processId).toBeNull()
      expect(await newPresence().isGone(id)).toBe(true)
    })
  })

  it('has no name before others can see it', async () => {
    const presence = newPresence()
    expect(presence.processId).toBeNull()
    await presence.start()
    expect(await table.ids()).toEqual([presence.processId])
  })

  it('forgets those that are long gone, and not itself', async () => {
    const { presence, id } = await start()
    await database.sql.unsafe('update processes set seen_ms = 0')
    const recent = await table.put(DAY_MS, 60_000)
    for (const seen_ms of [HOUR_MS, DAY_MS, -DAY_MS]) await table.put(DAY_MS, seen_ms)
    expect(await presence.purge(2)).toBe(2)
    expect(await presence.purge(2)).toBe(1)
    expect(await presence.purge(2)).toBe(0)
    expect((await table.ids()).sort()).toEqual([id, recent].sort())
  })

  if (kind === 'pglite') {
    it('begins alone: whatever was there before is gone at once', async () => {
      const other = await table.put(DAY_MS, 0)
      const { presence } = await start()
      expect(await presence.isGone(other)).toBe(true)
    })

    it('needs nobody to see it', async () => {
      const { presence, id } = await start()
      const before = await table.row(id)
      await sleep(2_700)
      expect(presence.processId).toBe(id)
      expect(await table.row(id)).toEqual(before)
    })
    return
  }

  const until = (condition: () => Promise<boolean>) => expect.poll(condition, { timeout: 10_000, interval: 50 }).toBe(true)

  it('is seen again and again, without a gap since it began', async () => {
    const { id } = await start()
    const first = await table.row(id)
    expect(first?.seen_ms).toBe(first?.since_ms)
    await until(async () => ((await table.row(id))?.seen_ms ?? 0n) > first!.seen_ms)
    expect((await table.row(id))?.since_ms).toBe(first!.since_ms)
  })

  it('begins anew after a gap', async () => {
    const { id } = await start()
    await database.sql.unsafe('update processes set since_ms = 1, seen_ms = seen_ms - 10000')
    await until(async () => ((await table.row(id))?.since_ms ?? 0n) > 1n)
    const row = await table.row(id)
    expect(row?.since_ms).toBe(row?.seen_ms)
  })

  it('does nothing in its name while it cannot be seen, says so once, and comes back', async () => {
    const { presence, id } = await start()
    await database.sql.unsafe('alter table processes rename to away')
    try {
      await until(async () => presence.processId === null)
      await sleep(600)
    } finally {
      await database.sql.unsafe('alter table away rename to processes')
    }
    await until(async () => presence.processId === id)
    expect(logged).toEqual([expect.stringContaining('cannot say that it lives')])
  })

  it('is seen although the connection for it cannot be opened', async () => {
    const refused = postgres('postgres://nobody@127.0.0.1:1/none') as unknown as Database['promptSql']
    const { id } = await start({ ...database, promptSql: refused })
    const first = await table.row(id)
    await until(async () => ((await table.row(id))?.seen_ms ?? 0n) > first!.seen_ms)
    expect(logged).toEqual([])
    await refused.end()
  })
})

describe('a database that does not acknowledge what is written', () => {
  let server: PostgresServer
  let database: Database
  beforeAll(async () => {
    server = await startPostgres()
    database = await openDatabase({ url: server.url, dataDir: '' })
    await database.sql.unsafe('create table processes (process_id uuid primary key, since_ms bigint, seen_ms bigint)')
    await database.sql.unsafe('create table written ()')
  })
  afterAll(async () => {
    await database?.close()
    await server?.remove()
  })

  it('still sees who lives', async () => {
    const presence = new Presence({ database, log: createLog('silent') })
    // A synchronous standby that is away: commits wait for it, as soon as the server has heard of it.
    await database.sql.unsafe("alter system set synchronous_standby_names = 'nobody'")
    await database.sql.unsafe('select pg_reload_conf()')
    let written: Promise<string> = Promise.resolve('')
    const isWaiting = async () => {
      written = database.sql.unsafe('insert into written default values').then(() => 'acknowledged')
      return Promise.race([written, sleep(500, 'waiting')])
    }
    await expect.poll(isWaiting, { timeout: 10_000 }).toBe('waiting')
    await presence.start()
    expect(presence.processId).not.toBeNull()
    expect(await Promise.race([written, sleep(0, 'waiting')])).toBe('waiting')
    await database.sql.unsafe('alter system reset synchronous_standby_names')
    await database.sql.unsafe('select pg_reload_conf()')
    expect(await written).toBe('acknowledged')
    await presence.stop()
  })
})
