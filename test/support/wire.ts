import { connect, createServer, type Server, type Socket } from 'node:net'

/** What a wire no longer carries: nothing is missing, what comes back, or anything at all. */
export type Cut = 'whole' | 'answers' | 'both'

/** A wire to a server that can be cut so that nobody notices: bytes stop, connections stay. */
export class Wire {
  readonly #server: Server
  readonly #sockets = new Set<Socket>()
  #cut: Cut = 'whole'

  constructor(target: URL) {
    this.#server = createServer((near) => {
      this.#sockets.add(near)
      near.on('error', () => {})
      if (this.#cut === 'both') return
      const far = connect(Number(target.port), target.hostname)
      this.#sockets.add(far)
      far.on('error', () => {})
      near.on('data', (bytes) => this.#cut === 'both' || far.write(bytes))
      far.on('data', (bytes) => this.#cut !== 'whole' || near.write(bytes))
      near.on('close', () => far.destroy())
      far.on('close', () => near.destroy())
    })
  }

  /** @returns the port */
  async listen(): Promise<number> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve))
    const address = this.#server.address()
    return typeof address === 'object' && address ? address.port : 0
  }

  cut(cut: Cut): void {
    this.#cut = cut
  }

  /** Carries everything again, on new connections: what lacks bytes in the middle would never go on. */
  mend(): void {
    this.#cut = 'whole'
    for (const socket of this.#sockets) socket.destroy()
    this.#sockets.clear()
  }

  close(): void {
    this.#server.close()
    for (const socket of this.#sockets) socket.destroy()
  }
}
