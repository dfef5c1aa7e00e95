import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type MigrationMeta, readMigrationFiles } from 'drizzle-orm/migrator'
import type postgres from 'postgres'
import { z } from 'zod'
import type { Database } from './client.ts'

/** 'gvnr' in ASCII: the advisory lock that lets one process migrate at a time. */
const LOCK_KEY = 0x67766e72
/** How long a process waits for another one's migration before it gives up. */
const WAIT_MS = 120_000
/** A statement that cannot get its table lock fails, rather than have all traffic queue up behind it. */
const TABLE_LOCK_WAIT_MS = 5_000

const journalSchema = z.object({ entries: z.array(z.object({ tag: z.string() })) })

type Migration = MigrationMeta & { tag: string }
type Transaction = postgres.TransactionSql<{ bigint: bigint }>

/**
 * Brings the database up to the migrations in `folder` (drizzle-kit's format): everything not yet applied, in order, in one transaction, so it happens
 * entirely or not at all. Any number of processes may call it at once, also through a transaction pooler. Migrations that the database has
 * and `folder` lacks are left alone: an older release runs on a newer schema (expand, then contract). Throws when an applied file was edited.
 */
export async function migrateDatabase(database: Database, folder: string): Promise<{ applied: string[] }> {
  const migrations = await readMigrations(folder)
  const applied = await database.sql.begin('isolation level read committed', async (tx) => {
    await lockMigrations(tx)
    const pending = await findPending(tx, migrations)
    for (const migration of pending) await apply(tx, migration)
    return pending.map(({ tag }) => tag)
  })
  return { applied }
}

async function readMigrations(folder: string): Promise<Migration[]> {
  const journal = journalSchema.parse(JSON.parse(await readFile(join(folder, 'meta', '_journal.json'), 'utf8')))
  return readMigrationFiles({ migrationsFolder: folder }).map((migration, index) => {
    const tag = journal.entries[index]?.tag
    if (tag === undefined) throw new Error(`${folder}/meta/_journal.json changed while it was read`)
    return { ...migration, tag }
  })
}

/** Held to the end of the transaction. The settings are the transaction's own and leave the session's timeouts as they are. */
async function lockMigrations(tx: Transaction): Promise<void> {
  await tx.unsafe(
    `set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0; set local lock_timeout = ${WAIT_MS}`,
  )
  await tx.unsafe(`select pg_advisory_xact_lock(${LOCK_KEY})`)
  await tx.unsafe(`set local lock_timeout = ${TABLE_LOCK_WAIT_MS}`)
}

/** Asks before it creates: a role that may not create tables can still start on a database that is up to date. */
async function findPending(tx: Transaction, migrations: Migration[]): Promise<Migration[]> {
  const [table] = await tx.unsafe<{ exists: boolean }[]>(`select to_regclass('gvnr_migrations') is not null as exists`)
  if (table?.exists !== true) await tx.unsafe('create table gvnr_migrations (hash text primary key, created_at bigint not null)')
  const known = await tx.unsafe<{ hash: string; created_at: bigint }[]>('select hash, created_at from gvnr_migrations')
  const hashes = new Set(known.map(({ hash }) => hash))
  const times = new Set(known.map(({ created_at }) => created_at))
  const pending = migrations.filter(({ hash }) => !hashes.has(hash))
  const edited = pending.find(({ folderMillis }) => times.has(BigInt(folderMillis)))
  if (edited !== undefined) {
    throw new Error(
      `migration ${edited.tag} was changed after it had been applied to this database; restore it and add a new one`,
    )
  }
  return pending
}

async function apply(tx: Transaction, migration: Migration): Promise<void> {
  try {
    for (const statement of migration.sql) await tx.unsafe(statement)
  } catch (cause) {
    throw new Error(`migration ${migration.tag} failed, nothing was changed: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    })
  }
  await tx.unsafe('insert into gvnr_migrations (hash, created_at) values ($1, $2)', [
    migration.hash,
    BigInt(migration.folderMillis),
  ])
}
