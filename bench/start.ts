import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Context, startServer } from './context.ts'
import { createDatabase } from './fill.ts'
import { short } from './report.ts'
import { median } from './statistics.ts'

type Start = { readonly wall_s: number; readonly cpu_s: number }

/** From the start of the process to the first account made, on nothing at all and on what an earlier start left. */
export async function start(context: Context): Promise<void> {
  const times: Record<'empty' | 'again' | 'postgres' | 'postgresAgain', Start[]> = {
    empty: [],
    again: [],
    postgres: [],
    postgresAgain: [],
  }
  const timed = async (into: Start[], options: { url?: string; dataDir: string }): Promise<void> => {
    const server = await startServer(context, options)
    into.push({ wall_s: server.started_ms / 1000, cpu_s: server.startCpu_us / 1_000_000 })
    await server.stop()
  }
  for (let round = 0; round < context.effort.starts; round++) {
    const dataDir = join(context.folder, `pglite-start-${round}`)
    await mkdir(dataDir)
    await timed(times.empty, { dataDir })
    await timed(times.again, { dataDir })
    await rm(dataDir, { recursive: true })
    const url = await createDatabase(context.postgres.url, `bench_start_${round}`)
    await timed(times.postgres, { url, dataDir: context.folder })
    await timed(times.postgresAgain, { url, dataDir: context.folder })
  }
  const seconds = (starts: readonly Start[]): number => median(starts.map(({ wall_s }) => wall_s))
  const lines = [
    ['PGlite, empty folder', times.empty],
    ['PGlite, existing folder', times.again],
    ['PostgreSQL, empty database', times.postgres],
    ['PostgreSQL, existing database', times.postgresAgain],
  ] as const
  context.report.table({
    title: 'Start to first answer',
    note: 'Seconds from starting the process to the first account created; CPU: of the server process in that time, which other programs change less.',
    columns: ['', 'median s', 'slowest s', 'CPU s'],
    rows: lines.map(([name, starts]) => [
      name,
      short(seconds(starts)),
      short(Math.max(...starts.map(({ wall_s }) => wall_s))),
      short(median(starts.map(({ cpu_s }) => cpu_s))),
    ]),
  })
  const target = (what: string, starts: readonly Start[], limit: number): void =>
    context.report.target({
      what,
      wanted: `under ${limit} s`,
      measured: `${short(seconds(starts))} s`,
      isMet: seconds(starts) < limit,
    })
  target('start to first answer, PGlite, empty folder', times.empty, 5)
  target('start to first answer, PostgreSQL, empty database', times.postgres, 1)
}
