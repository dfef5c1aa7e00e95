import { isJsonContentType } from '@modelcontextprotocol/server'
import type { Hono } from 'hono'
import { DomainError, type ErrorCode } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { type Access, type Execute, type Operation, SCOPES, type TraceHeaders } from '../core/operation.ts'
import type { Authenticator } from './auth.ts'
import { originOf } from './discovery.ts'
import { clientAddress, errorResponse, type HttpContext, type HttpEnv, headerOf, readJson, requestIdOf, traceOf } from './http.ts'
import { createPlainAnswers, readPlainCall } from './mcp-fast-lane.ts'
import { corsHeaders, createGate, type GateOptions, preflightHeaders } from './mcp-gate.ts'
import { McpResources, type McpResourcesDeps } from './mcp-resources.ts'
import { McpBackend } from './mcp-server.ts'
import { type McpCall, McpTools } from './mcp-tools.ts'
import { isObject } from './rest.ts'

export type McpDeps<D> = {
  readonly operations: readonly Operation<D>[]
  readonly execute: Execute<D>
  readonly auth: Authenticator
  readonly log: Log
  readonly views?: McpResourcesDeps<D>['views']
}
export type McpOptions = GateOptions & {
  readonly version: string
  readonly trustedProxies: number
  readonly bodyLimit_bytes: number
  /** False answers everything with the SDK: what the fast lane is compared with. */
  readonly fastLane?: boolean
}

/** Any key may talk to the endpoint; what it may do there is each operation's matter. */
const ANY_KEY: Access = { kind: 'key', scopes: SCOPES }

/** JSON-RPC codes of failures that are found before the message is (JSON-RPC 2.0, section 5.1; -32000 is the server's own). */
const RPC_CODES: Partial<Record<ErrorCode, number>> = { invalid_json: -32700, invalid_params: -32600 }
const RPC_SERVER_ERROR = -32000

type Headers = Readonly<Record<string, string>>

/**
 * Serves MCP at `/mcp` (contract section 8): Streamable HTTP, stateless, JSON answers, in the protocol revisions up to 2025-11-25 and in
 * 2026-07-28. A key that is missing or refused answers like REST; every other failure is a JSON-RPC error with the product's error
 * body in `data`.
 */
export function mountMcp<D>(app: Hono<HttpEnv>, deps: McpDeps<D>, options: McpOptions): void {
  const { auth, log } = deps
  const info = { name: 'gvnr', title: 'Gvnr', version: options.version }
  const gate = createGate(options)
  const tools = new McpTools(deps)
  const backend = new McpBackend({ tools, resources: new McpResources(deps), info, log })
  const isTool = options.fastLane === false ? () => false : (name: string) => tools.has(name)
  const plainAnswer = createPlainAnswers(info)

  const answer = async (c: HttpContext, message: unknown, call: McpCall, cors: Headers): Promise<Response> => {
    const plain = readPlainCall(message, (name) => headerOf(c, name), isTool)
    const outcome = plain && (await tools.call(plain.name, plain.arguments, call))
    if (plain && outcome) return respond(200, plainAnswer(plain, outcome), call.requestId, cors)
    return finished(await backend.answer(sdkRequest(c), message, call), call.requestId, cors)
  }

  app.all('/mcp', async (c) => {
    const id = requestIdOf(c)
    const origin = headerOf(c, 'origin')
    const refused = gate.refusal(headerOf(c, 'host') ?? new URL(c.req.url).host, origin)
    if (refused) return rpcFailure(refused, id)
    if (c.req.method === 'OPTIONS') return new Response(null, { status: 204, headers: preflightHeaders(origin) })
    const cors = corsHeaders(origin)
    if (c.req.method !== 'POST') return rpcFailure(METHOD_NOT_ALLOWED, id, { ...cors, Allow: 'POST' })

    let call: McpCall
    try {
      const authenticating = auth.authenticate(ANY_KEY, {
        header: (name) => headerOf(c, name),
        url: c.req.url,
        address: () => clientAddress(c, options.trustedProxies),
      })
      const { caller, bearer } = authenticating instanceof Promise ? await authenticating : authenticating
      call = {
        caller,
        bearer,
        transport: 'mcp',
        trace: traceOf(c),
        ip: clientAddress(c, options.trustedProxies),
        origin: () => originOf(c, options),
        requestId: id,
      }
    } catch (error) {
      const response = errorResponse(error, id, log)
      for (const [name, value] of Object.entries(cors)) response.headers.set(name, value)
      return response
    }
    try {
      const message = await readMessage(c, options.bodyLimit_bytes)
      const trace = call.trace ?? traceInMeta(message)
      const response = await answer(c, message, trace === call.trace ? call : { ...call, trace }, cors)
      if (log.isLevelEnabled('debug'))
        log.debug({ request_id: id, method: 'POST', path: '/mcp', rpc: methodOf(message), status: response.status }, 'request')
      return response
    } catch (error) {
      if (!(error instanceof DomainError)) log.error({ err: error, request_id: id }, 'unexpected failure')
      return rpcFailure(
        error instanceof DomainError ? error : new DomainError('internal_error', { details: { request_id: id } }),
        id,
        cors,
      )
    }
  })
}

