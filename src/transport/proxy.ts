import { isUtf8 } from 'node:buffer'
import { RESPONSE_ALREADY_SENT } from '@hono/node-server/utils/response'
import type { Hono } from 'hono'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { type Access, mayCall } from '../core/operation.ts'
import { type Answer, failureAnswer, internalFailure, ProxyError } from '../proxy/answers.ts'
import { ROUTES, type Route } from '../proxy/routes.ts'
import type { ProxyService } from '../proxy/service.ts'
import type { Authenticator } from './auth.ts'
import { clientAddress, type HttpContext, type HttpEnv, headerOf, jsonResponse, loggedPath, requestIdOf } from './http.ts'
import { sinkOf } from './proxy-sink.ts'
import { BASES } from './rest.ts'

export type ProxyRouteDeps = { readonly proxy: ProxyService; readonly auth: Authenticator; readonly log: Log }
export type ProxyRouteOptions = {
  readonly trustedProxies: number
  readonly bodyLimit_bytes: number
  /** Most bytes that the bodies of all calls under way may have. */
  readonly bodiesLimit_bytes: number
}

const ACCESS: Access = { kind: 'key', scopes: ['owner', 'agent'] }

/** Adds the proxy's routes, under `/v1` and `/api/v1`. Their failures speak the provider's language, not that of the rest of the API. */
export function mountProxy(app: Hono<HttpEnv>, deps: ProxyRouteDeps, options: ProxyRouteOptions): void {
  const bodies = new BodyReader(options)
  for (const route of ROUTES) {
    const handler = handlerOf(route, deps, bodies, options)
    for (const base of BASES) {
      app.post(`${base}/v1${route.path}`, handler)
      app.all(`${base}/v1${route.path}`, (c) =>
        respond(failureAnswer(METHOD_NOT_ALLOWED, route.protocol), requestIdOf(c), { Allow: 'POST' }),
      )
    }
  }
}

const METHOD_NOT_ALLOWED = new DomainError('method_not_allowed')

function handlerOf(route: Route, { proxy, auth, log }: ProxyRouteDeps, bodies: BodyReader, options: ProxyRouteOptions) {
  return async (c: HttpContext): Promise<Response> => {
    const id = requestIdOf(c)
    const sink = sinkOf(c, id)
    let held = 0
    try {
      const { caller } = await auth.authenticate(ACCESS, credentialsOf(c, options))
      if (caller.kind !== 'key' || !mayCall(ACCESS, caller))
        throw new DomainError('forbidden', { hint: 'This key only reads. Use one of scope owner or agent.' })
      const bytes = await bodies.read(c)
      held = bytes.length
      const answer = await proxy.forward(
        {
          caller,
          route,
          agentId: agentHeaderOf(c, 'x-gvnr-agent-id') || agentHeaderOf(c, 'x-resgov-agent-id') || undefined,
          headers: c.env.incoming?.headers ?? {},
          query: queryWithoutKey(c),
          callersKey: headerOf(c, 'x-upstream-authorization') || undefined,
          bytes,
        },
        sink,
      )
      if (answer !== null) return respond(answer, id)
    } catch (error) {
      const answer = failureAnswer(error, route.protocol)
      if (answer === null) log.error({ err: error, request_id: id, path: loggedPath(c.req.url) }, 'unexpected failure')
      if (sink.hasStarted) sink.destroy()
      else return respond(answer ?? internalFailure(route.protocol, id), id)
    } finally {
      bodies.release(held)
    }
    return RESPONSE_ALREADY_SENT
  }
}

/** Node reads a header's bytes as Latin-1; clients write ids in UTF-8. @throws ProxyError `invalid_agent_id` for any other encoding */
function agentHeaderOf(c: HttpContext, name: string): string | undefined {
  const value = headerOf(c, name)
  if (value === undefined) return undefined
  const bytes = Buffer.from(value, 'latin1')
  if (!isUtf8(bytes)) throw new ProxyError(400, 'invalid_agent_id', 'Send the agent id in UTF-8.')
  return bytes.toString('utf8')
}

const respond = (answer: Answer | null, id: string, headers: Record<string, string> = {}): Response =>
  jsonResponse(answer?.status ?? 500, answer?.body ?? {}, id, { ...answer?.headers, ...headers })

/** Anthropic's clients may send our key in `x-api-key` beside an `Authorization` that is none of ours. */
function credentialsOf(c: HttpContext, { trustedProxies }: ProxyRouteOptions) {
  const isOurs = /^bg_/.test(headerOf(c, 'x-api-key') ?? '')
  const hidesAuthorization = isOurs && !/^bearer bg_/i.test(headerOf(c, 'authorization') ?? '')
  const header = (name: string): string | undefined =>
    name === 'authorization' && hidesAuthorization ? undefined : headerOf(c, name)
  return { header, url: c.req.url, address: () => clientAddress(c, trustedProxies) }
}

function queryWithoutKey(c: HttpContext): string {
  const start = c.req.url.indexOf('?')
  if (start === -1) return ''
  const query = new URLSearchParams(c.req.url.slice(start + 1))
  query.delete('api_key')
  return query.size === 0 ? '' : `?${query}`
}

/** Reads bodies as they are, each and all together bounded. */
class BodyReader {
  readonly #options: ProxyRouteOptions
  #bytes = 0

  constructor(options: ProxyRouteOptions) {
    this.#options = options
  }

  /**
   * What it returns counts until it is released.
   * @throws DomainError `payload_too_large`, `unsupported_media_type`, `overloaded`, `invalid_json` when the client leaves
   */
  async read(c: HttpContext): Promise<Buffer> {
    const incoming = c.env.incoming
    if (incoming === undefined) throw new Error('the proxy needs a connection to read from')
    const encoding = headerOf(c, 'content-encoding')
    if (encoding !== undefined && encoding !== 'identity')
      throw new DomainError('unsupported_media_type', { hint: 'Send the body without Content-Encoding.' })
    if (Number(headerOf(c, 'content-length') ?? 0) > this.#options.bodyLimit_bytes) throw new DomainError('payload_too_large')
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = []
      let bytes = 0
      const refuse = (error: DomainError): void => {
        ignore()
        incoming.pause()
        this.release(bytes)
        reject(error)
      }
      const onData = (chunk: Buffer): void => {
        bytes += chunk.length
        this.#bytes += chunk.length
        if (bytes > this.#options.bodyLimit_bytes) refuse(new DomainError('payload_too_large'))
        else if (this.#bytes > this.#options.bodiesLimit_bytes) refuse(new DomainError('overloaded', { retryAfterSeconds: 1 }))
        else chunks.push(chunk)
      }
      const onEnd = (): void => {
        ignore()
        resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks))
      }
      const onGone = (cause?: unknown): void => refuse(new DomainError('invalid_json', { cause }))
      const ignore = (): void => {
        incoming.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone)
      }
      if (incoming.destroyed) onGone()
      else incoming.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone)
    })
  }

  release(bytes: number): void {
    this.#bytes -= bytes
  }
}
