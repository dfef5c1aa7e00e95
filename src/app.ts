import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { KeyResolver } from './accounts/keys.ts'
import { AccountService } from './accounts/service.ts'
import { SessionService } from './accounts/sessions.ts'
import { createHttp, type Http } from './app-http.ts'
import { ApprovalService } from './approvals/service.ts'
import { approvalDecisions } from './approvals/store.ts'
import { DecisionWaiters } from './approvals/waiters.ts'
import { AuditRetention } from './audit/retention.ts'
import { Sealer } from './audit/sealer.ts'
import { AuditService } from './audit/service.ts'
import { creditedJson } from './billing/credits.ts'
import { paymentFigures } from './billing/figures.ts'
import { BillingService } from './billing/service.ts'
import { billingSettings } from './billing-settings.ts'
import { DecisionEngine } from './budgets/engine.ts'
import { HoldFigures } from './budgets/figures.ts'
import { loopCounts } from './budgets/loops.store.ts'
import { EnvelopeReader } from './budgets/reader.ts'
import { BudgetService } from './budgets/service.ts'
import { createChangeLimit } from './change-limit.ts'
import type { Config } from './config.ts'
import { configWarnings } from './config-warnings.ts'
import type { Clock } from './core/clock.ts'
import type { Log } from './core/log.ts'
import { createExecutor, type Execute, type Guards } from './core/operation.ts'
import { SecretBox, secretKeysOf } from './core/secrets.ts'
import { DashboardService } from './dashboard/service.ts'
import type { Database } from './db/client.ts'
import { Presence } from './db/presence.ts'
import { proxyPolicy } from './governance/hook.ts'
import { OutageBook } from './governance/outage.ts'
import type { GovernanceSource } from './governance/source.ts'
import { Housekeeping } from './housekeeping.ts'
import { IdempotencyService } from './idempotency/service.ts'
import { Figures } from './metrics/figures.ts'
import { Metrics } from './metrics/metrics.ts'
import { observedBy, type Tracing } from './metrics/tracing.ts'
import { DecisionEvents } from './notifications/decisions.ts'
import { Delivery } from './notifications/delivery.ts'
import { outboxFigures } from './notifications/figures.ts'
import { createMailer } from './notifications/mailer.ts'
import { Outbound } from './notifications/outbound.ts'
import { EndpointSealing } from './notifications/sealing.ts'
import { type NotificationDeps, NotificationService } from './notifications/service.ts'
import { OutboxWorker, type WorkerOptions } from './notifications/worker.ts'
import type { OperationDeps } from './operations.ts'
import { readOperatorPrices } from './operator-prices.ts'
import type { LiveOptions } from './pages/live.ts'
import { PriceService } from './prices/service.ts'
import { type Policy, ProxyService } from './proxy/service.ts'
import { proxySettings } from './proxy-settings.ts'
import { RateService } from './rate/service.ts'
import { BookingService } from './resources/service.ts'
import { StatusService } from './status/service.ts'
import { statusChecks } from './status-checks.ts'
import { AgentSightings } from './usage/agents.store.ts'
import { AgentService } from './usage/agents.ts'
import { Rollup } from './usage/rollup.ts'
import { UsageService } from './usage/service.ts'

const QUEUE = { maxBatch: 512, maxQueue: 10_000 }
/** What one mail address is sent by all accounts together: nobody proves that an address is theirs. */
const MAILS_PER_HOUR = 60
const HOUR_MS = 3_600_000
/** How long messages under way may take to end when the process stops. */
const OUTBOX_DRAIN_MS = 3_000
/** How long calls that were cut may take to be settled. */
const PROXY_SETTLE_MS = 3_000

export type AppDeps = {
  readonly database: Database
  readonly clock: Clock
  readonly log: Log
  /** The governance file; without it there are no rules but the accounts' own. */
  readonly governance?: GovernanceSource
  /** Where spans go; absent for nowhere. */
  readonly tracing?: Tracing<OperationDeps>
}
export type AppOptions = {
  readonly checkResults?: boolean
  readonly outbox?: Partial<WorkerOptions>
  readonly proxy?: { policy?: Policy; renew_ms?: number }
  readonly live?: Partial<LiveOptions>
}

