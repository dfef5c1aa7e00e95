import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { press } from '../../support/humans.ts'
import { ERAS, type McpOptions, mcpOf, mcpRequest, mountedMcp, toolError } from '../../support/mcp.ts'

const MODERN = '2026-07-28'
const URL_CLIENT = { 'io.modelcontextprotocol/clientCapabilities': { elicitation: { form: {}, url: {} } } }
const FORM_CLIENT = { 'io.modelcontextprotocol/clientCapabilities': { elicitation: { form: {} } } }
const ARGUMENTS = { agent_id: 'crawler', action_summary: 'Crawl on <b>now</b>' }

type InputRequired = {
  readonly resultType: string
  readonly requestState: string
  readonly inputRequests: { readonly approve: { readonly method: string; readonly params: Record<string, unknown> } }
}

describeEachDatabase('URL elicitation', (openTestDatabase) => {
  let t: TestApp
  let mcp: ReturnType<typeof mcpOf>
  let owner: string
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase(), { start: true })
    mcp = mcpOf(t.api)
    owner = (await t.createAccount()).key
  })
  afterAll(() => t.stop())
  const ask = async (meta: Record<string, unknown> = URL_CLIENT, options: McpOptions = {}) => {
    t.clock.advance(2500)
    return (await mcp.call('request_approval', ARGUMENTS, { key: owner, era: MODERN, meta, ...options })).result
  }
  const elicited = async () => (await ask()) as unknown as InputRequired
  const retry = (action: string, state: string, args: Record<string, unknown> = ARGUMENTS, key = owner) =>
    mcp.request(
      'tools/call',
      { name: 'request_approval', arguments: args, inputResponses: { approve: { action } }, requestState: state },
      { key, era: MODERN, meta: URL_CLIENT },
    )
  const idOf = (result: InputRequired) => String(result.inputRequests.approve.params.url).split('/').at(-1)!

  it('opens the page in the client and completes with the decision', async () => {
    const first = await elicited()
    expect(first.resultType).toBe('input_required')
    expect(first.inputRequests.approve).toMatchObject({
      method: 'elicitation/create',
      params: { mode: 'url', message: 'crawler asks for your approval: Crawl on <b>now</b>' },
    })
    expect(first.inputRequests.approve.params.url).toMatch(/^http:\/\/localhost\/approve\/ap_[\w-]{32}$/)
    const pending = retry('accept', first.requestState)
    await press(t.app, idOf(first), 'approved')
    const { result } = await pending
    expect(result.structuredContent).toMatchObject({ approval_id: idOf(first), decision: 'approved' })
    const [count] = await t.database.sql.unsafe('select count(*)::int as n from approvals')
    expect(count!.n).toBe(1)
  })

  it('completes as pending when the human does not want to look now', async () => {
    for (const action of ['decline', 'cancel']) {
      const first = await elicited()
      const { result } = await retry(action, first.requestState)
      expect(result.structuredContent).toMatchObject({ approval_id: idOf(first), decision: 'pending' })
    }
  })

  it('takes no state that is made up, of other arguments or of another account', async () => {
    const first = await elicited()
    for (const state of ['', 'x', '{}', JSON.stringify({ approval_id: 1 })])
      expect(toolError(await retry('accept', state)).error).toBe('invalid_params')
    const others = [{ ...ARGUMENTS, agent_id: 'other' }, { ...ARGUMENTS, action_summary: 'something else' }, {}]
    for (const args of others) expect(toolError(await retry('decline', first.requestState, args)).error).toBe('invalid_params')
    const stranger = (await t.createAccount()).key
    expect(toolError(await retry('decline', first.requestState, ARGUMENTS, stranger)).error).toBe('approval_not_found')
    const forged = JSON.stringify({ approval_id: `ap_${'A'.repeat(32)}`, approval_url: 'https://evil.example', notification: {} })
    expect(toolError(await retry('decline', forged)).error).toBe('approval_not_found')
  })

  it('answers a client that cannot open pages as before, in both eras', async () => {
    for (const [era, meta] of [
      [MODERN, FORM_CLIENT],
      [MODERN, {}],
      ['2025-11-25', {}],
    ] as const) {
      const result = await ask(meta, { era })
      expect(result.structuredContent.approval_url).toContain('/approve/ap_')
      expect(result.structuredContent).not.toHaveProperty('decision')
    }
  })

  it('tells of bad arguments before it asks anybody', async () => {
    const answer = await mcp.call('request_approval', { agent_id: 'x' }, { key: owner, era: MODERN, meta: URL_CLIENT })
    expect(toolError(answer).error).toBe('invalid_action_summary')
  })
})

describeEachDatabase('view_dashboard', (openTestDatabase) => {
  let t: TestApp
  let owner: string
  beforeAll(async () => {
    t = await openTestApp(await openTestDatabase())
    owner = (await t.createAccount()).key
    await t.api.put('/v1/budget/envelope', { agent_id: 'crawler', limit_usd: 5 }, owner)
    await t.api.post('/v1/budget/clear', { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: 100_000 }, owner)
  })
  afterAll(() => t.stop())

  describe.each(ERAS)('%s', (era) => {
    it('answers the figures as structured content and a few lines as text', async () => {
      const mcp = mcpOf(t.api)
      const { result } = await mcp.call('view_dashboard', {}, { key: owner, era })
      expect(result.structuredContent).toEqual((await t.api.get('/v1/dashboard', owner)).body)
      const text = result.content[0]!.text
      expect(text).toContain('999 operations left')
      expect(text).toContain('- crawler: $1.00 of $5.00 (daily)')
      expect(text.split('\n').length).toBeLessThan(30)
    })

    it('names its view, which is one document that needs nothing from elsewhere', async () => {
      const mcp = mcpOf(t.api)
      const { result } = await mcp.request('tools/list', {}, { key: owner, era })
      const tool = result.tools.find(({ name }) => name === 'view_dashboard')!
      const { resourceUri } = (tool._meta as { ui: { resourceUri: string } }).ui
      expect(resourceUri).toBe('ui://gvnr/dashboard')
      const read = await mcp.request('resources/read', { uri: resourceUri }, { key: owner, era })
      const [content] = read.result.contents
      expect(content).toMatchObject({ uri: resourceUri, mimeType: 'text/html;profile=mcp-app' })
      expect(content!.text).toMatch(/^<!doctype html>/)
      expect(content!.text).not.toMatch(/ (src|href)=|https?:\/\/(?!www\.w3\.org\/)|@import|url\(/)
      expect(content!.text.length).toBeLessThan(40_000)
    })

    it('comes from the fast lane as from the SDK', async () => {
      const send = async (fastLane: boolean) => {
        const { headers, message } = mcpRequest('tools/call', { name: 'view_dashboard', arguments: {} }, { era })
        const response = await mountedMcp(t, { fastLane }).request('/mcp', {
          method: 'POST',
          headers: { ...headers, 'Content-Type': 'application/json', Authorization: `Bearer ${owner}` },
          body: JSON.stringify(message),
        })
        return response.text()
      }
      expect(await send(true)).toBe(await send(false))
    })
  })

  it('shows a bound key its path, and refuses another', async () => {
    const bound = (await t.createKey(owner, { scope: 'agent', agent_id: 'other' })).key
    const mcp = mcpOf(t.api)
    const { result } = await mcp.call('view_dashboard', {}, { key: bound })
    expect(result.structuredContent.agents).toEqual([])
    expect(toolError(await mcp.call('view_dashboard', { agent_id: 'crawler' }, { key: bound })).error).toBe('forbidden')
  })
})
