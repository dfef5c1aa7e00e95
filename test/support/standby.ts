import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'

/** Copied empty: they belong to the running server, or come by streaming (PostgreSQL manual, 25.3.4). */
const LEFT_EMPTY = new Set([
  'pg_wal',
  'pg_replslot',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
])
const LEFT_OUT = new Set(['postmaster.pid', 'postmaster.opts', 'postgresql.auto.conf'])
const WAIT_MS = 30_000

type Primary = { readonly url: string; readonly dataDir: string }

/** What a primary needs so that a standby can begin at any moment: log is kept for the time the copy takes. */
export const PRIMARY_SETTINGS = { wal_keep_size: '256MB' } as const

export const followSettings = (port: number): Readonly<Record<string, string>> => ({
  primary_conninfo: `host=127.0.0.1 port=${port} user=postgres application_name=standby`,
  wal_retrieve_retry_interval: '200ms',
})

/**
 * A base backup over the low-level interface (PostgreSQL manual, 25.3.3), since npm's binaries come without pg_basebackup. The copy starts as
 * a standby. May run while the primary works.
 * @param own gives a file or folder to the server's user
 */
export async function copyCluster(primary: Primary, dataDir: string, own: (path: string) => void): Promise<void> {
  const sql = postgres(primary.url, { max: 1, onnotice: () => {} })
  try {
    await sql`select pg_backup_start('standby', true)`
    copyFolder(primary.dataDir, dataDir, own)
    const [stopped] = await sql`select labelfile from pg_backup_stop(false)`
    const write = (name: string, text: string): void => {
      writeFileSync(join(dataDir, name), text)
      own(join(dataDir, name))
    }
    write('backup_label', String(stopped?.labelfile))
    write('postgresql.auto.conf', '')
    write('standby.signal', '')
  } finally {
    await sql.end()
  }
}

/** Files that the primary deletes or changes meanwhile do not matter: its log says what became of them. */
function copyFolder(from: string, to: string, own: (path: string) => void): void {
  mkdirSync(to, { recursive: true })
  own(to)
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (LEFT_OUT.has(entry.name) || entry.name.startsWith('pgsql_tmp')) continue
    if (entry.isDirectory() && LEFT_EMPTY.has(entry.name)) {
      mkdirSync(target)
      own(target)
    } else if (entry.isDirectory()) copyFolder(source, target, own)
    else {
      try {
        copyFileSync(source, target)
        own(target)
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error
      }
    }
  }
}

/**
 * From here on the primary acknowledges nothing that its standby has not written to disk. Waits until the standby is in step.
 */
export async function makeSynchronous(primary: { readonly url: string }): Promise<void> {
  const sql = postgres(primary.url, { max: 1, onnotice: () => {} })
  try {
    await sql.unsafe(`alter system set synchronous_standby_names = '*'`)
    await sql`select pg_reload_conf()`
    for (const deadline = Date.now() + WAIT_MS; ; await sleep(50)) {
      const [row] = await sql`select count(*)::int as count from pg_stat_replication where sync_state in ('sync', 'quorum')`
      if (row?.count > 0) return
      if (Date.now() > deadline) throw new Error('the standby does not follow')
    }
  } finally {
    await sql.end()
  }
}

/** Makes a standby the primary; returns when it takes writes. */
export async function promote(standby: { readonly url: string }): Promise<void> {
  const sql = postgres(standby.url, { max: 1, onnotice: () => {} })
  try {
    const [row] = await sql`select pg_promote(true, ${WAIT_MS / 1000}) as promoted`
    if (row?.promoted !== true) throw new Error('the standby was not promoted')
  } finally {
    await sql.end()
  }
}
