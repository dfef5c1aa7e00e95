import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

/** Where a new connection, or with `sticky` each request, goes. */
export type Balancing = 'round robin' | 'sticky'

export type BalancerOptions = {
  /** Ports of 127.0.0.1. */
  readonly backends: readonly number[]
  readonly balancing: Balancing
  /** Ask each backend's `/ready` this often and leave out who does not answer 200. Without it all are always in. */
  readonly check_ms?: number
}

export type Balancer = {
  readonly port: number
  readonly origin: string
  /** The backends that new connections may go to. */
  ready(): readonly number[]
  stop(): Promise<void>
}

const HEAD_END = Buffer.from('\r\n\r\n')
const CHECK_TIMEOUT_MS = 1_000

/**
 * The smallest balancer that is one, and it tries nothing twice. Round robin: whole TCP connections, the next one to the next ready backend.
 * Sticky: each request goes by its bearer key, so an account meets one process; for requests one at a time on a connection and with a Content-Length.
 */
export async function startBalancer(options: BalancerOptions): Promise<Balancer> {
  const ready = new Set(options.check_ms === undefined ? options.backends : [])
  const sockets = new Set<Socket>()
  let turn = 0
  const server = createServer((client) => {
    keep(sockets, client)
    const list = options.backends.filter((port) => ready.has(port))
    if (options.balancing === 'sticky') return routeRequests(client, list, sockets)
    pipe(client, list[turn++ % list.length], sockets)
  })
  const check = async (port: number): Promise<void> => {
    const isReady = await fetch(`http://127.0.0.1:${port}/ready`, { signal: AbortSignal.timeout(CHECK_TIMEOUT_MS) }).then(
      async (response) => {
        await response.arrayBuffer()
        return response.ok
      },
      () => false,
    )
    if (isReady) ready.add(port)
    else ready.delete(port)
  }
  const checkAll = () => Promise.all(options.backends.map(check))
  if (options.check_ms !== undefined) await checkAll()
  const timer = options.check_ms === undefined ? undefined : setInterval(() => void checkAll(), options.check_ms)
  const port = await listen(server)
  return {
    port,
    origin: `http://127.0.0.1:${port}`,
    ready: () => [...ready],
    stop: async () => {
      clearInterval(timer)
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      await closed
    },
  }
}

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

function keep(sockets: Set<Socket>, socket: Socket): void {
  sockets.add(socket)
  socket.setNoDelay(true)
  socket.on('error', () => socket.destroy())
  socket.on('close', () => sockets.delete(socket))
}

function pipe(client: Socket, port: number | undefined, sockets: Set<Socket>): void {
  if (port === undefined) {
    client.destroy()
    return
  }
  const upstream = connect(port, '127.0.0.1')
  keep(sockets, upstream)
  // `pipe` passes on the end of each direction by itself, what breaks it does not.
  client.on('close', () => upstream.destroy())
  upstream.on('close', () => client.destroy())
  client.pipe(upstream).pipe(client)
}

function routeRequests(client: Socket, backends: readonly number[], sockets: Set<Socket>): void {
  const upstreams = new Map<number, Socket>()
  let waiting: Buffer = Buffer.alloc(0)
  client.on('close', () => {
    for (const upstream of upstreams.values()) upstream.destroy()
  })
  client.on('data', (chunk) => {
    waiting = waiting.length === 0 ? chunk : Buffer.concat([waiting, chunk])
    for (let length = requestLength(waiting); length !== null && length <= waiting.length; length = requestLength(waiting)) {
      const port = backends[hashOf(keyIn(waiting)) % backends.length]
      if (port === undefined) {
        client.destroy()
        return
      }
      upstreamTo(port).write(waiting.subarray(0, length))
      waiting = waiting.subarray(length)
    }
  })
  const upstreamTo = (port: number): Socket => {
    const open = upstreams.get(port)
    if (open !== undefined) return open
    const upstream = connect(port, '127.0.0.1')
    keep(sockets, upstream)
    upstream.on('data', (chunk) => client.write(chunk))
    upstream.on('close', () => client.destroy())
    upstreams.set(port, upstream)
    return upstream
  }
}

/** Bytes of the first request; null while its head is not complete. */
function requestLength(bytes: Buffer): number | null {
  const end = bytes.indexOf(HEAD_END)
  if (end === -1) return null
  const declared = /^content-length: *(\d+)/im.exec(bytes.toString('latin1', 0, end))
  return end + HEAD_END.length + Number(declared?.[1] ?? 0)
}

const keyIn = (bytes: Buffer): string =>
  /^authorization: *bearer +(\S+)/im.exec(bytes.toString('latin1', 0, bytes.indexOf(HEAD_END)))?.[1] ?? ''

const hashes = new Map<string, number>()
function hashOf(key: string): number {
  const known = hashes.get(key)
  if (known !== undefined) return known
  const hash = createHash('sha256').update(key).digest().readUInt32BE()
  hashes.set(key, hash)
  return hash
}
