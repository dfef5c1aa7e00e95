import { execFile, execFileSync } from 'node:child_process'
import { chmodSync, chownSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import postgres from 'postgres'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { keepBusy } from '../support/load.ts'
import { type PostgresServer, startPostgres } from '../support/postgres.ts'
import { startServer } from '../support/server.ts'

const CLI = join(import.meta.dirname, '../../dist/cli.js')
const run = promisify(execFile)
const input = { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 10 }

/** `gvnr verify` as an operator runs it: rejects when a balance is wrong. */
const verify = async (env: Record<string, string>): Promise<string> =>
  (await run(process.execPath, [CLI, 'verify'], { env: { PATH: process.env.PATH, ...env } })).stdout

describe('point-in-time recovery, as docs/operations.md says', () => {
  let folder: string
  let archive: string
  let source: PostgresServer
  let restored: PostgresServer | undefined

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'gvnr-backup-'))
    chmodSync(folder, 0o755)
    archive = join(folder, 'archive')
    mkdirSync(archive)
    // PostgreSQL writes there, as whoever it runs as.
    if (process.getuid?.() === 0) chownSync(archive, 65534, 65534)
    source = await startPostgres({
      settings: {
        wal_level: 'replica',
        archive_mode: 'on',
        archive_command: `test ! -f ${archive}/%f && cp %p ${archive}/%f`,
      },
    })
  })
  afterAll(async () => {
    await source?.remove()
    await restored?.remove()
    rmSync(folder, { recursive: true, force: true })
  })

  /** What pg_basebackup does over a connection, with the server's own commands: npm carries no client programs. */
  async function takeBackup(sql: postgres.Sql): Promise<string> {
    const target = join(folder, 'base')
    await sql.unsafe(`select pg_backup_start('gvnr', fast => true)`)
    execFileSync('cp', ['-a', source.dataDir, target])
    const [stopped] = await sql.unsafe('select labelfile from pg_backup_stop()')
    rmSync(join(target, 'postmaster.pid'), { force: true })
    execFileSync('sh', ['-c', `rm -rf "${target}"/pg_wal/*`])
    writeFileSync(join(target, 'backup_label'), String(stopped?.labelfile))
    writeFileSync(join(target, 'recovery.signal'), '')
    const { uid, gid } = statSync(source.dataDir)
    for (const name of ['backup_label', 'recovery.signal']) chownSync(join(target, name), uid, gid)
    return target
  }

  it('brings back every answer until that moment, and nothing of what came after', async () => {
    const sql = postgres(source.url, { max: 1, onnotice: () => {} })
    const server = await startServer({ databaseUrl: source.url })
    const client = new Client(server.origin)
    const { key, accountId } = await client.createAccount(100_000)
    await client.setEnvelope(key, { agent_id: 'a', limit_usd: 100 })
    let approved = 0
    const clear = async () => {
      if ((await client.clear(key, input)).body.approved) approved++
    }
    // The backup is taken under load.
    const stop = keepBusy(8, clear)
    await sleep(500)
    const base = await takeBackup(sql)
    await sleep(500)
    await stop()
    const until = approved
    const [moment] = await sql.unsafe('select clock_timestamp()::text as at')
    await sleep(1_100)

    // Somebody's mistake, and what happens after it.
    await sql.unsafe('delete from holds')
    await sql.unsafe('update envelopes set spent_daily_nanousd = 0')
    await clear()
    await expect(verify({ DATABASE_URL: source.url })).rejects.toMatchObject({ code: 1 })
    const [segment] = await sql.unsafe('select pg_walfile_name(pg_switch_wal()) as name')
    await expect.poll(() => existsSync(join(archive, String(segment?.name))), { timeout: 30_000 }).toBe(true)
    client.close()
    await server.stop()
    await sql.end()
    await source.stop('immediate')

    restored = await startPostgres({
      dataDir: base,
      settings: {
        restore_command: `cp ${archive}/%f %p`,
        recovery_target_time: String(moment?.at),
        recovery_target_action: 'promote',
      },
    })
    expect(await verify({ DATABASE_URL: restored.url })).toContain('every balance is right')
    const again = await startServer({ databaseUrl: restored.url })
    const other = new Client(again.origin)
    const after = postgres(restored.url, { max: 1, onnotice: () => {} })
    const holds = async () =>
      Number((await after.unsafe('select count(*) as n from holds where account_id = $1', [accountId]))[0]?.n)
    console.log(`${until} approved until ${moment?.at}`)
    expect(until).toBeGreaterThan(100)
    expect(await holds()).toBe(until)
    expect((await other.clear(key, input)).body.approved).toBe(true)
    expect(await holds()).toBe(until + 1)
    await after.end()
    other.close()
    await again.stop()
  })
})

describe('the folder of the embedded database', () => {
  it('is a backup when it is copied while the process is stopped', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'gvnr-copied-'))
    const [dataDir, copy] = [join(folder, 'data'), join(folder, 'copy')]
    const first = await startServer({ dataDir })
    const client = new Client(first.origin)
    const { key } = await client.createAccount()
    await client.setEnvelope(key, { agent_id: 'a', limit_usd: 1 })
    for (let n = 0; n < 10; n++) await client.clear(key, input)
    const { body: before } = await client.getEnvelope(key, 'a')
    client.close()
    expect(await first.kill('SIGTERM')).toEqual({ code: 0, signal: null })
    execFileSync('cp', ['-a', dataDir, copy])
    rmSync(dataDir, { recursive: true })

    expect(await verify({ DATA_DIR: copy })).toContain('every balance is right')
    const second = await startServer({ dataDir: copy })
    const other = new Client(second.origin)
    expect((await other.getEnvelope(key, 'a')).body).toEqual(before)
    expect(before.spent_usd).toBeGreaterThan(0)
    other.close()
    await second.stop()
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 })
  })
})
