import { createServer } from 'node:http'

/*
 * A provider that speaks OpenAI's wire format and costs as little as possible. `metadata` of the request says how it streams: so many
 * events, so many milliseconds apart; 0 means until the client leaves, or all at once. A plain answer comes after `answer_ms`.
 */

const event = (choices: unknown, usage: unknown): Buffer =>
  Buffer.from(
    `data: ${JSON.stringify({ id: 'chatcmpl-1', object: 'chat.completion.chunk', created: 1, model: 'gpt-4o', choices, usage })}\n\n`,
  )
const DELTA = event([{ index: 0, delta: { content: ' and then some' }, logprobs: null, finish_reason: null }], null)
const USAGE = { prompt_tokens: 20, completion_tokens: 5, total_tokens: 25 }
const END = Buffer.concat([event([], USAGE), Buffer.from('data: [DONE]\n\n')])
const PLAIN = Buffer.from(
  JSON.stringify({
    id: 'chatcmpl-1',
    object: 'chat.completion',
    created: 1,
    model: 'gpt-4o',
    choices: [{ index: 0, message: { role: 'assistant', content: 'Hello there' }, finish_reason: 'stop' }],
    usage: USAGE,
  }),
)

const server = createServer((request, response) => {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    const body = JSON.parse(Buffer.concat(chunks).toString()) as { stream?: boolean; metadata?: Record<string, string> }
    if (!body.stream) {
      const answer = (): void => {
        response.writeHead(200, { 'content-type': 'application/json', 'content-length': PLAIN.length }).end(PLAIN)
      }
      const answer_ms = Number(body.metadata?.answer_ms ?? 0)
      if (answer_ms === 0) answer()
      else setTimeout(answer, answer_ms)
      return
    }
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    const events = Number(body.metadata?.events ?? 0)
    const every_ms = Number(body.metadata?.every_ms ?? 0)
    if (every_ms === 0) {
      for (let sent = 0; sent < events; sent++) response.write(DELTA)
      response.end(END)
      return
    }
    response.write(DELTA)
    let left = events > 0 ? events - 1 : Number.POSITIVE_INFINITY
    const timer = setInterval(() => {
      if (left-- > 0) response.write(DELTA)
      else response.end(END)
    }, every_ms)
    response.on('close', () => clearInterval(timer))
  })
})
server.keepAliveTimeout = 60_000
process.on('disconnect', () => process.exit(0))
server.listen(0, '127.0.0.1', 16_384, () => {
  const address = server.address()
  process.send?.({ port: address !== null && typeof address === 'object' ? address.port : 0 })
})
