import { beforeAll, expect, it } from 'vitest'
import { createLog } from '../../../src/core/log.ts'
import { operations } from '../../../src/operations.ts'
import { apiOf, envelopePath, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { ERAS, mcpOf, mountedMcp, toolError } from '../../support/mcp.ts'

const EVERY_TOOL = operations.filter(({ tool }) => tool !== undefined).map(({ name }) => name)
const CLEARANCE = { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: 100_000 }

describeEachDatabase('MCP tools', (openDatabase) => {
  let test: TestApp
  let mcp: ReturnType<typeof mcpOf>
  beforeAll(async () => {
    test = await openTestApp(await openDatabase())
    mcp = mcpOf(test.api)
  })

  /** An account whose agent `crawler` may spend $5 a day, with a key of every scope. */
  async function prepared() {
    const { key } = await test.createAccount()
    await test.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 5 }, key)
    const agent = await test.createKey(key, { agent_id: 'crawler' })
    const read = await test.createKey(key, { scope: 'read' })
    return { owner: key, agent: agent.key, read: read.key }
  }

  it.each(ERAS)('runs the loop: clear, reconcile, balance (%s)', async (era) => {
    const { owner: key } = await prepared()
    const cleared = (await mcp.call('budget_clear', CLEARANCE, { key, era })).result
    expect(cleared.structuredContent).toMatchObject({ approved: true, remaining_usd: 4, operations_remaining: 999 })
    expect(JSON.parse(cleared.content[0]!.text)).toEqual(cleared.structuredContent)

    const usage = { agent_id: 'crawler', actual_input_tokens: 1000, actual_output_tokens: 50_000 }
    const clearance_id = cleared.structuredContent.clearance_id
    const settled = (await mcp.call('reconcile', { ...usage, clearance_id }, { key, era })).result
    expect(settled.structuredContent).toMatchObject({ ok: true, drift_usd: -0.4975, remaining_usd: 4.4975, clearance_id })

    const balance = (await mcp.call('get_balance', {}, { key, era })).result
    expect(balance.structuredContent).toEqual({ operations_remaining: 999 })
    expect((await test.api.get(envelopePath('crawler'), key)).body.spent_usd).toBe(0.5025)
  })

  it.each(ERAS)('lists exactly the tools that a key may call (%s)', async (era) => {
    const keys = await prepared()
    const listed = async (key: string) => (await mcp.request('tools/list', {}, { key, era })).result.tools.map(({ name }) => name)
    expect(await listed(keys.owner)).toEqual(EVERY_TOOL)
    expect(await listed(keys.owner)).toEqual(
      expect.arrayContaining([
        'budget_clear',
        'set_envelope',
        'get_balance',
        'reconcile',
        'set_rate_envelope',
        'rate_check',
        'idempotency_check',
        'request_approval',
        'check_approval',
        'view_dashboard',
      ]),
    )
    expect(await listed(keys.agent)).toEqual(EVERY_TOOL.filter((name) => name !== 'set_rate_envelope'))
    expect(await listed(keys.read)).toEqual(['check_approval', 'view_dashboard', 'get_balance'])
  })

  it('describes each tool for models: title, hints, typed input and output', async () => {
    const { owner: key } = await prepared()
    const { tools } = (await mcp.request('tools/list', {}, { key })).result
    expect(tools.length).toBe(EVERY_TOOL.length)
    for (const tool of tools) {
      const operation = operations.find(({ name }) => name === tool.name)!
      expect(tool).toMatchObject({ title: operation.title, description: operation.description })
      expect(tool.annotations).toEqual({ title: operation.title, ...operation.tool })
      expect(tool.inputSchema).toMatchObject({ type: 'object', properties: expect.any(Object) })
      expect(tool.outputSchema).toMatchObject({ type: 'object', properties: expect.any(Object) })
      expect(JSON.stringify(tool)).not.toMatch(/9007199254740991|\$schema|~standard/)
    }
    const clear = tools.find(({ name }) => name === 'budget_clear')!
    expect(clear.inputSchema).toMatchObject({ required: ['agent_id', 'model', 'estimated_tokens'] })
    // Results may gain optional fields, so their schema must not forbid them.
    expect(clear.outputSchema).not.toHaveProperty('additionalProperties')
  })

  it.each(ERAS)('answers wrong arguments with an error that says what to fix, as REST does (%s)', async (era) => {
    const { owner: key } = await prepared()
    const wrong = { agent_id: 'crawler', estimated_tokens: '1000' }
    const response = await mcp.call('budget_clear', wrong, { key, era })
    expect(response.status).toBe(200)
    const error = toolError(response)
    expect(error).toMatchObject({
      error: 'invalid_params',
      retryable: false,
      required: ['agent_id', 'model', 'estimated_tokens'],
    })
    expect(error.issues.map(({ path }) => path).sort()).toEqual(['estimated_tokens', 'model'])
    expect(error).toEqual((await test.api.post('/v1/budget/clear', wrong, key)).body)
  })

  it('answers failures of the operation with the body that REST answers', async () => {
    const { owner: key } = await prepared()
    const usage = { agent_id: 'crawler', actual_input_tokens: 1, actual_output_tokens: 1 }
    const error = toolError(await mcp.call('reconcile', usage, { key }))
    expect(error).toMatchObject({ error: 'no_pending_clearance', hint: expect.any(String), retryable: false })
    expect(error).toEqual((await test.api.post('/v1/budget/reconcile', usage, key)).body)
  })

  it('answers a denial as a result, not as an error', async () => {
    const { owner: key } = await prepared()
    const { result } = await mcp.call('budget_clear', { ...CLEARANCE, estimated_tokens: 1_000_000 }, { key })
    expect(result.isError).toBeUndefined()
    expect(result.structuredContent).toMatchObject({
      approved: false,
      reason: 'envelope_exceeded',
      max_affordable_tokens: 500_000,
    })
  })

  it.each(ERAS)('keeps scopes and agent binding: forbidden is a tool error and changes nothing (%s)', async (era) => {
    const keys = await prepared()
    const forbidden = async (key: string, name: string, args: Record<string, unknown>) => {
      const error = toolError(await mcp.call(name, args, { key, era }))
      expect(error).toMatchObject({ error: 'forbidden', hint: expect.any(String), retryable: false })
    }
    await forbidden(keys.read, 'budget_clear', CLEARANCE)
    await forbidden(keys.agent, 'set_envelope', { agent_id: 'crawler', limit_usd: 1000 })
    await forbidden(keys.agent, 'set_rate_envelope', {
      agent_id: 'crawler',
      provider: 'openai',
      model: 'gpt-4o',
      requests_per_minute: 9,
    })
    await forbidden(keys.agent, 'budget_clear', { ...CLEARANCE, agent_id: 'other' })
    expect((await test.api.get(envelopePath('crawler'), keys.owner)).body).toMatchObject({ limit_usd: 5, spent_usd: 0 })
  })

  it.each(ERAS)('answers an unknown tool with -32602 and the tools there are (%s)', async (era) => {
    const { read: key } = await prepared()
    const response = await mcp.call('budget_clean', {}, { key, era })
    expect(response.rpcError).toMatchObject({ code: -32602, message: expect.stringContaining('get_balance') })
    expect(response.rpcError.message).not.toContain('set_envelope')
  })

  it('checks rates and idempotency keys', async () => {
    const { owner: key } = await prepared()
    const share = { agent_id: 'crawler', provider: 'openai', model: 'gpt-4o' }
    await mcp.call('set_rate_envelope', { ...share, requests_per_minute: 1 }, { key })
    const checked = async () => (await mcp.call('rate_check', share, { key })).result.structuredContent
    expect(await checked()).toEqual({ allowed: true, requests_remaining_this_minute: 0 })
    expect(await checked()).toMatchObject({ allowed: false, reason: 'rate_exceeded', retry_after_ms: expect.any(Number) })
    const first = async () => (await mcp.call('idempotency_check', { key: 'invoice-1' }, { key })).result.structuredContent
    expect((await first()).is_first_call).toBe(true)
    expect((await first()).is_first_call).toBe(false)
  })

  it.each(ERAS)('answers a bug with the request id, logs it, and never shows its message (%s)', async (era) => {
    const { owner: key } = await prepared()
    const logged: string[] = []
    const failing = mcpOf(
      apiOf(
        mountedMcp(test, {
          execute: () => Promise.reject(new Error('secret detail')),
          log: createLog('error', (line) => logged.push(line)),
        }),
      ),
    )
    const headers = { 'X-Request-Id': 'request-4711' }
    const called = await failing.call('get_balance', {}, { key, era, headers })
    expect(toolError(called)).toMatchObject({ error: 'internal_error', retryable: true, request_id: 'request-4711' })
    const read = await failing.request('resources/read', { uri: 'budget://envelopes' }, { key, era, headers })
    expect(read.rpcError).toMatchObject({ code: -32603, data: { error: 'internal_error', request_id: 'request-4711' } })
    expect(called.text + read.text).not.toContain('secret detail')
    expect(logged.filter((line) => line.includes('secret detail') && line.includes('request-4711')).length).toBe(2)
  })
})
