/** The parts of an OpenAPI 3.1 document that the reference shows. */
export type Schema = {
  readonly $ref?: string
  readonly type?: string | readonly string[]
  readonly description?: string
  readonly enum?: readonly unknown[]
  readonly properties?: Readonly<Record<string, Schema>>
  readonly required?: readonly string[]
  readonly items?: Schema
  readonly anyOf?: readonly Schema[]
  readonly [keyword: string]: unknown
}
type Content = { readonly 'application/json': { readonly schema: Schema; readonly example?: unknown } }
export type ApiOperation = {
  readonly operationId: string
  readonly summary: string
  readonly description: string
  readonly tags: readonly string[]
  readonly security?: readonly object[]
  readonly 'x-scopes'?: readonly string[]
  readonly 'x-agent-rule'?: 'within' | 'below' | 'none'
  readonly 'x-mcp-tool'?: boolean
  readonly parameters?: readonly {
    readonly name: string
    readonly in: 'path' | 'query' | 'header'
    readonly required: boolean
    readonly description?: string
    readonly schema: Schema
    readonly example?: unknown
  }[]
  readonly requestBody?: { readonly content: Content }
  readonly responses: Readonly<Record<string, { readonly content: Content; readonly 'x-error-codes'?: readonly string[] }>>
}
export type ApiDocument = {
  readonly tags: readonly { readonly name: string; readonly description: string }[]
  readonly paths: Readonly<Record<string, Readonly<Record<string, ApiOperation>>>>
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> }
}

export type Route = { readonly method: string; readonly path: string; readonly operation: ApiOperation }

/** One line of a table of inputs or results; nested fields have dotted names, `[]` marks the items of a list. */
export type Field = {
  readonly name: string
  readonly place: 'path' | 'query' | 'header' | 'body' | 'result'
  readonly kind: string
  readonly required: boolean
  readonly description: string
}

/** Every operation of one tag, in the document's order. */
export const routesOf = (document: ApiDocument, tag: string): Route[] =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods)
      .filter(([, operation]) => operation.tags.includes(tag))
      .map(([method, operation]) => ({ method, path, operation })),
  )

/** Path, query and body fields. Headers are the same for every operation and explained once. */
export function inputsOf(document: ApiDocument, operation: ApiOperation): Field[] {
  const parameters = (operation.parameters ?? [])
    .filter((parameter) => parameter.in !== 'header')
    .map(({ name, in: place, required, description, schema }) => ({
      name,
      place,
      kind: kindOf(document, schema),
      required,
      description: description ?? '',
    }))
  const body = operation.requestBody?.content['application/json'].schema
  return [...parameters, ...(body ? fieldsOf(document, body, 'body') : [])]
}

/** The successful answer: its status, fields and example. */
export function resultOf(document: ApiDocument, operation: ApiOperation): { status: string; fields: Field[]; example: unknown } {
  const [status, response] = Object.entries(operation.responses).find(([code]) => code.startsWith('2')) ?? []
  if (status === undefined || response === undefined) throw new Error(`${operation.operationId} has no successful response`)
  const { schema, example } = response.content['application/json']
  return { status, fields: fieldsOf(document, schema, 'result'), example }
}

export const errorsOf = (operation: ApiOperation): { status: string; codes: readonly string[] }[] =>
  Object.entries(operation.responses).flatMap(([status, response]) =>
    response['x-error-codes'] === undefined ? [] : [{ status, codes: response['x-error-codes'] }],
  )

/** A command line that makes the call with the example's values. */
export function curlOf({ method, path, operation }: Route, origin: string): string {
  const filled = (operation.parameters ?? [])
    .filter((parameter) => parameter.in === 'path')
    .reduce((url, { name, example }) => url.replace(`{${name}}`, encodeURIComponent(String(example ?? name))), path)
  const isAdmin = operation.security?.some((requirement) => 'adminSecret' in requirement) === true
  const isPublic = operation.security?.length === 0
  const body = operation.requestBody?.content['application/json'].example
  const parts = [
    method === 'get' || (method === 'post' && body !== undefined)
      ? `curl ${origin}${filled}`
      : `curl -X ${method.toUpperCase()} ${origin}${filled}`,
    ...(isAdmin ? ['-H "X-Admin-Secret: $ADMIN_SECRET"'] : isPublic ? [] : ['-H "Authorization: Bearer $GVNR_KEY"']),
    ...(body === undefined ? [] : ["-H 'Content-Type: application/json'", `-d '${shellJson(body)}'`]),
  ]
  return parts.join(' \\\n  ')
}

const LINE = 60

/** On one line where it fits, else one field a line. No value of an example holds a single quote. */
function shellJson(body: unknown): string {
  const line = JSON.stringify(body)
  return line.length <= LINE ? line : JSON.stringify(body, null, 2).replaceAll('\n', '\n  ')
}

const MAX_DEPTH = 4

function fieldsOf(document: ApiDocument, schema: Schema, place: Field['place'], prefix = '', depth = 0): Field[] {
  const { properties, required } = resolve(document, schema)
  return Object.entries(properties ?? {}).flatMap(([name, property]) => {
    const field: Field = {
      name: prefix + name,
      place,
      kind: kindOf(document, property),
      required: required?.includes(name) ?? false,
      description: property.description ?? '',
    }
    const inner = resolve(document, property)
    const isList = inner.items !== undefined
    const nested = isList ? resolve(document, inner.items ?? {}) : inner
    if (nested.properties === undefined || depth === MAX_DEPTH) return [field]
    return [field, ...fieldsOf(document, nested, place, `${prefix}${name}${isList ? '[]' : ''}.`, depth + 1)]
  })
}

function resolve(document: ApiDocument, schema: Schema): Schema {
  if (schema.$ref === undefined) return schema
  const found = document.components.schemas[schema.$ref.slice(schema.$ref.lastIndexOf('/') + 1)]
  if (found === undefined) throw new Error(`${schema.$ref} is not in the document`)
  return found
}

/** A type in few words: `integer, 1 to 100`, `"daily" or "weekly"`, `string or null`. */
export function kindOf(document: ApiDocument, schema: Schema): string {
  const known = resolve(document, schema)
  if (known.anyOf) return known.anyOf.map((option) => kindOf(document, option)).join(' or ')
  if (known.const !== undefined) return JSON.stringify(known.const)
  if (known.enum) return known.enum.map((value) => JSON.stringify(value)).join(', ')
  if (known.type === 'array') return `list of ${plural(kindOf(document, known.items ?? {}))}`
  const range = rangeOf(known)
  return `${known.type ?? 'any'}${range && `, ${range}`}`
}

const plural = (kind: string): string => kind.replace(/^(object|string|integer|number)/, '$1s')

function rangeOf(schema: Schema): string {
  if (schema.type === 'string') {
    const { minLength, maxLength } = schema
    return maxLength === undefined ? '' : `${String(minLength ?? 0)} to ${String(maxLength)} characters`
  }
  const { minimum, exclusiveMinimum, maximum } = schema
  const low = exclusiveMinimum === undefined ? minimum : exclusiveMinimum
  if (low === undefined && maximum === undefined) return ''
  const from = exclusiveMinimum === undefined ? String(number(low)) : `above ${number(low)}`
  if (maximum === undefined) return exclusiveMinimum === undefined ? `${from} or more` : from
  return `${from} ${exclusiveMinimum === undefined ? 'to' : 'and up to'} ${number(maximum)}`
}

const number = (value: unknown): string => (typeof value === 'number' ? value.toLocaleString('en-US') : '0')
