import { type ServerType, serve } from '@hono/node-server'
import { expect } from 'vitest'
import type { AppDeps } from '../../src/app.ts'
import { verifyBalances } from '../../src/budgets/verify.ts'
import type { Config } from '../../src/config.ts'
import type { Database } from '../../src/db/client.ts'
import type { Policy } from '../../src/proxy/service.ts'
import { expectStatus, openTestApp, type TestApp } from './app.ts'
import { startUpstream, type Upstream } from './upstream.ts'

/** The product on a real socket, in front of a provider that does what the test says. */
export type ProxyTest = {
  readonly test: TestApp
  readonly origin: string
  readonly upstream: Upstream
  readonly key: string
  readonly accountId: string
  post(path: string, body: unknown, headers?: Record<string, string>): Promise<Response>
  /** Dollars spent by an agent in its day, when every call is settled. */
  spent(agentId?: string): Promise<number>
  /** How the calls ended, as the ledger has it, oldest first. */
  endings(): Promise<Record<string, unknown>[]>
  operations(): Promise<number>
  /** What must hold after every test: nothing runs, no reservation is open, and the books are right. */
  isClean(): Promise<void>
  stop(): Promise<void>
}

export const OPERATOR_KEY = 'sk-operator-0123456789'

export type ProxyTestOptions = {
  readonly config?: Partial<Config>
  readonly proxy?: { policy?: Policy; renew_ms?: number }
  /** The day's cap of agent "a". */
  readonly limit_usd?: number
  readonly operations?: number
  readonly tracing?: NonNullable<AppDeps['tracing']>
}

export async function openProxy(database: Database, options: ProxyTestOptions = {}): Promise<ProxyTest> {
  const upstream = await startUpstream()
  const config: Partial<Config> = {
    UPSTREAM_OPENAI_URL: upstream.origin,
    UPSTREAM_OPENAI_KEY: OPERATOR_KEY,
    UPSTREAM_ANTHROPIC_URL: upstream.origin,
    UPSTREAM_ANTHROPIC_KEY: OPERATOR_KEY,
    UPSTREAM_OPENROUTER_URL: `${upstream.origin}/openrouter/v1`,
    UPSTREAM_OPENROUTER_KEY: OPERATOR_KEY,
    ...options.config,
  }
  const test = await openTestApp(database, {
    config,
    ...(options.proxy && { proxy: options.proxy }),
    ...(options.tracing && { tracing: options.tracing }),
  })
  test.app.proxy.start()
  const { key, accountId } = await test.createAccount(options.operations ?? 1000)
  expectStatus(200, await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: options.limit_usd ?? 100 }, key))
  const { server, origin } = await listen(test)
  const settled = () => test.app.proxy.settled()
  return {
    test,
    origin,
    upstream,
    key,
    accountId,
    post: (path, body, headers = {}) =>
      fetch(origin + path, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', 'x-gvnr-agent-id': 'a', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
      }),
    async spent(agentId = 'a') {
      await settled()
      return expectStatus(200, await test.api.get(`/v1/budget/envelope/${agentId}`, key)).spent_usd
    },
    async endings() {
      await settled()
      const rows = await database.sql.unsafe(
        `select kind, detail from ledger where account_id = $1 and kind in ('settle', 'release') order by at_ms, entry_id`,
        [accountId],
      )
      return rows.map((row) =>
        row.kind === 'release' ? { end: 'released' } : (JSON.parse(String(row.detail)) as Record<string, unknown>),
      )
    },
    async operations() {
      return expectStatus(200, await test.api.get('/v1/account/balance', key)).operations_remaining
    },
    async isClean() {
      await settled()
      expect(test.app.proxy.openCalls).toBe(0)
      const open = await database.sql.unsafe('select hold_id from holds where account_id = $1 and state = 0', [accountId])
      expect(open).toEqual([])
      expect((await verifyBalances(database)).differences).toEqual([])
    },
    async stop() {
      server.close()
      if ('closeAllConnections' in server) server.closeAllConnections()
      await test.stop()
      await upstream.stop()
    },
  }
}

function listen(test: TestApp): Promise<{ server: ServerType; origin: string }> {
  return new Promise((resolve) => {
    const server = serve({ fetch: test.app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) =>
      resolve({ server, origin: `http://127.0.0.1:${port}` }),
    )
  })
}
