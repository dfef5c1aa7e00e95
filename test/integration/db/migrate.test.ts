import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { migrateDatabase } from '../../../src/db/migrate.ts'
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts'

const FIRST = 'create table a (n int);\n--> statement-breakpoint\ninsert into a values (1);'
const SECOND = 'alter table a add column note text; insert into a values (2);'

describe.each(['pglite', 'postgres'] as const)('migrateDatabase [%s]', (kind) => {
  let home: EmptyDatabase
  let database: Database
  let folder: string

  beforeEach(async () => {
    home = await createEmptyDatabase(kind)
    database = await openDatabase(home)
    folder = await mkdtemp(join(tmpdir(), 'gvnr-migrations-'))
  })
  afterEach(async () => {
    await database.close()
    await home.drop()
    await rm(folder, { recursive: true, force: true })
  })

  const write = async (...migrations: string[]) => {
    await mkdir(join(folder, 'meta'), { recursive: true })
    const entries = migrations.map((_, idx) => ({
      idx,
      version: '7',
      when: 1000 + idx,
      tag: `000${idx}_step`,
      breakpoints: true,
    }))
    await writeFile(join(folder, 'meta/_journal.json'), JSON.stringify({ version: '7', dialect: 'postgresql', entries }))
    for (const [idx, text] of migrations.entries()) await writeFile(join(folder, `000${idx}_step.sql`), text)
  }
  const numbers = async () => (await database.sql.unsafe('select n from a order by n')).map(({ n }) => n)

  test('applies what is missing, once', async () => {
    await write(FIRST)
    expect(await migrateDatabase(database, folder)).toEqual({ applied: ['0000_step'] })
    await write(FIRST, SECOND)
    expect(await migrateDatabase(database, folder)).toEqual({ applied: ['0001_step'] })
    expect(await migrateDatabase(database, folder)).toEqual({ applied: [] })
    expect(await numbers()).toEqual([1, 2])
    const rows = await database.sql.unsafe('select length(hash) as l, created_at from gvnr_migrations order by created_at')
    expect(rows).toEqual([
      { l: 64, created_at: 1000n },
      { l: 64, created_at: 1001n },
    ])
  })

  test('a failing migration leaves nothing behind and is named', async () => {
    await write(FIRST, 'insert into a values (2); selec 3')
    await expect(migrateDatabase(database, folder)).rejects.toThrow(
      'migration 0001_step failed, nothing was changed: syntax error',
    )
    expect(await database.sql.unsafe(`select to_regclass('a') as a, to_regclass('gvnr_migrations') as m`)).toEqual([
      { a: null, m: null },
    ])
    await write(FIRST, SECOND)
    expect(await migrateDatabase(database, folder)).toEqual({ applied: ['0000_step', '0001_step'] })
  })

  test('an older release runs on a newer schema', async () => {
    await write(FIRST, SECOND)
    await migrateDatabase(database, folder)
    await write(FIRST)
    expect(await migrateDatabase(database, folder)).toEqual({ applied: [] })
  })

  test('an edited migration is refused', async () => {
    await write(FIRST)
    await migrateDatabase(database, folder)
    await write(`${FIRST} insert into a values (3);`)
    await expect(migrateDatabase(database, folder)).rejects.toThrow('migration 0000_step was changed after it had been applied')
    expect(await numbers()).toEqual([1])
  })

  test('callers that start at once apply it once between them', async () => {
    await write(FIRST, SECOND)
    const others = kind === 'postgres' ? await Promise.all([1, 2, 3].map((n) => openDatabase({ ...home, prepare: n !== 3 }))) : []
    const results = await Promise.all([database, database, ...others].map((one) => migrateDatabase(one, folder)))
    expect(results.flatMap(({ applied }) => applied)).toEqual(['0000_step', '0001_step'])
    expect(await numbers()).toEqual([1, 2])
    await Promise.all(others.map((other) => other.close()))
  })

  test.runIf(kind === 'postgres')('the timeouts of the session are as before', async () => {
    await write(FIRST)
    const single = await openDatabase({ ...home, poolSize: 1 })
    await migrateDatabase(single, folder)
    expect(await single.sql.unsafe('show statement_timeout')).toEqual([{ statement_timeout: '10s' }])
    await single.close()
  })
})
