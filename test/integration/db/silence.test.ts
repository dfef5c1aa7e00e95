import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { databaseFailure } from '../../../src/db/failure.ts'
import { Wire } from '../../support/wire.ts'
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts'

let home: EmptyDatabase
let wire: Wire
let database: Database
const logged: string[] = []

beforeAll(async () => {
  home = await createEmptyDatabase('postgres')
  const url = new URL(home.url!)
  wire = new Wire(new URL(url))
  url.hostname = '127.0.0.1'
  url.port = String(await wire.listen())
  database = await openDatabase({
    url: url.href,
    dataDir: home.dataDir,
    log: (message) => logged.push(message),
    silence: { interval_ms: 100, timeout_ms: 500 },
  })
})
afterAll(async () => {
  wire.cut('whole')
  await database.close()
  wire.close()
  await home.drop()
})

test('statements fail soon when the database falls silent, and work again when it is back', { timeout: 30_000 }, async () => {
  for (const sql of [database.sql, database.laneSql]) await sql.unsafe('select 1')
  await sleep(300)
  expect(logged).toEqual([])

  wire.cut('both')
  const failures = await Promise.all(
    [database.sql, database.laneSql].map((sql) =>
      sql.unsafe('select 1').then(
        () => null,
        (error: unknown) => databaseFailure(error)?.code,
      ),
    ),
  )
  expect(failures).toEqual(['database_unavailable', 'database_unavailable'])
  const transaction = await database.sql
    .begin((tx) => tx.unsafe('select 1'))
    .then(
      () => null,
      (error: unknown) => databaseFailure(error)?.code,
    )
  expect(transaction).toBe('database_unavailable')
  expect(logged[0]).toMatch(/has not answered/)

  wire.cut('whole')
  const isBack = async (): Promise<boolean> => {
    try {
      await database.laneSql.unsafe('select 1')
      await database.sql.unsafe('select 1')
      return true
    } catch (error) {
      if (databaseFailure(error) === null) throw error
      return false
    }
  }
  await expect.poll(isBack, { timeout: 15_000 }).toBe(true)
})
