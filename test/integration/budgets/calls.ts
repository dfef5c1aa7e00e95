import { beforeAll, expect } from 'vitest'
import { type ApiResponse, envelopePath, expectStatus, openTestApp, type TestApp } from '../../support/app.ts'
import type { OpenTestDatabase } from '../../support/databases.ts'

export const HOUR = 3_600_000
export const DAY = 24 * HOUR
/** Costs 5 dollars per million tokens in, 25 out. */
export const OPUS = 'claude-opus-4-8'
export const CLEAR = '/v1/budget/clear'
export const ENVELOPE = '/v1/budget/envelope'
export const RECONCILE = '/v1/budget/reconcile'

export type Opened = { readonly test: TestApp; readonly key: string; readonly accountId: string }
type Fields = Record<string, unknown>

/** What the tests of contract section 3 say over and over, as one rich account. Call it in a describe block. */
export function budgetCalls(openTestDatabase: OpenTestDatabase) {
  let opened: Opened
  let agents = 0
  beforeAll(async () => {
    const test = await openTestApp(await openTestDatabase())
    opened = { test, ...(await test.createAccount(100_000)) }
  })
  return {
    /** Once the block's beforeAll has run. */
    opened: () => opened,
    newAgent: () => `agent-${++agents}`,
    async put(agent_id: string, fields: Fields) {
      return expectStatus(200, await opened.test.api.put(ENVELOPE, { agent_id, ...fields }, opened.key))
    },
    async get(agent_id: string) {
      return expectStatus(200, await opened.test.api.get(envelopePath(agent_id), opened.key))
    },
    async clear(agent_id: string, estimated_tokens: number, more: Fields = {}) {
      const body = { agent_id, model: OPUS, estimated_tokens, ...more }
      return expectStatus(200, await opened.test.api.post(CLEAR, body, opened.key))
    },
    reconcile(agent_id: string, output: number, more: Fields = {}) {
      const body = { agent_id, actual_input_tokens: 0, actual_output_tokens: output, ...more }
      return opened.test.api.post(RECONCILE, body, opened.key)
    },
    /** All that a refused request could have changed. */
    async everything() {
      const { test, key } = opened
      const counts = await test.database.sql.unsafe(
        'select (select count(*) from holds) as holds, (select count(*) from denials) as denials, (select count(*) from ledger) as ledger',
      )
      return [
        (await test.api.get(ENVELOPE, key)).text,
        (await test.api.get('/v1/account/balance', key)).text,
        ...Object.values(counts[0] ?? {}),
      ]
    },
    expectRefused(response: ApiResponse, field: string) {
      expect(response.status, response.text).toBe(400)
      expect(response.body).toMatchObject({ error: 'invalid_params', retryable: false, hint: expect.stringMatching(/./) })
      const fields = response.body.issues.map(({ path }) => path.split('.')[0])
      expect(fields, response.text).toContain(field)
      for (const { message } of response.body.issues) expect(message).toMatch(/\S/)
    },
  }
}
