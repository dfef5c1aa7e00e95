import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Database, openDatabase } from '../../../src/db/client.ts'
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts'

let home: EmptyDatabase
let database: Database
let other: postgres.Sql

beforeAll(async () => {
  home = await createEmptyDatabase('postgres')
  database = await openDatabase({ url: home.url!, dataDir: home.dataDir })
  other = postgres(home.url!, { max: 1 })
  await other`create table notes (text text)`
})
afterAll(async () => {
  await database.close()
  await other.end()
  await home.drop()
})

/** Only those of this file's own database: other files test on the same server meanwhile. */
const terminate = () => other`select pg_terminate_backend(pid) from pg_stat_activity
  where application_name = 'gvnr' and datname = current_database()`

test('a transaction whose connection is lost between two statements fails, and nothing of it stays', async () => {
  const transaction = database.sql.begin(async (tx) => {
    await tx.unsafe(`insert into notes values ('lost')`)
    await terminate()
    await sleep(100)
    await tx.unsafe(`insert into notes values ('never')`)
  })
  await expect(transaction).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })
  expect(await database.sql.unsafe('select * from notes')).toEqual([])
})

test('a transaction whose connection is lost before it commits is not committed', async () => {
  const transaction = database.sql.begin(async (tx) => {
    await tx.unsafe(`insert into notes values ('lost')`)
    await terminate()
    await sleep(100)
    return 'done'
  })
  await expect(transaction).rejects.toMatchObject({ code: 'CONNECTION_CLOSED' })
  expect(await database.sql.unsafe('select * from notes')).toEqual([])
})

test('a transaction that fails by itself is rolled back and throws its own error', async () => {
  const transaction = database.sql.begin(async (tx) => {
    await tx.unsafe(`insert into notes values ('undone')`)
    throw new Error('on purpose')
  })
  await expect(transaction).rejects.toThrow('on purpose')
  expect(await database.sql.unsafe('select * from notes')).toEqual([])
})

test('every loss is followed by statements that work, each with its own answer', async () => {
  for (let loss = 0; loss < 10; loss++) {
    const running = Promise.allSettled(Array.from({ length: 30 }, (_, n) => database.laneSql.unsafe(`select ${n} as n`)))
    await terminate()
    for (const [n, result] of (await running).entries()) if (result.status === 'fulfilled') expect(result.value).toEqual([{ n }])
    for (let n = 0; n < 20; n++) {
      const works = () => database.laneSql.unsafe(`select ${n} as n`).catch(() => [])
      await expect.poll(works, { timeout: 3000 }).toEqual([{ n }])
    }
  }
})
