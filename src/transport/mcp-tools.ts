import type { CallToolResult, Tool } from '@modelcontextprotocol/server'
import { z } from 'zod'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { type CallContext, type Caller, type Execute, mayCall, type Operation } from '../core/operation.ts'

/** One MCP request: who sends it, and the id that its log lines carry. */
export type McpCall = CallContext & { readonly requestId: string }

/** What a tool call ends in: a REST body, or the error body REST would answer. `json` is `body` as sent, `text` what people and models read. */
export type ToolAnswer = {
  readonly isError: boolean
  readonly body: Record<string, unknown>
  readonly json: string
  readonly text: string
}

export type McpToolsDeps<D> = {
  readonly operations: readonly Operation<D>[]
  readonly execute: Execute<D>
  readonly log: Log
}

type Entry<D> = { readonly operation: Operation<D>; readonly definition: Tool }

/** The operations that are tools. Schemas are converted here, once. */
export class McpTools<D> {
  readonly #entries: ReadonlyMap<string, Entry<D>>
  readonly #execute: Execute<D>
  readonly #log: Log

  constructor(deps: McpToolsDeps<D>) {
    this.#execute = deps.execute
    this.#log = deps.log
    const tools = deps.operations.filter(({ tool }) => tool !== undefined)
    this.#entries = new Map(tools.map((operation) => [operation.name, { operation, definition: definitionOf(operation) }]))
  }

  has(name: string): boolean {
    return this.#entries.has(name)
  }

  /** The tools that this caller may call, in the order of the operations. */
  list(caller: Caller): Tool[] {
    return [...this.#entries.values()]
      .filter(({ operation }) => mayCall(operation.access, caller))
      .map(({ definition }) => definition)
  }

  /** Runs a tool. Never rejects: failures are answers that say what to do. `undefined` when there is no such tool. */
  async call(name: string, args: Record<string, unknown>, call: McpCall): Promise<ToolAnswer | undefined> {
    const entry = this.#entries.get(name)
    if (entry === undefined) return undefined
    try {
      const { body } = await this.#execute(entry.operation, call, args)
      const json = JSON.stringify(body)
      return { isError: false, body, json, text: entry.operation.toolText?.(body) ?? json }
    } catch (error) {
      return toolFailure(error, call.requestId, this.#log)
    }
  }
}

/** A tool answer in MCP's words: the body as structured content and as text. Errors are text only, as no output schema covers them. */
export const toolResult = ({ isError, body, text }: ToolAnswer): CallToolResult =>
  isError ? { content: [{ type: 'text', text }], isError: true } : { content: [{ type: 'text', text }], structuredContent: body }

/** A failure as an answer that says what to do. */
export function toolFailure(error: unknown, requestId: string, log: Log): ToolAnswer {
  const body = failureBody(error, requestId, log)
  const json = JSON.stringify(body)
  return { isError: true, body, json, text: json }
}

/** The address of a tool's view. */
export const viewUri = (view: string): string => `ui://gvnr/${view}`

/** The error body that REST answers for the same failure. A bug is logged and shows no more than the request id. */
export function failureBody(error: unknown, requestId: string, log: Log): ReturnType<DomainError['toBody']> {
  if (error instanceof DomainError) return error.toBody()
  log.error({ err: error, request_id: requestId }, 'unexpected failure')
  return new DomainError('internal_error', { details: { request_id: requestId } }).toBody()
}

function definitionOf<D>(operation: Operation<D>): Tool {
  return {
    name: operation.name,
    title: operation.title,
    description: operation.description,
    annotations: { title: operation.title, ...operation.tool },
    inputSchema: jsonSchema(operation.input, 'input'),
    outputSchema: jsonSchema(operation.output, 'output'),
    ...(operation.toolView !== undefined && { _meta: { ui: { resourceUri: viewUri(operation.toolView) } } }),
  }
}

/**
 * The schema as models read it, without what only costs them tokens: the dialect (MCP's default is the one that zod writes) and
 * bounds that every JSON integer keeps. Results stay open, because the contract allows new optional fields.
 */
function jsonSchema(schema: z.ZodObject, io: 'input' | 'output'): Tool['inputSchema'] {
  const converted = z.toJSONSchema(schema, {
    io,
    override: ({ jsonSchema: node }) => {
      if (node.maximum === Number.MAX_SAFE_INTEGER) delete node.maximum
      if (node.minimum === Number.MIN_SAFE_INTEGER) delete node.minimum
      if (io === 'output' && node.additionalProperties === false) delete node.additionalProperties
    },
  })
  const { $schema: _dialect, ...plain } = JSON.parse(JSON.stringify(converted)) as Tool['inputSchema']
  return plain
}
