import {
  type CompleteResult,
  type GetPromptResult,
  type Prompt,
  ProtocolError,
  ProtocolErrorCode,
  type ReadResourceResult,
  type Resource,
  type ResourceTemplateType,
} from '@modelcontextprotocol/server'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Execute, Operation } from '../core/operation.ts'
import { failureBody, type McpCall, viewUri } from './mcp-tools.ts'

const ENVELOPES_URI = 'budget://envelopes'
const ENVELOPE_PREFIX = 'budget://envelope/'
const MIME_TYPE = 'application/json'
/** HTML that speaks with its host as MCP Apps says (SEP-1865). */
export const VIEW_TYPE = 'text/html;profile=mcp-app'
/** Most values one completion may hold (MCP schema, CompleteResult). */
const MAX_COMPLETIONS = 100

export const RESOURCES: Resource[] = [
  {
    uri: ENVELOPES_URI,
    name: 'envelopes',
    title: 'All spend envelopes',
    description: 'Limit, spend and what is left of every envelope this key may read.',
    mimeType: MIME_TYPE,
  },
]

export const RESOURCE_TEMPLATES: ResourceTemplateType[] = [
  {
    uriTemplate: `${ENVELOPE_PREFIX}{agent_id}`,
    name: 'envelope',
    title: 'One spend envelope',
    description: 'Limit, spend and what is left of one agent. Encode a path: budget://envelope/team%2Fcrawler.',
    mimeType: MIME_TYPE,
  },
]

const SPEND_REVIEW = 'spend_review'

export const PROMPTS: Prompt[] = [
  {
    name: SPEND_REVIEW,
    title: "Review an agent's spend",
    description: 'Judges whether an agent stays within its envelope and what to change, from its current numbers.',
    arguments: [{ name: 'agent_id', description: 'Whose envelope to review', required: true }],
  },
]

export type McpResourcesDeps<D> = {
  readonly operations: readonly Operation<D>[]
  readonly execute: Execute<D>
  readonly log: Log
  /** HTML pages that show tool results inside a conversation, by name (MCP Apps). */
  readonly views?: Readonly<Record<string, () => Promise<string>>> | undefined
}

/** Envelopes as MCP resources, and the prompt over them. Everything is read through operations, so scopes and agent binding hold. */
export class McpResources<D> {
  readonly #getEnvelope: Operation<D>
  readonly #listEnvelopes: Operation<D>
  readonly #execute: Execute<D>
  readonly #log: Log
  readonly #views: NonNullable<McpResourcesDeps<D>['views']>

  constructor({ operations, execute, log, views = {} }: McpResourcesDeps<D>) {
    this.#views = views
    this.#getEnvelope = operationNamed(operations, 'get_envelope')
    this.#listEnvelopes = operationNamed(operations, 'list_envelopes')
    this.#execute = execute
    this.#log = log
  }

  /** @throws ProtocolError with the product's error body as data */
  async read(uri: string, call: McpCall): Promise<ReadResourceResult> {
    const view = Object.entries(this.#views).find(([name]) => viewUri(name) === uri)?.[1]
    // The same for everyone: what it shows comes with the tool's result. It needs nothing from anywhere, so the host's closed default fits.
    if (view) return { contents: [{ uri, mimeType: VIEW_TYPE, text: await view(), _meta: { ui: { prefersBorder: true } } }] }
    const body = await this.#reading(uri, call, () => this.#bodyOf(uri, call))
    return { contents: [{ uri, mimeType: MIME_TYPE, text: JSON.stringify(body) }] }
  }

  /** @throws ProtocolError with the product's error body as data */
  async prompt(name: string, args: Readonly<Record<string, string>>, call: McpCall): Promise<GetPromptResult> {
    if (name !== SPEND_REVIEW)
      throw new ProtocolError(ProtocolErrorCode.InvalidParams, `There is no prompt "${name}". There is: ${SPEND_REVIEW}.`)
    const agentId = args.agent_id ?? ''
    const uri = ENVELOPE_PREFIX + encodeURIComponent(agentId)
    const body = await this.#reading(uri, call, () => this.#envelope(agentId, call))
    return {
      description: PROMPTS[0]?.description,
      messages: [
        { role: 'user', content: { type: 'resource', resource: { uri, mimeType: MIME_TYPE, text: JSON.stringify(body) } } },
        { role: 'user', content: { type: 'text', text: reviewText(agentId) } },
      ],
    }
  }

  /** The agents with an envelope whose id starts with what is typed so far; nothing for other arguments. */
  async complete(argument: { name: string; value: string }, call: McpCall): Promise<CompleteResult> {
    if (argument.name !== 'agent_id') return { completion: { values: [], total: 0, hasMore: false } }
    const { envelopes } = await this.#reading(ENVELOPES_URI, call, () => this.#envelopes(call))
    const matching = Array.isArray(envelopes)
      ? envelopes.map(agentIdOf).filter((agentId) => agentId.startsWith(argument.value))
      : []
    const values = matching.slice(0, MAX_COMPLETIONS)
    return { completion: { values, total: matching.length, hasMore: matching.length > values.length } }
  }

  async #bodyOf(uri: string, call: McpCall): Promise<Record<string, unknown>> {
    if (uri === ENVELOPES_URI) return this.#envelopes(call)
    const agentId = uri.startsWith(ENVELOPE_PREFIX) ? decoded(uri.slice(ENVELOPE_PREFIX.length)) : null
    if (agentId === null)
      throw new DomainError('not_found', {
        hint: `Read ${ENVELOPES_URI} or ${ENVELOPE_PREFIX}{agent_id}, the agent URI-encoded.`,
      })
    return this.#envelope(agentId, call)
  }

  async #envelope(agentId: string, call: McpCall): Promise<Record<string, unknown>> {
    return (await this.#execute(this.#getEnvelope, call, { agent_id: agentId })).body
  }

  async #envelopes(call: McpCall): Promise<Record<string, unknown>> {
    return (await this.#execute(this.#listEnvelopes, call, {})).body
  }

  async #reading<T>(uri: string, call: McpCall, read: () => Promise<T>): Promise<T> {
    try {
      return await read()
    } catch (error) {
      const body = failureBody(error, call.requestId, this.#log)
      throw new ProtocolError(codeOf(error), `${body.error}: ${body.hint}`, { uri, ...body })
    }
  }
}

/** Missing resources and refused parameters are the caller's to mend (-32602); the rest is the server's. */
const codeOf = (error: unknown): ProtocolErrorCode =>
  error instanceof DomainError && error.status < 500 ? ProtocolErrorCode.InvalidParams : ProtocolErrorCode.InternalError

const agentIdOf = (envelope: unknown): string =>
  typeof envelope === 'object' && envelope !== null && 'agent_id' in envelope ? String(envelope.agent_id) : ''

function decoded(segment: string): string | null {
  try {
    return decodeURIComponent(segment)
  } catch {
    return null
  }
}

const reviewText = (agentId: string): string =>
  `Above is the spend envelope of the agent ${JSON.stringify(agentId)}: per window its limit, what is spent and what is left, in US dollars; reset_at is in Unix milliseconds. Judge whether the agent stays within its limits until each reset at the pace so far, name the window that will run out first, and recommend to keep, raise or lower a limit, with the number. Change nothing yourself: a limit is the owner's to set (set_envelope).`

function operationNamed<D>(operations: readonly Operation<D>[], name: string): Operation<D> {
  const found = operations.find((operation) => operation.name === name)
  if (found === undefined) throw new Error(`MCP resources need the operation ${name}`)
  return found
}
