import { createHash } from 'node:crypto'
import { drawer, randomSource } from './statistics.ts'

/** What is asked for. `bare` goes to the bare server, `chat` also to the dummy provider itself, everything else to gvnr. */
export type WorkloadKind = 'bare' | 'clear' | 'clear_reconcile' | 'rate_check' | 'idempotency_check' | 'chat'

/** Traffic of one burst: which operation, over which transport, for which accounts and agents. */
export type Workload = {
  readonly kind: WorkloadKind
  readonly transport: 'rest' | 'mcp'
  /** Number of the first account; see `accountIdOf`. */
  readonly firstAccount: number
  readonly accounts: number
  readonly agents: number
  /** How often each account is drawn; agents are drawn evenly. */
  readonly distribution: 'zipf' | 'uniform'
}

export const MODEL = 'claude-sonnet-4-6'
export const PROVIDER = 'anthropic'
const ESTIMATED_TOKENS = 1000
const PROTOCOL = '2025-11-25'

/** Keys, account ids and agents follow from their number, here and in the SQL of fill.ts alike. */
export const keyOf = (account: number): string =>
  `bg_${createHash('sha256').update(`bench-${account}`).digest('hex').slice(0, 32)}`
/** As `md5(…)::uuid` in fill.ts. */
export const accountIdOf = (account: number): string =>
  createHash('md5')
    .update(`bench-${account}`)
    .digest('hex')
    .replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5')
const agentOf = (agent: number): string => `agent-${agent}`

/** A prepared request. `patchAt` is where a value of 36 characters (an id, a key) goes before it is sent. */
export type Request = { readonly bytes: Buffer; readonly patchAt: number }
const HOLE = '#'.repeat(36)

/** What a connection sends: `first`, and with `clear_reconcile` after each clearance `second`, which names it. */
export type Exchange = { readonly first: Request; readonly second: Request | null }

/** Every distinct exchange of a workload, ready to send, and a fixed random order to send them in. */
export type Traffic = { readonly exchanges: readonly Exchange[]; readonly order: Int32Array; readonly approval: Buffer | null }

const ORDER_LENGTH = 1 << 17

export function trafficOf(workload: Workload): Traffic {
  const exchanges: Exchange[] = []
  for (let account = 0; account < workload.accounts; account++)
    for (let agent = 0; agent < workload.agents; agent++)
      exchanges.push(exchangeOf(workload, workload.firstAccount + account, agent))
  const random = randomSource(1)
  const draw = drawer(workload.accounts, workload.distribution, random)
  const order = Int32Array.from({ length: ORDER_LENGTH }, () => draw() * workload.agents + Math.floor(random() * workload.agents))
  return { exchanges, order, approval: APPROVAL[workload.kind] }
}

/** What the body of a good answer contains. */
const APPROVAL: Record<WorkloadKind, Buffer | null> = {
  bare: Buffer.from('"approved":true'),
  clear: Buffer.from('"approved":true'),
  clear_reconcile: null,
  rate_check: Buffer.from('"allowed":true'),
  idempotency_check: Buffer.from('"is_first_call":true'),
  chat: Buffer.from('"usage":'),
}

function exchangeOf(workload: Workload, account: number, agent: number): Exchange {
  const key = keyOf(account)
  const build = (call: Call) => (workload.transport === 'mcp' ? mcpRequest(key, call) : restRequest(key, call))
  const agent_id = agentOf(agent)
  const clear: Call = {
    tool: 'budget_clear',
    path: '/v1/budget/clear',
    input: { agent_id, model: MODEL, estimated_tokens: ESTIMATED_TOKENS },
  }
  switch (workload.kind) {
    case 'bare':
    case 'clear':
      return { first: build(clear), second: null }
    case 'clear_reconcile': {
      const input = { agent_id, actual_input_tokens: 300, actual_output_tokens: 400, clearance_id: HOLE }
      return { first: build(clear), second: build({ tool: 'reconcile', path: '/v1/budget/reconcile', input }) }
    }
    case 'rate_check':
      return {
        first: build({ tool: 'rate_check', path: '/v1/rate/check', input: { agent_id, provider: PROVIDER, model: MODEL } }),
        second: null,
      }
    case 'idempotency_check':
      return { first: build({ tool: 'idempotency_check', path: '/v1/idempotency/check', input: { key: HOLE } }), second: null }
    case 'chat':
      return {
        first: request('/v1/chat/completions', key, chatBody(), `x-gvnr-agent-id: ${agent_id}\r\n`),
        second: null,
      }
  }
}

/** A model call as agents make it. @param more further fields, such as `stream` */
export const chatBody = (more: Record<string, unknown> = {}): string =>
  JSON.stringify({ model: 'gpt-4o', max_tokens: 100, messages: [{ role: 'user', content: 'Say hello. '.repeat(40) }], ...more })

type Call = { readonly tool: string; readonly path: string; readonly input: Record<string, unknown> }

const restRequest = (key: string, { path, input }: Call): Request => request(path, key, JSON.stringify(input), '')

const mcpRequest = (key: string, { tool, input }: Call): Request =>
  request(
    '/mcp',
    key,
    JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name: tool, arguments: input } }),
    `accept: application/json, text/event-stream\r\nmcp-protocol-version: ${PROTOCOL}\r\n`,
  )

function request(path: string, key: string, body: string, headers: string): Request {
  const text = `POST ${path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer ${key}\r\n${headers}content-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
  return { bytes: Buffer.from(text), patchAt: text.indexOf(HOLE) }
}
