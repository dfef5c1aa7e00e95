import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readdir, realpath, rename, rm } from 'node:fs/promises'
import { connect, createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

/*
 * Why sockets: a listening socket dies with its process, however the process ends, so there is no stale lock to wait for; and asking
 * "does someone accept here?" needs no process id (in containers everyone is pid 1) and no native addon (flock).
 *
 * Protocol: every contender publishes a live socket under a name of its own, then looks at all others. A dead one refuses connections and
 * is swept; seeing a live one, the contender withdraws. Publishing comes before looking, so of two contenders at least one sees the other:
 * both may withdraw (they try again after a random wait), both can never stay. No file is ever taken over, so nothing can be taken over twice.
 */

const PREFIX = 'lock-'
const UNPUBLISHED = '.new'
const ATTEMPTS = 6
/** sun_path holds 104 bytes on macOS, 108 on Linux; leave room for the terminating zero. */
const SOCKET_PATH_BYTES = 100
/** Errors by which a file system says that it cannot hold a socket (some container mounts). */
const NO_SOCKETS_HERE = new Set(['ENOTSUP', 'EOPNOTSUPP', 'EPERM', 'EINVAL', 'ENAMETOOLONG'])

/** An exclusive hold on a folder, until `release` or the end of the process. */
export type FolderLock = { release(): Promise<void> }

/** Another live process holds the folder. */
export class FolderLockedError extends Error {
  override readonly name = 'FolderLockedError'
  constructor(folder: string) {
    super(
      `another gvnr process is using ${folder}; stop it, or set DATABASE_URL to run several processes on one PostgreSQL server`,
    )
  }
}

/**
 * Takes the exclusive lock on `folder` (created when missing). Throws `FolderLockedError` after some 200 ms while a live process holds it;
 * succeeds at once when the previous holder was killed. It excludes processes that share a kernel, not hosts that share a network file system.
 */
export async function lockFolder(folder: string): Promise<FolderLock> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const real = await realpath(folder)
  if (process.platform === 'win32') return await lockPipe(real)
  if (Buffer.byteLength(socketName(real)) > SOCKET_PATH_BYTES) return await lockSockets(await elsewhere(real), real)
  try {
    return await lockSockets(real, real)
  } catch (error) {
    if (!NO_SOCKETS_HERE.has(errorCode(error))) throw error
    return await lockSockets(await elsewhere(real), real)
  }
}

/** A folder for the sockets when the real one cannot hold them: same for every process with the same temporary folder. */
async function elsewhere(real: string): Promise<string> {
  const folder = join(tmpdir(), `gvnr-${digest(real)}`)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  return folder
}

async function lockSockets(socketFolder: string, folder: string): Promise<FolderLock> {
  for (let attempt = 1; ; attempt += 1) {
    const own = await publish(socketFolder)
    if (!(await othersAlive(socketFolder, own.name))) return own
    await own.release()
    if (attempt === ATTEMPTS) throw new FolderLockedError(folder)
    await sleep(10 + Math.random() * 50)
  }
}

/** Listens under a private name first: between bind and listen a socket looks dead, and must not be swept by another contender. */
async function publish(socketFolder: string): Promise<FolderLock & { name: string }> {
  const path = socketName(socketFolder)
  const name = path.slice(socketFolder.length + 1, -UNPUBLISHED.length)
  const server = await listenOn(path)
  await rename(path, join(socketFolder, name))
  const release = async () => {
    await closeServer(server)
    await rm(join(socketFolder, name), { force: true })
  }
  return { name, release }
}

async function othersAlive(socketFolder: string, ownName: string): Promise<boolean> {
  const names = await readdir(socketFolder)
  for (const name of names) {
    if (name === ownName || !name.startsWith(PREFIX) || name.endsWith(UNPUBLISHED)) continue
    if (await isAlive(join(socketFolder, name))) return true
    await rm(join(socketFolder, name), { force: true })
  }
  return false
}

/** Anything but a clear "nobody there" counts as alive: a needless refusal is better than two writers. */
function isAlive(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', (error) => {
      const code = errorCode(error)
      resolve(code !== 'ECONNREFUSED' && code !== 'ENOENT')
    })
  })
}

/** Windows: the first instance of a named pipe is exclusive by itself, and gone with its process. */
async function lockPipe(real: string): Promise<FolderLock> {
  try {
    const server = await listenOn(`\\\\.\\pipe\\gvnr-${digest(real.toLowerCase())}`)
    return { release: () => closeServer(server) }
  } catch (error) {
    if (errorCode(error) === 'EADDRINUSE' || errorCode(error) === 'EACCES') throw new FolderLockedError(real)
    throw error
  }
}

function listenOn(path: string): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => socket.destroy())
    server.unref()
    server.once('error', reject)
    server.listen({ path, exclusive: true }, () => {
      server.off('error', reject)
      server.on('error', () => {})
      resolve(server)
    })
  })
}

function closeServer(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve())
  })
}

function socketName(folder: string): string {
  return join(folder, `${PREFIX}${randomBytes(6).toString('hex')}${UNPUBLISHED}`)
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16)
}

function errorCode(error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
}
