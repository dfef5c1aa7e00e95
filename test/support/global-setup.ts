import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { type PostgresServer, startPostgres } from './postgres.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** A superuser's URL of the run's PostgreSQL. Tests create databases of their own there: see databases.ts. */
    databaseUrl: string
    /** A folder of this run that several test files may share; deleted at the end. */
    sharedDir: string
  }
}

type Shared = { users: number; ready: Promise<{ url: string; server: PostgresServer | undefined; sharedDir: string }> }

/** vitest runs this file once per project and in a module instance each; the server is one for all of them. */
const registry = globalThis as typeof globalThis & { gvnrTestPostgres?: Shared }

/**
 * A server given as `TEST_DATABASE_URL` is used as it is (to try another version of PostgreSQL); otherwise we start one, and
 * share a folder beside its data: both go away together, even when this process is killed.
 */
async function prepare(): ReturnType<() => Shared['ready']> {
  const given = process.env.TEST_DATABASE_URL
  const server = given === undefined ? await startPostgres() : undefined
  const sharedDir = mkdtempSync(join(server === undefined ? tmpdir() : dirname(server.dataDir), 'gvnr-shared-'))
  return { url: given ?? server!.url, server, sharedDir }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  registry.gvnrTestPostgres ??= { users: 0, ready: prepare() }
  const shared = registry.gvnrTestPostgres
  shared.users += 1
  const { url, server, sharedDir } = await shared.ready
  project.provide('databaseUrl', url)
  project.provide('sharedDir', sharedDir)
  return async () => {
    shared.users -= 1
    if (shared.users > 0) return
    delete registry.gvnrTestPostgres
    rmSync(sharedDir, { recursive: true, force: true })
    await server?.remove()
  }
}
