import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { rgf } from '../../../src/cli/rgf.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { openDatabase } from '../../../src/db/client.ts'
import { readGovernanceFile } from '../../../src/governance/file.ts'
import { describePlan, planGovernance } from '../../../src/governance/plan.ts'
import { GovernancePolicy } from '../../../src/governance/policy.ts'
import { openTestApp } from '../../support/app.ts'
import { createTestDatabase, DATABASE_KINDS } from '../../support/databases.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
/** The fifth of a month: three days ago is the same month, seven days ago the one before. */
const START = Date.UTC(2026, 1, 5, 12)

const policyOf = (source: string): GovernancePolicy => {
  const read = readGovernanceFile(source)
  if ('problems' in read) throw new Error(JSON.stringify(read.problems))
  return new GovernancePolicy(read.file)
}

it.each(DATABASE_KINDS)('a plan says what a new file would have denied and saved [%s]', async (kind) => {
  const home = await createTestDatabase(kind)
  const database = await openDatabase(
    home.url === undefined ? { dataDir: home.dataDir } : { url: home.url, dataDir: home.dataDir },
  )
  try {
    const clock = new ManualClock(START - 8 * DAY)
    const { api, createAccount } = await openTestApp(database, { clock })
    const accounts = [await createAccount(100), await createAccount(100)]
    const book = async (account: number, agent_id: string, cost: number, action = 'search') =>
      (await api.post('/v1/book', { agent_id, resource_type: 'custom', action, cost }, accounts[account]!.key)).status
    const clear = (account: number, model: string) =>
      api.post('/v1/budget/clear', { agent_id: 'w', model, estimated_tokens: 100_000 }, accounts[account]!.key)
    for (const { key } of accounts) await api.put('/v1/budget/envelope', { agent_id: '*', limits: { session: 100 } }, key)

    await book(0, 'crawler', 30)
    clock.advance(5 * DAY)
    // Three days ago: $2 and $2 on one day, of each account.
    for (const account of [0, 1]) for (const cost of [2, 2]) expect(await book(account, 'crawler/run', cost)).toBe(200)
    clock.advance(DAY)
    expect(await book(0, 'crawler', 2.5)).toBe(200)
    expect(await book(0, 'mailer', 1, 'send_mail')).toBe(200)
    await clear(0, 'gpt-4o')
    await clear(0, 'gpt-4o-mini')
    expect(await book(1, 'crawler', 500)).toBe(403)
    clock.advance(2 * DAY)

    const source = `
[agents.crawler]
daily_budget = 3
monthly_budget = 4.4
[agents.mailer]
allowed_tools = ["read_mail"]
[agents.w]
allowed_models = ["gpt-4o-mini"]
`
    const before = await database.sql.unsafe('select version, ops from accounts order by account_id')
    const plan = await planGovernance(database, policyOf(source), { days: 7, now_ms: clock.now() })
    // Of each account the second $2 exceeds the day; of the first one the $2.50 exceeds the month.
    expect(plan.lines.get('crawler')).toEqual({
      denied: 3,
      saved: 6_500_000_000n,
      reasons: new Map([
        ['daily_budget', 2],
        ['monthly_budget', 1],
      ]),
    })
    expect(plan.lines.get('mailer')).toMatchObject({ denied: 1, saved: 1_000_000_000n })
    expect(plan.lines.get('w')).toMatchObject({ denied: 1, saved: 1_000_000_000n })
    expect(plan).toMatchObject({ approved: 8, deniedAlready: 1, denied: 5, saved: 8_500_000_000n })
    expect(describePlan(plan)).toContain('[agents.crawler] would have denied 3, saved $6.50 (daily_budget 2, monthly_budget 1)')
    expect(describePlan(plan)).toContain('Under this file: 5 denials more, $8.50 saved.')
    expect(await database.sql.unsafe('select version, ops from accounts order by account_id')).toEqual(before)

    const nothing = await planGovernance(database, policyOf('[agents.crawler]\ndaily_budget = 50\n'), {
      days: 7,
      now_ms: clock.now(),
    })
    expect(nothing).toMatchObject({ approved: 8, denied: 0, saved: 0n, tooManyTokens: { denied: 0, saved: 0n } })
    expect(describePlan(nothing)).not.toContain('max_tokens_per_request')

    const tokens = async (cap: number) =>
      planGovernance(database, policyOf(`[agents.w]\nmax_tokens_per_request = ${cap}\n`), { days: 7, now_ms: clock.now() })
    expect(await tokens(100_000)).toMatchObject({ denied: 0, tooManyTokens: { denied: 0, saved: 0n } })
    const fewer = await tokens(99_999)
    expect(fewer).toMatchObject({ denied: 0, tooManyTokens: { denied: 2, saved: 1_060_000_000n } })
    expect(describePlan(fewer)).toContain('max_tokens_per_request would have denied up to 2 more, $1.06')
  } finally {
    await database.close()
    await home.drop()
  }
})

it('the command checks a file and says where its mistakes are', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'gvnr-cli-'))
  const printed: string[] = []
  const run = (...parameters: string[]) =>
    rgf(
      parameters,
      () => Promise.reject(new Error('not needed')),
      (text) => printed.push(text),
    )
  try {
    const path = join(folder, 'a.rgf')
    await writeFile(path, '[agents.a]\ndaily_budget = 1\n')
    expect(await run('check', path)).toBe(0)
    expect(printed.splice(0)).toEqual([`${path}: well formed, 1 agent, fail_safe_action "deny".\n`])
    await writeFile(path, '[agents.a]\ndaily = 1\nmonthly = 1\n')
    expect(await run('check', path)).toBe(1)
    expect(printed.splice(0)).toEqual([
      expect.stringContaining(':2:1: there is no'),
      expect.stringContaining(':3:1: there is no'),
    ])
    expect(await run('plan', path)).toBe(1)
    for (const wrong of [[], ['lint', path], ['plan', path, '--days', '0'], ['check', join(folder, 'none')]])
      await expect(run(...wrong)).rejects.toThrow()
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})
