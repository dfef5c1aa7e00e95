import {
  CLIENT_CAPABILITIES_META_KEY,
  createMcpHandler,
  type Implementation,
  isLegacyRequest,
  ProtocolError,
  ProtocolErrorCode,
  Server,
  type ServerOptions,
  WebStandardStreamableHTTPServerTransport,
} from '@modelcontextprotocol/server'
import { z } from 'zod'
import type { Log } from '../core/log.ts'
import { elicitApproval } from './mcp-elicitation.ts'
import { INSTRUCTIONS } from './mcp-instructions.ts'
import { type McpResources, PROMPTS, RESOURCE_TEMPLATES, RESOURCES, VIEW_TYPE } from './mcp-resources.ts'
import { type McpCall, type McpTools, toolResult } from './mcp-tools.ts'

/** What one key may list stays the same for as long as a client keeps it. */
const LIST_CACHE = { ttlMs: 300_000, cacheScope: 'private' } as const

const OPTIONS: ServerOptions = {
  instructions: INSTRUCTIONS,
  // Nothing is announced, so no stream has to stay open: `subscriptions/listen` is acknowledged and ends.
  capabilities: {
    tools: { listChanged: false },
    resources: { listChanged: false },
    prompts: { listChanged: false },
    completions: {},
    extensions: { 'io.modelcontextprotocol/ui': { mimeTypes: [VIEW_TYPE] } },
  },
  cacheHints: {
    'tools/list': LIST_CACHE,
    'prompts/list': LIST_CACHE,
    'resources/list': LIST_CACHE,
    'resources/templates/list': LIST_CACHE,
  },
}

const readParams = z.object({ uri: z.string() })
const promptParams = z.object({ name: z.string(), arguments: z.record(z.string(), z.string()).optional() })
const completeParams = z.object({
  ref: z.union([
    z.object({ type: z.literal('ref/prompt'), name: z.string() }),
    z.object({ type: z.literal('ref/resource'), uri: z.string() }),
  ]),
  argument: z.object({ name: z.string(), value: z.string() }),
})

export type McpBackendDeps<D> = {
  readonly tools: McpTools<D>
  readonly resources: McpResources<D>
  readonly info: Implementation
  readonly log: Log
}

/**
 * Answers any MCP message with the SDK, in both protocol eras. Every request gets a server object of its own, made for its caller and
 * thrown away: objects that are kept leak one tenant's late messages into another tenant's response.
 */
export class McpBackend<D> {
  readonly #deps: McpBackendDeps<D>

  constructor(deps: McpBackendDeps<D>) {
    this.#deps = deps
  }

  /**
   * @param request headers only; it need not carry the key
   * @param message the parsed body
   */
  async answer(request: Request, message: unknown, call: McpCall): Promise<Response> {
    if (!(await isLegacyRequest(request, message))) {
      const handler = createMcpHandler(() => this.#serverFor(call), {
        legacy: 'reject',
        onerror: (error) => this.#rejected(error, call),
      })
      return handler.fetch(request, { parsedBody: message })
    }
    const server = this.#serverFor(call)
    const transport = new WebStandardStreamableHTTPServerTransport({ enableJsonResponse: true })
    await server.connect(transport)
    try {
      return await transport.handleRequest(request, { parsedBody: message })
    } finally {
      await server.close()
    }
  }

  #serverFor(call: McpCall): Server {
    const { tools, resources, info } = this.#deps
    const server = new Server(info, OPTIONS)
    server.onerror = (error) => this.#rejected(error, call)
    server.setRequestHandler('tools/list', () => ({ tools: tools.list(call.caller) }))
    server.setRequestHandler('tools/call', async ({ params }, { mcpReq }) => {
      if (params.name === 'request_approval') {
        const elicited = await elicitApproval(tools, params.arguments ?? {}, call, {
          capabilities: capabilitiesOf(mcpReq.envelope),
          responses: mcpReq.inputResponses,
          state: mcpReq.requestState(),
        })
        if (elicited !== null) return elicited
      }
      const answer = await tools.call(params.name, params.arguments ?? {}, call)
      if (answer !== undefined) return toolResult(answer)
      const names = tools.list(call.caller).map(({ name }) => name)
      throw new ProtocolError(
        ProtocolErrorCode.InvalidParams,
        `There is no tool "${params.name}". This key may call: ${names.join(', ')}.`,
      )
    })
    server.setRequestHandler('resources/list', () => ({ resources: RESOURCES }))
    server.setRequestHandler('resources/templates/list', () => ({ resourceTemplates: RESOURCE_TEMPLATES }))
    server.setRequestHandler('resources/read', { params: readParams }, ({ uri }) => resources.read(uri, call))
    server.setRequestHandler('prompts/list', () => ({ prompts: PROMPTS }))
    server.setRequestHandler('prompts/get', { params: promptParams }, ({ name, arguments: args }) =>
      resources.prompt(name, args ?? {}, call),
    )
    server.setRequestHandler('completion/complete', { params: completeParams }, ({ argument }) =>
      resources.complete(argument, call),
    )
    return server
  }

  /** The SDK reports what it refused; the caller has been told, so this is for whoever debugs a client. */
  #rejected(error: Error, call: McpCall): void {
    this.#deps.log.debug({ err: error, request_id: call.requestId }, 'MCP message refused')
  }
}

/** What the client declared with this very request (2026-07-28); earlier revisions declare nothing here. */
const capabilitiesOf = (envelope: Readonly<Record<string, unknown>> | undefined): unknown =>
  envelope?.[CLIENT_CAPABILITIES_META_KEY]
