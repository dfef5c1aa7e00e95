import { createHash, randomUUID } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { cp, mkdtemp, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'
import { afterAll, describe, inject } from 'vitest'
import { type Database, openDatabase } from '../../src/db/client.ts'
import { migrateDatabase } from '../../src/db/migrate.ts'

const MIGRATIONS = join(import.meta.dirname, '../../migrations')
/** Serialises the making of templates between test files, which run in processes of their own. */
const TEMPLATE_LOCK = 7_245_031

export const DATABASE_KINDS = ['pglite', 'postgres'] as const
export type DatabaseKind = (typeof DATABASE_KINDS)[number]
export type OpenOptions = Partial<Parameters<typeof openDatabase>[0]>

/** An empty, migrated database. Open it with `openDatabase(testDatabase)` or hand `url`/`dataDir` to a process. */
export type TestDatabase = {
  /** Only for PostgreSQL. */
  readonly url?: string
  readonly dataDir: string
  /** Whatever uses the database must be closed before. */
  drop(): Promise<void>
}

/** Opens the block's database: the same handle on every call, closed and dropped after the block. */
export type OpenTestDatabase = (options?: OpenOptions) => Promise<Database>

/**
 * Runs the block once on PGlite and once on PostgreSQL, each with one empty migrated database for the whole block (PGlite
 * takes a second to start). Tests keep apart by using accounts of their own; one that needs the whole database to itself
 * (or a second process on it) takes `createTestDatabase`.
 */
export function describeEachDatabase(
  name: string,
  block: (openTestDatabase: OpenTestDatabase, kind: DatabaseKind) => void,
): void {
  for (const kind of DATABASE_KINDS) {
    describe(`${name} [${kind}]`, () => {
      let opened: Promise<{ database: Database; home: TestDatabase }> | undefined
      const open = async (options: OpenOptions = {}) => {
        const home = await createTestDatabase(kind)
        return { home, database: await openDatabase({ ...options, ...location(home) }) }
      }
      afterAll(async () => {
        const { database, home } = (await opened) ?? {}
        await database?.close()
        await home?.drop()
      })
      block(async (options) => {
        if (opened !== undefined && options !== undefined)
          throw new Error('the database of this block is open: its options are set')
        opened ??= open(options)
        return (await opened).database
      }, kind)
    })
  }
}

/** A copy of the migrated template: a new database on the run's PostgreSQL, or a new folder for PGlite. */
export async function createTestDatabase(kind: DatabaseKind): Promise<TestDatabase> {
  const dataDir = await mkdtemp(join(inject('sharedDir'), `${kind}-`))
  return kind === 'postgres' ? createOnPostgres(dataDir) : createOnPglite(dataDir)
}

function location({ url, dataDir }: TestDatabase): { url?: string; dataDir: string } {
  return url === undefined ? { dataDir } : { url, dataDir }
}

async function createOnPostgres(dataDir: string): Promise<TestDatabase> {
  const name = `gvnr_test_${randomUUID().replaceAll('-', '')}`
  await asAdmin(async (sql) => {
    const template = await postgresTemplate(sql)
    await sql.unsafe(`create database ${name} template ${template}`)
  })
  const drop = async () => {
    await asAdmin((sql) => sql.unsafe(`drop database if exists ${name} with (force)`))
    await rm(dataDir, { recursive: true, force: true })
  }
  return { url: urlOf(name), dataDir, drop }
}

async function createOnPglite(dataDir: string): Promise<TestDatabase> {
  await cp(await pgliteTemplate(), dataDir, { recursive: true })
  return { dataDir, drop: () => rm(dataDir, { recursive: true, force: true }) }
}

/** Built under another name and renamed when complete, so that an interrupted run leaves no half-migrated template behind. */
async function postgresTemplate(sql: postgres.Sql): Promise<string> {
  const template = `gvnr_template_${migrationsHash()}`
  const exists = async () => (await sql`select 1 from pg_database where datname = ${template}`).length === 1
  if (await exists()) return template
  await underTemplateLock(sql, async () => {
    if (await exists()) return
    const building = `${template}_building`
    await sql.unsafe(`drop database if exists ${building} with (force)`)
    await sql.unsafe(`create database ${building}`)
    await migrate({ url: urlOf(building), dataDir: inject('sharedDir') })
    await sql.unsafe(`alter database ${building} rename to ${template}`)
  })
  return template
}

async function pgliteTemplate(): Promise<string> {
  const template = join(inject('sharedDir'), 'pglite-template')
  if (existsSync(template)) return template
  await asAdmin((sql) =>
    underTemplateLock(sql, async () => {
      if (existsSync(template)) return
      const building = `${template}-building`
      await rm(building, { recursive: true, force: true })
      await migrate({ dataDir: building })
      await rename(building, template)
    }),
  )
  return template
}

async function migrate(where: { url?: string; dataDir: string }): Promise<void> {
  const database = await openDatabase(where)
  try {
    await migrateDatabase(database, MIGRATIONS)
  } finally {
    await database.close()
  }
}

/** `sql` has a single connection, so the lock and its release meet the same session. */
async function underTemplateLock(sql: postgres.Sql, work: () => Promise<void>): Promise<void> {
  await sql`select pg_advisory_lock(${TEMPLATE_LOCK})`
  try {
    await work()
  } finally {
    await sql`select pg_advisory_unlock(${TEMPLATE_LOCK})`
  }
}

async function asAdmin<T>(work: (sql: postgres.Sql) => Promise<T>): Promise<T> {
  const sql = postgres(inject('databaseUrl'), { max: 1, onnotice: () => {} })
  try {
    return await work(sql)
  } finally {
    await sql.end()
  }
}

function urlOf(name: string): string {
  const url = new URL(inject('databaseUrl'))
  url.pathname = `/${name}`
  return url.toString()
}

/** Names the template after what it was made from: a server that outlives the run never serves an old schema. */
function migrationsHash(): string {
  const hash = createHash('sha256')
  const files = readdirSync(MIGRATIONS)
    .filter((file) => file.endsWith('.sql'))
    .sort()
  if (files.length === 0) throw new Error(`no migrations in ${MIGRATIONS}`)
  for (const file of files) hash.update(file).update(readFileSync(join(MIGRATIONS, file)))
  return hash.digest('hex').slice(0, 16)
}
