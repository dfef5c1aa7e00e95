import type { CommitsRequest, CommitsResult } from './commits.ts'
import type { LoadRequest, LoadResult, Worker } from './load.ts'
import { familyCpu_us, machineBusy_us, processCpu_us } from './machine.ts'

/** Where the CPU time of one burst went. */
export type CpuUse = {
  /** The server processes: node, and PGlite inside of it. */
  readonly server_us: number
  /** All processes of PostgreSQL. */
  readonly database_us: number
  /** How many cores everybody else on the machine used meanwhile: the noise of this burst. */
  readonly otherCores: number
}

export type Sample = {
  readonly rate_per_s: number
  readonly p50_us: number
  readonly p99_us: number
  readonly answers: number
  readonly failures: number
  readonly firstFailure: string | null
  readonly cpu: CpuUse
  /** Of the load generator. */
  readonly client_us: number
}

export type MeasureDeps = {
  readonly load: Worker<LoadRequest, LoadResult>
  readonly commits: Worker<CommitsRequest, CommitsResult>
  /** The postmaster. */
  readonly postgresPid: number
}

/** Runs bursts one after the other and accounts for the CPU each of them used. */
export class Measure {
  readonly #deps: MeasureDeps

  constructor(deps: MeasureDeps) {
    this.#deps = deps
  }

  async load(request: LoadRequest, serverPids: readonly number[]): Promise<Sample> {
    const account = this.#accountant(serverPids)
    const result = await this.#deps.load.run(request, account.begin)
    return {
      rate_per_s: (result.answers / result.elapsed_ms) * 1000,
      p50_us: result.p50_us,
      p99_us: result.p99_us,
      answers: result.answers,
      failures: result.failures,
      firstFailure: result.firstFailure,
      client_us: result.cpu_us,
      cpu: account.end(),
    }
  }

  async commits(request: CommitsRequest): Promise<Sample> {
    const account = this.#accountant([])
    const result = await this.#deps.commits.run(request, account.begin)
    return {
      rate_per_s: (result.commits / result.elapsed_ms) * 1000,
      p50_us: result.p50_us,
      p99_us: result.p99_us,
      answers: result.commits,
      failures: 0,
      firstFailure: null,
      client_us: 0,
      cpu: account.end(),
    }
  }

  #accountant(serverPids: readonly number[]): { begin(): void; end(): CpuUse } {
    const read = () => ({
      at: performance.now(),
      server: serverPids.reduce((sum, pid) => sum + processCpu_us(pid), 0),
      database: familyCpu_us(this.#deps.postgresPid),
      tools: processCpu_us(process.pid) + processCpu_us(this.#deps.commits.pid) + processCpu_us(this.#deps.load.pid),
      machine: machineBusy_us(),
    })
    let before = read()
    return {
      begin: () => {
        before = read()
      },
      end: () => {
        const after = read()
        const server_us = after.server - before.server
        const database_us = after.database - before.database
        const ours = server_us + database_us + after.tools - before.tools
        const elapsed_us = (after.at - before.at) * 1000
        return {
          server_us,
          database_us,
          otherCores: Math.max(0, (after.machine - before.machine - ours) / elapsed_us),
        }
      },
    }
  }
}
