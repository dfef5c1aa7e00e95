import { expect, it } from 'vitest'
import { apiOf, expectStatus, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'
import { ERAS, mcpOf, mountedMcp } from '../../support/mcp.ts'

const ACCOUNTS = 40
const REQUESTS = 50

/** All at once, all with JSON-RPC id 1: whatever is shared between requests shows as another account's number. */
describeEachDatabase('MCP tenants', (openDatabase) => {
  it.each(
    ERAS.flatMap((era) => [
      { era, fastLane: true },
      { era, fastLane: false },
    ]),
  )('never see each other ($era, fast lane $fastLane)', async ({ era, fastLane }) => {
    const test = await openTestApp(await openDatabase())
    const mcp = mcpOf(apiOf(mountedMcp(test, { fastLane })))
    const accounts = await Promise.all(
      Array.from({ length: ACCOUNTS }, async (_, index) => {
        const { key } = await test.createAccount(1000 + index)
        expectStatus(200, await test.api.put('/v1/budget/envelope', { agent_id: `agent-${index}`, limit_usd: 1000 + index }, key))
        return { key, index }
      }),
    )
    const wrong: string[] = []
    let answered = 0
    await Promise.all(
      accounts.flatMap(({ key, index }) =>
        Array.from({ length: REQUESTS }, async (_, n) => {
          const agent = `agent-${index}`
          const seen = n % 2 === 0 ? await balance(key) : await envelope(key, agent)
          answered += 1
          const expected = n % 2 === 0 ? `1 ${1000 + index}` : `1 ${agent} ${1000 + index}`
          if (seen !== expected) wrong.push(`${expected}: ${seen}`)
        }),
      ),
    )
    expect(wrong).toEqual([])
    expect(answered).toBe(ACCOUNTS * REQUESTS)

    async function balance(key: string): Promise<string> {
      const { id, result } = await mcp.call('get_balance', {}, { key, era })
      return `${id} ${result.structuredContent.operations_remaining}`
    }
    async function envelope(key: string, agent: string): Promise<string> {
      const { id, result } = await mcp.request('resources/read', { uri: `budget://envelope/${agent}` }, { key, era })
      const { agent_id, limit_usd } = JSON.parse(result.contents[0]!.text) as Record<string, unknown>
      return `${id} ${agent_id} ${limit_usd}`
    }
  })
})
