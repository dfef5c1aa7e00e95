import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Hono } from 'hono'
import { compress } from 'hono/compress'
import { z } from 'zod'
import { KeyResolver } from './accounts/keys.ts'
import { createAccount } from './accounts/operations.ts'
import { AccountService } from './accounts/service.ts'
import { SessionService } from './accounts/sessions.ts'
import { ApprovalService } from './approvals/service.ts'
import { approvalDecisions } from './approvals/store.ts'
import { DecisionWaiters } from './approvals/waiters.ts'
import { AuditRetention } from './audit/retention.ts'
import { Sealer } from './audit/sealer.ts'
import { AuditService } from './audit/service.ts'
import { creditedJson } from './billing/credits.ts'
import { paidOperations, topupVerify } from './billing/operations.ts'
import { BillingService } from './billing/service.ts'
import { billingSettings } from './billing-settings.ts'
import { DecisionEngine } from './budgets/engine.ts'
import { HoldFigures } from './budgets/figures.ts'
import { loopCounts, purgeLoops } from './budgets/loops.store.ts'
import { BudgetService } from './budgets/service.ts'
import { createChangeLimit } from './change-limit.ts'
import { type Config, ConfigError } from './config.ts'
import type { Clock } from './core/clock.ts'
import type { Log } from './core/log.ts'
import { type Caller, createExecutor, type Execute, type Guards, mayCall, type Operation } from './core/operation.ts'
import { SecretBox, secretKeysOf } from './core/secrets.ts'
import { DashboardService } from './dashboard/service.ts'
import type { Database } from './db/client.ts'
import { proxyPolicy } from './governance/hook.ts'
import { OutageBook } from './governance/outage.ts'
import type { GovernanceSource } from './governance/source.ts'
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
import { type OperationDeps, operations } from './operations.ts'
import { mountApprovalPage } from './pages/approve-routes.tsx'
import { mountDashboard } from './pages/dashboard-routes.tsx'
import type { LiveOptions } from './pages/live.ts'
import { mcpAppPage } from './pages/mcp-app.tsx'
import { mountPages, siteAt } from './pages/mount.tsx'
import { mountPay } from './pages/pay-routes.tsx'
import { servedScript } from './pages/script.ts'
import { mountStatus } from './pages/status-routes.tsx'
import { type OperatorPrices, operatorPricesSchema } from './prices/catalogue.ts'
import { PriceService } from './prices/service.ts'
import { type Policy, ProxyService } from './proxy/service.ts'
import { isOpenToStrangers, proxySettings } from './proxy-settings.ts'
import { RateService } from './rate/service.ts'
import { BookingService } from './resources/service.ts'
import { StatusService } from './status/service.ts'
import { statusChecks } from './status-checks.ts'
import { Authenticator } from './transport/auth.ts'
import { mountDiscovery, originOf } from './transport/discovery.ts'
import { FailedKeys } from './transport/failed-keys.ts'
import { clientAddress, errorResponse, type HttpContext, type HttpEnv, requestIdOf } from './transport/http.ts'
import { mountMcp } from './transport/mcp.ts'
import { mountMetrics } from './transport/metrics.ts'
import { openApiDocument } from './transport/openapi.ts'
import { mountProxy } from './transport/proxy.ts'
import { mountRest } from './transport/rest.ts'
import { ExactRouter } from './transport/router.ts'
import { mountX402 } from './transport/x402.ts'
import { AgentSightings } from './usage/agents.store.ts'
import { AgentService } from './usage/agents.ts'
import { Rollup } from './usage/rollup.ts'
import { UsageService } from './usage/service.ts'
import { VERSION } from './version.ts'

