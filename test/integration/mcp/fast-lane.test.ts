import fc from 'fast-check'
import { beforeAll, expect, it } from 'vitest'
import type { Execute } from '../../../src/core/operation.ts'
import { type OperationDeps, operations } from '../../../src/operations.ts'
import { readPlainCall } from '../../../src/transport/mcp-fast-lane.ts'
import type { McpCall } from '../../../src/transport/mcp-tools.ts'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { mountedMcp } from '../../support/mcp.ts'

const RUNS = 4000
const TOOLS = operations.filter(({ tool }) => tool !== undefined).map(({ name }) => name)
const META = 'io.modelcontextprotocol/'

type Fields = Record<string, unknown>
type Sent = { headers: Record<string, string>; body: string }
type Outcome = Awaited<ReturnType<Execute<OperationDeps>>> | { thrown: unknown }

/** The usual values most of the time, so that many requests take the lane, and now and then one of the others. */
const mostly = <T, U>(usual: readonly T[], unusual: readonly U[]): fc.Arbitrary<T | U> =>
  fc.oneof({ weight: 14, arbitrary: fc.constantFrom(...usual) }, { weight: 1, arbitrary: fc.constantFrom(...unusual) })

const ids = mostly([1, 0, -7, 'abc', '', '"ü\u2028\\', 2 ** 53 - 1, '\ud800'], [2 ** 53, 1.5, null, true, {}, [], undefined])
const names = mostly(TOOLS, ['nope', '', '__proto__', 'constructor', 'get_envelope', 7, null, undefined, ['get_balance']])
const agents = mostly(['a', 'a/b', 'ünï "c"', '*', 'x'], ['', '\ud800', 'nul\0', 7, null, 'y'.repeat(129)])
const models = mostly(['gpt-4o', 'claude-haiku-4-5', 'typo'], ['', 5, 'm'.repeat(129)])

const fittingArguments = fc.record(
  {
    agent_id: agents,
    model: models,
    provider: mostly(['openai'], ['', 1]),
    estimated_tokens: mostly([1, 1000, 10_000_000], [0, -1, 1.5, '1000', null]),
    actual_input_tokens: mostly([0, 10], [-1, 'x']),
    actual_output_tokens: mostly([0, 2000], [1e300]),
    requests_per_minute: mostly([3], [0]),
    key: mostly(['k1', 'k2'], ['']),
    ttl_seconds: mostly([60, undefined], [0]),
    limits: mostly([undefined, { daily: 5 }, { daily: 5, monthly: 100 }], [{}, { yearly: 1 }, { daily: 0 }, 7]),
    limit_usd: mostly([undefined, undefined, 5, 0.000001], [0, 'many']),
    clearance_id: mostly([undefined, undefined, 'unknown'], ['', 5]),
    extra: mostly([undefined], [{ deep: [[[]]] }]),
  },
  { requiredKeys: ['agent_id', 'model', 'estimated_tokens', 'actual_input_tokens', 'actual_output_tokens', 'key', 'provider'] },
)
const toolArguments = fc.oneof(
  { weight: 12, arbitrary: fittingArguments },
  { weight: 1, arbitrary: fc.constantFrom(undefined, {}, [], 'text', null, 7, { constructor: 1, toString: 2 }) },
  { weight: 1, arbitrary: fc.jsonValue() },
)

