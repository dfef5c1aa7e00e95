import { type ChildProcess, fork } from 'node:child_process'
import type { Workload } from './workload.ts'

export type LoadRequest = {
  /** Connections are spread over these ports of 127.0.0.1. */
  readonly ports: readonly number[]
  readonly connections: number
  readonly workload: Workload
  /** Runs before anything is counted. */
  readonly warmup_ms: number
  readonly duration_ms: number
  /** Ends the burst earlier, after this many answers. */
  readonly maxRequests: number | null
  /** Open loop at this rate; null: closed loop, as fast as the connections allow. */
  readonly rate_per_s: number | null
}

export type LoadResult = {
  readonly answers: number
  /** Answers other than an approval, and broken connections. */
  readonly failures: number
  readonly firstFailure: string | null
  readonly elapsed_ms: number
  /** CPU time of the load generator itself. */
  readonly cpu_us: number
  readonly p50_us: number
  readonly p99_us: number
  readonly max_us: number
}

export type LoadReply =
  | { readonly kind: 'began' }
  | { readonly kind: 'done'; readonly result: LoadResult }
  | { readonly kind: 'failed'; readonly message: string }

/** A child process that runs one request at a time and tells when it begins to measure. */
export class Worker<Request extends object, Result> {
  readonly process: ChildProcess

  constructor(module: URL) {
    this.process = fork(module, { execArgv: ['--import', 'tsx'], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  }

  get pid(): number {
    if (this.process.pid === undefined) throw new Error('a process of the benchmark did not start')
    return this.process.pid
  }

  /** @param onBegan called when the warm-up is over and counting begins */
  run(request: Request, onBegan: () => void): Promise<Result> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        this.process.off('message', onMessage)
        this.process.off('exit', onExit)
      }
      const onExit = (): void => reject(new Error('a process of the benchmark ended early'))
      const onMessage = (
        reply: { kind: 'began' } | { kind: 'done'; result: Result } | { kind: 'failed'; message: string },
      ): void => {
        if (reply.kind === 'began') {
          onBegan()
          return
        }
        done()
        if (reply.kind === 'done') resolve(reply.result)
        else reject(new Error(reply.message))
      }
      this.process.on('message', onMessage)
      this.process.once('exit', onExit)
      this.process.send(request)
    })
  }

  stop(): void {
    this.process.kill('SIGKILL')
  }
}

export const startLoad = (): Worker<LoadRequest, LoadResult> => new Worker(new URL('./load-process.ts', import.meta.url))
