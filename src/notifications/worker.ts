import { allFulfilled, Batcher } from '../core/batcher.ts'
import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import type { Delivery, Result } from './delivery.ts'
import {
  type Attempt,
  adoptOrphans,
  analyzeOutbox,
  claimMessages,
  type Message,
  recordAttempts,
  unclaimMessages,
} from './store.ts'

export type WorkerOptions = {
  /** Messages under way at once, in all and to one endpoint: a receiver that hangs must not hold up the others. */
  readonly concurrency: number
  readonly perEndpoint: number
  /** Must be longer than any attempt can take, or another process sends the same message meanwhile. */
  readonly lease_ms: number
  /** How often to look for what other processes queued, and for what is due again. */
  readonly poll_ms: number
  /** Least time between two looks: under load a claim takes several messages instead of one. */
  readonly pause_ms: number
  /** A process busier than this (share of its time) or deciding more than this sends little, and seldom: decisions go first, messages can wait. */
  readonly busyUtilization: number
  readonly busyCommands_per_s: number
  /** Pauses after the first, second, … failed attempt; after the last one the message is given up as failed. */
  readonly backoff_ms: readonly number[]
}

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE

/** Some 21 hours in all, as Standard Webhooks suggests. */
export const WORKER_DEFAULTS: WorkerOptions = {
  concurrency: 32,
  perEndpoint: 8,
  lease_ms: MINUTE,
  poll_ms: SECOND,
  pause_ms: 25,
  busyUtilization: 0.8,
  busyCommands_per_s: 500,
  backoff_ms: [5 * SECOND, 15 * SECOND, MINUTE, 5 * MINUTE, 20 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 10 * HOUR],
}

const MAX_RETRY_AFTER_MS = HOUR
/** How often to look for messages that were left behind, and how far back: further when this process begins. */
const ORPHANS_EVERY_MS = 5 * SECOND
const ORPHANS_SINCE_MS = MINUTE
const ORPHANS_SINCE_AT_START_MS = 24 * HOUR
/** What a busy process still sends. */
const BUSY_LIMIT = 8
const BUSY_PAUSE_MS = 250
/** After so many messages the planner's picture of the table is stale. */
const ANALYZE_AFTER = 200
const ANALYZE_EVERY_MS = MINUTE
const QUEUE = { maxBatch: 256, maxQueue: 10_000 }

/**
 * Delivers what the outbox holds, at least once each: a message is claimed for a while, sent, and recorded; when this process dies in
 * between, the claim runs out and another one sends it again.
 */
export class OutboxWorker {
  readonly #database: Database
  readonly #clock: Clock
  readonly #log: Log
  readonly #delivery: Delivery
  readonly #commands: () => number
  readonly #options: WorkerOptions
  readonly #records: Batcher<Attempt, void>
  readonly #underWay = new Map<string, number>()
  #running = 0
  #timers: NodeJS.Timeout[] = []
  #pause: NodeJS.Timeout | undefined
  #claimed_ms = 0
  #utilization = performance.eventLoopUtilization()
  #looked = { at_ms: performance.now(), commands: 0 }
  #isBusy = false
  #sinceAnalyzed = 0
  #analyzed_ms = Number.NEGATIVE_INFINITY
  #claiming: Promise<void> | null = null
  #again = false
  #stopped = true
  #idle: (() => void)[] = []