const progressTokens = mostly([undefined, undefined, 1, 'token'], [1.5, null, {}, 2 ** 53])
const foreignMeta = mostly(
  [{}, {}, { traceparent: '00-x' }, { 'claudecode/toolUseId': 'toolu_1' }],
  [
    { [`${META}related-task`]: { taskId: 't' } },
    { [`${META}related-task`]: 5 },
    { [`${META}other`]: 1 },
    { [`${META}logLevel`]: 'info' },
  ],
)
const legacyMeta = fc.oneof(
  { weight: 6, arbitrary: fc.constant(undefined) },
  { weight: 4, arbitrary: fc.tuple(foreignMeta, progressTokens).map(([meta, progressToken]) => ({ ...meta, progressToken })) },
  { weight: 1, arbitrary: fc.constantFrom(null, [], 'meta', { [`${META}clientInfo`]: { name: 'c', version: '1' } }) },
)
const capabilities = mostly(
  [{}, {}, { elicitation: {} }, { elicitation: { form: {}, url: {} } }, { sampling: {}, roots: {} }, { sampling: { tools: {} } }],
  [
    { roots: { listChanged: true } },
    { extensions: { 'a/b': {} } },
    { other: {} },
    { elicitation: 1 },
    { elicitation: { form: 5 } },
    { sampling: { tools: [] } },
    undefined,
    null,
    [],
  ],
)
const clientInfos = mostly(
  [{ name: 'c', version: '1' }, { name: 'c', title: 'C', version: '1', websiteUrl: 'https://c.example' }, undefined],
  [
    { name: 'c' },
    { name: 1, version: '1' },
    { name: 'c', version: '1', icons: [] },
    { name: 'c', version: '1', x: 1 },
    null,
    'c',
  ],
)
const modernMeta = fc
  .tuple(foreignMeta, progressTokens, capabilities, clientInfos, mostly(['2026-07-28'], ['2025-11-25', '2099-01-01', 5, null]))
  .map(([meta, progressToken, clientCapabilities, clientInfo, protocolVersion]) => ({
    ...meta,
    progressToken,
    [`${META}protocolVersion`]: protocolVersion,
    [`${META}clientCapabilities`]: clientCapabilities,
    [`${META}clientInfo`]: clientInfo,
  }))

const base64 = (name: unknown) => `=?base64?${Buffer.from(String(name)).toString('base64')}?=`
const absent = Symbol('absent')

