import { createServer, type IncomingHttpHeaders, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { brotliCompressSync, constants, createBrotliCompress, createGzip, gzipSync } from 'node:zlib'

type Json = Record<string, unknown>

export type UpstreamRequest = {
  readonly path: string
  readonly query: string
  readonly headers: IncomingHttpHeaders
  readonly bytes: string
  readonly body: Json & {
    readonly model: string
    readonly stream?: boolean
    readonly stream_options?: { include_usage?: boolean }
  }
}

/** One step of an answer's body. `cut` breaks the connection off, `stall` says nothing more until the other side gives up. */
export type Step = string | Buffer | { readonly wait_ms: number } | { readonly until: Promise<unknown> } | 'cut' | 'stall'
export type Reply = {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  readonly steps: readonly Step[]
  readonly encoding?: 'gzip' | 'br'
  /** How to cut a stream's bytes into chunks, each sent by itself. */
  readonly chunkBytes?: number
}

export type Upstream = {
  readonly origin: string
  readonly requests: UpstreamRequest[]
  /** Answers that were broken off by the other side. */
  readonly aborted: () => number
  /** What it answers from now on. */
  answer(reply: (request: UpstreamRequest) => Reply | Promise<Reply>): void
  stop(): Promise<void>
}

/** A provider that speaks the real wire formats over real HTTP and answers what a test tells it to. */
export async function startUpstream(): Promise<Upstream> {
  const requests: UpstreamRequest[] = []
  let aborted = 0
  let reply: (request: UpstreamRequest) => Reply | Promise<Reply> = answerOf
  const server = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const bytes = Buffer.concat(chunks).toString('utf8')
    const url = new URL(incoming.url ?? '/', 'http://x')
    const request = {
      path: url.pathname,
      query: url.search,
      headers: incoming.headers,
      bytes,
      body: JSON.parse(bytes) as UpstreamRequest['body'],
    }
    requests.push(request)
    let isDone = false
    outgoing.on('close', () => {
      if (!isDone) aborted++
    })
    outgoing.on('error', () => {})
    await play(outgoing, await reply(request))
    isDone = true
  })
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    aborted: () => aborted,
    answer: (next) => {
      reply = next
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

async function play(outgoing: ServerResponse, { status = 200, headers, steps, encoding, chunkBytes }: Reply): Promise<void> {
  if (steps[0] === 'cut') {
    outgoing.destroy()
    return
  }
  const left = gone(outgoing)
  if (steps[0] === 'stall') return left
  const isStream = headers?.['content-type']?.startsWith('text/event-stream') ?? false
  const packed = encoding === undefined ? {} : { 'content-encoding': encoding }
  if (!isStream && steps.every((step) => typeof step === 'string' || Buffer.isBuffer(step))) {
    const plain = Buffer.concat(steps.map((step) => Buffer.from(step as string)))
    const body = encoding === 'gzip' ? gzipSync(plain) : encoding === 'br' ? brotliCompressSync(plain) : plain
    outgoing.writeHead(status, { 'content-type': 'application/json', ...headers, ...packed, 'content-length': body.length })
    outgoing.end(body)
    return
  }
  outgoing.writeHead(status, { ...headers, ...packed })
  outgoing.flushHeaders()
  const packer =
    encoding === 'gzip' ? createGzip({ flush: constants.Z_SYNC_FLUSH }) : encoding === 'br' ? createBrotliCompress() : null
  packer?.pipe(outgoing)
  const write = async (bytes: Buffer): Promise<void> => {
    const size = chunkBytes ?? bytes.length
    for (let at = 0; at < bytes.length; at += size) {
      const piece = bytes.subarray(at, at + size)
      if (packer !== null) {
        packer.write(piece)
        await new Promise<void>((resolve) => packer.flush(resolve))
      } else if (!outgoing.write(piece) && !outgoing.destroyed)
        await Promise.race([new Promise((resolve) => outgoing.once('drain', resolve)), left])
      // A turn of the event loop, so that each piece is a chunk of its own on the other side.
      if (chunkBytes !== undefined) await new Promise((resolve) => setImmediate(resolve))
    }
  }
  for (const step of steps) {
    if (outgoing.destroyed) return
    if (step === 'cut') {
      // What was written must have left first, or the other side sees less than the test says.
      await sleep(20)
      outgoing.destroy()
      return
    }
    if (step === 'stall') return left
    if (typeof step === 'string' || Buffer.isBuffer(step)) await write(Buffer.from(step))
    else if ('until' in step) await Promise.race([step.until, left])
    else await sleep(step.wait_ms)
  }
  if (packer !== null) packer.end()
  else outgoing.end()
}

const gone = (outgoing: ServerResponse): Promise<void> =>
  new Promise((resolve) => (outgoing.destroyed ? resolve() : outgoing.once('close', resolve)))

const SSE = { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache', 'x-request-id': 'req_upstream_1' }
export const sse = (data: unknown, event?: string): string =>
  `${event === undefined ? '' : `event: ${event}\n`}data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`
export const json = (body: unknown, status = 200, headers: Record<string, string> = {}): Reply => ({
  status,
  headers: { 'x-request-id': 'req_upstream_1', ...headers },
  steps: [JSON.stringify(body)],
})
export const stream = (...steps: Step[]): Reply => ({ headers: SSE, steps })

/** 20 input tokens, 8 of them cached, 5 output tokens. */
export const CHAT_USAGE = {
  prompt_tokens: 20,
  completion_tokens: 5,
  total_tokens: 25,
  prompt_tokens_details: { cached_tokens: 8 },
  completion_tokens_details: { reasoning_tokens: 2 },
}
export const RESPONSES_USAGE = {
  input_tokens: 20,
  input_tokens_details: { cached_tokens: 8 },
  output_tokens: 5,
  output_tokens_details: { reasoning_tokens: 2 },
  total_tokens: 25,
}
/** Beside 10 plain ones 30 tokens read from the cache, 40 written to it for five minutes and 50 for an hour. */
export const MESSAGES_USAGE = {
  input_tokens: 10,
  cache_creation_input_tokens: 90,
  cache_read_input_tokens: 30,
  cache_creation: { ephemeral_5m_input_tokens: 40, ephemeral_1h_input_tokens: 50 },
  output_tokens: 5,
  service_tier: 'standard',
}

const TOOL_ARGUMENTS = ['{"ci', 'ty":"Par', 'is"}']
const wantsTool = (body: Json): boolean => Array.isArray(body.tools) && body.tools.length > 0

export const chatChunk = (model: string, choices: unknown[], more: Json = {}): Json => ({
  id: 'chatcmpl-1',
  object: 'chat.completion.chunk',
  created: 1,
  model,
  choices,
  ...more,
})
export const chatDelta = (content: string): Json => ({ index: 0, delta: { content }, logprobs: null, finish_reason: null })

/** What a provider would say: "Hello there", or a call of the first tool it was given. */
export function answerOf({ path, body }: UpstreamRequest): Reply {
  if (path.endsWith('/embeddings')) return embeddings(body)
  if (path.endsWith('/count_tokens')) return json({ input_tokens: 42 })
  if (path.endsWith('/responses')) return body.stream ? responsesStream(body) : json(response(body, 'completed'))
  if (path.endsWith('/messages')) return body.stream ? messagesStream(body) : json(message(body))
  return body.stream ? chatStream(body) : json(chat(body))
}

const chat = (body: Json): Json => {
  const tool = { id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: TOOL_ARGUMENTS.join('') } }
  return {
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 1,
    model: body.model,
    choices: [
      {
        index: 0,
        message: wantsTool(body)
          ? { role: 'assistant', content: null, refusal: null, tool_calls: [tool] }
          : { role: 'assistant', content: 'Hello there', refusal: null },
        logprobs: null,
        finish_reason: wantsTool(body) ? 'tool_calls' : 'stop',
      },
    ],
    usage: CHAT_USAGE,
  }
}

export function chatStream(body: UpstreamRequest['body']): Reply {
  const withUsage = body.stream_options?.include_usage === true
  const chunk = (choices: unknown[], usage: unknown = null): string =>
    sse(chatChunk(body.model, choices, withUsage ? { usage } : {}))
  const call = (part: Json): string => chunk([{ index: 0, delta: { tool_calls: [{ index: 0, ...part }] }, finish_reason: null }])
  const output = wantsTool(body)
    ? [
        call({ id: 'call_1', type: 'function', function: { name: 'get_weather', arguments: '' } }),
        ...TOOL_ARGUMENTS.map((text) => call({ function: { arguments: text } })),
      ]
    : ['Hello', ' there'].map((text) => chunk([chatDelta(text)]))
  return stream(
    chunk([{ index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }]),
    ...output,
    chunk([{ index: 0, delta: {}, logprobs: null, finish_reason: wantsTool(body) ? 'tool_calls' : 'stop' }]),
    ...(withUsage ? [chunk([], CHAT_USAGE)] : []),
    sse('[DONE]'),
  )
}

function embeddings(body: Json): Reply {
  const vector = [0.1, 0.2, 0.3]
  const embedding = body.encoding_format === 'base64' ? Buffer.from(new Float32Array(vector).buffer).toString('base64') : vector
  const inputs = Array.isArray(body.input) ? body.input : [body.input]
  return json({
    object: 'list',
    data: inputs.map((_, index) => ({ object: 'embedding', index, embedding })),
    model: body.model,
    usage: { prompt_tokens: 8, total_tokens: 8 },
  })
}

export function response(body: Json, status: string, text = 'Hello there'): Json {
  const output = wantsTool(body)
    ? {
        type: 'function_call',
        id: 'fc_1',
        call_id: 'call_1',
        name: 'get_weather',
        arguments: TOOL_ARGUMENTS.join(''),
        status: 'completed',
      }
    : {
        type: 'message',
        id: 'msg_1',
        status: 'completed',
        role: 'assistant',
        content: [{ type: 'output_text', text, annotations: [], logprobs: [] }],
      }
  return {
    id: 'resp_1',
    object: 'response',
    created_at: 1,
    status,
    model: body.model,
    error: null,
    incomplete_details: null,
    instructions: null,
    metadata: {},
    output: status === 'completed' ? [output] : [],
    parallel_tool_calls: true,
    temperature: 1,
    tool_choice: 'auto',
    tools: [],
    top_p: 1,
    usage: status === 'completed' ? RESPONSES_USAGE : null,
  }
}

export function responsesStream(body: Json, text?: string): Reply {
  let sequence = 0
  const event = (type: string, fields: Json): string => sse({ type, sequence_number: sequence++, ...fields }, type)
  const item = { type: 'message', id: 'msg_1', status: 'in_progress', role: 'assistant', content: [] }
  const part = { type: 'output_text', text: '', annotations: [], logprobs: [] }
  const at = { item_id: 'msg_1', output_index: 0, content_index: 0 }
  return stream(
    event('response.created', { response: response(body, 'in_progress') }),
    event('response.output_item.added', { output_index: 0, item }),
    event('response.content_part.added', { ...at, part }),
    ...['Hello', ' there'].map((delta) => event('response.output_text.delta', { ...at, delta, logprobs: [] })),
    event('response.output_text.done', { ...at, text: 'Hello there', logprobs: [] }),
    event('response.completed', { response: response(body, 'completed', text) }),
  )
}

const message = (body: Json): Json => ({
  id: 'msg_1',
  type: 'message',
  role: 'assistant',
  model: body.model,
  content: wantsTool(body)
    ? [{ type: 'tool_use', id: 'toolu_1', name: 'get_weather', input: { city: 'Paris' } }]
    : [{ type: 'text', text: 'Hello there' }],
  stop_reason: wantsTool(body) ? 'tool_use' : 'end_turn',
  stop_sequence: null,
  usage: MESSAGES_USAGE,
})

export const messageStart = (body: Json): string => {
  const usage = { ...MESSAGES_USAGE, output_tokens: 1 }
  return sse({ type: 'message_start', message: { ...message(body), content: [], stop_reason: null, usage } }, 'message_start')
}
export const messageDelta = (text: string): string =>
  sse({ type: 'content_block_delta', index: 0, delta: { type: 'text_delta', text } }, 'content_block_delta')

export function messagesStream(body: Json): Reply {
  const block = wantsTool(body) ? { type: 'tool_use', id: 'toolu_1', name: 'get_weather', input: {} } : { type: 'text', text: '' }
  const pieces = wantsTool(body)
    ? TOOL_ARGUMENTS.map((partial_json) =>
        sse({ type: 'content_block_delta', index: 0, delta: { type: 'input_json_delta', partial_json } }, 'content_block_delta'),
      )
    : ['Hello', ' there'].map(messageDelta)
  const stop_reason = wantsTool(body) ? 'tool_use' : 'end_turn'
  return stream(
    messageStart(body),
    sse({ type: 'content_block_start', index: 0, content_block: block }, 'content_block_start'),
    sse({ type: 'ping' }, 'ping'),
    ...pieces,
    sse({ type: 'content_block_stop', index: 0 }, 'content_block_stop'),
    sse({ type: 'message_delta', delta: { stop_reason, stop_sequence: null }, usage: { output_tokens: 5 } }, 'message_delta'),
    sse({ type: 'message_stop' }, 'message_stop'),
  )
}
