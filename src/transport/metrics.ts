import type { Hono } from 'hono'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { type Authenticator, adminSecretOf, bearerOf, type Credentials } from './auth.ts'
import { clientAddress, errorResponse, type HttpContext, type HttpEnv, headerOf, requestIdOf } from './http.ts'

export type MetricsDeps = {
  readonly metrics: { readonly contentType: string; text(): Promise<string> }
  readonly auth: Authenticator
  readonly log: Log
}

/**
 * `GET /metrics` (contract section 9): for the operator's secret, as header or as the bearer token that Prometheus can send; for everyone
 * when `isPublic`.
 */
export function mountMetrics(
  app: Hono<HttpEnv>,
  { metrics, auth, log }: MetricsDeps,
  options: { isPublic: boolean; trustedProxies: number },
): void {
  app.get('/metrics', async (c: HttpContext) => {
    const id = requestIdOf(c)
    try {
      // Without the query: a secret in an address ends up in logs.
      const address = () => clientAddress(c, options.trustedProxies)
      const request = { header: (name: string) => headerOf(c, name), url: '/metrics', address }
      if (!options.isPublic) requireOperator(auth, request)
      const text = await metrics.text()
      return new Response(text, {
        headers: { 'Content-Type': metrics.contentType, 'Cache-Control': 'no-store', 'X-Request-Id': id },
      })
    } catch (error) {
      return errorResponse(error, id, log)
    }
  })
}

function requireOperator(auth: Authenticator, request: Credentials): void {
  try {
    auth.requireAdmin(request, adminSecretOf(request) ?? bearerOf(request))
  } catch (error) {
    if (!(error instanceof DomainError) || error.code !== 'unauthorized') throw error
    throw new DomainError('unauthorized', {
      hint: 'Send the operator secret in X-Admin-Secret or as the bearer token. It must equal ADMIN_SECRET of this server, which must be set.',
    })
  }
}
