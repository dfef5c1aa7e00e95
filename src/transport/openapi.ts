import { z } from 'zod'
import { type ErrorCode, errorCodes, statusOf } from '../core/errors.ts'
import { isReplayable, mutates, type Operation } from '../core/operation.ts'
import { examples } from './examples.ts'

/** The part of JSON Schema 2020-12 that zod writes. */
export type Schema = {
  readonly $ref?: string
  readonly type?: string | readonly string[]
  readonly description?: string
  readonly enum?: readonly unknown[]
  readonly properties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly items?: Schema
  readonly anyOf?: readonly Schema[]
  readonly allOf?: readonly Schema[]
  readonly [keyword: string]: unknown
}
type Content = {
  readonly 'application/json': { readonly schema: Schema; readonly example?: unknown }
  readonly [type: string]: { readonly schema: Schema; readonly example?: unknown }
}
export type ParameterObject = {
  readonly name: string
  readonly in: 'path' | 'query' | 'header'
  readonly required: boolean
  readonly description?: string
  readonly schema: Schema
  readonly example?: unknown
}
export type ResponseObject = {
  readonly description: string
  readonly headers?: Readonly<Record<string, unknown>>
  readonly content: Content
  /** Which codes `error` may have here. */
  readonly 'x-error-codes'?: readonly ErrorCode[]
}
export type OperationObject = {
  readonly operationId: string
  readonly summary: string
  readonly description: string
  readonly tags: readonly string[]
  readonly security?: readonly Readonly<Record<string, readonly string[]>>[]
  /** Scopes of a key that may call it; absent when it takes no key. */
  readonly 'x-scopes'?: readonly string[]
  /** Which agents a key bound to an agent may name: its own path and below, or only below. */
  readonly 'x-agent-rule'?: 'within' | 'below' | 'none'
  /** True when it is an MCP tool too, under the same name. */
  readonly 'x-mcp-tool'?: true
  readonly parameters?: readonly ParameterObject[]
  readonly requestBody?: { readonly required: boolean; readonly content: Content }
  readonly responses: Readonly<Record<string, ResponseObject>>
}
export type OpenApiDocument = {
  readonly openapi: string
  readonly info: { readonly title: string; readonly version: string; readonly description: string } & Readonly<
    Record<string, unknown>
  >
  readonly servers: readonly { readonly url: string; readonly description: string }[]
  readonly tags: readonly { readonly name: string; readonly description: string }[]
  readonly security: readonly Readonly<Record<string, readonly string[]>>[]
  readonly paths: Readonly<Record<string, Readonly<Record<string, OperationObject>>>>
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> } & Readonly<Record<string, unknown>>
}

/** Codes that every operation may answer. */
export const COMMON_CODES: readonly ErrorCode[] = ['invalid_params', 'internal_error', 'overloaded', 'database_unavailable']
/** … when it takes a key. */
const KEY_CODES: readonly ErrorCode[] = ['missing_api_key', 'invalid_api_key', 'forbidden']
/** … when it takes a body. */
const BODY_CODES: readonly ErrorCode[] = ['invalid_json', 'payload_too_large', 'unsupported_media_type']
/** … when it takes an `Idempotency-Key`. */
const ONCE_CODES: readonly ErrorCode[] = ['idempotency_conflict', 'idempotency_mismatch']
const WAIT_CODES: readonly ErrorCode[] = ['rate_limited', 'idempotency_conflict', 'overloaded', 'database_unavailable']

const TAGS: Record<string, string> = {
  Account: 'Accounts, keys and the quota of governance operations',
  Budget: 'Spend envelopes, clearances and their settlement',
  Rate: 'Shares of requests per minute',
  Idempotency: 'Actions that must not happen twice',
  Approvals: 'Requests to a human, and what approving them changes',
  Notifications: 'Channels that reach the people of an account',
  Webhooks: 'Events for programs',
  'Top-up': 'Buying governance operations with USDC: x402, claims by transaction, deposit addresses, receipts',
  Bookings: 'Spend that is no model call: API calls, compute, storage',
  Usage: 'Agents, what they spend and how long their budgets last',
  Models: 'Models and prices',
  Audit: 'Every decision and every change, with a chain of hashes that a third party can check',
  Admin: 'For the operator of this server',
}

/**
 * The OpenAPI 3.1 document of the operations: schemas from zod, errors from each operation's codes. Generated, never edited; the
 * committed openapi.json must equal `openApiText` of it.
 */
