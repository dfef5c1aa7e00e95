import { limitsFor, longLimitsFor } from '../prices/limits.ts'
import { ProxyError } from './answers.ts'
import { type Bound, boundOf, countOf, largestOf } from './bound.ts'
import { type Body, contentOf, isAbsent, isObject, READ_FIELDS, toolsOf } from './content.ts'
import type { Headers } from './headers.ts'
import { type Edit, notJson, scanObject, splice } from './json.ts'
import type { Route, RouteKind } from './routes.ts'
import type { Choice, Upstreams } from './upstreams.ts'

/** A model that may answer a call, or work for it. */
export type PlannedModel = {
  /** Its id at the provider. */
  readonly id: string
  /** As the caller names it. */
  readonly model: string
  readonly bound: Bound
  /** True for the model of a tool: it works beside the others, not in their place. */
  readonly isBeside: boolean
}

/** A call as it will be forwarded. */
export type PlannedCall = {
  /** The model as the caller names it. */
  readonly model: string
  /** Further models that the provider may use; they may be dearer. */
  readonly alternatives: readonly string[]
  /** The call's model, then the alternatives, each with what it can use. */
  readonly models: readonly [PlannedModel, ...PlannedModel[]]
  readonly choice: Choice
  readonly isStream: boolean
  readonly bytes: Buffer
  /** The stream's usage is asked for by us and its extra event is none of the client's business. */
  readonly hidesUsage: boolean
  /** What the model that answers can use, whichever that will be. */
  readonly bound: Bound
  /** The provider goes on with it when its client has left. */
  readonly runsOn: boolean
}

const MAX_MODEL_LENGTH = 128
const MAX_ALTERNATIVES = 16

/**
 * Reads a request and prepares what is forwarded: the same bytes, but for the model's prefix and the wish for usage.
 * @param headers the caller's: a beta can lengthen the model's window
 * @throws ProxyError when it cannot be understood well enough to be priced
 */
export function planCall(route: Route, bytes: Buffer, upstreams: Upstreams, headers: Headers): PlannedCall {
  const { fields } = scanObject(bytes)
  const body = parseBody(bytes)
  if (fields === null) throw invalid('A field occurs twice in the body. Send each once.')
  checkFields(body, fields.keys())
  const { model } = body
  if (typeof model !== 'string' || model === '') throw invalid('model is required: the id of the model to call.')
  if (!isStorable(model)) throw invalid(`model must be at most ${MAX_MODEL_LENGTH} characters of valid text.`)
  const choice = upstreams.choose(route, model)
  const edits: Edit[] = []
  const at = fields.get('model')
  if (choice.model !== model && at !== undefined) edits.push({ ...at, text: JSON.stringify(choice.model) })
  const isStream = body.stream === true
  const asksForUsage = route.kind === 'chat' && isStream && choice.upstream.takesUsageOption && !hasUsage(body)
  if (asksForUsage) edits.push(usageEdit(body, fields, bytes))
  const models = modelsOf(route.kind, body, bytes.length, { model, choice, headers })
  const [first, ...others] = models
  return {
    model,
    alternatives: others.map((other) => other.model),
    models,
    choice,
    isStream,
    bytes: splice(bytes, edits),
    hidesUsage: asksForUsage,
    bound: largestOf([first.bound, ...others.filter(({ isBeside }) => !isBeside).map(({ bound }) => bound)]),
    runsOn: route.kind === 'responses' && Boolean(body.background),
  }
}

function parseBody(bytes: Buffer): Body {
  let body: unknown
  try {
    body = JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw notJson(cause)
  }
  if (typeof body !== 'object' || body === null || Array.isArray(body)) throw invalid('The body must be a JSON object.')
  return body as Body
}

const invalid = (message: string): ProxyError => new ProxyError(400, 'invalid_params', message)

const isStorable = (model: string): boolean => model.length <= MAX_MODEL_LENGTH && !model.includes('\0') && model.isWellFormed()

function hasUsage(body: Body): boolean {
  const options = body.stream_options
  return typeof options === 'object' && options !== null && 'include_usage' in options && options.include_usage === true
}

