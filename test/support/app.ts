import { type App, type AppDeps, type AppOptions, createApp } from '../../src/app.ts'
import { type Config, readConfig } from '../../src/config.ts'
import { type Clock, ManualClock } from '../../src/core/clock.ts'
import { createLog } from '../../src/core/log.ts'
import type { Database } from '../../src/db/client.ts'
import type { GovernanceSource } from '../../src/governance/source.ts'

export const ADMIN_SECRET = 'operator secret of the tests'
/** A Wednesday noon, far from every boundary but the hour's. */
export const NOON = Date.UTC(2026, 0, 14, 12)

/** A JSON object. Fields that tests hand on have their type; whether they are there is for the test to find out. */
export type JsonBody = {
  readonly [field: string]: unknown
  readonly error: string
  readonly hint: string
  readonly api_key: string
  readonly key_id: string
  readonly account_id: string
  readonly operations_remaining: number
  readonly clearance_id: string
  readonly expires_at: number
  readonly remaining_usd: number
  readonly spent_usd: number
  readonly reset_at: number
  readonly max_affordable_tokens: number
  readonly issues: readonly { readonly path: string; readonly message: string }[]
  readonly envelopes: readonly JsonBody[]
  readonly limits: readonly JsonBody[]
  readonly keys: readonly JsonBody[]
}
export type ApiResponse = {
  readonly status: number
  readonly headers: Headers
  /** The body byte for byte. */
  readonly text: string
  /** The body parsed; `{}` when it is not a JSON object. */
  readonly body: JsonBody
}
export type ApiHeaders = Record<string, string>

/** Requests to the app in-process. `key` goes into the Authorization header; a string body is sent as it is. */
export type Api = {
  request(method: string, path: string, body?: unknown, key?: string, headers?: ApiHeaders): Promise<ApiResponse>
  get(path: string, key?: string, headers?: ApiHeaders): Promise<ApiResponse>
  post(path: string, body?: unknown, key?: string, headers?: ApiHeaders): Promise<ApiResponse>
  put(path: string, body?: unknown, key?: string, headers?: ApiHeaders): Promise<ApiResponse>
  delete(path: string, key?: string, headers?: ApiHeaders): Promise<ApiResponse>
  /** As the operator: with ADMIN_SECRET. */
  admin(path: string, body?: unknown, headers?: ApiHeaders): Promise<ApiResponse>
}

export type TestApp<C extends Clock = ManualClock> = {
  readonly app: App
  readonly api: Api
  readonly clock: C
  readonly database: Database
  /** JSON log lines of level warn and above, parsed. A test that expects no 500 asserts that this is empty. */
  readonly logged: JsonBody[]
  /** A new account with `ops` operations, 1000 when left out. */
  createAccount(ops?: number): Promise<{ key: string; accountId: string }>
  /** A further key of the account that owns `ownerKey`. */
  createKey(ownerKey: string, fields: Record<string, unknown>): Promise<{ key: string; keyId: string }>
  /** Waits for decisions under way and ends background work. The database stays open. */
  stop(): Promise<void>
}

type Options<C extends Clock> = {
  clock?: C
  config?: Partial<{ [Name in keyof Config]: Config[Name] | undefined }>
  start?: boolean
  proxy?: NonNullable<AppOptions['proxy']>
  tracing?: NonNullable<AppDeps['tracing']>
  live?: AppOptions['live']
  governance?: GovernanceSource
}

/**
 * The whole product on a database, in-process: `createApp` as main.ts calls it, except that every result is checked against its
 * declared output schema, account creation is not throttled and gives no trial quota, and time stands still until the test moves it.
 * @param options `clock` a clock of your own; `config` settings that differ; `start` also runs background work (revocations from other
 * processes, purging)
 */
export async function openTestApp<C extends Clock = ManualClock>(
  database: Database,
  options: Options<C> = {},
): Promise<TestApp<C>> {
  const clock = options.clock ?? (new ManualClock(NOON) as Clock as C)
  const config: Config = {
    ...readConfig({
      ADMIN_SECRET,
      ACCOUNT_RATE_LIMIT_PER_HOUR: '0',
      FAILED_AUTH_LIMIT_PER_MINUTE: '0',
      SIGNUP_TRIAL_OPS: '0',
      LOG_LEVEL: 'warn',
    }),
    ...options.config,
  } as Config
  const logged: JsonBody[] = []
  const log = createLog(config.LOG_LEVEL, (line) => logged.push(JSON.parse(line) as JsonBody))
  const app = createApp(
    config,
    {
      database,
      clock,
      log,
      ...(options.tracing && { tracing: options.tracing }),
      ...(options.governance && { governance: options.governance }),
    },
    {
      checkResults: true,
      ...(options.proxy && { proxy: options.proxy }),
      ...(options.live && { live: options.live }),
    },
  )
  if (options.start) await app.start()
  const api = apiOf(app)

  return {
    app,
    api,
    clock,
    database,
    logged,
    async createAccount(ops = 1000) {
      const created = expectStatus(201, await api.post('/v1/account'))
      const more = ops - created.operations_remaining
      if (more < 0) throw new Error(`a new account has ${created.operations_remaining} operations: more than ${ops}`)
      if (more > 0) expectStatus(200, await api.admin('/v1/admin/seed', { api_key: created.api_key, operations: more }))
      return { key: created.api_key, accountId: created.account_id }
    },
    async createKey(ownerKey, fields) {
      const created = expectStatus(201, await api.post('/v1/account/keys', fields, ownerKey))
      return { key: created.api_key, keyId: created.key_id }
    },
    stop: () => app.stop(),
  }
}

/** The helpers of `TestApp.api` over any app. */
export function apiOf(app: Pick<App, 'request'>): Api {
  const request: Api['request'] = async (method, path, body, key, headers = {}) => {
    const response = await app.request(path, {
      method,
      headers: {
        ...(body !== undefined && { 'Content-Type': 'application/json' }),
        ...(key !== undefined && { Authorization: `Bearer ${key}` }),
        ...headers,
      },
      ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, headers: response.headers, text, body: objectOf(text) }
  }
  return {
    request,
    get: (path, key, headers) => request('GET', path, undefined, key, headers),
    post: (path, body, key, headers) => request('POST', path, body, key, headers),
    put: (path, body, key, headers) => request('PUT', path, body, key, headers),
    delete: (path, key, headers) => request('DELETE', path, undefined, key, headers),
    admin: (path, body, headers) => request('POST', path, body, undefined, { ...headers, 'X-Admin-Secret': ADMIN_SECRET }),
  }
}

/** The body of a response that must have this status; the error shows what came instead. */
export function expectStatus(status: number, response: ApiResponse): JsonBody {
  if (response.status !== status) throw new Error(`expected ${status}, got ${response.status}: ${response.text}`)
  return response.body
}

/** Path of one agent's envelope. */
export const envelopePath = (agentId: string): string => `/v1/budget/envelope/${encodeURIComponent(agentId)}`

/** Path of one rate share. */
export const ratePath = (agentId: string, provider: string, model: string): string =>
  `/v1/rate/envelope/${[agentId, provider, model].map(encodeURIComponent).join('/')}`

const NO_BODY = {} as JsonBody

function objectOf(text: string): JsonBody {
  try {
    const parsed: unknown = JSON.parse(text)
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed) ? (parsed as JsonBody) : NO_BODY
  } catch {
    return NO_BODY
  }
}