const QUEUE = { maxBatch: 512, maxQueue: 10_000 }
/** Longest body outside the LLM proxy (contract section 1). */
const BODY_LIMIT_BYTES = 64 * 1024
/** What one mail address is sent by all accounts together: nobody proves that an address is theirs. */
const MAILS_PER_HOUR = 60
const HOUR_MS = 3_600_000
const HOUSEKEEPING_MS = 60_000
const PURGE_ROWS = 5_000
/** Idempotency keys are made faster than one round takes them away. */
const PURGE_ROUNDS = 20
/** Loop counts are the rows that come and go fastest. */
const LOOP_PURGE_ROWS = 50_000
/** How often unanswered approvals are made final, and at most how many at once. */
const EXPIRE_MS = 5_000
const EXPIRE_ROWS = 200
/** How long messages under way may take to end when the process stops. */
const OUTBOX_DRAIN_MS = 3_000
/** How long calls that were cut may take to be settled. */
const PROXY_SETTLE_MS = 3_000
const MIB = 1024 * 1024
/** Pages for people and what they load. Not approval pages: they hold a secret beside words that an agent chose, which compression could give away. */
const COMPRESSED_PATHS = ['/', '/docs', '/dashboard', '/pay', '/pay/:pack', '/status', '/assets/*', '/favicon.svg']
/** Bodies of calls under way, all together: this many of the largest, and never less than 256 MiB. */
const PROXY_BODIES = 8
const PROXY_BODIES_MIN_MIB = 256

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
  readonly fetch: Hono<HttpEnv>['fetch']
  readonly request: Hono<HttpEnv>['request']
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
  if (billing.isConfigured && config.X402_NETWORK === 'eip155:8453' && isTestFacilitator(config))
    log.warn(
      'x402 payments will fail: https://x402.org/facilitator settles on the test network only. Set CDP keys or FACILITATOR_PRIVATE_KEY',
    )
  const rates = new RateService({ ...deps, onExceeded: (share) => notifications.rateExceeded(share), changes: audit }, QUEUE)
  const proxy = new ProxyService(
    {
      ...deps,
      budgets,
      rates,
      catalogue: () => prices.current,
      outage: outage ?? NO_OUTAGE,
      policy: options.proxy?.policy ?? proxyPolicy({ ...deps, policy, budgets }),
    },
    { ...proxySettings(config), ...(options.proxy?.renew_ms !== undefined && { renew_ms: options.proxy.renew_ms }) },
  )
  if (config.PROXY_OPERATOR_KEYS === 'auto' && isOpenToStrangers(config) && hasProviderKeys(config))
    log.warn(
      'provider keys are set but nobody may use them: this server is open to strangers. Set PROXY_OPERATOR_KEYS to the ids of your accounts, or to on',
    )
  if (config.PUBLIC_URL === undefined && isWildcard(config.HOST))
    log.warn(
      'PUBLIC_URL is not set: links that are sent to people would lead to the address this listens on. Set it to the origin that people use',
    )
  const idempotency = new IdempotencyService(deps, QUEUE)
  const waiters = new DecisionWaiters(deps)
  const approvals = new ApprovalService({ ...deps, budgets, notifications, waiters, changes: audit })
  const usage = new UsageService(deps)
  const rollup = new Rollup({ ...deps, commands })
  const agents = new AgentService({ ...deps, budgets, usage })
  const dashboard = new DashboardService({ ...deps, accounts, budgets, approvals, usage })
  const sessions = new SessionService(deps)
  const operationDeps: OperationDeps = {
    budgets,
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
  const failures = new FailedKeys(deps, { perMinute: config.FAILED_AUTH_LIMIT_PER_MINUTE })
  const auth = new Authenticator({ keys, failures }, { adminSecret: config.ADMIN_SECRET })

  const app = new Hono<HttpEnv>({ router: new ExactRouter((path) => /^\/(?:api\/)?v1\/|^\/mcp$/.test(path)) })
  for (const path of COMPRESSED_PATHS) app.use(path, compress())
  const origin = (c: HttpContext) => originOf(c, { publicUrl: config.PUBLIC_URL, trustedProxies: config.TRUST_PROXY })
  const limits = { trustedProxies: config.TRUST_PROXY, bodyLimit_bytes: BODY_LIMIT_BYTES, origin }
  mountX402(app, { operations: paidOperations, execute, auth, log }, { ...limits, publicUrl: config.PUBLIC_URL })
  const bodyLimit_mib = config.PROXY_BODY_LIMIT_MIB
  mountProxy(
    app,
    { proxy, auth, log },
    {
      trustedProxies: config.TRUST_PROXY,
      bodyLimit_bytes: bodyLimit_mib * MIB,
      bodiesLimit_bytes: Math.max(PROXY_BODIES_MIN_MIB, PROXY_BODIES * bodyLimit_mib) * MIB,
    },
  )
  mountRest(app, { operations, execute, auth, log }, limits)
  mountMcp(
    app,
    { operations, execute, auth, log, views: { dashboard: mcpAppPage() } },
    {
      version: VERSION,
      bindHost: config.HOST,
      publicUrl: config.PUBLIC_URL,
      trustedProxies: config.TRUST_PROXY,
      bodyLimit_bytes: BODY_LIMIT_BYTES,
    },
  )
  const document = openApiDocument(operations, { version: VERSION })
  const governanceFile = () => {
    const { loadedMs, problems } = governance?.status ?? { loadedMs: null, problems: [] }
    return problems.length > 0 ? ('unusable' as const) : loadedMs === null ? null : ('ok' as const)
  }
  let isLeaving = false
  mountDiscovery(
    app,
    { operations, document, ping: deps.database.ping, governanceFile, isLeaving: () => isLeaving, log },
    { version: VERSION, origin },
  )
  mountMetrics(app, { metrics, auth, log }, { isPublic: config.METRICS_PUBLIC, trustedProxies: config.TRUST_PROXY })
  const siteScript = servedScript('site')
  const callFrom = (c: HttpContext, caller: Caller) => ({ caller, ip: clientAddress(c, config.TRUST_PROXY) })
  mountPay(
    app,
    {
      billing,
      callerOf: async (c, key) => auth.callerOf(key, clientAddress(c, config.TRUST_PROXY)),
      balanceOf: async (accountId) => Number((await accounts.get(accountId)).ops),
      createAccount: async (c) => String((await execute(createAccount, callFrom(c, { kind: 'public' }), {})).body.api_key),
      claim: async (c, caller, input) => {
        const { body } = await execute(topupVerify, callFrom(c, caller), input)
        return { credited_ops: Number(body.credited_ops), already: body.already_credited === true }
      },
    },
    { siteOf: (c) => siteAt(origin(c), VERSION), requestId: requestIdOf, script: servedScript('pay') },
  )
  mountPages(
    app,
    { catalogue, document, origin, requestId: requestIdOf },
    { version: VERSION, trialOps: config.SIGNUP_TRIAL_OPS, script: siteScript },
  )
  mountApprovalPage(app, { approvals, clock: deps.clock, log, origin, requestId: requestIdOf }, { version: VERSION })
  const dashboardPages = mountDashboard(
    app,
    {
      sessions,
      callerOf: async (c, key) => auth.callerOf(key, clientAddress(c, config.TRUST_PROXY)),
      run: (name, { c, caller, token, formId }, input) => {
        const from = c === null ? { caller, ip: '' } : callFrom(c, caller)
        // A form that is sent twice does its work once; what it answers is stored under the session's secret.
        return execute(operationNamed(name), { ...from, idempotencyKey: formId, bearer: token }, input)
      },
      mayCall: (name, caller) => mayCall(operationNamed(name).access, caller),
      marks: (accountIds) => usage.marks(accountIds),
      log,
      siteOf: (c) => siteAt(origin(c), VERSION),
      requestId: requestIdOf,
      script: siteScript,
    },
    { live: options.live ?? {} },
  )
  const status = new StatusService({
    clock: deps.clock,
    checks: statusChecks({ ...deps, billing, notifications, facilitator: billingSettings(config).facilitator }),
  })
  mountStatus(app, { status, siteOf: (c) => siteAt(origin(c), VERSION), requestId: requestIdOf })
  app.onError((error, c) => errorResponse(error, requestIdOf(c), log))

  let housekeeping: NodeJS.Timeout | undefined
  const purge = async (): Promise<void> => {
    for (let round = 0; round < PURGE_ROUNDS; round++) if ((await idempotency.purge(PURGE_ROWS)) < PURGE_ROWS) break
    await accounts.purgeThrottles(PURGE_ROWS)
    await notifications.purge(PURGE_ROWS)
    await approvals.purge(PURGE_ROWS)
    await purgeLoops(deps.database, deps.clock.now(), LOOP_PURGE_ROWS)
    await sessions.purge(PURGE_ROWS)
    await retention.purge()
  }
  let expiring: NodeJS.Timeout | undefined
  return {
    fetch: app.fetch,
    request: app.request,
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
    following: dashboardPages.following,
    async start() {
      await keys.start()
      governance?.start()
      outage?.start()
      await prices.start()
      await waiters.start()
      outbox.start()
      expiring = setInterval(
        () =>
          void approvals
            .expireDue(EXPIRE_ROWS)
            .catch((error: unknown) => log.warn({ err: error }, 'expiring approvals failed, will try again')),
        EXPIRE_MS,
      )
      expiring.unref()
      housekeeping = setInterval(
        () => void purge().catch((error: unknown) => log.warn({ err: error }, 'purging failed, will try again')),
        HOUSEKEEPING_MS,
      )
      housekeeping.unref()
      billing.start()
      proxy.start()
      sealer.start()
      rollup.start()
      metrics.start()
      figures.start()
    },
    leave() {
      isLeaving = true
    },
    release() {
      waiters.release()
      dashboardPages.release()
    },
    async stop() {
      clearInterval(housekeeping)
      clearInterval(expiring)
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
      dashboardPages.release()
      await engine.settled()
      await notifications.settled()
      // Receivers that hang must not hold up the end: what is cut off is sent again by whoever comes next.
      const delivered = outbox.stop()
      await Promise.race([delivered, sleep(OUTBOX_DRAIN_MS, undefined, { ref: false })])
      mailer?.close()
      await outbound.close()
      await delivered
      await keys.stop()
      await deps.tracing?.stop()
    },
  }
}

