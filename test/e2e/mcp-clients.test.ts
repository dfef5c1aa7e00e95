import { Client, StreamableHTTPClientTransport } from '@modelcontextprotocol/client'
import { Client as OldClient } from '@modelcontextprotocol/sdk/client/index.js'
import { StreamableHTTPClientTransport as OldTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client as RestClient } from '../support/client.ts'
import { type Server, startServer } from '../support/server.ts'

type Arguments = Record<string, unknown>
type CallResult = { isError?: unknown; structuredContent?: unknown; content?: unknown }

/** What the tests ask of a client, whichever package it comes from. */
type Session = {
  readonly version: string | undefined
  readonly instructions: string | undefined
  tools(): Promise<string[]>
  call(name: string, args?: Arguments): Promise<CallResult>
  read(uri: string): Promise<string>
  resources(): Promise<string[]>
  prompt(name: string, args: Record<string, string>): Promise<number>
  complete(prompt: string, name: string, value: string): Promise<string[]>
  close(): Promise<void>
}
type Access = 'header' | 'query'
type Connect = (origin: string, key: string, access: Access) => Promise<Session>

const CLIENT = { name: 'tests', version: '1.0.0' }

const endpoint = (origin: string, key: string, access: Access) =>
  new URL(access === 'query' ? `/mcp?api_key=${key}` : '/mcp', origin)
const transportOptions = (key: string, access: Access) =>
  access === 'query' ? {} : { requestInit: { headers: { Authorization: `Bearer ${key}` } } }

function session(client: Client | OldClient, version: string | undefined): Session {
  // Both packages name and shape these methods alike; the types of their parameters differ in detail only.
  const shared = client as Client
  return {
    version,
    instructions: shared.getInstructions(),
    tools: async () => (await shared.listTools()).tools.map(({ name }) => name),
    call: (name, args = {}) => shared.callTool({ name, arguments: args }),
    read: async (uri) => (await shared.readResource({ uri })).contents.map((part) => ('text' in part ? part.text : '')).join(''),
    resources: async () => [
      ...(await shared.listResources()).resources.map(({ uri }) => uri),
      ...(await shared.listResourceTemplates()).resourceTemplates.map(({ uriTemplate }) => uriTemplate),
    ],
    prompt: async (name, args) => (await shared.getPrompt({ name, arguments: args })).messages.length,
    complete: async (prompt, name, value) =>
      (await shared.complete({ ref: { type: 'ref/prompt', name: prompt }, argument: { name, value } })).completion.values,
    close: () => client.close(),
  }
}

const current =
  (mode: 'legacy' | 'auto'): Connect =>
  async (origin, key, access) => {
    const client = new Client(CLIENT, { versionNegotiation: { mode } })
    await client.connect(new StreamableHTTPClientTransport(endpoint(origin, key, access), transportOptions(key, access)))
    return session(client, client.getNegotiatedProtocolVersion())
  }

const old: Connect = async (origin, key, access) => {
  const client = new OldClient(CLIENT)
  const transport = new OldTransport(endpoint(origin, key, access), transportOptions(key, access))
  await client.connect(transport as Parameters<typeof client.connect>[0])
  return session(client, transport.protocolVersion)
}

const CLIENTS = [
  { name: 'client 2.x, legacy', connect: current('legacy'), version: '2025-11-25' },
  { name: 'client 2.x, auto', connect: current('auto'), version: '2026-07-28' },
  { name: 'sdk 1.x', connect: old, version: '2025-11-25' },
]
const CASES = CLIENTS.flatMap((client) => (['header', 'query'] as const).map((access) => ({ ...client, access })))

