import type { AccountService } from './accounts/service.ts'
import type { SessionService } from './accounts/sessions.ts'
import type { ApprovalService } from './approvals/service.ts'
import type { AuditRetention } from './audit/retention.ts'
import { purgeLoops } from './budgets/loops.store.ts'
import type { Clock } from './core/clock.ts'
import type { Log } from './core/log.ts'
import type { Database } from './db/client.ts'
import type { IdempotencyService } from './idempotency/service.ts'
import type { NotificationService } from './notifications/service.ts'

const PURGE_MS = 60_000
const PURGE_ROWS = 5_000
/** Idempotency keys are made faster than one round takes them away. */
const PURGE_ROUNDS = 20
/** Loop counts are the rows that come and go fastest. */
const LOOP_PURGE_ROWS = 50_000
/** How often unanswered approvals are made final, and at most how many at once. */
const EXPIRE_MS = 5_000
const EXPIRE_ROWS = 200

type Deps = {
  readonly database: Database
  readonly clock: Clock
  readonly log: Log
  readonly accounts: AccountService
  readonly approvals: ApprovalService
  readonly idempotency: IdempotencyService
  readonly notifications: NotificationService
  readonly retention: AuditRetention
  readonly sessions: SessionService
}

/** Takes away what has expired, again and again, until the process stops. Every process does it; what one leaves another takes. */
export class Housekeeping {
  readonly #deps: Deps
  readonly #timers: NodeJS.Timeout[] = []

  constructor(deps: Deps) {
    this.#deps = deps
  }

  start(): void {
    const { approvals } = this.#deps
    this.#every(EXPIRE_MS, () => approvals.expireDue(EXPIRE_ROWS), 'expiring approvals failed, will try again')
    this.#every(PURGE_MS, () => this.#purge(), 'purging failed, will try again')
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer)
  }

  #every(interval_ms: number, work: () => Promise<unknown>, failure: string): void {
    const run = () => void work().catch((error: unknown) => this.#deps.log.warn({ err: error }, failure))
    this.#timers.push(setInterval(run, interval_ms).unref())
  }

  async #purge(): Promise<void> {
    const { database, clock, accounts, approvals, idempotency, notifications, retention, sessions } = this.#deps
    for (let round = 0; round < PURGE_ROUNDS; round++) if ((await idempotency.purge(PURGE_ROWS)) < PURGE_ROWS) break
    await accounts.purgeThrottles(PURGE_ROWS)
    await notifications.purge(PURGE_ROWS)
    await approvals.purge(PURGE_ROWS)
    await purgeLoops(database, clock.now(), LOOP_PURGE_ROWS)
    await sessions.purge(PURGE_ROWS)
    await retention.purge()
  }
}
