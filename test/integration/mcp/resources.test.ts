import { beforeAll, expect, it } from 'vitest'
import { envelopePath, openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { ERAS, type McpOptions, mcpOf } from '../../support/mcp.ts'

const ENVELOPES = 'budget://envelopes'
const uriOf = (agentId: string) => `budget://envelope/${encodeURIComponent(agentId)}`

describeEachDatabase('MCP resources and prompt', (openDatabase) => {
  let test: TestApp
  let mcp: ReturnType<typeof mcpOf>
  let owner: string
  let bound: string
  let stranger: string
  beforeAll(async () => {
    test = await openTestApp(await openDatabase())
    mcp = mcpOf(test.api)
    owner = (await test.createAccount()).key
    stranger = (await test.createAccount()).key
    for (const agent_id of ['team', 'team/crawler', 'tea & co', '*'])
      await test.api.put('/v1/budget/envelope', { agent_id, limit_usd: 5 }, owner)
    bound = (await test.createKey(owner, { agent_id: 'team/crawler' })).key
  })

  const read = (uri: string, options: McpOptions) => mcp.request('resources/read', { uri }, options)
  const complete = async (ref: Record<string, string>, value: string, options: McpOptions, name = 'agent_id') =>
    (await mcp.request('completion/complete', { ref, argument: { name, value } }, options)).result.completion

  it.each(ERAS)('lists its resources, templates and prompt (%s)', async (era) => {
    const options = { key: owner, era }
    expect((await mcp.request('resources/list', {}, options)).result.resources).toMatchObject([{ uri: ENVELOPES }])
    const { resourceTemplates } = (await mcp.request('resources/templates/list', {}, options)).result
    expect(resourceTemplates).toMatchObject([{ uriTemplate: 'budget://envelope/{agent_id}', mimeType: 'application/json' }])
    expect((await mcp.request('prompts/list', {}, options)).result.prompts).toMatchObject([
      { name: 'spend_review', arguments: [{ name: 'agent_id', required: true }] },
    ])
  })

  it.each(ERAS)('reads what REST reads (%s)', async (era) => {
    const all = (await read(ENVELOPES, { key: owner, era })).result.contents
    expect(all).toMatchObject([{ uri: ENVELOPES, mimeType: 'application/json' }])
    expect(JSON.parse(all[0]!.text)).toEqual((await test.api.get('/v1/budget/envelope', owner)).body)
    for (const agentId of ['team/crawler', 'tea & co', '*']) {
      const { contents } = (await read(uriOf(agentId), { key: owner, era })).result
      expect(contents).toMatchObject([{ uri: uriOf(agentId) }])
      expect(JSON.parse(contents[0]!.text)).toEqual((await test.api.get(envelopePath(agentId), owner)).body)
    }
    expect((await read('budget://envelope/team/crawler', { key: owner, era })).result.contents.length).toBe(1)
  })

  it.each(ERAS)('keeps agent binding and accounts apart (%s)', async (era) => {
    const { contents } = (await read(ENVELOPES, { key: bound, era })).result
    const { envelopes } = JSON.parse(contents[0]!.text) as { envelopes: { agent_id: string }[] }
    expect(envelopes.map(({ agent_id }) => agent_id)).toEqual(['team/crawler'])
    expect((await read(uriOf('team'), { key: bound, era })).rpcError).toMatchObject({
      code: -32602,
      data: { error: 'forbidden' },
    })
    const elsewhere = (await read(uriOf('team/crawler'), { key: stranger, era })).rpcError
    expect(elsewhere).toMatchObject({ code: -32602, data: { error: 'not_found', uri: uriOf('team/crawler') } })
  })

  it.each(ERAS)('answers a resource that is not there with -32602 and a hint (%s)', async (era) => {
    for (const uri of ['budget://other', 'budget://envelope/%zz', 'file:///etc/passwd', uriOf('nobody'), 'budget://envelope/']) {
      const { rpcError } = await read(uri, { key: owner, era })
      expect(rpcError).toMatchObject({ code: -32602, data: { uri, hint: expect.any(String) } })
    }
  })

  it.each(ERAS)('fills the prompt with the envelope (%s)', async (era) => {
    const options = { key: owner, era }
    const got = await mcp.request('prompts/get', { name: 'spend_review', arguments: { agent_id: 'tea & co' } }, options)
    const [envelope, text] = got.result.messages as { role: string; content: Record<string, unknown> }[]
    expect(envelope).toMatchObject({ role: 'user', content: { type: 'resource', resource: { uri: uriOf('tea & co') } } })
    expect(text).toMatchObject({ role: 'user', content: { type: 'text', text: expect.stringContaining('"tea & co"') } })

    const missing = await mcp.request('prompts/get', { name: 'spend_review' }, options)
    expect(missing.rpcError).toMatchObject({ code: -32602, data: { error: 'invalid_params' } })
    const unknown = await mcp.request('prompts/get', { name: 'nope' }, options)
    expect(unknown.rpcError).toMatchObject({ code: -32602, message: expect.stringContaining('spend_review') })
    const forbidden = await mcp.request(
      'prompts/get',
      { name: 'spend_review', arguments: { agent_id: 'team' } },
      { ...options, key: bound },
    )
    expect(forbidden.rpcError).toMatchObject({ code: -32602, data: { error: 'forbidden' } })
  })

  it.each(ERAS)('completes the agents that the key may read (%s)', async (era) => {
    const prompt = { type: 'ref/prompt', name: 'spend_review' }
    const template = { type: 'ref/resource', uri: 'budget://envelope/{agent_id}' }
    for (const ref of [prompt, template]) {
      expect(await complete(ref, 'team', { key: owner, era })).toEqual({
        values: ['team', 'team/crawler'],
        total: 2,
        hasMore: false,
      })
      expect(await complete(ref, '', { key: bound, era })).toEqual({ values: ['team/crawler'], total: 1, hasMore: false })
      expect(await complete(ref, 'team', { key: stranger, era })).toEqual({ values: [], total: 0, hasMore: false })
    }
    expect(await complete(prompt, '', { key: owner, era }, 'other')).toMatchObject({ values: [] })
  })

  it('completes at most 100 values and says that there are more', async () => {
    const { key } = await test.createAccount()
    for (let n = 0; n < 103; n++) await test.api.put('/v1/budget/envelope', { agent_id: `a${n}`, limit_usd: 1 }, key)
    const completion = await complete({ type: 'ref/prompt', name: 'spend_review' }, 'a', { key })
    expect(completion).toMatchObject({ total: 103, hasMore: true })
    expect((completion as { values: string[] }).values.length).toBe(100)
  })
})