describe('real MCP clients', () => {
  let server: Server
  let rest: RestClient
  beforeAll(async () => {
    server = await startServer({ env: { SIGNUP_TRIAL_OPS: '100', LOG_LEVEL: 'debug' } })
    rest = new RestClient(server.origin)
  })
  afterAll(async () => {
    rest?.close()
    await server?.stop()
  })

  describe.each(CASES)('$name, key in the $access', ({ connect, version, access }) => {
    let key: string
    let mcp: Session
    beforeAll(async () => {
      key = (await rest.createAccount()).key
      mcp = await connect(server.origin, key, access)
    })
    afterAll(() => mcp?.close())

    it('negotiates its newest version and gets the instructions', () => {
      expect(mcp.version).toBe(version)
      expect(mcp.instructions).toContain('budget_clear')
    })

    // The clients check every structured result against the tool's output schema and reject what does not fit.
    it('runs the whole loop', async () => {
      expect(await mcp.tools()).toContain('budget_clear')
      const set = await mcp.call('set_envelope', { agent_id: 'crawler', limits: { daily: 5, monthly: 50 } })
      expect(set.structuredContent).toMatchObject({ success: true, limit_usd: 5, window: 'daily' })
      const cleared = await mcp.call('budget_clear', { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: 100_000 })
      expect(cleared.structuredContent).toMatchObject({ approved: true, remaining_usd: 4, operations_remaining: 99 })
      const { clearance_id } = cleared.structuredContent as { clearance_id: string }
      const usage = { agent_id: 'crawler', clearance_id, actual_input_tokens: 0, actual_output_tokens: 200_000 }
      expect((await mcp.call('reconcile', usage)).structuredContent).toMatchObject({ ok: true, drift_usd: 1, remaining_usd: 3 })
      const denied = await mcp.call('budget_clear', { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: 1_000_000 })
      expect(denied.structuredContent).toMatchObject({
        approved: false,
        reason: 'envelope_exceeded',
        max_affordable_tokens: 300_000,
      })
      expect((await mcp.call('get_balance')).structuredContent).toEqual({ operations_remaining: 99 })
      expect((await rest.getEnvelope(key, 'crawler')).body.spent_usd).toBe(2)
    })

    it('shares rates and guards actions', async () => {
      const share = { agent_id: 'crawler', provider: 'openai', model: 'gpt-4o' }
      await mcp.call('set_rate_envelope', { ...share, requests_per_minute: 5 })
      expect((await mcp.call('rate_check', share)).structuredContent).toMatchObject({ allowed: true })
      expect((await mcp.call('rate_check', { ...share, agent_id: 'x' })).structuredContent).toMatchObject({ allowed: false })
      expect((await mcp.call('idempotency_check', { key: 'pay' })).structuredContent).toMatchObject({ is_first_call: true })
    })

    it('learns from wrong arguments', async () => {
      const { isError, content } = await mcp.call('budget_clear', { agent_id: 'crawler', estimated_tokens: '5' })
      expect(isError).toBe(true)
      const [{ text }] = content as [{ text: string }]
      expect(JSON.parse(text)).toMatchObject({ error: 'invalid_params', required: ['agent_id', 'model', 'estimated_tokens'] })
    })

    it('is told of an unknown tool by a protocol error', async () => {
      await expect(mcp.call('budget_clean')).rejects.toMatchObject({ code: -32602 })
    })

    it('reads resources, gets the prompt and completes its argument', async () => {
      expect(await mcp.resources()).toEqual(['budget://envelopes', 'budget://envelope/{agent_id}'])
      expect(JSON.parse(await mcp.read('budget://envelope/crawler'))).toMatchObject({ agent_id: 'crawler', limit_usd: 5 })
      expect(await mcp.prompt('spend_review', { agent_id: 'crawler' })).toBe(2)
      expect(await mcp.complete('spend_review', 'agent_id', 'cr')).toEqual(['crawler'])
    })
  })

  it.each(CASES)('refuses a wrong key: $name, in the $access', async ({ connect, access }) => {
    await expect(connect(server.origin, `bg_${'0'.repeat(32)}`, access)).rejects.toThrow(/401|invalid_api_key|[Uu]nauthorized/)
  })

  it('logs the requests and never a key', () => {
    expect(server.logs()).toContain('"rpc":"tools/call"')
    expect(server.logs()).not.toMatch(/bg_[0-9a-f]{8}/)
  })
})
