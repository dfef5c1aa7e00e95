import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { Worker } from './load.ts'

export type CommitsRequest = {
  readonly url: string
  readonly connections: number
  readonly warmup_ms: number
  readonly duration_ms: number
  /** Open loop at this rate, each connection on a row of its own; null: closed loop, all on one hot row. */
  readonly rate_per_s: number | null
}
export type CommitsResult = {
  readonly commits: number
  readonly elapsed_ms: number
  readonly p50_us: number
  readonly p99_us: number
}

/** One row, one `UPDATE … RETURNING`, one commit: what a decision costs at least when each is a transaction of its own. */
export const COMMIT_TABLE = 'bench_counters'
export const COMMIT_ROWS = 64
export const COMMIT_SQL = `update ${COMMIT_TABLE} set n = n + 1 where id = `

export const startCommits = (): Worker<CommitsRequest, CommitsResult> =>
  new Worker(new URL('./commits-process.ts', import.meta.url))

/** The same through the `pgbench` program, prepared statements. @returns commits per second, null where pgbench is missing or too old */
export async function runPgbench(options: {
  url: string
  connections: number
  duration_ms: number
  folder: string
}): Promise<number | null> {
  const script = join(options.folder, 'commit.sql')
  writeFileSync(script, `${COMMIT_SQL}1 returning n;\n`)
  const seconds = Math.max(1, Math.round(options.duration_ms / 1000))
  const args = ['-n', '-M', 'prepared', '-c', `${options.connections}`, '-j', '2', '-T', `${seconds}`, '-f', script, options.url]
  try {
    const { stdout } = await promisify(execFile)('pgbench', args, { timeout: 60_000 })
    const tps = /^tps = ([\d.]+)/m.exec(stdout)?.[1]
    return tps === undefined ? null : Number(tps)
  } catch {
    return null
  }
}
