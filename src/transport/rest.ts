import type { Hono } from 'hono'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { type Execute, mutates, type Operation, type ResultStream } from '../core/operation.ts'
import type { Authenticator } from './auth.ts'
import {
  clientAddress,
  errorResponse,
  type HttpContext,
  type HttpEnv,
  headerOf,
  jsonResponse,
  loggedPath,
  readJson,
  requestIdOf,
  traceOf,
} from './http.ts'

export type RestDeps<D> = {
  readonly operations: readonly Operation<D>[]
  readonly execute: Execute<D>
  readonly auth: Authenticator
  readonly log: Log
}
export type RestOptions = {
  readonly trustedProxies: number
  readonly bodyLimit_bytes: number
  readonly origin: (c: HttpContext) => string
}

/** REST answers under both (contract section 1). */
export const BASES = ['', '/api']

/** Adds a route for each operation, and JSON answers for every other path and method below `/v1`. */
export function mountRest<D>(app: Hono<HttpEnv>, deps: RestDeps<D>, options: RestOptions): void {
  for (const operation of deps.operations) {
    const handler = handlerOf(operation, deps, options)
    for (const base of BASES) app.on(operation.method.toUpperCase(), base + honoPath(operation.path), handler)
  }
  const allowed = allowedMethods(deps.operations)
  for (const base of BASES) {
    app.all(`${base}/v1/*`, (c) => {
      const methods = allowed(c.req.path.slice(base.length))
      const error =
        methods === null ? new DomainError('not_found') : new DomainError('method_not_allowed', { details: { allowed: methods } })
      const response = errorResponse(error, requestIdOf(c), deps.log)
      if (methods !== null) response.headers.set('Allow', methods.join(', '))
      return response
    })
  }
}

/** `{agent_id}` becomes `:agent_id`; the last parameter takes the rest of the path, so ids may hold unescaped slashes, and line breaks, which `.` would not match. */
export const honoPath = (path: string): string => path.replaceAll(/\{(\w+)\}$/g, ':$1{[\\s\\S]+}').replaceAll(/\{(\w+)\}/g, ':$1')

function handlerOf<D>(operation: Operation<D>, { execute, auth, log }: RestDeps<D>, options: RestOptions) {
  const hasParameters = operation.path.includes('{')
  return async (c: HttpContext): Promise<Response> => {
    const id = requestIdOf(c)
    try {
      const authenticating = auth.authenticate(operation.access, {
        header: (name) => headerOf(c, name),
        url: c.req.url,
        address: () => clientAddress(c, options.trustedProxies),
      })
      const { caller, bearer } = authenticating instanceof Promise ? await authenticating : authenticating
      const body = mutates(operation) ? await readJson(c, options.bodyLimit_bytes) : queryOf(c)
      const input = hasParameters && isObject(body) ? { ...body, ...c.req.param() } : body
      const result = await execute(
        operation,
        {
          caller,
          bearer,
          transport: 'rest',
          trace: traceOf(c),
          ip: clientAddress(c, options.trustedProxies),
          origin: () => options.origin(c),
          idempotencyKey: mutates(operation) ? headerOf(c, 'idempotency-key') : undefined,
        },
        input,
      )
      logRequest(log, c, id, result.status)
      if (result.stream) return streamResponse(result.stream, id, log)
      return jsonResponse(result.status, result.body, id, result.replayed ? { 'Idempotent-Replayed': 'true' } : undefined)
    } catch (error) {
      const response = errorResponse(error, id, log)
      logRequest(log, c, id, response.status)
      return response
    }
  }
}

/** Asks for the next piece when the last one is gone. A failure in the middle cuts the connection: the status was sent long ago. */
function streamResponse({ type, filename, chunks }: ResultStream, id: string, log: Log): Response {
  const pieces = chunks[Symbol.asyncIterator]()
  const body = new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        const next = await pieces.next()
        if (next.done) controller.close()
        else controller.enqueue(Buffer.from(next.value))
      } catch (error) {
        log.error({ err: error, request_id: id }, 'a stream ended early')
        controller.error(error)
      }
    },
    async cancel() {
      await pieces.return?.()
    },
  })
  const headers = { 'Content-Type': type, 'Content-Disposition': `attachment; filename="${filename}"` }
  return new Response(body, { headers: { ...headers, 'Cache-Control': 'no-store', 'X-Request-Id': id } })
}

function logRequest(log: Log, c: HttpContext, request_id: string, status: number): void {
  if (log.isLevelEnabled('debug')) log.debug({ request_id, method: c.req.method, path: loggedPath(c.req.url), status }, 'request')
}

export const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** The query without the key. */
export function queryOf(c: HttpContext): Record<string, string> {
  if (!c.req.url.includes('?')) return {}
  const { api_key: _secret, ...query } = c.req.query()
  return query
}

function allowedMethods(operations: readonly { method: string; path: string }[]): (path: string) => string[] | null {
  const routes = operations.map(({ method, path }) => ({
    method: method.toUpperCase(),
    pattern: new RegExp(`^${path.replaceAll(/\{\w+\}$/g, '[\\s\\S]+').replaceAll(/\{\w+\}/g, '[^/]+')}$`),
  }))
  return (path) => {
    const methods = [...new Set(routes.filter(({ pattern }) => pattern.test(path)).map(({ method }) => method))]
    return methods.length === 0 ? null : methods
  }
}
