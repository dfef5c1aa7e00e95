import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../test/support/free-port.ts'
import { ADMIN_SECRET } from '../../test/support/server.ts'

const START_TIMEOUT_MS = 60_000
const STOP_TIMEOUT_MS = 20_000

export type ServerSettings = {
  /** The built server. */
  readonly entry: string
  readonly folder: string
  readonly databaseUrl: string
  readonly environment: Readonly<Record<string, string>>
}

/** A server process that is killed and started again at the same address. It writes to a file, so that nothing of it is kept here. */
export class ServerProcess {
  readonly port: number
  readonly logFile: string
  readonly #settings: ServerSettings
  #child: ChildProcess | undefined

  private constructor(port: number, index: number, settings: ServerSettings) {
    this.port = port
    this.#settings = settings
    this.logFile = join(settings.folder, `server-${index}.log`)
  }

  /** Returns when it answers. */
  static async start(index: number, settings: ServerSettings): Promise<ServerProcess> {
    const server = new ServerProcess(await freePort(), index, settings)
    await server.start()
    return server
  }

  get origin(): string {
    return `http://127.0.0.1:${this.port}`
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
  }

  async start(): Promise<void> {
    const log = openSync(this.logFile, 'a')
    const child = spawn(process.execPath, [this.#settings.entry], {
      cwd: this.#settings.folder,
      stdio: ['ignore', log, log],
      env: {
        PATH: process.env.PATH,
        TZ: 'UTC',
        HOST: '127.0.0.1',
        PORT: String(this.port),
        DATABASE_URL: this.#settings.databaseUrl,
        DATA_DIR: this.#settings.folder,
        ADMIN_SECRET,
        ACCOUNT_RATE_LIMIT_PER_HOUR: '0',
        FAILED_AUTH_LIMIT_PER_MINUTE: '0',
        SIGNUP_TRIAL_OPS: '0',
        LOG_LEVEL: 'warn',
        ...this.#settings.environment,
      },
    })
    closeSync(log)
    this.#child = child
    const killOnExit = (): boolean => child.kill('SIGKILL')
    process.once('exit', killOnExit)
    child.once('exit', () => process.off('exit', killOnExit))
    for (const deadline = Date.now() + START_TIMEOUT_MS; Date.now() < deadline && this.isRunning; await sleep(5)) {
      const answers = await fetch(`${this.origin}/health`).then(
        (response) => response.arrayBuffer().then(() => response.ok),
        () => false,
      )
      if (answers) return
    }
    throw new Error(`a server did not start:\n${readFileSync(this.logFile, 'utf8').slice(-4000)}`)
  }

  async stop(signal: NodeJS.Signals): Promise<void> {
    const child = this.#child
    if (child === undefined || !this.isRunning) return
    const exited = once(child, 'exit')
    child.kill(signal)
    const late = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await exited
    clearTimeout(late)
  }
}
