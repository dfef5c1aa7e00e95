import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { startPostgres } from '../../test/support/postgres.ts'
import { fillAccounts, onDatabase } from '../fill.ts'
import { startLoad } from '../load.ts'
import { describeMachine } from '../machine.ts'
import { type Cleanup, startGvnr } from '../servers.ts'
import { median } from '../statistics.ts'
import type { Workload } from '../workload.ts'

const ROUNDS = 5
const BURST_MS = 5000
const CONNECTIONS = 64
const ACCOUNTS = { first: 0, accounts: 100, agents: 1 }
const WORKLOAD: Workload = {
  kind: 'clear',
  transport: 'rest',
  firstAccount: 0,
  accounts: 100,
  agents: 1,
  distribution: 'uniform',
}
const MOST_RATIO = 5

/** p99 of a clearance at half of the rate that the server reached just before, against its p50; each round measures both. */
export async function halfRate(
  cleanup: Cleanup,
  options: { entry: string; folder: string; results: string | null; command: string },
): Promise<void> {
  const postgres = cleanup.add(await startPostgres(), (server) => server.remove())
  const load = cleanup.add(startLoad(), (worker) => worker.stop())
  const server = cleanup.add(
    await startGvnr({ entry: options.entry, url: postgres.url, dataDir: options.folder, environment: { LOG_LEVEL: 'warn' } }),
    (running) => running.stop(),
  )
  await onDatabase(postgres.url, (sql) => fillAccounts(sql, ACCOUNTS))
  const burst = (rate_per_s: number | null) =>
    load.run(
      {
        ports: [server.port],
        connections: CONNECTIONS,
        workload: WORKLOAD,
        warmup_ms: 500,
        duration_ms: BURST_MS,
        maxRequests: null,
        rate_per_s,
      },
      () => {},
    )
  await burst(null)
  const rounds = []
  for (let round = 0; round < ROUNDS; round++) {
    const full = await burst(null)
    const most_per_s = (full.answers / full.elapsed_ms) * 1000
    const half = await burst(most_per_s / 2)
    const [p50_ms, p99_ms] = [half.p50_us / 1000, half.p99_us / 1000]
    rounds.push({ most_per_s, p50_ms, p99_ms, ratio: p99_ms / p50_ms, failures: full.failures + half.failures })
  }
  const ratio = median(rounds.map((round) => round.ratio))
  const version = await onDatabase(postgres.url, async (sql) =>
    String((await sql.unsafe('show server_version'))[0]?.server_version),
  )
  const machine = describeMachine(version)
  const cells = rounds.map((round) =>
    [round.most_per_s, round.most_per_s / 2, round.p50_ms, round.p99_ms, round.ratio, round.failures].map((value) =>
      value.toPrecision(4),
    ),
  )
  const lines = [
    '# A clearance at half of the maximum rate',
    '',
    `${new Date().toISOString().slice(0, 10)}, \`${options.command}\`, ${CONNECTIONS} connections, ${ACCOUNTS.accounts} accounts, PostgreSQL ${version}. ${machine.cpu}, ${machine.cores} cores; load, server and database share them.`,
    `Open loop; a duration counts from the moment a request was due. p99 ÷ p50: ${ratio.toPrecision(3)}, at most ${MOST_RATIO} wanted: ${ratio <= MOST_RATIO ? 'met' : 'MISSED'}.`,
    '',
    '| most/s | rate/s | p50 ms | p99 ms | p99 ÷ p50 | failures |',
    '| ---: | ---: | ---: | ---: | ---: | ---: |',
    ...cells.map((row) => `| ${row.join(' | ')} |`),
    '',
  ]
  console.log(lines.join('\n'))
  if (options.results === null) return
  mkdirSync(options.results, { recursive: true })
  writeFileSync(join(options.results, 'soak-half-rate.md'), lines.join('\n'))
  writeFileSync(join(options.results, 'soak-half-rate.json'), `${JSON.stringify({ machine, ratio, rounds }, null, 1)}\n`)
}
