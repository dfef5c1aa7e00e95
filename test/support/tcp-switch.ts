import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** One address in front of servers that come and go: what a virtual IP is to a cluster, and a cable that can be pulled. */
export type TcpSwitch = {
  readonly port: number
  /** Where connections from now on lead; those there are stay with the server they were made to. */
  target(port: number): void
  /** Ends every connection with a reset. */
  cut(): void
  /**
   * Pulls the cable: no byte passes in either direction, connections stay open, new ones are taken and lead nowhere. What was on its way
   * is delivered by `heal`, also to an end whose peer has given up meanwhile, as TCP does.
   */
  partition(): void
  heal(): void
  /** Holds every piece of data back for so long, in each direction. */
  delay(each_ms: number): void
  close(): Promise<void>
}

/** Starts a switch on a free port of 127.0.0.1 that leads to another port there. */
export async function startSwitch(firstTarget: number): Promise<TcpSwitch> {
  const sockets = new Set<Socket>()
  let target = firstTarget
  let each_ms = 0
  let healed: Promise<void> | null = null
  let heal = (): void => {}

  const track = (socket: Socket): Socket => {
    sockets.add(socket)
    socket.setNoDelay(true)
    socket.on('error', () => {}) // ends the copying below
    socket.once('close', () => sockets.delete(socket))
    return socket
  }
  /** Copies until the end of `from`; then `to` ends as well, but not while the cable is out. */
  const copy = async (from: Socket, to: Socket): Promise<void> => {
    try {
      for await (const chunk of from) {
        if (each_ms > 0) await sleep(each_ms)
        while (healed !== null) await healed
        if (!to.write(chunk as Buffer)) await once(to, 'drain')
      }
      while (healed !== null) await healed
      to.end()
    } catch {
      while (healed !== null) await healed
      to.destroy()
    }
  }
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, async (client) => {
    track(client)
    while (healed !== null) await healed
    const backend = track(connect({ port: target, host: '127.0.0.1', allowHalfOpen: true }))
    void copy(client, backend)
    void copy(backend, client)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    port: (server.address() as AddressInfo).port,
    target(port) {
      target = port
    },
    cut() {
      for (const socket of sockets) socket.resetAndDestroy()
    },
    partition() {
      if (healed !== null) return
      healed = new Promise((resolve) => {
        heal = () => {
          healed = null
          resolve()
        }
      })
    },
    heal: () => heal(),
    delay(ms) {
      each_ms = ms
    },
    async close() {
      heal()
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
