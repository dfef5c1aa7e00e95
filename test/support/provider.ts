import { createServer, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export type ProviderRequest = { readonly path: string; readonly body: Record<string, unknown> & { readonly model: string } }
/** How the next answers go wrong; `cut` breaks a stream in its middle, `hangUp` answers nothing. */
export type Trouble = { readonly status: number } | 'cut' | 'hangUp' | null

export type Provider = {
  readonly origin: string
  readonly requests: ProviderRequest[]
  trouble: Trouble
  /** Streams that the other side left before their end. */
  left(): number
  stop(): Promise<void>
}

/** What every answer says it used, in each provider's words. */
export const USED = { input: 300, cached: 100, output: 40 }
const WORDS = ['One', ' word', ' after', ' the', ' other', '.']
const STEP_MS = 5

/** OpenAI and Anthropic in their wire formats over real HTTP, with answers that are always the same. */
export async function startProvider(): Promise<Provider> {
  const requests: ProviderRequest[] = []
  let left = 0
  const server = createServer(async (incoming, outgoing) => {
    const chunks: Buffer[] = []
    for await (const chunk of incoming) chunks.push(chunk as Buffer)
    const request: ProviderRequest = {
      path: incoming.url ?? '/',
      body: JSON.parse(Buffer.concat(chunks).toString()) as ProviderRequest['body'],
    }
    requests.push(request)
    const { trouble } = provider
    if (trouble === 'hangUp') {
      outgoing.destroy()
      return
    }
    if (trouble !== null && trouble !== 'cut') {
      outgoing.writeHead(trouble.status, { 'content-type': 'application/json' })
      outgoing.end(JSON.stringify({ type: 'error', error: { type: 'trouble', message: `the provider says ${trouble.status}` } }))
      return
    }
    if (request.body.stream !== true) {
      outgoing.writeHead(200, { 'content-type': 'application/json' })
      outgoing.end(JSON.stringify(whole(request)))
      return
    }
    let isDone = false
    outgoing.on('close', () => {
      if (!isDone) left++
    })
    isDone = await stream(outgoing, request, trouble === 'cut')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const provider: Provider = {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    requests,
    trouble: null,
    left: () => left,
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return provider
}

const openaiUsage = {
  prompt_tokens: USED.input,
  completion_tokens: USED.output,
  total_tokens: USED.input + USED.output,
  prompt_tokens_details: { cached_tokens: USED.cached },
}
const responsesUsage = {
  input_tokens: USED.input,
  input_tokens_details: { cached_tokens: USED.cached },
  output_tokens: USED.output,
  output_tokens_details: { reasoning_tokens: 0 },
  total_tokens: USED.input + USED.output,
}
const anthropicUsage = {
  input_tokens: USED.input - USED.cached,
  cache_read_input_tokens: USED.cached,
  cache_creation_input_tokens: 0,
  output_tokens: USED.output,
}
const TEXT = WORDS.join('')

function whole({ path, body: { model } }: ProviderRequest): Record<string, unknown> {
  if (path.endsWith('/embeddings'))
    return {
      object: 'list',
      model,
      data: [{ object: 'embedding', index: 0, embedding: [0.1, 0.2] }],
      usage: { prompt_tokens: USED.input, total_tokens: USED.input },
    }
  if (path.endsWith('/messages'))
    return {
      id: 'msg_1',
      type: 'message',
      role: 'assistant',
      model,
      content: [{ type: 'text', text: TEXT }],
      stop_reason: 'end_turn',
      stop_sequence: null,
      usage: anthropicUsage,
    }
  if (path.endsWith('/responses')) return response(model, 'completed')
  return {
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 1,
    model,
    choices: [{ index: 0, finish_reason: 'stop', logprobs: null, message: { role: 'assistant', content: TEXT, refusal: null } }],
    usage: openaiUsage,
  }
}

const response = (model: string, status: string): Record<string, unknown> => ({
  id: 'resp_1',
  object: 'response',
  created_at: 1,
  status,
  model,
  output:
    status === 'completed'
      ? [
          {
            id: 'msg_1',
            type: 'message',
            role: 'assistant',
            status,
            content: [{ type: 'output_text', text: TEXT, annotations: [] }],
          },
        ]
      : [],
  usage: status === 'completed' ? responsesUsage : null,
})

/** @returns whether all of it was taken */
async function stream(outgoing: ServerResponse, request: ProviderRequest, cut: boolean): Promise<boolean> {
  outgoing.writeHead(200, { 'content-type': 'text/event-stream' })
  const events = eventsOf(request)
  for (const [index, event] of events.entries()) {
    if (outgoing.destroyed) return false
    if (cut && index === Math.floor(events.length / 2)) {
      outgoing.destroy()
      return false
    }
    outgoing.write(event)
    await sleep(STEP_MS)
  }
  if (outgoing.destroyed) return false
  outgoing.end()
  return true
}

function eventsOf({ path, body }: ProviderRequest): string[] {
  const { model } = body
  const named = (type: string, data: Record<string, unknown>) => `event: ${type}\ndata: ${JSON.stringify({ type, ...data })}\n\n`
  if (path.endsWith('/messages'))
    return [
      named('message_start', {
        message: {
          id: 'msg_1',
          type: 'message',
          role: 'assistant',
          model,
          content: [],
          stop_reason: null,
          stop_sequence: null,
          usage: { ...anthropicUsage, output_tokens: 1 },
        },
      }),
      named('content_block_start', { index: 0, content_block: { type: 'text', text: '' } }),
      ...WORDS.map((text) => named('content_block_delta', { index: 0, delta: { type: 'text_delta', text } })),
      named('content_block_stop', { index: 0 }),
      named('message_delta', { delta: { stop_reason: 'end_turn', stop_sequence: null }, usage: { output_tokens: USED.output } }),
      named('message_stop', {}),
    ]
  if (path.endsWith('/responses'))
    return [
      named('response.created', { sequence_number: 0, response: response(model, 'in_progress') }),
      ...WORDS.map((delta, index) =>
        named('response.output_text.delta', {
          sequence_number: index + 1,
          item_id: 'msg_1',
          output_index: 0,
          content_index: 0,
          delta,
        }),
      ),
      named('response.completed', { sequence_number: 9, response: response(model, 'completed') }),
    ]
  const chunk = (choices: unknown[], usage: unknown = null) =>
    `data: ${JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model, choices, usage })}\n\n`
  const options = body.stream_options as { include_usage?: boolean } | undefined
  return [
    ...WORDS.map((content) => chunk([{ index: 0, delta: { role: 'assistant', content }, finish_reason: null }])),
    chunk([{ index: 0, delta: {}, finish_reason: 'stop' }]),
    ...(options?.include_usage === true ? [chunk([], openaiUsage)] : []),
    'data: [DONE]\n\n',
  ]
}
