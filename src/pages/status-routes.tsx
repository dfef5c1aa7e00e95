import type { Context, Env, Hono } from 'hono'
import type { Status, StatusService } from '../status/service.ts'
import type { Site } from './layout.tsx'
import { StatusPage } from './status.tsx'

export type StatusPageDeps<C> = {
  readonly status: StatusService
  readonly siteOf: (c: C) => Site
  readonly requestId: (c: C) => string
}

const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
}
/** Without its database the service can do nothing; anything else leaves most of it working. */
const codeOf = (status: Status): number => (status.state === 'down' ? 503 : 200)

/** `/status` for people, and as JSON for who asks for that. */
export function mountStatus<E extends Env>(app: Hono<E>, deps: StatusPageDeps<Context<E>>): void {
  const headersOf = (c: Context<E>, type: string) => ({ ...HEADERS, 'Content-Type': type, 'X-Request-Id': deps.requestId(c) })
  const json = (c: Context<E>, status: Status): Response =>
    new Response(JSON.stringify(statusJson(status)), { status: codeOf(status), headers: headersOf(c, 'application/json') })
  app.get('/status.json', async (c) => json(c, await deps.status.status()))
  app.get('/status', async (c) => {
    const status = await deps.status.status()
    const accept = c.req.header('accept') ?? ''
    if (accept.includes('application/json') && !accept.includes('text/html')) return json(c, status)
    const page = <StatusPage site={deps.siteOf(c)} status={status} />
    return new Response(`<!doctype html>${String(page)}`, {
      status: codeOf(status),
      headers: { ...headersOf(c, 'text/html; charset=utf-8'), Vary: 'Accept' },
    })
  })
}

const statusJson = (status: Status) => ({
  state: status.state,
  checked_at: status.checkedMs,
  checks: status.checks.map(({ name, state, detail, took_ms }) => ({ name, state, detail, took_ms })),
})
