import { Agent, type IncomingMessage, request } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import type { StreamRequest, StreamResult } from './proxy.ts'
import { Durations } from './statistics.ts'

/* The clients of the "proxy" section. */

const SETTLE_MS = 2000
const CAPACITY = 2_000_000

process.on('disconnect', () => process.exit(0))
process.on('message', (message: StreamRequest) => {
  run(message)
    .then((result) => process.send?.({ kind: 'done', result }))
    .catch((error: unknown) => process.send?.({ kind: 'failed', message: String(error) }))
})

async function run(wanted: StreamRequest): Promise<StreamResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })
  const durations = new Durations(CAPACITY)
  const state = { chunks: 0, errors: 0, firstError: null as string | null, isOver: false }
  const fail = (reason: string): void => {
    if (state.isOver) return
    state.errors++
    state.firstError ??= reason
  }
  const open = (body: string, answered: (answer: IncomingMessage) => void): ReturnType<typeof request> => {
    const call = request(
      {
        agent,
        host: '127.0.0.1',
        port: wanted.port,
        path: '/v1/chat/completions',
        method: 'POST',
        headers: {
          authorization: `Bearer ${wanted.key}`,
          'content-type': 'application/json',
          'content-length': Buffer.byteLength(body),
          'x-gvnr-agent-id': 'agent-0',
        },
      },
      (answer) => {
        if (answer.statusCode !== 200) fail(`status ${answer.statusCode}`)
        answered(answer)
      },
    )
    call.on('error', (error) => fail(String(error)))
    call.end(body)
    return call
  }
  const once = (body: string): Promise<void> =>
    new Promise((resolve) => {
      const sentAt = performance.now()
      let isFirst = true
      const call = open(body, (answer) => {
        answer.on('data', () => {
          if (isFirst) durations.add((performance.now() - sentAt) * 1000)
          isFirst = false
        })
        answer.on('error', (error) => fail(String(error)))
        answer.on('close', resolve)
      })
      call.on('error', () => resolve())
    })

  if (wanted.kind === 'streams') {
    const calls = Array.from({ length: wanted.concurrency }, () =>
      open(wanted.body, (answer) => {
        answer.on('data', (chunk: Buffer) => {
          for (let at = chunk.indexOf('\n\n'); at !== -1; at = chunk.indexOf('\n\n', at + 2)) state.chunks++
        })
        answer.on('error', (error) => fail(String(error)))
        answer.on('end', () => fail('a stream ended'))
      }),
    )
    await sleep(SETTLE_MS)
    process.send?.({ kind: 'began' })
    state.chunks = 0
    const from = performance.now()
    await sleep(wanted.duration_ms)
    const elapsed_ms = performance.now() - from
    const { chunks } = state
    state.isOver = true
    for (const call of calls) call.destroy()
    agent.destroy()
    return { answers: chunks, errors: state.errors, firstError: state.firstError, elapsed_ms, firstByte_us: 0 }
  }

  // As many at once as wanted, one after the other on each connection.
  let answers = 0
  let until = performance.now() + wanted.warmup_ms
  const workers = async (): Promise<void> => {
    while (performance.now() < until) {
      await once(wanted.body)
      answers++
    }
  }
  const all = (): Promise<unknown> => Promise.all(Array.from({ length: wanted.concurrency }, workers))
  await all()
  process.send?.({ kind: 'began' })
  answers = 0
  durations.clear()
  const from = performance.now()
  until = from + wanted.duration_ms
  await all()
  const elapsed_ms = performance.now() - from
  state.isOver = true
  agent.destroy()
  return { answers, errors: state.errors, firstError: state.firstError, elapsed_ms, firstByte_us: durations.summary().p50_us }
}
