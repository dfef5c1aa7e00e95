import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { cp, mkdtemp, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import postgres from 'postgres'
import { inject } from 'vitest'
import { openDatabase } from '../../../src/db/client.ts'

/** A folder that the caller removes with `drop`; for PostgreSQL also an empty database without migrations. */
export type EmptyDatabase = { url?: string; dataDir: string; drop(): Promise<void> }

export async function createEmptyDatabase(kind: 'pglite' | 'postgres'): Promise<EmptyDatabase> {
  const dataDir = await mkdtemp(join(inject('sharedDir'), 'empty-'))
  const removeFolder = () => rm(dataDir, { recursive: true, force: true })
  if (kind === 'pglite') {
    await cp(await pgliteTemplate(), dataDir, { recursive: true })
    return { dataDir, drop: removeFolder }
  }
  const name = `gvnr_empty_${randomUUID().replaceAll('-', '')}`
  await asAdmin(`create database ${name}`)
  const url = new URL(inject('databaseUrl'))
  url.pathname = `/${name}`
  const drop = async () => {
    await asAdmin(`drop database if exists ${name} with (force)`)
    await removeFolder()
  }
  return { url: url.href, dataDir, drop }
}

/** Made once: PGlite takes seconds to fill an empty folder. Whoever renames first wins, the others take that one. */
async function pgliteTemplate(): Promise<string> {
  const template = join(inject('sharedDir'), 'empty-pglite-template')
  if (existsSync(template)) return template
  const building = await mkdtemp(`${template}-`)
  const database = await openDatabase({ dataDir: building })
  await database.close()
  await rename(building, template).catch(() => rm(building, { recursive: true }))
  return template
}

async function asAdmin(statement: string): Promise<void> {
  const sql = postgres(inject('databaseUrl'), { max: 1, onnotice: () => {} })
  try {
    await sql.unsafe(statement)
  } finally {
    await sql.end()
  }
}