export function openApiDocument<D>(operations: readonly Operation<D>[], info: { version: string }): OpenApiDocument {
  const schemas: Record<string, Schema> = { Error: errorSchema() }
  const paths: Record<string, Record<string, OperationObject>> = {}
  for (const operation of operations) {
    const name = `${camel(operation.name)}Result`
    schemas[name] = open(clean(z.toJSONSchema(operation.output, { io: 'output' })))
    paths[operation.path] = { ...paths[operation.path], [operation.method]: describe(operation, name) }
  }
  const tags = [...new Set(operations.map((operation) => operation.tag))].map((name) => ({
    name,
    description: TAGS[name] ?? name,
  }))
  return {
    openapi: '3.1.1',
    info: {
      title: 'Gvnr',
      version: info.version,
      summary: 'Spend authority for AI agents',
      description:
        'Clear the spend before the model call, reconcile after it. A denial is not an HTTP error: it answers 200 with approved:false or allowed:false. Money is in US dollars rounded to 6 places, times are Unix milliseconds. Beside what is listed here, the LLM proxy speaks the formats of the providers: POST /v1/chat/completions, /v1/responses, /v1/embeddings (OpenAI), /v1/messages and /v1/messages/count_tokens (Anthropic).',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/', description: 'This server; every path also answers below /api' }],
    tags,
    security: [{ bearer: [] }, { apiKeyHeader: [] }, { apiKeyQuery: [] }],
    paths,
    components: {
      schemas,
      headers: HEADERS,
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'A bg_ key' },
        apiKeyHeader: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'A bg_ key' },
        apiKeyQuery: { type: 'apiKey', in: 'query', name: 'api_key', description: 'For clients that cannot send headers' },
        adminSecret: {
          type: 'apiKey',
          in: 'header',
          name: 'X-Admin-Secret',
          description: 'The operator secret; X-Admin-Token works too',
        },
      },
    },
  }
}

/** The document as it is committed and served. */
export const openApiText = (document: OpenApiDocument): string => `${JSON.stringify(document, null, 2)}\n`

function describe<D>(operation: Operation<D>, resultName: string): OperationObject {
  const example = examples[operation.name]
  const input = clean(z.toJSONSchema(operation.input, { io: 'input' }))
  const properties = Object.entries(input.properties ?? {})
  const required = new Set(input.required)
  const inPath = new Set([...operation.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name))
  const isInQuery = (name: string) => !mutates(operation) || operation.query?.includes(name) === true
  const bodyNames = properties.map(([name]) => name).filter((name) => !isInQuery(name) && !inPath.has(name))
  const parameters: ParameterObject[] = properties
    .filter(([name]) => !bodyNames.includes(name))
    .map(([name, { description, ...schema }]) => ({
      name,
      in: inPath.has(name) ? 'path' : 'query',
      required: required.has(name),
      ...(description !== undefined && { description }),
      schema,
      ...(example?.request?.[name] !== undefined && { example: example.request[name] }),
    }))
  if (isReplayable(operation)) parameters.push(IDEMPOTENCY_KEY)
  const body: Schema = {
    type: 'object',
    properties: Object.fromEntries(properties.filter(([name]) => bodyNames.includes(name))),
    ...(bodyNames.some((name) => required.has(name)) && { required: bodyNames.filter((name) => required.has(name)) }),
  }
  const { access } = operation
  return {
    operationId: operation.name,
    summary: operation.title,
    description: operation.description,
    tags: [operation.tag],
    ...(access.kind === 'public' && { security: [] }),
    ...(access.kind === 'admin' && { security: [{ adminSecret: [] }] }),
    ...(access.kind === 'key' && { 'x-scopes': access.scopes }),
    ...(access.kind === 'key' && access.agentRule !== undefined && { 'x-agent-rule': access.agentRule }),
    ...(operation.tool !== undefined && { 'x-mcp-tool': true as const }),
    ...(parameters.length > 0 && { parameters }),
    ...(bodyNames.length > 0 && {
      requestBody: { required: true, content: json(body, example?.request && pick(example.request, bodyNames)) },
    }),
    responses: {
      [operation.status ?? 200]: {
        description: 'Success',
        headers: {
          'X-Request-Id': header('RequestId'),
          ...(isReplayable(operation) && { 'Idempotent-Replayed': header('Replayed') }),
        },
        content: {
          ...json({ $ref: `#/components/schemas/${resultName}` }, example?.response),
          ...Object.fromEntries(operation.streams?.types.map((type) => [type, { schema: { type: 'string' } }]) ?? []),
        },
      },
      ...errorResponses(operation, resultName),
    },
  }
}

const IDEMPOTENCY_KEY: ParameterObject = {
  name: 'Idempotency-Key',
  in: 'header',
  required: false,
  description: 'Makes the call safe to repeat: the first response is stored and replayed for 24 hours',
  schema: { type: 'string', minLength: 1, maxLength: 256 },
}

