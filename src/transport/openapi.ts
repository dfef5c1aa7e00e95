import { z } from 'zod'
import { type ErrorCode, errorCodes, statusOf } from '../core/errors.ts'
import { mutates, type Operation } from '../core/operation.ts'

type Json = Record<string, unknown>

/** Codes that any operation with a key may answer, besides its own. */
const COMMON: readonly ErrorCode[] = ['invalid_params', 'internal_error', 'overloaded', 'database_unavailable']
const BODY: readonly ErrorCode[] = [
  'invalid_json',
  'payload_too_large',
  'unsupported_media_type',
  'idempotency_conflict',
  'idempotency_mismatch',
]

/**
 * The OpenAPI 3.1 document of the operations: schemas from zod, errors from each operation's codes. Generated, never edited; the
 * committed openapi.json must equal it.
 */
export function openApiDocument<D>(operations: readonly Operation<D>[], info: { version: string }): Json {
  const schemas: Json = { Error: errorSchema() }
  const paths: Record<string, Json> = {}
  for (const operation of operations) {
    const name = `${camel(operation.name)}Result`
    schemas[name] = clean(z.toJSONSchema(operation.output, { io: 'output' }))
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
        'Clear the spend before the model call, reconcile after it. A denial is not an HTTP error: it answers 200 with approved:false or allowed:false. Money is in US dollars rounded to 6 places, times are Unix milliseconds.',
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [{ url: '/', description: 'This server; every path also answers below /api' }],
    tags,
    security: [{ bearer: [] }, { apiKeyHeader: [] }, { apiKeyQuery: [] }],
    paths,
    components: {
      schemas,
      securitySchemes: {
        bearer: { type: 'http', scheme: 'bearer', description: 'A bg_ key' },
        apiKeyHeader: { type: 'apiKey', in: 'header', name: 'X-API-Key' },
        apiKeyQuery: { type: 'apiKey', in: 'query', name: 'api_key', description: 'For clients that cannot send headers' },
        adminSecret: { type: 'apiKey', in: 'header', name: 'X-Admin-Secret', description: 'The operator secret' },
      },
    },
  }
}

const TAGS: Record<string, string> = {
  Account: 'Accounts, keys and the quota of governance operations',
  Budget: 'Spend envelopes, clearances and their settlement',
  Rate: 'Shares of requests per minute',
  Idempotency: 'Actions that must not happen twice',
  'Top-up': 'Buying governance operations with USDC: x402, claims by transaction, deposit addresses, receipts',
  Models: 'Models and prices',
  Admin: 'For the operator of this server',
}

function describe<D>(operation: Operation<D>, resultName: string): Json {
  const input = clean(z.toJSONSchema(operation.input, { io: 'input' })) as {
    properties?: Record<string, Json>
    required?: string[]
  }
  const properties = Object.entries(input.properties ?? {})
  const required = new Set(input.required)
  const inPath = new Set([...operation.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name))
  const isInQuery = (name: string) => !mutates(operation) || operation.query?.includes(name) === true
  const inBody = properties.filter(([name]) => !isInQuery(name) && !inPath.has(name))
  const parameters: Json[] = properties
    .filter(([name]) => inPath.has(name) || isInQuery(name))
    .map(([name, { description, ...schema }]) => ({
      name,
      in: inPath.has(name) ? 'path' : 'query',
      required: required.has(name),
      ...(description !== undefined && { description }),
      schema,
    }))
  if (mutates(operation) && operation.access.kind !== 'public') {
    parameters.push({
      name: 'Idempotency-Key',
      in: 'header',
      required: false,
      description: 'Replays the first response for 24 hours',
      schema: { type: 'string', minLength: 1, maxLength: 256 },
    })
  }
  return {
    operationId: operation.name,
    summary: operation.title,
    description: operation.description,
    tags: [operation.tag],
    ...(operation.access.kind === 'public' && { security: [] }),
    ...(operation.access.kind === 'admin' && { security: [{ adminSecret: [] }] }),
    ...(parameters.length > 0 && { parameters }),
    ...(inBody.length > 0 && {
      requestBody: {
        required: true,
        content: json({
          type: 'object',
          properties: Object.fromEntries(inBody),
          required: inBody.map(([name]) => name).filter((name) => required.has(name)),
        }),
      },
    }),
    responses: {
      [operation.status ?? 200]: { description: 'Success', content: json({ $ref: `#/components/schemas/${resultName}` }) },
      ...errorResponses(operation),
    },
  }
}

function errorResponses<D>(operation: Operation<D>): Json {
  const status = (code: ErrorCode) => operation.errorStatus?.[code] ?? statusOf(code)
  const codes = new Set<ErrorCode>([...COMMON, ...(mutates(operation) ? BODY : []), ...(operation.errors ?? [])])
  if (operation.access.kind === 'key')
    for (const code of ['missing_api_key', 'invalid_api_key', 'forbidden'] as const) codes.add(code)
  if (operation.access.kind === 'admin') codes.add('unauthorized')
  const byStatus = new Map<number, ErrorCode[]>()
  for (const code of codes) byStatus.set(status(code), [...(byStatus.get(status(code)) ?? []), code])
  return Object.fromEntries(
    [...byStatus]
      .sort(([a], [b]) => a - b)
      .map(([status, list]) => [
        status,
        { description: list.map((code) => `\`${code}\``).join(', '), content: json({ $ref: '#/components/schemas/Error' }) },
      ]),
  )
}

const json = (schema: unknown): Json => ({ 'application/json': { schema } })

function errorSchema(): Json {
  return {
    type: 'object',
    description: 'What went wrong and what to do next.',
    properties: {
      error: { type: 'string', enum: errorCodes, description: 'A stable code' },
      hint: { type: 'string', description: 'What to do next' },
      retryable: { type: 'boolean', description: 'Whether sending the same request again can succeed' },
      required: { type: 'array', items: { type: 'string' } },
      issues: {
        type: 'array',
        items: {
          type: 'object',
          properties: { path: { type: 'string' }, message: { type: 'string' } },
          required: ['path', 'message'],
        },
      },
      retry_after_ms: { type: 'integer' },
      request_id: { type: 'string' },
    },
    required: ['error', 'hint', 'retryable'],
  }
}

const camel = (name: string): string =>
  name
    .split('_')
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join('')

/** Drops the dialect marker, and bounds that say nothing: JSON numbers are integers only up to 2^53 anyway. */
function clean(schema: unknown): Json {
  if (Array.isArray(schema)) return schema.map(clean) as unknown as Json
  if (typeof schema !== 'object' || schema === null) return schema as unknown as Json
  return Object.fromEntries(
    Object.entries(schema)
      .filter(
        ([key, value]) =>
          key !== '$schema' &&
          !((key === 'maximum' || key === 'minimum') && Math.abs(value as number) === Number.MAX_SAFE_INTEGER),
      )
      .map(([key, value]) => [key, clean(value)]),
  )
}
