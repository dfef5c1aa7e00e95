import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { z } from 'zod'

const ROOT = join(import.meta.dirname, '../..')
const MAIN = join(ROOT, 'dist/main.js')
/** A first start on an empty PGlite folder runs initdb in WASM, beside other tests. */
const START_TIMEOUT_MS = 60_000
const EXIT_TIMEOUT_MS = 20_000

/** The operator's secret of every server started here. */
export const ADMIN_SECRET = 'operator-secret-of-the-tests-4f1c9a'

export type ServerOptions = {
  /** PostgreSQL; without it the server runs PGlite in `dataDir`. */
  readonly databaseUrl?: string | undefined
  /** Kept when given; otherwise a temporary folder that `stop` deletes. */
  readonly dataDir?: string | undefined
  /** Another built server than this one. */
  readonly main?: string
  /** More environment variables; they win over the defaults below. */
  readonly env?: Readonly<Record<string, string>>
}

/** How a process ended. */
export type Exit = { readonly code: number | null; readonly signal: NodeJS.Signals | null }

export type Server = {
  readonly origin: string
  readonly port: number
  /** Changes with `restart`. */
  readonly pid: number
  /** From the start of the process to its "listening" line. */
  readonly start_ms: number
  /** Sends a signal and waits for the end (20 s at most, then SIGKILL). SIGSTOP and SIGCONT return at once. */
  kill(signal: NodeJS.Signals): Promise<Exit>
  /** Ends the process if it runs (SIGKILL unless told otherwise) and starts another on the same port and database. */
  restart(signal?: NodeJS.Signals): Promise<void>
  /** What all its processes have written so far, standard output and error together. */
  logs(): string
  /** Ends the process and deletes what was made for it. */
  stop(): Promise<void>
}

/** Starts the built server (`node scripts/build.mjs` first) and returns when it listens. Throws with its output when it does not. */
export async function startServer(options: ServerOptions = {}): Promise<Server> {
  const ownFolder = options.dataDir === undefined ? await mkdtemp(join(tmpdir(), 'gvnr-e2e-')) : undefined
  const server = new ServerProcess({ ...options, dataDir: options.dataDir ?? ownFolder }, ownFolder)
  try {
    await server.start()
  } catch (error) {
    await server.stop()
    throw error
  }
  return server
}

/** Runs the built server where it is expected to end by itself. */
export async function runToExit(options: ServerOptions): Promise<Exit & { output: string }> {
  const output: string[] = []
  const child = launch(options, '0', output)
  const exit = await exitOf(child)
  return { ...exit, output: output.join('') }
}

const listeningSchema = z.object({ msg: z.literal('listening'), origin: z.url() })

class ServerProcess implements Server {
  origin = ''
  port = 0
  start_ms = 0
  readonly #options: ServerOptions
  readonly #ownFolder: string | undefined
  readonly #output: string[] = []
  #child: ChildProcess | undefined

  constructor(options: ServerOptions, ownFolder: string | undefined) {
    this.#options = options
    this.#ownFolder = ownFolder
  }

  get pid(): number {
    const pid = this.#child?.pid
    if (pid === undefined) throw new Error('the server is not running')
    return pid
  }

  logs(): string {
    return this.#output.join('')
  }

  async start(): Promise<void> {
    const started = performance.now()
    const from = this.#output.length
    const child = launch(this.#options, String(this.port), this.#output)
    this.#child = child
    const deadline = Date.now() + START_TIMEOUT_MS
    for (; Date.now() < deadline && !hasEnded(child); await sleep(5)) {
      const origin = listeningOrigin(this.#output.slice(from).join(''))
      if (origin === undefined) continue
      this.start_ms = performance.now() - started
      this.origin = origin
      this.port = Number(new URL(origin).port)
      return
    }
    throw new Error(`the server did not start:\n${this.logs()}`)
  }

  async kill(signal: NodeJS.Signals): Promise<Exit> {
    const child = this.#child
    if (child === undefined) throw new Error('the server is not running')
    child.kill(signal)
    if (signal === 'SIGSTOP' || signal === 'SIGCONT') return { code: null, signal: null }
    return exitOf(child)
  }

  async restart(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    if (this.#child !== undefined && !hasEnded(this.#child)) await this.kill(signal)
    await this.start()
  }

  async stop(): Promise<void> {
    if (this.#child !== undefined && !hasEnded(this.#child)) {
      this.#child.kill('SIGCONT')
      await this.kill('SIGKILL')
    }
    if (this.#ownFolder !== undefined) await rm(this.#ownFolder, { recursive: true, force: true, maxRetries: 3 })
  }
}

function launch(options: ServerOptions, port: string, output: string[]): ChildProcess {
  const main = options.main ?? MAIN
  if (!existsSync(main)) throw new Error(`${main} is missing: run node scripts/build.mjs first`)
  const child = spawn(process.execPath, [main], {
    cwd: ROOT,
    // Nothing of the caller's own configuration may reach the server.
    env: {
      PATH: process.env.PATH,
      TZ: 'UTC',
      PORT: port,
      ADMIN_SECRET,
      ACCOUNT_RATE_LIMIT_PER_HOUR: '0',
      FAILED_AUTH_LIMIT_PER_MINUTE: '0',
      ...(options.databaseUrl !== undefined && { DATABASE_URL: options.databaseUrl }),
      ...(options.dataDir !== undefined && { DATA_DIR: options.dataDir }),
      ...options.env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => output.push(text))
  const watchdog = watchOver(child)
  child.once('exit', () => watchdog.kill('SIGKILL'))
  return child
}

/** Kills the server when this process ends without a chance to: the pipe closes by itself. */
function watchOver(server: ChildProcess): ChildProcess {
  const watchdog = spawn('sh', ['-c', 'read -r _; kill -KILL "$1" 2> /dev/null', 'watchdog', String(server.pid)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  watchdog.unref()
  watchdog.stdin.on('error', () => {})
  return watchdog
}

/** The address in the first "listening" line of the log. */
function listeningOrigin(output: string): string | undefined {
  for (const line of output.split('\n')) {
    if (!line.startsWith('{') || !line.endsWith('}')) continue
    const parsed = listeningSchema.safeParse(JSON.parse(line))
    if (parsed.success) return parsed.data.origin
  }
  return undefined
}

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null

function exitOf(child: ChildProcess): Promise<Exit> {
  if (hasEnded(child)) return Promise.resolve({ code: child.exitCode, signal: child.signalCode })
  return new Promise((resolve) => {
    const late = setTimeout(() => child.kill('SIGKILL'), EXIT_TIMEOUT_MS)
    // 'close' comes after the last output, 'exit' may come before it.
    child.once('close', (code, signal) => {
      clearTimeout(late)
      resolve({ code, signal })
    })
  })
}
