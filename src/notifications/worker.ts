import { allFulfilled, Batcher } from '../core/batcher.ts'
import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import type { Delivery, Result } from './delivery.ts'
import type { Priority } from './events.ts'
import { FailingReceivers } from './failing.ts'
import { Lane, type LaneOptions } from './lane.ts'
import { DeliveryPace, type PaceOptions } from './pace.ts'
import { type Attempt, adoptOrphans, analyzeOutbox, type Message, recordAttempts } from './store.ts'

/** Places (`concurrency`, `perEndpoint`) are those of each priority. */
export type WorkerOptions = LaneOptions &
  PaceOptions & {
    /** How often to look for what other processes queued, and for what is due again. */
    readonly poll_ms: number
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
/** After so many messages the planner's picture of the table is stale. */
const ANALYZE_AFTER = 200
const ANALYZE_EVERY_MS = MINUTE
const QUEUE = { maxBatch: 256, maxQueue: 10_000 }

/**
 * Delivers what the outbox holds, at least once each: a message is claimed for a while, sent, and recorded; when this process dies in
 * between, the claim runs out and another one sends it again. Each priority has a lane of its own, so that none waits for another.
 */
export class OutboxWorker {
  readonly #database: Database
  readonly #clock: Clock
  readonly #log: Log
  readonly #delivery: Delivery
  readonly #options: WorkerOptions
  readonly #records: Batcher<Attempt, void>
  readonly #failing = new FailingReceivers()
  readonly #lanes: Readonly<Record<Priority, Lane>>
  #timers: NodeJS.Timeout[] = []
  #sinceAnalyzed = 0
  #analyzed_ms = Number.NEGATIVE_INFINITY
  #analyzing: Promise<void> | null = null

  /** @param deps `commands`: how many this process has decided so far */
  constructor(
    deps: { database: Database; clock: Clock; log: Log; delivery: Delivery; commands?: () => number },
    options: Partial<WorkerOptions> | undefined = {},
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#log = deps.log
    this.#delivery = deps.delivery
    this.#options = { ...WORKER_DEFAULTS, ...options }
    this.#records = new Batcher(async (attempts: Attempt[]) => {
      await recordAttempts(this.#database, attempts, this.#clock.now())
      return allFulfilled(attempts.map(() => undefined))
    }, QUEUE)
    const shared = {
      ...deps,
      pace: new DeliveryPace(deps.commands ?? (() => 0), this.#options),
      failing: this.#failing,
      deliver: (message: Message) => this.#deliver(message),
      onClaimed: (count: number) => this.#keepStatistics(count),
    }
    this.#lanes = {
      urgent: new Lane('urgent', shared, this.#options),
      ordinary: new Lane('ordinary', shared, this.#options),
    }
  }

  start(): void {
    for (const lane of Object.values(this.#lanes)) lane.start()
    void this.#adopt(ORPHANS_SINCE_AT_START_MS)
    this.#timers = [
      setInterval(() => this.wake(), this.#options.poll_ms),
      setInterval(() => void this.#adopt(ORPHANS_SINCE_MS), ORPHANS_EVERY_MS),
    ]
    for (const timer of this.#timers) timer.unref()
  }

  /** Claims nothing more and waits for the messages under way. */
  async stop(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    await Promise.all(Object.values(this.#lanes).map((lane) => lane.stop()))
    await this.#records.settled()
    await this.#analyzing
  }

  /** Says that something may be due: of one priority, or of any. */
  wake(priority?: Priority): void {
    if (priority !== undefined) this.#lanes[priority].wake()
    else for (const lane of Object.values(this.#lanes)) lane.wake()
  }

  async #adopt(back_ms: number): Promise<void> {
    const now_ms = this.#clock.now()
    try {
      if ((await adoptOrphans(this.#database, { now_ms, since_ms: now_ms - back_ms })) > 0) this.wake()
    } catch (error) {
      this.#log.warn({ err: error }, 'the outbox cannot be looked through, will try again')
    }
  }

  #keepStatistics(claimed: number): void {
    this.#sinceAnalyzed += claimed
    const isTime = performance.now() - this.#analyzed_ms > ANALYZE_EVERY_MS
    if (this.#sinceAnalyzed < ANALYZE_AFTER || !isTime) return
    this.#sinceAnalyzed = 0
    this.#analyzed_ms = performance.now()
    this.#analyzing = analyzeOutbox(this.#database).catch((error: unknown) =>
      this.#log.debug({ err: error }, 'the outbox cannot be analyzed by this role'),
    )
  }

  async #deliver(message: Message): Promise<void> {
    const result = await this.#delivery.deliver(message, this.#clock.now())
    this.#failing.note(message.endpointId, result.state)
    await this.#records.submit(this.#attemptOf(message, result))
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