function usageEdit(body: Body, fields: ReadonlyMap<string, { start: number; end: number }>, bytes: Buffer): Edit {
  const at = fields.get('stream_options')
  const options = typeof body.stream_options === 'object' ? body.stream_options : {}
  if (at !== undefined) return { ...at, text: JSON.stringify({ ...options, include_usage: true }) }
  const end = bytes.lastIndexOf(0x7d)
  return { start: end, end, text: ',"stream_options":{"include_usage":true}' }
}

type Named = { readonly model: string; readonly choice: Choice; readonly headers: Headers }

function modelsOf(kind: RouteKind, body: Body, bytes: number, { model, choice, headers }: Named): PlannedCall['models'] {
  const content = contentOf(body, bytes)
  const isLongAskedFor = /context-1m/i.test(String(headers['anthropic-beta']))
  // Anthropic has the long context for those who ask; other hosts of its models give it to everybody.
  const isAlwaysLong = choice.upstream.name !== 'anthropic'
  const limitsOf = (name: string) => (isAlwaysLong || isLongAskedFor ? longLimitsFor(name, isLongAskedFor) : limitsFor(name))
  const planned = (name: string, of: Body, isBeside: boolean): PlannedModel => {
    return { id: name, model: name, bound: boundOf(kind, of, content, name, limitsOf(name)), isBeside }
  }
  const alternatives = [...fallbacksOf(body, 'models'), ...fallbacksOf(body, 'fallbacks')]
  const helpers = kind === 'messages' ? toolsOf(body).filter((tool) => !isAbsent(tool.model)) : []
  if (alternatives.length + helpers.length > MAX_ALTERNATIVES)
    throw invalid(`At most ${MAX_ALTERNATIVES} further models can be named.`)
  // What a tool's model writes is not part of what the caller's maximum counts.
  const besides = { ...body, max_tokens: null, tools: null, context_management: null }
  return [
    { ...planned(model, body, false), id: choice.model },
    // An entry may have settings of its own.
    ...alternatives.map((entry) => planned(entry.model, { ...body, ...entry }, false)),
    ...helpers.map((tool) => planned(modelIn(tool, 'tools'), besides, true)),
  ]
}

/** OpenRouter's `models` and Anthropic's `fallbacks`: ids, or objects that have one. */
function fallbacksOf(body: Body, field: 'models' | 'fallbacks'): (Body & { readonly model: string })[] {
  const list = body[field]
  if (isAbsent(list)) return []
  if (!Array.isArray(list)) throw invalid(`${field} must be a list of models.`)
  return list.map((item: unknown) => {
    const entry = isObject(item) ? item : { model: item }
    if (isObject(item)) checkCounts(item, `${field}: `)
    return { ...entry, model: modelIn(entry, field) }
  })
}

function modelIn({ model }: Body, field: string): string {
  if (typeof model === 'string' && model !== '' && isStorable(model)) return model
  throw invalid(`${field}: each model must be an id of at most ${MAX_MODEL_LENGTH} characters of valid text.`)
}

const READ = new Set<string>([...READ_FIELDS, 'model', 'models', 'fallbacks', 'stream', 'stream_options'])
const LONGEST_READ = Math.max(...[...READ].map((name) => name.length))

/** What one reader takes for a field of its own and another one does not is refused. */
function checkFields(body: Body, names: Iterable<string>): void {
  for (const name of names) {
    if (name.length > LONGEST_READ || READ.has(name)) continue
    // Both ways: some letters have a second lower case.
    const folded = name.toUpperCase().toLowerCase()
    if (READ.has(folded)) throw invalid(`"${name}" is not a field. Write "${folded}".`)
  }
  checkCounts(body, '')
  if (!isAbsent(body.stream) && typeof body.stream !== 'boolean') throw invalid('stream must be true or false.')
  for (const tool of toolsOf(body)) checkCount(tool.max_uses, 'tools: max_uses')
}

const COUNTS = ['n', 'best_of', 'max_tokens', 'max_completion_tokens', 'max_output_tokens'] as const

function checkCounts(body: Body, where: string): void {
  for (const name of COUNTS) checkCount(body[name], `${where}${name}`)
}

function checkCount(value: unknown, name: string): void {
  if (!isAbsent(value) && countOf(value) === undefined) throw invalid(`${name} must be a positive whole number.`)
}
