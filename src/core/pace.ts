import { setTimeout as sleep } from 'node:timers/promises'

/** While this process decides more than so many commands a second, background work steps back. */
const BUSY_COMMANDS_PER_S = 100
const MAX_REST_MS = 5_000

/** Time left to others after each piece of work, as a multiple of the time it took. */
export type Rests = { readonly whenBusy: number; readonly otherwise: number }
/** How a piece of work began. */
export type Piece = { readonly began_ms: number; readonly commands: number }

/** Keeps work that nobody waits for to a small share of the time, however much of it there is. */
export class Pace {
  readonly #commands: () => number
  readonly #rests: Rests

  /** @param commands how many this process has decided so far */
  constructor(commands: () => number, rests: Rests) {
    this.#commands = commands
    this.#rests = rests
  }

  begin(): Piece {
    return { began_ms: performance.now(), commands: this.#commands() }
  }

  /** Call it after each piece of work. `signal` ends the rest early. */
  async rest({ began_ms, commands }: Piece, signal: AbortSignal): Promise<void> {
    const took_ms = performance.now() - began_ms
    const isBusy = this.#commands() - commands > (took_ms / 1000) * BUSY_COMMANDS_PER_S
    const rest_ms = took_ms * (isBusy ? this.#rests.whenBusy : this.#rests.otherwise)
    await sleep(Math.min(MAX_REST_MS, rest_ms), undefined, { signal }).catch(() => {})
  }
}