const METHOD_NOT_ALLOWED = new DomainError('method_not_allowed', {
  hint: 'Send JSON-RPC messages with POST. There are no sessions to end (DELETE) and no stream to open (GET).',
})

/** @throws DomainError `unsupported_media_type`, `payload_too_large`, `invalid_json`, `invalid_params` (not one message) */
async function readMessage(c: HttpContext, limit_bytes: number): Promise<unknown> {
  if (!isJsonContentType(headerOf(c, 'content-type') ?? null)) throw new DomainError('unsupported_media_type')
  const message = await readJson(c, limit_bytes).catch((error: unknown) => {
    throw error instanceof DomainError && error.code === 'invalid_json' ? NOT_JSON : error
  })
  if (Array.isArray(message)) throw BATCH
  if (typeof message !== 'object' || message === null || !('jsonrpc' in message)) throw NO_MESSAGE
  return message
}

const SEND_A_MESSAGE = 'Send one JSON-RPC 2.0 message as the body, for example {"jsonrpc":"2.0","id":1,"method":"tools/list"}.'
const NOT_JSON = new DomainError('invalid_json', { hint: `The body is not JSON. ${SEND_A_MESSAGE}` })
const NO_MESSAGE = new DomainError('invalid_params', { hint: SEND_A_MESSAGE })
const BATCH = new DomainError('invalid_params', { hint: `Batches are not part of MCP. ${SEND_A_MESSAGE}` })

/**
 * The request as the SDK needs it, without address, key and body, which it has no use for. Answers are JSON whatever Accept says: MCP
 * asks clients to accept both JSON and event streams, and one that accepts only the former, or sends what curl sends, is served too.
 */
function sdkRequest(c: HttpContext): Request {
  const headers: Record<string, string> = {
    'content-type': 'application/json',
    accept: 'application/json, text/event-stream',
  }
  for (const name of ['mcp-protocol-version', 'mcp-method', 'mcp-name']) {
    const value = headerOf(c, name)
    if (value !== undefined) headers[name] = value
  }
  return new Request('http://localhost/mcp', { method: 'POST', headers })
}

const respond = (status: number, json: string, id: string, headers: Headers): Response =>
  new Response(json, {
    status,
    headers: { 'Content-Type': 'application/json', 'Cache-Control': 'no-store', 'X-Request-Id': id, ...headers },
  })

/** What the SDK answered, with our headers. Only `subscriptions/listen` answers as an event stream, which ends at once. */
async function finished(response: Response, id: string, headers: Headers): Promise<Response> {
  const text = await response.text()
  const type = response.headers.get('content-type')
  return new Response(text === '' ? null : text, {
    status: response.status,
    headers: { ...(type !== null && { 'Content-Type': type }), 'Cache-Control': 'no-store', 'X-Request-Id': id, ...headers },
  })
}

function rpcFailure(error: DomainError, id: string, headers: Headers = {}): Response {
  const body = error.toBody()
  const message = { code: RPC_CODES[error.code] ?? RPC_SERVER_ERROR, message: body.hint, data: body }
  return respond(error.status, JSON.stringify({ jsonrpc: '2.0', error: message, id: null }), id, headers)
}

/** MCP clients may say in `_meta` what others say in headers. */
function traceInMeta(message: unknown): TraceHeaders | undefined {
  const params = isObject(message) ? message.params : undefined
  const meta = isObject(params) ? params._meta : undefined
  if (!isObject(meta) || typeof meta.traceparent !== 'string') return undefined
  return { traceparent: meta.traceparent, tracestate: typeof meta.tracestate === 'string' ? meta.tracestate : undefined }
}

const methodOf = (message: unknown): string | undefined =>
  typeof message === 'object' && message !== null && 'method' in message && typeof message.method === 'string'
    ? message.method.slice(0, 64)
    : undefined