const requests: fc.Arbitrary<Sent> = fc
  .record({
    id: ids,
    name: names,
    args: toolArguments,
    modern: fc.boolean(),
    legacyMeta,
    modernMeta,
    jsonrpc: mostly(['2.0'], ['1.0', 2, undefined]),
    method: mostly(['tools/call'], ['tools/list', 'Tools/Call', 'ping', 5]),
    moreParams: mostly([{}], [{ task: {} }, { inputResponses: {} }, { requestState: 's' }, { requestState: 5 }, { x: 1 }]),
    moreMessage: mostly([{}], [{ x: 1 }, { result: {} }, { params: [] }, { params: undefined }, { params: null }]),
    protoArgument: mostly([false], [true]),
    legacyVersion: mostly([absent, '2025-11-25', '2025-06-18', '2024-10-07', ' 2025-03-26 '], ['2026-07-28', '1999-01-01', '']),
    modernVersion: mostly(['2026-07-28'], [absent, '2025-11-25', '2099-01-01']),
    methodHeader: mostly(['tools/call'], [absent, 'tools/list', ' tools/call ']),
    nameHeader: mostly(['same'], [absent, 'other', 'base64', '=?base64?!?=']),
    type: mostly(['application/json', 'application/json; charset=utf-8'], ['text/json', 'application/vnd.api+json', absent]),
    accept: mostly(['application/json, text/event-stream', '*/*'], [absent, 'text/html']),
    origin: mostly([absent, 'http://localhost:6274'], ['https://evil.example']),
  })
  .map((draw) => {
    const meta = draw.modern ? draw.modernMeta : draw.legacyMeta
    const params = { name: draw.name, arguments: draw.args, ...draw.moreParams, ...(meta !== undefined && { _meta: meta }) }
    const message = { jsonrpc: draw.jsonrpc, id: draw.id, method: draw.method, params, ...draw.moreMessage }
    const nameHeader = { same: draw.name, base64: base64(draw.name) }[String(draw.nameHeader)] ?? draw.nameHeader
    const headers = {
      'content-type': draw.type,
      accept: draw.accept,
      origin: draw.origin,
      'mcp-protocol-version': draw.modern ? draw.modernVersion : draw.legacyVersion,
      ...(draw.modern && { 'mcp-method': draw.methodHeader, 'mcp-name': nameHeader }),
    }
    const body = JSON.stringify(message)
    return {
      headers: Object.fromEntries(
        Object.entries(headers)
          .filter((entry): entry is [string, string] => typeof entry[1] === 'string')
          .map(([name, value]) => [name, value.replace(/[^\x20-\x7e]/g, '')]),
      ),
      body: draw.protoArgument ? body.replace(/"arguments":\{(?=")/, '"arguments":{"__proto__":{"x":1},') : body,
    }
  })

/** The SDK is the reference: with the same outcome of the operation, the fast lane must answer the very same bytes. */
describeEachDatabase('the fast lane', (openDatabase) => {
  let test: TestApp
  let keys: string[]
  beforeAll(async () => {
    test = await openTestApp(await openDatabase())
    const { key } = await test.createAccount(100_000)
    await test.api.put('/v1/budget/envelope', { agent_id: '*', limit_usd: 100_000 }, key)
    const agent = await test.createKey(key, { agent_id: 'a' })
    const read = await test.createKey(key, { scope: 'read' })
    keys = [key, key, agent.key, read.key, `bg_${'0'.repeat(32)}`]
  })

  it(`answers ${RUNS} generated requests as the SDK does`, async () => {
    // The real operation runs once, for the lane; the SDK path then gets the same outcome, or fails when it asks for another.
    const recorded = new Map<string, { call: string; outcome: Outcome }>()
    const asked = (operation: { name: string }, raw: unknown) => `${operation.name} ${JSON.stringify(raw)}`
    const recording: Execute<OperationDeps> = async (operation, call, raw) => {
      const outcome: Outcome = await test.app.execute(operation, call, raw).catch((thrown: unknown) => ({ thrown }))
      recorded.set((call as McpCall).requestId, { call: asked(operation, raw), outcome })
      return settle(outcome)
    }
    const replaying: Execute<OperationDeps> = async (operation, call, raw) => {
      const { requestId } = call as McpCall
      const record = recorded.get(requestId)
      recorded.delete(requestId)
      if (record?.call !== asked(operation, raw))
        throw new Error(`the fast lane called ${record?.call}, the SDK ${asked(operation, raw)}`)
      return settle(record.outcome)
    }
    const lane = mountedMcp(test, { execute: recording })
    const sdk = mountedMcp(test, { execute: replaying, fastLane: false })
    const took = { legacy: 0, modern: 0, sdk: 0 }
    let number = 0

    await fc.assert(
      fc.asyncProperty(requests, fc.nat(keys.length - 1), async ({ headers, body }, keyIndex) => {
        const init = {
          method: 'POST',
          body,
          headers: { ...headers, authorization: `Bearer ${keys[keyIndex]}`, 'x-request-id': `request-${number++}` },
        }
        const [fast, reference] = [await seen(await lane.request('/mcp', init)), await seen(await sdk.request('/mcp', init))]
        expect(fast).toEqual(reference)
        expect(recorded.size).toBe(0)
        const plain = readPlainCall(
          JSON.parse(body),
          (name) => headers[name]?.trim(),
          (name) => TOOLS.includes(name),
        )
        took[plain === null ? 'sdk' : plain.modern ? 'modern' : 'legacy'] += 1
      }),
      { numRuns: RUNS },
    )
    // Both ways were really compared.
    expect(took.legacy).toBeGreaterThan(RUNS / 10)
    expect(took.modern).toBeGreaterThan(RUNS / 20)
    expect(took.sdk).toBeGreaterThan(RUNS / 10)
  }, 300_000)
})

function settle(outcome: Outcome) {
  if ('thrown' in outcome) throw outcome.thrown
  return outcome
}

async function seen(response: Response): Promise<Fields> {
  return { status: response.status, headers: Object.fromEntries(response.headers), text: await response.text() }
}
