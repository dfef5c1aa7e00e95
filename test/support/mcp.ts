import { Hono } from 'hono'
import { systemClock } from '../../src/core/clock.ts'
import { createLog } from '../../src/core/log.ts'
import { type OperationDeps, operations } from '../../src/operations.ts'
import { Authenticator } from '../../src/transport/auth.ts'
import { FailedKeys } from '../../src/transport/failed-keys.ts'
import type { HttpEnv } from '../../src/transport/http.ts'
import { type McpDeps, type McpOptions as MountOptions, mountMcp } from '../../src/transport/mcp.ts'
import type { Api, ApiHeaders, ApiResponse, JsonBody, TestApp } from './app.ts'

/** The two ways to speak MCP over HTTP: revisions up to 2025-11-25, and 2026-07-28 with its `_meta` and headers on every request. */
export const ERAS = ['2025-11-25', '2026-07-28'] as const
export type Era = (typeof ERAS)[number]

export type Message = { jsonrpc: '2.0'; id: string | number; method: string; params?: Record<string, unknown> }
type Params = Record<string, unknown>
type Rpc = { readonly code: number; readonly message: string; readonly data?: JsonBody }

/** An answer with the parts of a JSON-RPC response that tests look at. */
export type RpcResponse = ApiResponse & { readonly result: Result; readonly rpcError: Rpc; readonly id: unknown }
export type Result = {
  readonly [field: string]: unknown
  readonly content: readonly { readonly type: string; readonly text: string }[]
  readonly structuredContent: JsonBody
  readonly isError?: true
  readonly tools: readonly { readonly name: string; readonly [field: string]: unknown }[]
  readonly contents: readonly { readonly uri: string; readonly mimeType: string; readonly text: string }[]
}

export type McpOptions = { key?: string; era?: Era; id?: string | number; headers?: ApiHeaders; meta?: Params }

/** A request as a client of that era sends it: headers and body. */
export function mcpRequest(method: string, params: Params, options: McpOptions = {}): { headers: ApiHeaders; message: Message } {
  const { era = '2025-11-25', id = 1, meta } = options
  const modern = era === '2026-07-28'
  const envelope = {
    'io.modelcontextprotocol/protocolVersion': era,
    'io.modelcontextprotocol/clientCapabilities': {},
    'io.modelcontextprotocol/clientInfo': { name: 'tests', version: '1' },
  }
  const name = method === 'resources/read' ? params.uri : params.name
  return {
    headers: {
      Accept: 'application/json, text/event-stream',
      'Mcp-Protocol-Version': era,
      ...(modern && { 'Mcp-Method': method }),
      ...(modern && typeof name === 'string' && method !== 'completion/complete' && { 'Mcp-Name': name }),
      ...options.headers,
    },
    message: {
      jsonrpc: '2.0',
      id,
      method,
      params: { ...params, ...((modern || meta) && { _meta: { ...(modern && envelope), ...meta } }) },
    },
  }
}

/** Sends MCP requests to the app in-process. */
export function mcpOf(api: Api) {
  const request = async (method: string, params: Params = {}, options: McpOptions = {}): Promise<RpcResponse> => {
    const { headers, message } = mcpRequest(method, params, options)
    return rpcResponse(await api.post('/mcp', message, options.key, headers))
  }
  const call = (name: string, args: Params, options?: McpOptions) => request('tools/call', { name, arguments: args }, options)
  return { request, call }
}

export function rpcResponse(response: ApiResponse): RpcResponse {
  const { result, error, id } = response.body as unknown as { result: Result; error: Rpc; id: unknown }
  return { ...response, result, rpcError: error, id }
}

/** The error body of a tool call that failed. */
export function toolError({ result }: RpcResponse): JsonBody {
  if (result.isError !== true || result.structuredContent !== undefined)
    throw new Error(`not a tool error: ${JSON.stringify(result)}`)
  return JSON.parse(result.content[0]!.text) as JsonBody
}

/** `/mcp` alone, over the keys and operations of a test's app, with parts exchanged. */
export function mountedMcp(
  { app: { keys, execute } }: Pick<TestApp, 'app'>,
  parts: Partial<McpDeps<OperationDeps> & MountOptions> = {},
): Hono<HttpEnv> {
  const failures = new FailedKeys({ clock: systemClock }, { perMinute: 0 })
  const auth = new Authenticator({ keys, failures }, { adminSecret: undefined })
  const options = { version: '1.2.3', bindHost: '127.0.0.1', publicUrl: undefined, trustedProxies: 0, bodyLimit_bytes: 64 * 1024 }
  const mounted = new Hono<HttpEnv>()
  mountMcp(mounted, { operations, execute, auth, log: createLog('silent'), ...parts }, { ...options, ...parts })
  return mounted
}
