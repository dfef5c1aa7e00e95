import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import type { BalancerOptions } from '../test/support/balancer.ts'
import { freePort } from '../test/support/free-port.ts'
import { processCpu_us } from './machine.ts'

const START_TIMEOUT_MS = 30_000
const STOP_TIMEOUT_MS = 15_000

type Started = { readonly port: number; readonly ports?: readonly number[] }

export type RunningServer = {
  readonly port: number
  readonly pid: number
  /** From the start of the process to its first answer. */
  readonly started_ms: number
  /** CPU time that took, which other programs on the machine change less. */
  readonly startCpu_us: number
  stop(): Promise<void>
}

/** Everything that has been started; `stopAll` leaves nothing behind, whatever went wrong. */
export class Cleanup {
  readonly #steps: (() => unknown)[] = []

  add<T>(thing: T, stop: (thing: T) => unknown): T {
    this.#steps.push(() => stop(thing))
    return thing
  }

  /** Newest first. */
  async stopAll(): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step()
      } catch (error) {
        console.error(`cleaning up: ${error}`)
      }
    }
  }
}

export type GvnrOptions = {
  /** The built server. */
  readonly entry: string
  /** PostgreSQL; without it PGlite in `dataDir`. */
  readonly url?: string
  readonly dataDir: string
  readonly environment?: Readonly<Record<string, string>>
  /** Flags for Node, such as `--cpu-prof`. */
  readonly nodeFlags?: readonly string[]
}

/** Starts the built server as a user would and waits for its first real answer: an account made in the database. */
export async function startGvnr(options: GvnrOptions): Promise<RunningServer> {
  const port = await freePort()
  const startedAt = performance.now()
  const child = spawn(process.execPath, [...(options.nodeFlags ?? []), options.entry], {
    cwd: options.dataDir,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: {
      PATH: process.env.PATH,
      PORT: String(port),
      HOST: '127.0.0.1',
      DATA_DIR: options.dataDir,
      ACCOUNT_RATE_LIMIT_PER_HOUR: '0',
      ...(options.url !== undefined && { DATABASE_URL: options.url }),
      ...options.environment,
    },
  })
  const killOnExit = (): boolean => child.kill('SIGKILL')
  process.once('exit', killOnExit)
  child.once('exit', () => process.off('exit', killOnExit))
  try {
    await untilAnswers(child, port)
  } catch (error) {
    await stopProcess(child, 'SIGKILL')
    throw error
  }
  return {
    port,
    pid: pidOf(child),
    started_ms: performance.now() - startedAt,
    startCpu_us: processCpu_us(pidOf(child)),
    stop: () => stopProcess(child, 'SIGTERM'),
  }
}

/** The bare route of bare-server.ts. */
export const startBare = (): Promise<RunningServer> => startHelper(new URL('./bare-server.ts', import.meta.url))

/** The provider of dummy-provider.ts. */
export const startProvider = (): Promise<RunningServer> => startHelper(new URL('./dummy-provider.ts', import.meta.url))

/** The pipe of pipe-server.ts in front of a provider. */
export const startPipe = (providerPort: number): Promise<RunningServer> =>
  startHelper(new URL('./pipe-server.ts', import.meta.url), [String(providerPort)])

/** The balancers of balancer-process.ts, all in one process. */
export async function startBalancers(
  options: readonly BalancerOptions[],
): Promise<RunningServer & { readonly ports: readonly number[] }> {
  let ports: readonly number[] = []
  const running = await startHelper(new URL('./balancer-process.ts', import.meta.url), [JSON.stringify(options)], (message) => {
    ports = message.ports ?? []
  })
  return { ...running, ports }
}

/** A server of the benchmark's own, which says on which port it listens. */
async function startHelper(
  module: URL,
  parameters: string[] = [],
  onStarted: (message: Started) => void = () => {},
): Promise<RunningServer> {
  const startedAt = performance.now()
  const child = fork(module, parameters, { execArgv: ['--import', 'tsx'] })
  const [message] = (await once(child, 'message')) as [Started]
  onStarted(message)
  return {
    port: message.port,
    pid: pidOf(child),
    started_ms: performance.now() - startedAt,
    startCpu_us: processCpu_us(pidOf(child)),
    stop: () => stopProcess(child, 'SIGTERM'),
  }
}

/** True when `/mcp` runs tools; a server without that transport is measured without it. */
export async function answersMcp(port: number, key: string): Promise<boolean> {
  const response = await fetch(`http://127.0.0.1:${port}/mcp`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${key}`,
      accept: 'application/json, text/event-stream',
      'content-type': 'application/json',
      'mcp-protocol-version': '2025-11-25',
    },
    body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: 'get_balance', arguments: {} } }),
  })
  return response.status === 200 && (await response.text()).includes('operations_remaining')
}

async function untilAnswers(child: ChildProcess, port: number): Promise<void> {
  for (const deadline = performance.now() + START_TIMEOUT_MS; performance.now() < deadline; await sleep(5)) {
    if (child.exitCode !== null || child.signalCode !== null) throw new Error('the server ended while it started')
    try {
      const response = await fetch(`http://127.0.0.1:${port}/v1/account`, { method: 'POST' })
      await response.arrayBuffer()
      if (response.status === 201) return
      throw new Error(`the first account was answered ${response.status}`)
    } catch (error) {
      if (!(error instanceof TypeError)) throw error
    }
  }
  throw new Error('the server did not answer in time')
}

function pidOf(child: ChildProcess): number {
  if (child.pid === undefined) throw new Error('a process of the benchmark did not start')
  return child.pid
}

async function stopProcess(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill(signal)
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
  await exited
  clearTimeout(timer)
}
