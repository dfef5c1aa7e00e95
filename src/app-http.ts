import { Hono } from 'hono'
import { compress } from 'hono/compress'
import type { KeyResolver } from './accounts/keys.ts'
import { createAccount } from './accounts/operations.ts'
import type { AccountService } from './accounts/service.ts'
import type { SessionService } from './accounts/sessions.ts'
import type { ApprovalService } from './approvals/service.ts'
import { paidOperations, topupVerify } from './billing/operations.ts'
import type { BillingService } from './billing/service.ts'
import type { Config } from './config.ts'
import type { Clock } from './core/clock.ts'
import { lazily } from './core/lazy.ts'
import type { Log } from './core/log.ts'
import { type Caller, type Execute, mayCall, type Operation } from './core/operation.ts'
import type { Database } from './db/client.ts'
import type { GovernanceSource } from './governance/source.ts'
import type { Metrics } from './metrics/metrics.ts'
import { type OperationDeps, operations } from './operations.ts'
import { mountApprovalPage } from './pages/approve-routes.tsx'
import { mountDashboard } from './pages/dashboard-routes.tsx'
import type { LiveOptions } from './pages/live.ts'
import { mcpAppPage } from './pages/mcp-app.tsx'
import { mountPages, siteAt } from './pages/mount.tsx'
import { mountPay } from './pages/pay-routes.tsx'
import { servedScript } from './pages/script.ts'
import { mountStatus } from './pages/status-routes.tsx'
import type { PriceService } from './prices/service.ts'
import type { ProxyService } from './proxy/service.ts'
import type { StatusService } from './status/service.ts'
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
import type { UsageService } from './usage/service.ts'
import { VERSION } from './version.ts'

/** Longest body outside the LLM proxy (contract section 1). */
const BODY_LIMIT_BYTES = 64 * 1024
const MIB = 1024 * 1024
/** Pages for people and what they load. Not approval pages: they hold a secret beside words that an agent chose, which compression could give away. */
const COMPRESSED_PATHS = ['/', '/docs', '/dashboard', '/pay', '/pay/:pack', '/status', '/assets/*', '/favicon.svg']
/** Bodies of calls under way, all together: this many of the largest, and never less than 256 MiB. */
const PROXY_BODIES = 8
const PROXY_BODIES_MIN_MIB = 256

export type HttpDeps = {
  readonly database: Database
  readonly clock: Clock
  readonly log: Log
  readonly governance?: GovernanceSource
  readonly execute: Execute<OperationDeps>
  readonly keys: KeyResolver
  readonly accounts: AccountService
  readonly approvals: ApprovalService
  readonly billing: BillingService
  readonly catalogue: PriceService
  readonly metrics: Metrics<OperationDeps>
  readonly proxy: ProxyService
  readonly sessions: SessionService
  readonly status: StatusService
  readonly usage: UsageService
}
export type Http = {
  readonly app: Hono<HttpEnv>
  /** How many dashboards follow events here. */
  readonly following: () => number
  /** From now on `/ready` sends balancers to other processes; everything else goes on. */
  leave(): void
  /** Ends the streams of dashboards that follow events. */
  release(): void
}

/** Everything that answers HTTP: the transports and the pages, over the services. */
export function createHttp(config: Config, deps: HttpDeps, options: { live?: Partial<LiveOptions> } = {}): Http {
  const { log, execute, accounts, approvals, billing, catalogue, metrics, proxy, governance } = deps
  const failures = new FailedKeys(deps, { perMinute: config.FAILED_AUTH_LIMIT_PER_MINUTE })
  const auth = new Authenticator({ keys: deps.keys, failures }, { adminSecret: config.ADMIN_SECRET })

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
  const document = lazily(() => openApiDocument(operations, { version: VERSION }))
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
  const siteOf = (c: HttpContext) => siteAt(origin(c), VERSION)
  const callerOf = async (c: HttpContext, key: string) => auth.callerOf(key, clientAddress(c, config.TRUST_PROXY))
  const callFrom = (c: HttpContext, caller: Caller) => ({ caller, ip: clientAddress(c, config.TRUST_PROXY) })
  mountPay(
    app,
    {
      billing,
      callerOf,
      balanceOf: async (accountId) => Number((await accounts.get(accountId)).ops),
      createAccount: async (c) => String((await execute(createAccount, callFrom(c, { kind: 'public' }), {})).body.api_key),
      claim: async (c, caller, input) => {
        const { body } = await execute(topupVerify, callFrom(c, caller), input)
        return { credited_ops: Number(body.credited_ops), already: body.already_credited === true }
      },
    },
    { siteOf, requestId: requestIdOf, script: servedScript('pay') },
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
      sessions: deps.sessions,
      callerOf,
      run: (name, { c, caller, token, formId }, input) => {
        const from = c === null ? { caller, ip: '' } : callFrom(c, caller)
        // A form that is sent twice does its work once; what it answers is stored under the session's secret.
        return execute(operationNamed(name), { ...from, idempotencyKey: formId, bearer: token }, input)
      },
      mayCall: (name, caller) => mayCall(operationNamed(name).access, caller),
      marks: (accountIds) => deps.usage.marks(accountIds),
      log,
      siteOf,
      requestId: requestIdOf,
      script: siteScript,
    },
    { live: options.live ?? {} },
  )
  mountStatus(app, { status: deps.status, siteOf, requestId: requestIdOf })
  app.onError((error, c) => errorResponse(error, requestIdOf(c), log))

  return {
    app,
    following: dashboardPages.following,
    leave() {
      isLeaving = true
    },
    release: dashboardPages.release,
  }
}

function operationNamed(name: string): Operation<OperationDeps> {
  const found = operations.find((operation) => operation.name === name)
  if (found === undefined) throw new Error(`there is no operation ${name}`)
  return found
}
