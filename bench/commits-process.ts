import { setTimeout as sleep } from 'node:timers/promises'
import postgres from 'postgres'
import { COMMIT_ROWS, COMMIT_SQL, type CommitsRequest, type CommitsResult } from './commits.ts'
import { Durations } from './statistics.ts'

/* The client of the commit baseline: prepared statements, one connection per loop, a process of its own. */

const durations = new Durations(2_000_000)

process.on('disconnect', () => process.exit(0))
process.on('message', (request: CommitsRequest) => {
  run(request).then(
    (result) => process.send?.({ kind: 'done', result }),
    (error: unknown) => process.send?.({ kind: 'failed', message: error instanceof Error ? error.message : String(error) }),
  )
})

async function run(request: CommitsRequest): Promise<CommitsResult> {
  const clients = Array.from({ length: request.connections }, () => postgres(request.url, { max: 1, fetch_types: false }))
  let isStopped = false
  let commits = 0
  const commit = async (client: postgres.Sql, row: number, dueAt: number): Promise<void> => {
    await client.unsafe(`${COMMIT_SQL}$1 returning n`, [row], { prepare: true })
    commits++
    durations.add((performance.now() - dueAt) * 1000)
  }
  const closedLoop = async (client: postgres.Sql): Promise<void> => {
    while (!isStopped) await commit(client, 1, performance.now())
  }
  /** Due times and late timers as in load-process.ts. */
  const openLoop = async (rate_per_s: number): Promise<void> => {
    const idle = clients.map((client, index) => ({ client, row: 1 + (index % COMMIT_ROWS) }))
    const running = new Set<Promise<void>>()
    for (let due = performance.now(); !isStopped; await sleep(1)) {
      for (const now = performance.now(); due <= now; due += 1000 / rate_per_s) {
        const free = idle.pop()
        if (free === undefined) break
        const work: Promise<void> = commit(free.client, free.row, now - due <= 2 ? now : due).finally(() => {
          idle.push(free)
          running.delete(work)
        })
        running.add(work)
      }
    }
    await Promise.all(running)
  }
  try {
    await Promise.all(clients.map((client) => client.unsafe('select 1')))
    const loops = request.rate_per_s === null ? clients.map(closedLoop) : [openLoop(request.rate_per_s)]
    await sleep(request.warmup_ms)
    durations.clear()
    commits = 0
    const beganAt = performance.now()
    process.send?.({ kind: 'began' })
    await sleep(request.duration_ms)
    const result = { commits, elapsed_ms: performance.now() - beganAt, ...durations.summary() }
    isStopped = true
    await Promise.all(loops)
    return result
  } finally {
    await Promise.all(clients.map((client) => client.end({ timeout: 5 })))
  }
}
