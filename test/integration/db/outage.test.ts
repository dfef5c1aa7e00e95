import { once } from 'node:events'
import { createServer, connect as dial, type Server, type Socket } from 'node:net'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openDatabase } from '../../../src/db/client.ts'
import { createEmptyDatabase, type EmptyDatabase } from './empty-database.ts'

let home: EmptyDatabase
beforeAll(async () => {
  home = await createEmptyDatabase('postgres')
})
afterAll(() => home.drop())

/** Stands between client and server: goes down and up like a server, or refuses session parameters like PgBouncer. */
class FlakyServer {
  #server: Server | undefined
  #port = 0
  readonly #sockets = new Set<Socket>()
  readonly #clients = new Set<Socket>()
  readonly #refusesParameters: boolean

  constructor({ refusesParameters = false } = {}) {
    this.#refusesParameters = refusesParameters
  }

  get url(): string {
    const url = new URL(home.url!)
    url.host = `127.0.0.1:${this.#port}`
    return url.href
  }

  async up(): Promise<void> {
    const target = new URL(home.url!)
    this.#server = createServer((client) => {
      this.#clients.add(this.#track(client))
      client.once('data', (startup) => {
        if (this.#refusesParameters && startup.includes('statement_timeout')) {
          client.end(errorResponse('08P01', 'unsupported startup parameter: statement_timeout'))
          return
        }
        const upstream = this.#track(dial(Number(target.port), target.hostname))
        upstream.write(startup)
        client.pipe(upstream).pipe(client, { end: false })
        upstream.on('close', () => setImmediate(() => client.end()))
      })
    })
    this.#server.listen(this.#port, '127.0.0.1')
    await once(this.#server, 'listening')
    const address = this.#server.address()
    this.#port = typeof address === 'object' && address !== null ? address.port : 0
  }

  /** As PostgreSQL does it: a last word on every connection. */
  async down(): Promise<void> {
    const closed = once(this.#server!, 'close')
    this.#server!.close()
    for (const client of this.#clients) client.end(errorResponse('57P01', 'terminating connection due to administrator command'))
    await new Promise((resolve) => setTimeout(resolve, 20))
    for (const socket of this.#sockets) socket.destroy()
    await closed
  }

  #track(socket: Socket): Socket {
    this.#sockets.add(socket)
    return socket
      .on('error', () => {})
      .on('close', () => {
        this.#sockets.delete(socket)
        this.#clients.delete(socket)
      })
  }
}

function errorResponse(code: string, message: string): Buffer {
  const body = Buffer.from(`SFATAL\0VFATAL\0C${code}\0M${message}\0\0`)
  const head = Buffer.alloc(5)
  head.write('E')
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

test('after an outage statements and notifications come back within a second or so', async () => {
  const server = new FlakyServer()
  await server.up()
  const database = await openDatabase({ url: server.url, dataDir: home.dataDir, poolSize: 4 })
  const received: string[] = []
  let ready = 0
  await database.listen(
    'outage',
    (payload) => received.push(payload),
    () => (ready += 1),
  )
  await Promise.all(Array.from({ length: 20 }, () => database.sql.unsafe('select pg_sleep(0.01)')))
  const interrupted = Promise.allSettled(Array.from({ length: 20 }, () => database.sql.unsafe('select pg_sleep(0.2)')))
  await new Promise((resolve) => setTimeout(resolve, 50))
  await server.down()
  expect((await interrupted).some(({ status }) => status === 'rejected')).toBe(true)
  for (const until = Date.now() + 3000; Date.now() < until; ) await database.ping().catch(() => {})
  await expect(database.ping()).rejects.toThrow()

  await server.up()
  const since = Date.now()
  const works = () =>
    database.ping().then(
      () => true,
      () => false,
    )
  await expect.poll(works, { interval: 20, timeout: 5000 }).toBe(true)
  expect(Date.now() - since).toBeLessThan(1500)
  await expect.poll(() => ready, { timeout: 5000 }).toBe(2)
  expect(Date.now() - since).toBeLessThan(1500)
  await database.notify('outage', 'back')
  await expect.poll(() => received).toEqual(['back'])
  for (let i = 0; i < 20; i += 1) await Promise.all([1, 2, 3, 4].map(() => database.ping()))
  await database.close()
  await server.down()
})

test('a listener that starts during an outage is subscribed when it ends', async () => {
  const server = new FlakyServer()
  await server.up()
  const logged: string[] = []
  const database = await openDatabase({ url: server.url, dataDir: home.dataDir, log: (message) => logged.push(message) })
  await server.down()
  let ready = 0
  const unsubscribe = await database.listen(
    'later',
    () => {},
    () => (ready += 1),
  )
  expect(logged).toEqual([expect.stringContaining('LISTEN does not work here')])
  await server.up()
  await expect.poll(() => ready, { timeout: 5000 }).toBe(1)
  await unsubscribe()
  await database.close()
  await server.down()
})

test('a pooler that refuses session parameters is found out', async () => {
  const server = new FlakyServer({ refusesParameters: true })
  await server.up()
  const logged: string[] = []
  const database = await openDatabase({ url: server.url, dataDir: home.dataDir, log: (message) => logged.push(message) })
  expect(database.prepare).toBe(false)
  expect(logged).toEqual([expect.stringContaining('pooler refused')])
  expect(await database.sql.unsafe('select $1::bigint as n', [1n], { prepare: database.prepare })).toEqual([{ n: 1n }])
  await database.close()
  await server.down()
})

test('parameters of the URL that are not for the server are kept from it', async () => {
  const database = await openDatabase({ url: `${home.url}?pgbouncer=true&channel_binding=prefer`, dataDir: home.dataDir })
  expect(database.prepare).toBe(false)
  await database.close()
})

test('a server that does not answer fails the start', async () => {
  await expect(openDatabase({ url: 'postgres://nobody@127.0.0.1:1/none', dataDir: home.dataDir })).rejects.toThrow('ECONNREFUSED')
})