export type App = {
  readonly fetch: Http['app']['fetch']
  readonly request: Http['app']['request']
  readonly engine: DecisionEngine
  readonly budgets: BudgetService
  readonly keys: KeyResolver
  readonly billing: BillingService
  /** What was allowed while the database was away; absent without a governance file. */
  readonly outage: OutageBook | undefined
  readonly proxy: ProxyService
  readonly prices: PriceService
  readonly sealer: Sealer
  readonly rollup: Rollup
  readonly figures: Figures
  readonly metrics: Metrics<OperationDeps>
  readonly execute: Execute<OperationDeps>
  /** Begins background work: following revocations, purging what has expired. */
  start(): Promise<void>
  /** How many dashboards follow events here. */
  readonly following: () => number
  /** From now on `/ready` sends balancers to other processes; everything else goes on. */
  leave(): void
  /** Lets go whoever waits for a decision, so that their connections can end. */
  release(): void
  /** Waits for decisions under way and ends background work. */
  stop(): Promise<void>
}

/** All wiring of the product: configuration and the outside world in, one Hono app out. */
export function createApp(config: Config, deps: AppDeps, options: AppOptions = {}): App {
  const { log } = deps
  const presence = new Presence(deps)
  const prices = new PriceService(deps, { operatorPrices: readOperatorPrices(config), url: config.PRICES_URL })
  const catalogue = prices
  const audit = new AuditService(deps)
  const commands = () => engine.stats.commands
  const sealer = new Sealer({ ...deps, commands })
  const retention = new AuditRetention(deps, { days: config.AUDIT_RETENTION_DAYS })
  const outbound = new Outbound({ allowPrivate: config.OUTBOUND_ALLOW_PRIVATE })
  const mailer =
    config.SMTP_URL === undefined || config.MAIL_FROM === undefined ? null : createMailer(config.SMTP_URL, config.MAIL_FROM)
  const addressOf = async (accountId: string): Promise<string | null> => (await accounts.get(accountId)).notificationEmail
  const mayMail = (address: string): ReturnType<Guards['throttle']> =>
    accounts.throttle({ subject: `mail:${hashOfAddress(address)}`, max: MAILS_PER_HOUR, window_ms: HOUR_MS, hint: '' })
  const sealing = new EndpointSealing(new SecretBox(secretKeysOf(config.SECRETS_KEY ?? '') ?? []))
  const delivery = new Delivery(
    { outbound, mailer, addressOf, mayMail, sealing },
    { telegramUrl: config.TELEGRAM_API_URL, mailDomain: domainOf(config.MAIL_FROM) },
  )
  const outbox = new OutboxWorker({ ...deps, delivery, commands }, options.outbox)
  const wake: NotificationDeps['wake'] = (priority) => outbox.wake(priority)
  const notifications = new NotificationService(
    { ...deps, delivery, wake, addressOf, sealing, changes: audit },
    { allowPrivate: config.OUTBOUND_ALLOW_PRIVATE },
  )
  const { governance } = deps
  const policy = () => governance?.policy ?? null
  const companions = [approvalDecisions, new DecisionEvents({ ...deps, wake, policy }), new AgentSightings(), loopCounts]
  const figures = new Figures(deps, [
    new HoldFigures({ ...deps, commands }).read,
    outboxFigures(deps),
    () => paymentFigures(billing),
  ])
  const metrics = new Metrics<OperationDeps>({
    engine: () => engine,
    figures,
    governance: () => ({ isUsable: (governance?.status.problems.length ?? 0) === 0, pending: outage?.pending ?? 0 }),
  })
  const observer = deps.tracing === undefined ? metrics : observedBy(metrics, deps.tracing)
  const engine: DecisionEngine = new DecisionEngine({ ...deps, companions, observer, policy }, { lanes: config.LANES, ...QUEUE })
  const budgets = new BudgetService({ ...deps, engine, catalogue, policy })
  const envelopes = new EnvelopeReader({ ...deps, policy })
  const outage =
    governance &&
    new OutageBook(
      { ...deps, governance, book: budgets.bookAfterwards.bind(budgets), ping: deps.database.ping },
      config.RGF_JOURNAL_DIR,
    )
  const bookings = new BookingService({ budgets, outage: outage ?? NO_OUTAGE })
  const keys = new KeyResolver(deps, {
    ...QUEUE,
    trustKnown: () => governance?.failSafe === 'allow',
    isAway: () => outage?.isAway ?? false,
  })
  const accounts = new AccountService(
    { ...deps, keys, quota: budgets, events: notifications, changes: audit },
    { trialOps: config.SIGNUP_TRIAL_OPS },
  )
  const billing = new BillingService(
    {
      ...deps,
      presence,
      quota: budgets,
      accountExists: (accountId) => accounts.exists(accountId),
      async announce(event) {
        const { accountId, creditId } = event.credit
        if (event.kind !== 'credited' || accountId === null) return
        const stream = `topup:${creditId}`
        const atMs = deps.clock.now()
        await notifications.publish({ accountId, id: event.id, name: 'topup.credited', stream, atMs, data: creditedJson(event) })
      },
    },
    billingSettings(config),
  )
  const rates = new RateService({ ...deps, onExceeded: (share) => notifications.rateExceeded(share), changes: audit }, QUEUE)
  const proxy = new ProxyService(
    {
      ...deps,
      budgets,
      envelopes,
      rates,
      catalogue: () => prices.current,
      outage: outage ?? NO_OUTAGE,
      policy: options.proxy?.policy ?? proxyPolicy({ ...deps, policy, budgets }),
    },
    { ...proxySettings(config), ...(options.proxy?.renew_ms !== undefined && { renew_ms: options.proxy.renew_ms }) },
  )
  const idempotency = new IdempotencyService({ ...deps, presence }, QUEUE)
  const waiters = new DecisionWaiters(deps)
  const approvals = new ApprovalService({ ...deps, budgets, envelopes, notifications, waiters, changes: audit })
  const usage = new UsageService(deps)
  const rollup = new Rollup({ ...deps, commands })
  const agents = new AgentService({ ...deps, envelopes, usage })
  const dashboard = new DashboardService({ ...deps, accounts, envelopes, approvals, usage })
  const sessions = new SessionService(deps)
  const operationDeps: OperationDeps = {
    budgets,
    envelopes,
    bookings,
    agents,
    clock: deps.clock,
    accounts,
    billing,
    rates,
    idempotency,
    catalogue,
    prices,
    audit,
    approvals,
    dashboard,
    notifications,
    fallbackOrigin: config.PUBLIC_URL ?? `http://${config.HOST.includes(':') ? `[${config.HOST}]` : config.HOST}:${config.PORT}`,
    limits: { accountsPerHour: config.ACCOUNT_RATE_LIMIT_PER_HOUR },
  }
  const execute = createExecutor({
    deps: operationDeps,
    guards: {
      throttle: accounts.throttle,
      once: idempotency.once,
      mayChange: createChangeLimit({ ...deps, opsOf: (accountId) => engine.opsOf(accountId) }),
    },
    clock: deps.clock,
    observer,
    checkResults: options.checkResults ?? false,
  })
  const status = new StatusService({
    clock: deps.clock,
    checks: statusChecks({ ...deps, billing, notifications, facilitator: billingSettings(config).facilitator }),
  })
  for (const warning of configWarnings(config, { takesPayments: billing.isConfigured })) log.warn(warning)
  const http = createHttp(
    config,
    { ...deps, execute, keys, accounts, approvals, billing, catalogue, metrics, proxy, sessions, status, usage },
    options,
  )
  const housekeeping = new Housekeeping({
    ...deps,
    accounts,
    approvals,
    budgets,
    idempotency,
    notifications,
    presence,
    retention,
    sessions,
  })
  return {
    fetch: http.app.fetch,
    request: http.app.request,
    engine,
    budgets,
    keys,
    billing,
    outage,
    proxy,
    prices,
    sealer,
    rollup,
    figures,
    metrics,
    execute,
    following: http.following,
    async start() {
      await presence.start()
      await keys.start()
      governance?.start()
      outage?.start()
      await prices.start()
      await waiters.start()
      outbox.start()
      housekeeping.start()
      billing.start()
      proxy.start()
      sealer.start()
      rollup.start()
      metrics.start()
      figures.start()
    },
    leave: http.leave,
    release() {
      waiters.release()
      http.release()
    },
    async stop() {
      housekeeping.stop()
      await billing.stop()
      await sealer.stop()
      await rollup.stop()
      await figures.stop()
      await prices.stop()
      await waiters.stop()
      await governance?.stop()
      await proxy.stop(PROXY_SETTLE_MS)
      // After the proxy, which notes there what its last calls cost.
      await outage?.stop()
      http.release()
      await engine.settled()
      await notifications.settled()
      // Receivers that hang must not hold up the end: what is cut off is sent again by whoever comes next.
      const delivered = outbox.stop()
      await Promise.race([delivered, sleep(OUTBOX_DRAIN_MS, undefined, { ref: false })])
      mailer?.close()
      await outbound.close()
      await delivered
      await keys.stop()
      await presence.stop()
      await deps.tracing?.stop()
    },
  }
}

/** An address as a counter's name: the counters hold no addresses. */
const hashOfAddress = (address: string): string => createHash('sha256').update(address.toLowerCase()).digest('hex')

/** Without a governance file nothing goes on while the database is away. */
const NO_OUTAGE = { isAway: false, covers: () => false, allow: async () => false, settle: async () => {} }

/** The domain of a mail address, with or without a name before it; for message ids. */
const domainOf = (from: string | undefined): string => /@([\w.-]+)>?\s*$/.exec(from ?? '')?.[1] ?? 'localhost'