  /** @param deps `commands`: how many this process has decided so far */
  constructor(
    deps: { database: Database; clock: Clock; log: Log; delivery: Delivery; commands?: () => number },
    options: Partial<WorkerOptions> | undefined = {},
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#log = deps.log
    this.#delivery = deps.delivery
    this.#commands = deps.commands ?? (() => 0)
    this.#options = { ...WORKER_DEFAULTS, ...options }
    this.#records = new Batcher(async (attempts: Attempt[]) => {
      await recordAttempts(this.#database, attempts, this.#clock.now())
      return allFulfilled(attempts.map(() => undefined))
    }, QUEUE)
  }

  start(): void {
    this.#stopped = false
    void this.#adopt(ORPHANS_SINCE_AT_START_MS)
    this.#timers = [
      setInterval(() => this.wake(), this.#options.poll_ms),
      setInterval(() => void this.#adopt(ORPHANS_SINCE_MS), ORPHANS_EVERY_MS),
    ]
    for (const timer of this.#timers) timer.unref()
  }

  /** Claims nothing more and waits for the messages under way. */
  async stop(): Promise<void> {
    this.#stopped = true
    for (const timer of this.#timers) clearInterval(timer)
    clearTimeout(this.#pause)
    await this.#claiming
    if (this.#running > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
    await this.#records.settled()
  }

  /** Says that something may be due. */
  wake(): void {
    if (this.#stopped) return
    if (this.#claiming !== null) {
      this.#again = true
      return
    }
    if (this.#pause !== undefined) return
    const pause_ms = this.#isBusy ? Math.max(BUSY_PAUSE_MS, this.#options.pause_ms) : this.#options.pause_ms
    const rest_ms = this.#claimed_ms + pause_ms - performance.now()
    if (rest_ms > 0) {
      this.#pause = setTimeout(() => {
        this.#pause = undefined
        this.wake()
      }, rest_ms)
      return
    }
    this.#claiming = this.#claim()
      .catch((error: unknown) => this.#log.warn({ err: error }, 'the outbox cannot be read, will try again'))
      .finally(() => {
        this.#claiming = null
        this.#claimed_ms = performance.now()
        if (this.#again) {
          this.#again = false
          this.wake()
        }
      })
  }

  async #adopt(back_ms: number): Promise<void> {
    const now_ms = this.#clock.now()
    try {
      if ((await adoptOrphans(this.#database, { now_ms, since_ms: now_ms - back_ms })) > 0) this.wake()
    } catch (error) {
      this.#log.warn({ err: error }, 'the outbox cannot be looked through, will try again')
    }
  }

  async #keepStatistics(claimed: number): Promise<void> {
    this.#sinceAnalyzed += claimed
    const isTime = performance.now() - this.#analyzed_ms > ANALYZE_EVERY_MS
    if (this.#sinceAnalyzed < ANALYZE_AFTER || !isTime) return
    this.#sinceAnalyzed = 0
    this.#analyzed_ms = performance.now()
    await analyzeOutbox(this.#database).catch((error: unknown) =>
      this.#log.debug({ err: error }, 'the outbox cannot be analyzed by this role'),
    )
  }

  async #claim(): Promise<void> {
    const { concurrency, perEndpoint, lease_ms } = this.#options
    this.#isBusy = this.#looksBusy()
    const limit = Math.min(concurrency - this.#running, this.#isBusy ? BUSY_LIMIT : concurrency)
    if (limit <= 0) return
    const busy = [...this.#underWay].filter(([, count]) => count >= perEndpoint).map(([id]) => id)
    const now_ms = this.#clock.now()
    const messages = await claimMessages(this.#database, { now_ms, lease_ms, limit, perEndpoint, busy })
    await this.#keepStatistics(messages.length)
    const surplus: Message[] = []
    for (const message of messages) {
      const count = this.#underWay.get(message.endpointId) ?? 0
      if (count >= perEndpoint) surplus.push(message)
      else void this.#send(message, count)
    }
    if (surplus.length > 0) await unclaimMessages(this.#database, surplus, now_ms)
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

  async #send(message: Message, underWay: number): Promise<void> {
    this.#running++
    this.#underWay.set(message.endpointId, underWay + 1)
    try {
      const result = await this.#delivery.deliver(message, this.#clock.now())
      await this.#records.submit(this.#attemptOf(message, result))
    } catch (error) {
      // Sent or not, the record is missing: the lease runs out and the message is sent again.
      this.#log.warn({ err: error, event_id: message.eventId }, 'a delivery could not be recorded, will be repeated')
    } finally {
      this.#running--
      const left = (this.#underWay.get(message.endpointId) ?? 1) - 1
      if (left > 0) this.#underWay.set(message.endpointId, left)
      else this.#underWay.delete(message.endpointId)
      if (this.#running === 0) for (const done of this.#idle.splice(0)) done()
      this.wake()
    }
  }

  #attemptOf(message: Message, result: Result): Attempt {
    const pause_ms = this.#options.backoff_ms[message.attempts - 1]
    const now_ms = this.#clock.now()
    if (result.state === 'sent') return { message, state: 'sent', dueMs: now_ms, outcome: result.outcome }
    const details = { account_id: message.accountId, endpoint_id: message.endpointId, event_id: message.eventId }
    if (result.state === 'failed' || pause_ms === undefined) {
      this.#log.warn({ ...details, event: message.event, attempts: message.attempts, outcome: result.outcome }, 'delivery failed')
      return { message, state: 'failed', dueMs: now_ms, outcome: result.outcome }
    }
    const asked_ms = Math.min(result.retryAfter_ms ?? 0, MAX_RETRY_AFTER_MS)
    // Spread, so that what failed together does not come back together.
    const dueMs = now_ms + Math.max(Math.round(pause_ms * (0.8 + 0.4 * Math.random())), asked_ms)
    return { message, state: 'queued', dueMs, outcome: result.outcome }
  }
}
