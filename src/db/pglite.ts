import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { Duplex } from 'node:stream'
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import { lockFolder } from './folder-lock.ts'
import type { WorkerCommand, WorkerEvent, WorkerInput } from './pglite-worker.ts'

/** An embedded PostgreSQL: `connect` gives what a driver takes for a socket. One session, so the driver may hold one connection. */
export type Pglite = {
  connect(): Duplex
  /** Ends the database (checkpoint) and frees the folder. Close the connection first. */
  close(): Promise<void>
}

const CANCEL_REQUEST_CODE = 80877102
const CANCEL_REQUEST_BYTES = 16

/** `isLost`: it broke or is about to; `ended` resolves when it no longer runs, so that never two threads have the folder. */
type Thread = { worker: Worker; ended: Promise<unknown>; isLost: boolean }

/**
 * Locks `folder`, starts PGlite on it in a worker thread (first start on an empty folder: some 4 s) and waits until it is ready. Should PostgreSQL
 * break later, the open connection breaks and the next `connect` starts a new thread, which recovers, as with a server that restarts.
 */
export async function startPglite(folder: string, log: (message: string) => void): Promise<Pglite> {
  const lock = await lockFolder(folder)
  const dataDir = join(folder, 'pgdata')
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 })
    const worker = startWorker(dataDir)
    await isReady(worker, dataDir)
    let thread = watch(worker, log)
    const connect = (): Duplex => {
      const { port1, port2 } = new MessageChannel()
      const socket = new BridgeSocket(port1)
      const handOver = () => {
        if (thread.isLost) thread = watch(startWorker(dataDir), log)
        const current = thread
        socket.once('error', () => {
          current.isLost = true
        })
        current.worker.postMessage({ kind: 'connect', port: port2 } satisfies WorkerCommand, [port2])
      }
      if (thread.isLost) void thread.ended.then(handOver)
      else handOver()
      return socket
    }
    const close = async () => {
      thread.worker.postMessage({ kind: 'close' } satisfies WorkerCommand)
      await thread.ended
      await lock.release()
    }
    return { connect, close }
  } catch (error) {
    await lock.release()
    throw error
  }
}

function watch(worker: Worker, log: (message: string) => void): Thread {
  const ended = new Promise((resolve) => worker.once('exit', resolve))
  const thread: Thread = { worker, ended, isLost: false }
  const lose = (reason: unknown) => {
    thread.isLost = true
    log(`the embedded database stopped: ${String(reason)}`)
  }
  worker.on('error', lose)
  worker.on('message', (event: WorkerEvent) => event.kind === 'failed' && lose(event.reason))
  return thread
}

/** Passes bytes of the wire protocol to the worker thread and back; stands in for `net.Socket` in postgres.js. */
class BridgeSocket extends Duplex {
  readonly #port: MessagePort

  constructor(port: MessagePort) {
    super()
    this.#port = port
    port.on('message', (data: Uint8Array<ArrayBuffer>) => this.push(Buffer.from(data.buffer)))
    port.on('close', () => {
      if (!this.destroyed) this.destroy(new Error('the embedded database closed the connection'))
    })
  }

  /** postgres.js says goodbye and waits for 'close' only on a socket that calls itself open. */
  get readyState(): 'open' | 'closed' {
    return this.destroyed ? 'closed' : 'open'
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    if (isCancelRequest(chunk)) {
      // Comes on a connection of its own, which would take over the only session. PGlite cannot be interrupted: ignoring it is allowed.
      this.destroy()
      done()
      return
    }
    const owned = ownedBytes(chunk)
    this.#port.postMessage(owned, [owned.buffer])
    done()
  }

  override _final(done: () => void): void {
    done()
    this.destroy()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#port.close()
    done(error)
  }
}

/** Bytes whose memory may be given away: the chunk's own when it owns all of it (postgres.js keeps no chunk), else a copy out of Node's pool. */
function ownedBytes(chunk: Buffer): Uint8Array<ArrayBuffer> {
  const { buffer } = chunk
  if (buffer instanceof ArrayBuffer && buffer.byteLength === chunk.byteLength) return new Uint8Array(buffer)
  return new Uint8Array(chunk)
}

function isCancelRequest(chunk: Buffer): boolean {
  return chunk.length === CANCEL_REQUEST_BYTES && chunk[0] === 0 && chunk.readUInt32BE(4) === CANCEL_REQUEST_CODE
}

/** From source (tests, development) Node 20 needs tsx inside the thread; a build has the compiled worker next to the bundle. */
function startWorker(dataDir: string): Worker {
  const workerData: WorkerInput = { dataDir }
  if (!import.meta.url.endsWith('.ts'))
    return new Worker(new URL('./pglite-worker.js', import.meta.url), { workerData, execArgv: [] })
  const tsx = import.meta.resolve('tsx/esm/api')
  const source = new URL('./pglite-worker.ts', import.meta.url).href
  const bootstrap = `import(${JSON.stringify(tsx)}).then(({ register }) => { register(); return import(${JSON.stringify(source)}) })`
  return new Worker(bootstrap, { eval: true, workerData, execArgv: [] })
}

/** The thread's first message says that the database is open. */
async function isReady(worker: Worker, dataDir: string): Promise<void> {
  try {
    await new Promise<unknown>((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
      worker.once('exit', () => reject(new Error('its thread ended')))
    })
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new Error(`the embedded database in ${dataDir} does not start: ${reason}`, { cause })
  }
}
