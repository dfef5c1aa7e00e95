import { execFile } from 'node:child_process'
import { rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { build } from 'esbuild'
import postgres from 'postgres'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { openDatabase } from '../../../src/db/client.ts'
import { startPglite } from '../../../src/db/pglite.ts'
import { startChild } from './child.ts'
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts'

const ROOT = join(import.meta.dirname, '../../..')

let home: EmptyDatabase
let folder: string
beforeEach(async () => {
  home = await createEmptyDatabase('pglite')
  folder = home.dataDir
})
afterEach(() => home.drop())

test('what was answered survives kill -9, and the folder opens again at once', async () => {
  const dataDir = folder
  const { lines, kill } = startChild(`
    import { openDatabase } from './src/db/client.ts'
    const { sql } = await openDatabase({ dataDir: ${JSON.stringify(dataDir)} })
    await sql.unsafe('create table rows (n int primary key)')
    for (let n = 0; ; n += 1) { await sql.unsafe('insert into rows values ($1)', [n]); console.log(n) }`)
  let last = -1
  while (last < 300) last = Number((await lines.next()).value)
  await expect(openDatabase({ dataDir })).rejects.toThrow('another gvnr process is using')
  await kill()
  const database = await openDatabase({ dataDir })
  const [row] = await database.sql.unsafe('select count(*) as rows, max(n) as last from rows')
  expect(row?.last).toBeGreaterThanOrEqual(last)
  expect(row?.rows).toBe(BigInt(row?.last + 1))
  await database.close()
})

test('a new connection finds a fresh session, whatever the last one left', async () => {
  const pglite = await startPglite(folder, () => {})
  const first = client(pglite.connect)
  await first.unsafe('create table kept (n int)')
  await first.unsafe('create temp table mine (n int)')
  await first.unsafe('begin; insert into kept values (1)')
  await first.end({ timeout: 0 })
  const second = client(pglite.connect)
  expect(await second.unsafe('select count(*)::int as n from kept')).toEqual([{ n: 0 }])
  await expect(second.unsafe('select * from mine')).rejects.toMatchObject({ code: '42P01' })
  await second.end()
  await pglite.close()
})

test.each([
  ['a trap in WASM (stack overflow)', `select '${'['.repeat(200_000)}'::jsonb`, []],
  ['a trap in WASM in a prepared statement', 'select $1::jsonb', ['['.repeat(200_000)]],
])('%s fails the statement, and the next one finds the database recovered', async (_, statement, parameters) => {
  const logged: string[] = []
  const database = await openDatabase({ dataDir: folder, log: (message) => logged.push(message) })
  await database.sql.unsafe('create table kept (n int); insert into kept values (1)')
  const open = database.sql.unsafe(statement, parameters, { prepare: true })
  await expect(open).rejects.toThrow('the embedded database closed the connection')
  expect(await database.sql.unsafe('select n from kept')).toEqual([{ n: 1 }])
  expect(logged).toContainEqual(expect.stringContaining('the embedded database stopped: RangeError'))
  await database.close()
})

test('a FATAL error ends the thread instead of repeating itself for ever', async () => {
  const logged: string[] = []
  const pglite = await startPglite(folder, (message) => logged.push(message))
  const broken = pglite.connect()
  const closed = new Promise((resolve) => broken.once('error', resolve))
  broken.write(Buffer.from([0x51, 0, 0, 0, 3])) // shorter than its own length: the server loses track
  expect(await closed).toBeInstanceOf(Error)
  const sql = client(pglite.connect)
  expect(await sql.unsafe('select 1 as n')).toEqual([{ n: 1 }])
  expect(logged).toEqual([expect.stringContaining('the embedded database stopped')])
  await sql.end()
  await pglite.close()
})

test('a folder that is no database fails the start with its name, and stays unlocked', async () => {
  await rm(join(folder, 'pgdata', 'global'), { recursive: true })
  for (const _ of [1, 2]) await expect(openDatabase({ dataDir: folder })).rejects.toThrow(`${folder}/pgdata does not start`)
})

test('a bundle finds its worker next to it', async () => {
  const outdir = join(folder, 'dist')
  await build({
    entryPoints: { main: join(ROOT, 'src/db/client.ts'), 'pglite-worker': join(ROOT, 'src/db/pglite-worker.ts') },
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    outdir,
  })
  await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  const code = `
    import { openDatabase } from './dist/main.js'
    const database = await openDatabase({ dataDir: '.' })
    console.log((await database.sql.unsafe('select 40 + $1::int as n', [2]))[0].n)
    await database.close()`
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code], { cwd: folder })
  expect(stdout.trim()).toBe('42')
})

function client(connect: () => unknown): postgres.Sql {
  const options = { socket: connect, max: 1, user: 'postgres', database: 'postgres', onnotice: () => {}, fetch_types: false }
  return postgres(options)
}
