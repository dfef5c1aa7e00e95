import type { Priority } from './events.ts'

export type PaceOptions = {
  /** Least time between two claims: under load a claim takes several messages instead of one. */
  readonly pause_ms: number
  /** A process busier than this (share of its time) or deciding more than this sends little, and seldom: decisions go first, messages can wait. */
  readonly busyUtilization: number
  readonly busyCommands_per_s: number
}

/** What a busy process still sends in so much time, and how many of these can be urgent ones: the rest is left to the others. */
const BUSY_LIMIT = 8
const BUSY_URGENT = 6
const BUSY_PAUSE_MS = 250

/** How much a process sends that has decisions to make. */
export class DeliveryPace {
  readonly #commands: () => number
  readonly #options: PaceOptions
  #utilization = performance.eventLoopUtilization()
  #looked = { at_ms: performance.now(), commands: 0 }
  #isBusy = false
  /** Claimed since the last claim of ordinary ones. */
  #urgent = 0

  /** @param commands how many this process has decided so far */
  constructor(commands: () => number, options: PaceOptions) {
    this.#commands = commands
    this.#options = options
  }

  /** How many may be claimed now. Ordinary claims look at the load as well: they come at least every `poll_ms`, and far enough apart to measure it. */
  limit(priority: Priority): number {
    if (priority === 'urgent') return this.#isBusy ? BUSY_URGENT : Number.POSITIVE_INFINITY
    this.#isBusy = this.#looksBusy()
    const urgent = this.#urgent
    this.#urgent = 0
    return this.#isBusy ? BUSY_LIMIT - Math.min(urgent, BUSY_URGENT) : Number.POSITIVE_INFINITY
  }

  /** How long to rest after a claim. A busy process rests for each urgent message it took, so that the next one does not wait for a turn. */
  rest_ms(priority: Priority, claimed: number): number {
    const { pause_ms } = this.#options
    if (priority === 'urgent') this.#urgent += claimed
    if (!this.#isBusy) return pause_ms
    return Math.max(pause_ms, priority === 'urgent' ? (claimed * BUSY_PAUSE_MS) / BUSY_URGENT : BUSY_PAUSE_MS)
  }

  /** Since the last look. */
  #looksBusy(): boolean {
    const { busyUtilization, busyCommands_per_s } = this.#options
    const [utilization, looked] = [this.#utilization, this.#looked]
    this.#utilization = performance.eventLoopUtilization()
    this.#looked = { at_ms: performance.now(), commands: this.#commands() }
    const passed_s = (this.#looked.at_ms - looked.at_ms) / 1000
    return (
      performance.eventLoopUtilization(this.#utilization, utilization).utilization > busyUtilization ||
      this.#looked.commands - looked.commands > passed_s * busyCommands_per_s
    )
  }
}
