import { setTimeout as sleep } from 'node:timers/promises'
import { type Answer, Connection } from './connection.ts'
import type { LoadReply, LoadRequest, LoadResult } from './load.ts'
import { Durations } from './statistics.ts'
import { type Traffic, trafficOf, type Workload } from './workload.ts'

/*
 * The load generator, a process of its own so that it shares no event loop with anything that is measured. Takes one burst at a time
 * from its parent and ends with it.
 */

const MAX_DURATIONS = 2_000_000
const DRAIN_MS = 10_000
const ID_BYTES = 36
const CLEARANCE_ID = Buffer.from('"clearance_id":"')
/** A timer that fires this late was held up by this process, not by the server: then the planned time counts. */
const TIMER_SLACK_MS = 2

const durations = new Durations(MAX_DURATIONS)
const traffics = new Map<string, Traffic>()
let cursor = 0
let unique = Date.now() * 1000

const reply = (message: LoadReply): void => {
  process.send?.(message)
}

process.on('disconnect', () => process.exit(0))
process.on('message', (request: LoadRequest) => {
  run(request).then(
    (result) => reply({ kind: 'done', result }),
    (error: unknown) => reply({ kind: 'failed', message: error instanceof Error ? error.message : String(error) }),
  )
})

async function run(request: LoadRequest): Promise<LoadResult> {
  const burst = new Burst(trafficFor(request.workload))
  try {
    await burst.connect(request.ports, request.connections)
    const driver = request.rate_per_s === null ? burst.closedLoop() : burst.openLoop(request.rate_per_s)
    await sleep(request.warmup_ms)
    burst.begin()
    reply({ kind: 'began' })
    const result = await burst.until(request.duration_ms, request.maxRequests)
    driver.stop()
    await burst.drain()
    return result
  } finally {
    burst.close()
  }
}

function trafficFor(workload: Workload): Traffic {
  const name = JSON.stringify(workload)
  let traffic = traffics.get(name)
  if (traffic === undefined) {
    traffic = trafficOf(workload)
    traffics.set(name, traffic)
  }
  return traffic
}

class Burst {
  readonly #traffic: Traffic
  readonly #connections: Connection[] = []
  readonly #idle: Connection[] = []
  /** Planned times of requests that found no idle connection. */
  readonly #overdue: number[] = []
  #isStopped = false
  #isOpenLoop = false
  #inFlight = 0
  #answers = 0
  #failures = 0
  #firstFailure: string | null = null
  #limit = Number.POSITIVE_INFINITY
  #onLimit: (() => void) | undefined
  #beganAt = 0
  #cpuAtBegin = process.cpuUsage()

  constructor(traffic: Traffic) {
    this.#traffic = traffic
  }

  async connect(ports: readonly number[], count: number): Promise<void> {
    for (let index = 0; index < count; index++) {
      const port = ports[index % ports.length]
      if (port === undefined) throw new Error('a burst needs a port')
      const connection = await Connection.open(
        port,
        (from, answer) => this.#answered(from, answer),
        (error) => this.#failed(error.message),
      )
      this.#connections.push(connection)
    }
  }