const HEADERS = {
  RequestId: { description: 'Names this request in the server log', schema: { type: 'string' } },
  RetryAfter: { description: 'Seconds to wait before trying again', schema: { type: 'integer' } },
  Replayed: {
    description: 'true when this is the stored response of an earlier request with the same Idempotency-Key',
    schema: { type: 'string', enum: ['true'] },
  },
}
const header = (name: keyof typeof HEADERS) => ({ $ref: `#/components/headers/${name}` })

function errorResponses<D>(operation: Operation<D>, resultName: string): Record<string, ResponseObject> {
  const status = (code: ErrorCode) => operation.errorStatus?.[code] ?? statusOf(code)
  const codes = new Set<ErrorCode>([
    ...COMMON_CODES,
    ...(operation.access.kind === 'key' ? KEY_CODES : []),
    ...(operation.access.kind === 'admin' ? (['unauthorized'] as const) : []),
    ...(mutates(operation) ? BODY_CODES : []),
    ...(isReplayable(operation) ? ONCE_CODES : []),
    ...(operation.errors ?? []),
  ])
  const isDenial = (status: number): boolean => operation.denial?.status === status
  const orDenial = (status: number, error: Schema): Schema =>
    isDenial(status) ? { anyOf: [error, { $ref: `#/components/schemas/${resultName}` }] } : error
  const byStatus = new Map<number, ErrorCode[]>()
  for (const code of codes) byStatus.set(status(code), [...(byStatus.get(status(code)) ?? []), code])
  return Object.fromEntries(
    [...byStatus]
      .sort(([a], [b]) => a - b)
      .map(([status, list]): [string, ResponseObject] => [
        String(status),
        {
          description: [...list.map((code) => `\`${code}\``), ...(isDenial(status) ? ['or a denial'] : [])].join(', '),
          headers: {
            'X-Request-Id': header('RequestId'),
            ...(list.some((code) => WAIT_CODES.includes(code)) && { 'Retry-After': header('RetryAfter') }),
          },
          content: json(
            orDenial(status, {
              allOf: [
                { $ref: '#/components/schemas/Error' },
                { type: 'object', properties: { error: { type: 'string', enum: list } } },
              ],
            }),
          ),
          'x-error-codes': list,
        },
      ]),
  )
}

const json = (schema: Schema, example?: unknown): Content => ({
  'application/json': { schema, ...(example !== undefined && { example }) },
})

const pick = (from: Readonly<Record<string, unknown>>, names: readonly string[]): Record<string, unknown> =>
  Object.fromEntries(Object.entries(from).filter(([name]) => names.includes(name)))

function errorSchema(): Schema {
  return {
    type: 'object',
    description: 'What went wrong and what to do next.',
    properties: {
      error: { type: 'string', enum: errorCodes, description: 'A stable code' },
      hint: { type: 'string', description: 'What to do next' },
      retryable: { type: 'boolean', description: 'Whether sending the same request again can succeed' },
      required: { type: 'array', items: { type: 'string' }, description: 'invalid_params: every required field' },
      issues: {
        type: 'array',
        description: 'invalid_params: what is wrong, field by field',
        items: {
          type: 'object',
          properties: { path: { type: 'string' }, message: { type: 'string' } },
          required: ['path', 'message'],
        },
      },
      allowed: { type: 'array', items: { type: 'string' }, description: 'method_not_allowed: the methods of this path' },
      retry_after_ms: { type: 'integer', description: 'rate_limited: how long to wait' },
      request_id: { type: 'string', description: 'internal_error: what to report' },
    },
    required: ['error', 'hint', 'retryable'],
  }
}

const camel = (name: string): string =>
  name
    .split('_')
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join('')

type Node = Readonly<Record<string, unknown>>
const isNode = (value: unknown): value is Node => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Applies `change` to a schema and everything in it, innermost first. */
function walk(value: unknown, change: (node: Node) => Node): unknown {
  if (Array.isArray(value)) return value.map((item) => walk(item, change))
  if (!isNode(value)) return value
  return change(Object.fromEntries(Object.entries(value).map(([key, child]) => [key, walk(child, change)])))
}

const without = (node: Node, drop: (key: string, value: unknown) => boolean): Node =>
  Object.fromEntries(Object.entries(node).filter(([key, value]) => !drop(key, value)))

/** Drops the dialect marker, and bounds that say nothing: JSON numbers are integers only up to 2^53 anyway. */
const clean = (schema: unknown): Schema =>
  walk(schema, (node) =>
    without(
      node,
      (key, value) =>
        key === '$schema' ||
        ((key === 'maximum' || key === 'minimum') && typeof value === 'number' && Math.abs(value) === Number.MAX_SAFE_INTEGER),
    ),
  ) as Schema

/** Results may gain fields: a client must not refuse those it does not know. */
const open = (schema: Schema): Schema =>
  walk(schema, (node) => without(node, (key, value) => key === 'additionalProperties' && value === false)) as Schema
