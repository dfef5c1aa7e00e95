import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { createGzip } from 'node:zlib'
import { expect, it } from 'vitest'
import { describeEachDatabase } from '../../support/databases.ts'
import { openProxy } from '../../support/proxy.ts'

const EVENT_BYTES = 64 * 1024
const EVENTS = 1_000
/** What the sockets' own buffers take, on both sides of the proxy, and something for what is on its way. */
const IN_BETWEEN_BYTES = 24 * 1024 * 1024

describeEachDatabase('a client that reads slowly', (openTestDatabase) => {
  const ways: [string, boolean, Record<string, string>][] = [
    ['a stream', true, { 'content-type': 'text/event-stream' }],
    ['a packed stream', true, { 'content-type': 'text/event-stream', 'content-encoding': 'gzip' }],
    ['a plain answer', false, { 'content-type': 'application/json', 'content-length': String(EVENT_BYTES * EVENTS) }],
  ]
  it.each(ways)('holds up the provider, and gets everything in the end: %s', async (_name, isStream, headers) => {
    const provider = await startProvider(headers)
    const proxy = await openProxy(await openTestDatabase(), { config: { UPSTREAM_OPENAI_URL: provider.origin } })
    try {
      const body = { model: 'gpt-4o', max_tokens: 10, stream: isStream, messages: [{ role: 'user', content: 'hi' }] }
      const answer = await new Promise<IncomingMessage>((resolve, reject) => {
        const call = request(`${proxy.origin}/v1/chat/completions`, {
          method: 'POST',
          headers: { authorization: `Bearer ${proxy.key}`, 'x-gvnr-agent-id': 'a' },
        })
        call.on('response', resolve)
        call.on('error', reject)
        call.end(JSON.stringify(body))
      })
      // Nobody reads: what the provider can get rid of is what lies in between.
      const stuckAt = await settles(() => provider.sentBytes())
      expect(stuckAt).toBeGreaterThan(0)
      expect(stuckAt).toBeLessThan(IN_BETWEEN_BYTES)
      let bytes = 0
      for await (const chunk of answer) bytes += (chunk as Buffer).length
      expect(bytes).toBe(EVENTS * EVENT_BYTES)
    } finally {
      await proxy.isClean()
      await proxy.stop()
      await provider.stop()
    }
  })
})

/** Answers every call with many large events, as fast as they are taken. They do not compress, so that packing them hides nothing. */
async function startProvider(headers: Record<string, string>) {
  let sent = 0
  const event = Buffer.from(
    `data: ${randomBytes(EVENT_BYTES)
      .toString('base64')
      .slice(0, EVENT_BYTES - 8)}\n\n`,
  )
  const events = function* () {
    for (let count = 0; count < EVENTS; count++) {
      sent += event.length
      yield event
    }
  }
  const answer = async (incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> => {
    incoming.resume()
    outgoing.writeHead(200, headers)
    const source = Readable.from(events(), { highWaterMark: 1 })
    await (headers['content-encoding'] === 'gzip' ? pipeline(source, createGzip(), outgoing) : pipeline(source, outgoing))
  }
  const server = createServer((incoming, outgoing) => void answer(incoming, outgoing))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    sentBytes: () => sent,
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** The value once it has not changed for a while. */
async function settles(read: () => number): Promise<number> {
  for (let before = -1; ; await sleep(300)) {
    const now = read()
    if (now === before && now > 0) return now
    before = now
  }
}
