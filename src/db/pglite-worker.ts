import { type MessagePort, parentPort, workerData } from 'node:worker_threads'
import { PGlite } from '@electric-sql/pglite'

/*
 * The thread that runs PGlite. It speaks bytes of the PostgreSQL wire protocol, over one MessagePort per connection; `src/db/pglite.ts` is the
 * other end. PGlite is one session, so a new connection takes the session over and finds it as fresh as on a server.
 */

/** What the thread is started with. */
export type WorkerInput = { dataDir: string }
/** Main thread to worker. */
export type WorkerCommand = { kind: 'connect'; port: MessagePort } | { kind: 'close' }
/** Worker to main thread: open for connections, or about to end because PostgreSQL broke. */
export type WorkerEvent = { kind: 'ready' } | { kind: 'failed'; reason: string }

/** An answer is sent on in pieces of about this size, so that a large result is parsed while the rest is produced. */
const PIECE_BYTES = 256 * 1024
/** How PGlite leaves the WASM code after an ordinary SQL error (its `POSTGRES_MAIN_LONGJMP`). */
const STATUS_SQL_ERROR = 100
const MESSAGE_SYNC = new Uint8Array([0x53, 0, 0, 0, 4])

const main = parentPort
if (main === null) throw new Error('pglite-worker is a worker thread, start it through src/db/pglite.ts')
const { dataDir } = workerData as WorkerInput
const pglite = await PGlite.create({ dataDir })
let isSessionUsed = false
/** As on a server (src/db/client.ts): plans are kept, and nothing gathers statistics here, so one made on a small table must not scan it when it has grown. */
const SETTINGS = 'set enable_seqscan = off'
await pglite.exec(SETTINGS)

/*
 * PGlite swallows every exception out of the WASM code and tries again: after a FATAL error for ever, and after a trap (stack overflow in deeply
 * nested JSON, out of memory) on broken state, with an answer missing. End the thread instead; the next one recovers from the log, as a server does.
 */
const { Module: postgres } = pglite
const runMainLoop = postgres._PostgresMainLoopOnce
postgres._PostgresMainLoopOnce = () => {
  try {
    runMainLoop()
  } catch (error) {
    if (!(error instanceof Object && 'status' in error && error.status === STATUS_SQL_ERROR)) fail(error)
    throw error
  }
}

main.on('message', async (command: WorkerCommand) => {
  if (command.kind === 'connect') {
    const { port } = command
    port.on('message', (request: Uint8Array) => answer(port, request))
    return
  }
  await pglite.close()
  main.close() // nothing left to wait for: the thread ends
})
main.postMessage({ kind: 'ready' } satisfies WorkerEvent)

function fail(error: unknown): never {
  main?.postMessage({ kind: 'failed', reason: String(error) } satisfies WorkerEvent)
  process.exit(1)
}

/** Runs whole protocol messages and posts what PostgreSQL writes. Runs to its end synchronously, so answers keep the order of requests. */
function answer(port: MessagePort, request: Uint8Array): void {
  const isStartup = request[0] === 0 // a startup packet has no type byte: it begins with its length
  if (isStartup) {
    if (isSessionUsed) resetSession()
    isSessionUsed = true
  }
  let pieces: Uint8Array[] = []
  let bytes = 0
  const flush = () => {
    if (bytes === 0) return
    const joined = join(pieces, bytes)
    pieces = []
    bytes = 0
    port.postMessage(joined, [joined.buffer])
  }
  execute(request, (data) => {
    pieces.push(data.slice()) // a view of the WASM heap: must be copied before PostgreSQL goes on
    bytes += data.length
    if (bytes >= PIECE_BYTES) flush()
  })
  flush()
}

/**
 * The streaming call, because `execProtocolRaw` also parses every answer and keeps the parsed rows for ever. Without `syncToFs` (a no-op on a real
 * folder) it does all its work before it returns.
 */
function execute(request: Uint8Array, onRawData: (data: Uint8Array) => void): void {
  pglite.execProtocolRawStream(request, { syncToFs: false, onRawData }).catch(fail)
}

/** What a server does when a connection ends: nothing of the previous one may be left (half a message, a transaction, prepared statements). */
function resetSession(): void {
  const queries = ['rollback', 'discard all', SETTINGS].map(simpleQuery)
  for (const message of [MESSAGE_SYNC, ...queries]) execute(message, () => {})
}

function simpleQuery(text: string): Uint8Array {
  const message = Buffer.alloc(text.length + 6)
  message.write('Q', 0)
  message.writeInt32BE(text.length + 5, 1)
  message.write(text, 5)
  return message
}

function join(pieces: Uint8Array[], bytes: number): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(bytes)
  let offset = 0
  for (const piece of pieces) {
    joined.set(piece, offset)
    offset += piece.length
  }
  return joined
}