  /** Every connection sends its next request when the last one is answered. */
  closedLoop(): { stop(): void } {
    for (const connection of this.#connections) this.#sendNext(connection, performance.now())
    return {
      stop: () => {
        this.#isStopped = true
      },
    }
  }

  /**
   * Requests leave at a fixed rate whatever the answers do. A duration counts from the moment its request was due, also when no connection
   * was free then: a server that stalls pays for every request that should have been sent meanwhile (no coordinated omission).
   */
  openLoop(rate_per_s: number): { stop(): void } {
    this.#isOpenLoop = true
    this.#idle.push(...this.#connections)
    const interval_ms = 1000 / rate_per_s
    let due = performance.now()
    const timer = setInterval(() => {
      const now = performance.now()
      for (; due <= now; due += interval_ms) {
        // Timers have a grain of a millisecond, which is ours and not the server's.
        const dueAt = now - due <= TIMER_SLACK_MS ? now : due
        const connection = this.#idle.pop()
        if (connection === undefined) this.#overdue.push(dueAt)
        else this.#sendNext(connection, dueAt)
      }
    }, 1)
    return {
      stop: () => {
        this.#isStopped = true
        this.#overdue.length = 0
        clearInterval(timer)
      },
    }
  }

  begin(): void {
    durations.clear()
    this.#answers = 0
    this.#beganAt = performance.now()
    this.#cpuAtBegin = process.cpuUsage()
  }

  async until(duration_ms: number, maxRequests: number | null): Promise<LoadResult> {
    const limitReached = new Promise<void>((resolve) => {
      this.#onLimit = resolve
    })
    if (maxRequests !== null) this.#limit = maxRequests
    const timeout = new AbortController()
    await Promise.race([sleep(duration_ms, undefined, { signal: timeout.signal }).catch(() => {}), limitReached])
    timeout.abort()
    const cpu = process.cpuUsage(this.#cpuAtBegin)
    return {
      answers: this.#answers,
      failures: this.#failures,
      firstFailure: this.#firstFailure,
      elapsed_ms: performance.now() - this.#beganAt,
      cpu_us: cpu.user + cpu.system,
      ...durations.summary(),
    }
  }

  async drain(): Promise<void> {
    for (const deadline = performance.now() + DRAIN_MS; this.#inFlight > 0 && performance.now() < deadline; ) await sleep(5)
  }

  close(): void {
    for (const connection of this.#connections) connection.close()
  }

  #sendNext(connection: Connection, dueAt: number): void {
    const { exchanges, order } = this.#traffic
    connection.tag = order[cursor++ % order.length] ?? 0
    const request = exchanges[connection.tag]?.first
    if (request === undefined) throw new Error('a workload needs requests')
    if (request.patchAt !== -1) request.bytes.write(String(unique++).padStart(ID_BYTES, '0'), request.patchAt, 'latin1')
    this.#inFlight++
    connection.send(request.bytes, dueAt)
  }

  #answered(connection: Connection, answer: Answer): void {
    const now = performance.now()
    this.#inFlight--
    this.#answers++
    durations.add((now - connection.sentAt) * 1000)
    this.#check(answer)
    if (this.#answers >= this.#limit) this.#onLimit?.()
    if (this.#isStopped) return
    const exchange = exchanges(this.#traffic, connection.tag)
    const clearanceAt = exchange.second === null ? -1 : answer.bytes.indexOf(CLEARANCE_ID, answer.bodyStart)
    // Only a clearance has an expiry: the answer to a reconcile names its clearance too and ends the exchange.
    const isClearance = clearanceAt !== -1 && clearanceAt < answer.end && isApproval(answer)
    if (exchange.second !== null && isClearance) {
      const { bytes, patchAt } = exchange.second
      const idAt = clearanceAt + CLEARANCE_ID.length
      answer.bytes.copy(bytes, patchAt, idAt, idAt + ID_BYTES)
      this.#inFlight++
      connection.send(bytes, now)
    } else if (!this.#isOpenLoop) this.#sendNext(connection, now)
    else {
      const overdue = this.#overdue.shift()
      if (overdue === undefined) this.#idle.push(connection)
      else this.#sendNext(connection, overdue)
    }
  }

  #check(answer: Answer): void {
    const { approval } = this.#traffic
    const at = approval === null ? answer.bodyStart : answer.bytes.indexOf(approval, answer.bodyStart)
    if (answer.status === 200 && at !== -1 && at < answer.end) return
    this.#failed(
      `${answer.status} ${answer.bytes.toString('latin1', answer.bodyStart, Math.min(answer.end, answer.bodyStart + 300))}`,
    )
  }

  #failed(reason: string): void {
    this.#failures++
    this.#firstFailure ??= reason
  }
}

const APPROVED = Buffer.from('"approved":true')
function isApproval(answer: Answer): boolean {
  const at = answer.bytes.indexOf(APPROVED, answer.bodyStart)
  return at !== -1 && at < answer.end
}

function exchanges(traffic: Traffic, index: number) {
  const exchange = traffic.exchanges[index]
  if (exchange === undefined) throw new Error('a workload needs requests')
  return exchange
}
