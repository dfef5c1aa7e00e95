import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { startTracing } from '../../../src/metrics/tracing.ts'
import type { OperationDeps } from '../../../src/operations.ts'
import { openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

type Attribute = { key: string; value: { stringValue?: string; intValue?: number | string } }
type Span = {
  name: string
  traceId: string
  spanId: string
  startTimeUnixNano: string
  endTimeUnixNano: string
  attributes: Attribute[]
  links?: { traceId: string; spanId: string }[]
}

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
    const spans = bodies.flatMap((body) => {
      const { resourceSpans } = JSON.parse(body) as { resourceSpans: { scopeSpans: { spans: Span[] }[] }[] }
      return resourceSpans.flatMap(({ scopeSpans }) => scopeSpans.flatMap((scope) => scope.spans))
    })
    const attributesOf = (span: Span) =>
      Object.fromEntries(span.attributes.map(({ key: name, value }) => [name, value.stringValue ?? Number(value.intValue)]))
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
})