/** An address as a counter's name: the counters hold no addresses. */
const hashOfAddress = (address: string): string => createHash('sha256').update(address.toLowerCase()).digest('hex')

function operationNamed(name: string): Operation<OperationDeps> {
  const found = operations.find((operation) => operation.name === name)
  if (found === undefined) throw new Error(`there is no operation ${name}`)
  return found
}

const isTestFacilitator = (config: Config): boolean => {
  const { facilitator } = billingSettings(config)
  return facilitator.kind === 'url' && new URL(facilitator.url).host === 'x402.org'
}

const hasProviderKeys = (config: Config): boolean => proxySettings(config).upstreams.some(({ key }) => key !== undefined)

async function paymentFigures(billing: BillingService): Promise<Readonly<Record<string, number>>> {
  const totals = await billing.totals()
  return {
    payments_credited: Number(totals?.credits ?? 0),
    payments_credited_usd: Number(totals?.creditedUnits ?? 0) / 1_000_000,
    payments_open: Number(totals?.openIntents ?? 0),
    unattributed_payments: Number(totals?.unattributed ?? 0),
  }
}

/** Without a governance file nothing goes on while the database is away. */
const NO_OUTAGE = { isAway: false, covers: () => false, allow: async () => false, settle: async () => {} }

/** The domain of a mail address, with or without a name before it; for message ids. */
const domainOf = (from: string | undefined): string => /@([\w.-]+)>?\s*$/.exec(from ?? '')?.[1] ?? 'localhost'

/** @throws ConfigError when PRICES_FILE cannot be read or used */
function readOperatorPrices(config: Config): OperatorPrices {
  if (config.PRICES_FILE === undefined) return {}
  try {
    return operatorPricesSchema.parse(JSON.parse(readFileSync(config.PRICES_FILE, 'utf8')))
  } catch (error) {
    const reason = error instanceof z.ZodError ? z.prettifyError(error) : error instanceof Error ? error.message : String(error)
    throw new ConfigError(`PRICES_FILE ${config.PRICES_FILE} cannot be used: ${reason}`)
  }
}

/** Listening on every address names none of them. */
const isWildcard = (host: string): boolean => host === '0.0.0.0' || host === '::'
