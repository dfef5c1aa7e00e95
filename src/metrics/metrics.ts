import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { DecisionEngine, EngineObserver } from '../budgets/engine.ts'
import type { Command, Outcome } from '../budgets/state.ts'
import { DomainError } from '../core/errors.ts'
import type { CallContext, CallObserver, Operation, OperationResult } from '../core/operation.ts'
import type { Figures } from './figures.ts'

const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5]
const BATCH_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
/** By `holds.kind`. */
const HOLD_KINDS = ['clearance', 'booking', 'reservation'] as const

type Timer = { observe(value: number): void }
type Count = { inc(by: number): void }
/** Counted since the last scrape. */
type Tally = { more: number; readonly count: Count }

/** Of this process. */
export type GovernanceFigures = { readonly isUsable: boolean; readonly pending: number }

/**
 * What Prometheus reads (docs/operations.md). Labels hold names of operations, outcomes and reasons only: never an account, an agent or a
 * key. Requests add to plain numbers, which a scrape hands over; everything else is looked at when a scrape comes.
 */
export class Metrics<D> implements CallObserver<D>, EngineObserver {
  readonly #registry = new Registry()
  readonly #durations = this.#histogram(
    'gvnr_operation_duration_seconds',
    'Time of a call, from its rights to its result',
    SECONDS,
    ['operation', 'transport'],
  )
  readonly #calls = this.#counter('gvnr_operations_total', 'Calls by how they ended: ok, or the error code', [
    'operation',
    'transport',
    'outcome',
  ])
  readonly #decisions = this.#counter('gvnr_decisions_total', 'Decisions on spending by outcome; reason is empty for approvals', [
    'kind',
    'outcome',
    'reason',
  ])
  readonly #settlements = this.#counter('gvnr_settlements_total', 'Clearances, bookings and reservations settled or released', [
    'outcome',
  ])
  readonly #rateChecks = this.#counter('gvnr_rate_checks_total', 'Rate checks by outcome', ['outcome'])
  readonly #onceChecks = this.#counter('gvnr_idempotency_checks_total', 'Idempotency checks: first or repeat', ['outcome'])
  readonly #replays = this.#counter('gvnr_idempotent_replays_total', 'Stored responses answered again', [])
  readonly #batchSizes = this.#histogram('gvnr_engine_batch_commands', 'Commands decided in one batch', BATCH_SIZES, [])
  readonly #batchTimes = this.#histogram(
    'gvnr_engine_batch_duration_seconds',
    'Time of a batch, from its first read to its commit',
    SECONDS,
    [],
  )
  readonly #timers = new Map<string, Timer>()
  readonly #tallies = new Map<string, Tally>()

  /** @param sources what a scrape looks at */
  constructor(sources: {
    engine: () => Pick<DecisionEngine, 'stats' | 'depth'>
    figures: Pick<Figures, 'current'>
    governance: () => GovernanceFigures
  }) {
    this.#engineGauges(sources.engine)
    this.#figureGauges(sources.figures)
    this.#governanceGauges(sources.governance)
  }

  /** Adds the process's own metrics: memory, CPU, event loop, garbage collection. */
  start(): void {
    collectDefaultMetrics({ register: this.#registry })
  }

  get contentType(): string {
    return this.#registry.contentType
  }

  /** The exposition format of Prometheus. */
  text(): Promise<string> {
    for (const tally of this.#tallies.values()) {
      tally.count.inc(tally.more)
      tally.more = 0
    }
    return this.#registry.metrics()
  }

  /** Every metric's name. */
  get names(): string[] {
    return this.#registry.getMetricsAsArray().map(({ name }) => name)
  }

  ended(operation: Operation<D>, call: CallContext, began_ms: number, result: OperationResult | null, error: unknown): void {
    const transport = call.transport ?? 'page'
    const { name } = operation
    const key = `${name} ${transport}`
    let timer = this.#timers.get(key)
    if (timer === undefined) {
      timer = this.#durations.labels(name, transport)
      this.#timers.set(key, timer)
    }
    timer.observe((performance.now() - began_ms) / 1000)
    const outcome = outcomeOf(result, error)
    this.#count(`${key} ${outcome}`, () => this.#calls.labels(name, transport, outcome))
    if (result === null) return
    if (result.replayed) this.#count('replay', () => this.#replays)
    else if (name === 'rate_check') {
      const answer = String(result.body.reason ?? 'allowed')
      this.#count(`rate ${answer}`, () => this.#rateChecks.labels(answer))
    } else if (name === 'idempotency_check') {
      const answer = result.body.is_first_call === true ? 'first' : 'repeat'
      this.#count(`once ${answer}`, () => this.#onceChecks.labels(answer))
    }
  }

  decided(command: Command, outcome: Outcome): void {
    if ('approved' in outcome && command.kind === 'clear') {
      const kind = HOLD_KINDS[command.holdKind ?? 0]
      if (outcome.approved) this.#count(`approved ${kind}`, () => this.#decisions.labels(kind, 'approved', ''))
      else {
        const { reason } = outcome
        this.#count(`denied ${kind} ${reason}`, () => this.#decisions.labels(kind, 'denied', reason))
      }
    } else if ('drift' in outcome && !outcome.replayed) {
      const answer = command.kind === 'release' ? 'released' : 'settled'
      this.#count(answer, () => this.#settlements.labels(answer))
    }
  }

  batch(items: readonly unknown[], began_ms: number): void {
    this.#batchSizes.observe(items.length)
    this.#batchTimes.observe((performance.now() - began_ms) / 1000)
  }

  #count(key: string, make: () => Count): void {
    let tally = this.#tallies.get(key)
    if (tally === undefined) {
      tally = { more: 0, count: make() }
      this.#tallies.set(key, tally)
    }
    tally.more++
  }

  #engineGauges(engine: () => Pick<DecisionEngine, 'stats' | 'depth'>): void {
    this.#gauge('gvnr_engine_queue_depth', 'Commands waiting in all lanes of this process', (gauge) => gauge.set(engine().depth))
    const totals = {
      commands: 'Commands that went through the lanes',
      conflicts: 'Accounts decided again because another process had moved them',
      locked: 'Batches decided under a lock after too many conflicts',
      failures: 'Batches that failed',
    } as const
    for (const [name, help] of Object.entries(totals)) {
      const counter = new Counter({
        name: `gvnr_engine_${name}_total`,
        help,
        registers: [this.#registry],
        collect() {
          this.reset()
          this.inc(engine().stats[name as keyof typeof totals])
        },
      })
      counter.inc(0)
    }
  }

  #governanceGauges(governance: () => GovernanceFigures): void {
    this.#gauge('gvnr_governance_file_usable', '0 while the governance file on disk is not the one in force', (gauge) =>
      gauge.set(governance().isUsable ? 1 : 0),
    )
    this.#gauge('gvnr_outage_pending_bookings', 'Allowed while the database was away and not booked yet', (gauge) =>
      gauge.set(governance().pending),
    )
  }

  #figureGauges(figures: Pick<Figures, 'current'>): void {
    const read = (name: string) => figures.current().then((all) => all.get(name))
    const set = (gauge: Gauge, name: string) =>
      read(name).then((value) => {
        if (value !== undefined) gauge.set(value)
      })
    const byLabel = (name: string, help: string, label: string, values: Readonly<Record<string, string>>) =>
      this.#gauge(
        name,
        help,
        async (gauge) => {
          for (const [value, figure] of Object.entries(values)) {
            const found = await read(figure)
            if (found !== undefined) gauge.labels(value).set(found)
          }
        },
        [label],
      )
    byLabel('gvnr_holds', 'Holds that are not resolved: open, or expired and standing at their estimate', 'state', {
      open: 'holds_open',
      expired: 'holds_expired',
    })
    byLabel('gvnr_outbox_messages', 'Messages queued, and given up during the last day', 'state', {
      queued: 'outbox_queued',
      failed: 'outbox_failed',
    })
    byLabel('gvnr_payments', 'Payments by what became of them', 'state', {
      credited: 'payments_credited',
      unattributed: 'unattributed_payments',
      open: 'payments_open',
    })
    const single = {
      gvnr_outbox_lag_seconds: ['outbox_lag_seconds', 'Age of the oldest queued message'],
      gvnr_payments_credited_usd: ['payments_credited_usd', 'Dollars credited'],
      gvnr_figures_age_seconds: ['age_seconds', 'Age of the figures that are read from the database on a timer'],
      overshoot_nanousd: ['overshoot_nanousd', 'Approved spend above the limits, recomputed from the holds; must be 0'],
      leaked_holds: ['leaked_holds', 'Holds resolved without a ledger entry, or reserved by a call that is long over; must be 0'],
      unattributed_payments: ['unattributed_payments', 'Payments that name no account; must be 0'],
    } as const
    for (const [name, [figure, help]] of Object.entries(single)) this.#gauge(name, help, (gauge) => set(gauge, figure))
  }

  #gauge(name: string, help: string, collect: (gauge: Gauge) => void | Promise<void>, labelNames: string[] = []): void {
    const gauge: Gauge = new Gauge({ name, help, labelNames, registers: [this.#registry], collect: () => collect(gauge) })
  }

  #counter<L extends string>(name: string, help: string, labelNames: L[]): Counter<L> {
    return new Counter({ name, help, labelNames, registers: [this.#registry] })
  }

  #histogram<L extends string>(name: string, help: string, buckets: number[], labelNames: L[]): Histogram<L> {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.#registry] })
  }
}

/** `ok` or the error code, that of a stored error as well. */
function outcomeOf(result: OperationResult | null, error: unknown): string {
  if (result === null) return error instanceof DomainError ? error.code : 'internal_error'
  return result.status < 400 ? 'ok' : String(result.body.error)
}
