import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import type { Priority } from './events.ts'
import type { FailingReceivers } from './failing.ts'
import type { DeliveryPace } from './pace.ts'
import { claimMessages, type Message, type Places } from './store.ts'

export type LaneOptions = {
  /** Messages under way at once, in all and to one endpoint: a receiver that hangs must not hold up the others. */
  readonly concurrency: number
  readonly perEndpoint: number
  /** Must be longer than any attempt can take, or another process sends the same message meanwhile. */
  readonly lease_ms: number
}

export type LaneDeps = {
  readonly database: Database
  readonly clock: Clock
  readonly log: Log
  readonly pace: DeliveryPace
  readonly failing: FailingReceivers
  /** Sends a message and records how that went. Throws when it could not be recorded. */
  readonly deliver: (message: Message) => Promise<void>
  readonly onClaimed: (count: number) => void
}

/** Whom the messages to failing receivers are counted as: all of them together have the places of one. */
const FAILING = 'ffffffff-ffff-ffff-ffff-ffffffffffff'
/** Looking behind a long queue may cost: it is left alone for a multiple of what that took. */
const REST_AFTER_LOOKING_BEHIND = 20

/** Claims and sends the messages of one priority, by their due time, in places that no other priority can take. */
export class Lane {
  readonly #priority: Priority
  readonly #deps: LaneDeps
  readonly #options: LaneOptions
  readonly #underWay = new Map<string, number>()
  #running = 0
  #pause: NodeJS.Timeout | undefined
  #ready_ms = 0
  #behind_ms = 0
  #claiming: Promise<void> | null = null
  #again = false
  #stopped = true
  #idle: (() => void)[] = []

  constructor(priority: Priority, deps: LaneDeps, options: LaneOptions) {
    this.#priority = priority
    this.#deps = deps
    this.#options = options
  }

  start(): void {
    this.#stopped = false
  }

  /** Claims nothing more and waits for the messages under way. */
  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#pause)
    await this.#claiming
    if (this.#running > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
  }

  /** Says that something may be due. */
  wake(): void {
    if (this.#stopped) return
    if (this.#claiming !== null) {
      this.#again = true
      return
    }
    if (this.#pause !== undefined) return
    const rest_ms = this.#ready_ms - performance.now()
    if (rest_ms > 0) {
      this.#pause = setTimeout(() => {
        this.#pause = undefined
        this.wake()
      }, rest_ms)
      return
    }
    this.#claiming = this.#claim()
      .catch((error: unknown) => {
        this.#deps.log.warn({ err: error }, 'the outbox cannot be read, will try again')
        return 0
      })
      .then((claimed) => {
        this.#claiming = null
        this.#ready_ms = performance.now() + this.#deps.pace.rest_ms(this.#priority, claimed)
        if (this.#again) {
          this.#again = false
          this.wake()
        }
      })
  }

  /**
   * A claim chooses among the messages that have been due the longest. These may all be for receivers that can take no more, so it looks
   * again, past what is queued for those. @returns how many it took
   */
  async #claim(): Promise<number> {
    const limit = Math.min(this.#options.concurrency - this.#running, this.#deps.pace.limit(this.#priority))
    const full = new Set<string>()
    let claimed = await this.#look(limit, full)
    if (full.size === 0 || performance.now() < this.#behind_ms) return claimed
    const began_ms = performance.now()
    for (let known = 0; claimed < limit && full.size > known; ) {
      known = full.size
      claimed += await this.#look(limit - claimed, full)
    }
    this.#behind_ms = performance.now() + REST_AFTER_LOOKING_BEHIND * (performance.now() - began_ms)
    return claimed
  }

  /** @param full who has got all it can take in this claim; more of them are added */
  async #look(limit: number, full: Set<string>): Promise<number> {
    if (limit <= 0) return 0
    const { database, clock, onClaimed } = this.#deps
    const { perEndpoint, lease_ms } = this.#options
    const counted = this.#counted(full)
    const options = { priority: this.#priority, now_ms: clock.now(), lease_ms, limit, perEndpoint, counted }
    const messages = await claimMessages(database, options)
    onClaimed(messages.length)
    const places = new Map(counted.map((one) => [one.endpointId, one]))
    const taken = new Map<string, number>()
    for (const message of messages) {
      const { endpointId } = message
      const { countedAs, places: most } = places.get(endpointId) ?? { countedAs: endpointId, places: perEndpoint }
      const count = (taken.get(countedAs) ?? 0) + 1
      taken.set(countedAs, count)
      if (count >= most) full.add(countedAs)
      void this.#send(message, countedAs)
    }
    return messages.length
  }

  /** The receivers whose places are not simply `perEndpoint`. */
  #counted(full: ReadonlySet<string>): Places[] {
    const { failing } = this.#deps
    const ids = new Set([...this.#underWay.keys(), ...full, ...failing.ids()])
    ids.delete(FAILING)
    return [...ids].map((endpointId) => {
      const countedAs = failing.has(endpointId) ? FAILING : endpointId
      const isFull = full.has(countedAs) || full.has(endpointId)
      const left = this.#options.perEndpoint - (this.#underWay.get(countedAs) ?? 0)
      return { endpointId, countedAs, places: isFull ? 0 : Math.max(left, 0) }
    })
  }

  async #send(message: Message, countedAs: string): Promise<void> {
    this.#running++
    this.#underWay.set(countedAs, (this.#underWay.get(countedAs) ?? 0) + 1)
    try {
      await this.#deps.deliver(message)
    } catch (error) {
      // Sent or not, the record is missing: the lease runs out and the message is sent again.
      this.#deps.log.warn({ err: error, event_id: message.eventId }, 'a delivery could not be recorded, will be repeated')
    } finally {
      this.#running--
      const left = (this.#underWay.get(countedAs) ?? 1) - 1
      if (left > 0) this.#underWay.set(countedAs, left)
      else this.#underWay.delete(countedAs)
      if (this.#running === 0) for (const done of this.#idle.splice(0)) done()
      this.wake()
    }
  }
}
