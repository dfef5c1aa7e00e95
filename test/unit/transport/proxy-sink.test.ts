import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, it } from 'vitest'
import { ResponseSink } from '../../../src/transport/proxy-sink.ts'

it('sends pieces of every size in order, and an empty one does not end the answer', async () => {
  const texts = ['a', '', 'b'.repeat(16 * 1024), 'c'.repeat(16 * 1024 + 1), '', 'd'.repeat(100_000), 'e']
  const server = createServer((_request, response) => {
    const sink = new ResponseSink(response, 'id')
    sink.start(200, { 'content-type': 'text/event-stream' }, true)
    for (const text of texts) sink.write(Buffer.from(text))
    sink.end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  try {
    const response = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
    expect(await response.text()).toBe(texts.join(''))
  } finally {
    server.close()
  }
})
