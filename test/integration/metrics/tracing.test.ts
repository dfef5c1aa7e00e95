import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startTracing } from '../../../src/metrics/tracing.ts'
import type { OperationDeps } from '../../../src/operations.ts'
import { openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { openProxy } from '../../support/proxy.ts'

type Attribute = { key: string; value: { stringValue?: string; intValue?: number | string } }
type Span = {
  name: string
  traceId: string
  spanId: string
  parentSpanId?: string
  traceState?: string
  flags?: number
  startTimeUnixNano: string
  endTimeUnixNano: string
  attributes: Attribute[]
  links?: { traceId: string; spanId: string }[]
}

const spansOf = (bodies: readonly string[]): Span[] =>
  bodies.flatMap((body) => {
    const { resourceSpans } = JSON.parse(body) as { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] }
    return resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans))
  })
const attributesOf = (span: Span) =>
  Object.fromEntries(span.attributes.map(({ key: name, value }) => [name, value.stringValue ?? Number(value.intValue)]))

describeEachDatabase('traces', (openTestDatabase) => {
  let collector: Server
  const bodies: string[] = []
  const paths: string[] = []
  beforeAll(async () => {
    collector = createServer((request, response) => {
      const chunks: Buffer[] = []
      request.on('data', (chunk: Buffer) => chunks.push(chunk))
      request.on('end', () => {
        paths.push(`${request.method} ${request.url}`)
        bodies.push(Buffer.concat(chunks).toString())
        response.writeHead(200, { 'content-type': 'application/json' }).end('{}')
      })
    }).listen(0, '127.0.0.1')
    await new Promise((resolve) => collector.once('listening', resolve))
  })
  afterAll(() => {
    collector.closeAllConnections()
    collector.close()
  })

  it('have a span per call, linked to its database batch, without anything private', async () => {
    const endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`
    const tracing = await startTracing<OperationDeps>(endpoint, '1.2.3')
    const test = await openTestApp(await openTestDatabase(), { tracing })
    const { key, accountId } = await test.createAccount(1)
    await test.api.put(`/v1/budget/envelope?api_key=${key}`, { agent_id: 'secret-agent', limit_usd: 5 })
    const clear = () =>
      test.api.post('/v1/budget/clear', { agent_id: 'secret-agent', model: 'gpt-4o', estimated_tokens: 10 }, key)
    await clear()
    await clear()
    await test.api.get('/v1/budget/envelope/nobody-here', key)
    await test.stop()

    expect(new Set(paths)).toEqual(new Set(['POST /v1/traces']))
    const spans = spansOf(bodies)
    const named = (name: string) => spans.filter((span) => span.name === name)
    expect(named('budget_clear').map(attributesOf)).toEqual([
      { 'gvnr.operation': 'budget_clear', 'gvnr.transport': 'rest', 'http.route': '/v1/budget/clear', 'gvnr.outcome': 'ok' },
      {
        'gvnr.operation': 'budget_clear',
        'gvnr.transport': 'rest',
        'http.route': '/v1/budget/clear',
        'gvnr.outcome': 'denied',
        'gvnr.reason': 'no_credits',
      },
    ])
    expect(named('get_envelope').map(attributesOf)).toMatchObject([{ 'gvnr.outcome': 'not_found' }])
    for (const span of [...named('budget_clear'), ...named('set_envelope')]) {
      const batch = spans.find(({ spanId }) => spanId === span.links?.[0]?.spanId)
      expect(batch?.name).toBe('decision batch')
      expect(attributesOf(batch!)['gvnr.batch.commands']).toBe(1)
      expect(BigInt(batch!.startTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(span.startTimeUnixNano))
      expect(BigInt(batch!.endTimeUnixNano)).toBeLessThanOrEqual(BigInt(span.endTimeUnixNano))
    }
    const all = bodies.join()
    expect(all).toContain('"1.2.3"')
    for (const secret of [key, accountId, 'secret-agent', 'api_key', 'nobody-here']) expect(all).not.toContain(secret)
  })

  it('go on with the caller’s by REST, MCP and the proxy, whose provider is told of its span; nonsense begins a new one', async () => {
    const endpoint = `http://127.0.0.1:${(collector.address() as AddressInfo).port}`
    const tracing = await startTracing<OperationDeps>(endpoint, '1.2.3')
    const from = bodies.length
    const proxy = await openProxy(await openTestDatabase(), { tracing })
    const trace = (digit: string) => digit.repeat(32)
    const parent = (digit: string, flags = '01') => `00-${trace(digit)}-${'b'.repeat(16)}-${flags}`
    const send = (path: string, body: object, headers: Record<string, string> = {}) =>
      proxy.post(path, body, { accept: 'application/json, text/event-stream', ...headers })
    const clear = { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 10 }
    await send('/v1/budget/clear', clear, { traceparent: parent('1'), tracestate: 'vendor=x' })
    await send('/v1/budget/clear', clear, { traceparent: `00-${'0'.repeat(32)}-${'b'.repeat(16)}-01` })
    await send('/v1/budget/clear', clear, { traceparent: parent('2', '00') })
    const tool = (meta?: object) => ({
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: { name: 'get_balance', arguments: {}, ...(meta && { _meta: meta }) },
    })
    await send('/mcp', tool(), { traceparent: parent('3') })
    await send('/mcp', tool({ traceparent: parent('4') }))
    const chat = { model: 'gpt-4o', max_tokens: 10, messages: [{ role: 'user', content: 'hi' }] }
    await (await send('/v1/chat/completions', chat, { traceparent: parent('5'), tracestate: 'vendor=x' })).text()
    await (await send('/v1/chat/completions', { ...chat, stream: true })).text()
    await (await send('/v1/chat/completions', chat, { 'x-gvnr-agent-id': 'nobody' })).text()
    const told = proxy.upstream.requests.map(({ headers }) => [headers.traceparent, headers.tracestate])
    await proxy.stop()

    const spans = spansOf(bodies.slice(from))
    const found = (digit: string) => spans.filter(({ traceId }) => traceId === trace(digit))
    for (const [digit, name] of [
      ['1', 'budget_clear'],
      ['3', 'get_balance'],
      ['4', 'get_balance'],
      ['5', 'proxy'],
    ] as const)
      expect(found(digit)).toMatchObject([{ name, parentSpanId: 'b'.repeat(16) }])
    expect(found('1')[0]?.traceState).toBe('vendor=x')
    // The caller has decided that this trace is not recorded.
    expect(found('2')).toEqual([])
    const roots = spans.filter(({ name, parentSpanId }) => name === 'budget_clear' && !parentSpanId)
    expect(roots).toHaveLength(1)
    expect(roots[0]?.traceId).not.toBe('0'.repeat(32))

    const calls = spans.filter(({ name }) => name === 'proxy')
    expect(calls.map(attributesOf)).toMatchObject([
      { 'gvnr.operation': 'proxy', 'http.route': '/v1/chat/completions', 'gvnr.outcome': 'ok' },
      { 'gvnr.outcome': 'ok' },
      { 'gvnr.outcome': 'denied' },
    ])
    expect(told).toEqual([
      [`00-${trace('5')}-${calls[0]?.spanId}-01`, 'vendor=x'],
      [`00-${calls[1]?.traceId}-${calls[1]?.spanId}-01`, undefined],
    ])
    for (const call of calls) {
      const batch = spans.find(({ spanId }) => spanId === call.links?.[0]?.spanId)
      expect(batch?.name).toBe('decision batch')
    }
  })
})
