import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, mkdirSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '../../test/support/free-port.ts'

const NOBODY_ID = 65534
const START_TIMEOUT_MS = 10_000

/** PgBouncer in transaction mode. */
export type Pooler = {
  readonly port: number
  readonly version: string
  /** As `kill -9`, and then the next one at the same address. */
  restart(): Promise<void>
  stop(): Promise<void>
}

/** @throws when PgBouncer is not installed: a run that was to go through it says so instead of going past it */
export async function startPooler(folder: string, databasePort: number): Promise<Pooler> {
  const version = installedVersion()
  const home = join(folder, 'pgbouncer')
  mkdirSync(home)
  const port = await freePort()
  const config = join(home, 'pgbouncer.ini')
  const settings = {
    listen_addr: '127.0.0.1',
    listen_port: port,
    unix_socket_dir: '',
    auth_type: 'any',
    pool_mode: 'transaction',
    default_pool_size: 8,
    max_client_conn: 200,
    logfile: join(home, 'pgbouncer.log'),
  }
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`)
  const database = `postgres = host=127.0.0.1 port=${databasePort} dbname=postgres user=postgres`
  writeFileSync(config, ['[databases]', database, '[pgbouncer]', ...lines, ''].join('\n'))
  // It refuses to run as root, as PostgreSQL does.
  const identity = process.getuid?.() === 0 ? { uid: NOBODY_ID, gid: NOBODY_ID } : {}
  if ('uid' in identity) for (const path of [folder, home, config]) chownSync(path, NOBODY_ID, NOBODY_ID)
  let child: ChildProcess | undefined
  const start = async (): Promise<void> => {
    const started = spawn('pgbouncer', [config], { ...identity, cwd: home, stdio: 'ignore' })
    child = started
    process.once('exit', () => started.kill('SIGKILL'))
    for (const deadline = Date.now() + START_TIMEOUT_MS; Date.now() < deadline; await sleep(20)) {
      if (started.exitCode !== null) throw new Error('PgBouncer ended while it started')
      if (await answers(port)) return
    }
    throw new Error('PgBouncer did not start')
  }
  const stop = async (signal: NodeJS.Signals): Promise<void> => {
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
  }
  await start()
  return {
    port,
    version,
    async restart() {
      await stop('SIGKILL')
      await start()
    },
    stop: () => stop('SIGINT'),
  }
}

function installedVersion(): string {
  try {
    return execFileSync('pgbouncer', ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? ''
  } catch {
    throw new Error('PgBouncer is not installed: `apt-get install pgbouncer`, or leave this fault out')
  }
}

const answers = (port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' })
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
