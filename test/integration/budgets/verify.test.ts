import { spawn } from 'node:child_process'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import { describeDifference, verifyBalances } from '../../../src/budgets/verify.ts'
import { openDatabase } from '../../../src/db/client.ts'
import { envelopePath, NOON, openTestApp, type TestApp } from '../../support/app.ts'
import { createTestDatabase, DATABASE_KINDS, describeEachDatabase } from '../../support/databases.ts'

const HOUR = 3_600_000
const CLEAR = '/v1/budget/clear'

/** An account with every kind of hold, some of windows that have passed, on nested envelopes. */
async function populate(test: TestApp): Promise<{ accountId: string; key: string; holds: string[] }> {
  const account = await test.createAccount(1000)
  const holds: string[] = []
  const clear = async (agent_id: string, hold_seconds = 604_800) => {
    const { body } = await test.api.post(CLEAR, { agent_id, model: 'm', estimated_tokens: 1000, hold_seconds }, account.key)
    holds.push(body.clearance_id)
    return body.clearance_id
  }
  for (const agent_id of ['*', 'team', 'team/a', 'solo'])
    await test.api.put('/v1/budget/envelope', { agent_id, limits: { hourly: 50, daily: 50, session: 500 } }, account.key)
  for (let round = 0; round < 4; round++) {
    for (const agent of ['team/a', 'team', 'solo', 'team/b']) {
      const settled = await clear(agent)
      await clear(agent, 1)
      const released = await clear(agent)
      const late = holds.at(-8)
      const usage = { agent_id: agent, actual_input_tokens: 5, actual_output_tokens: round * 900 }
      await test.api.post('/v1/budget/reconcile', { ...usage, clearance_id: settled }, account.key)
      await test.api.post('/v1/budget/release', { clearance_id: released }, account.key)
      if (late) await test.api.post('/v1/budget/release', { clearance_id: late }, account.key)
    }
    await test.api.delete(envelopePath('team'), account.key)
    test.clock.advance(round % 2 === 0 ? HOUR : 20 * HOUR)
    await test.api.put('/v1/budget/envelope', { agent_id: 'team', limit_usd: 80 }, account.key)
  }
  return { ...account, holds }
}

describeEachDatabase('verifying the balances', (openTestDatabase) => {
  it('finds every balance right, in pages of any size', async () => {
    const test = await openTestApp(await openTestDatabase())
    const accounts = [await populate(test), await populate(test), await populate(test)]
    await test.createAccount()
    for (const pageRows of [1, 2, 3, 5, 1000])
      expect(await verifyBalances(test.database, { pageRows }), `pages of ${pageRows}`).toEqual({
        accounts: 4,
        envelopes: 12,
        differences: [],
      })
    expect(await verifyBalances(test.database, { accountId: accounts[1]!.accountId })).toEqual({
      accounts: 1,
      envelopes: 4,
      differences: [],
    })
  })

  it('finds each balance that was tampered with, and names it', async () => {
    const test = await openTestApp(await openTestDatabase())
    const { accountId, holds } = await populate(test)
    const other = await populate(test)
    const { sql } = test.database
    const found = async () => {
      const { differences } = await verifyBalances(test.database, { pageRows: 2 })
      expect(differences.every((difference) => difference.accountId === accountId)).toBe(true)
      expect((await verifyBalances(test.database, { accountId: other.accountId })).differences).toEqual([])
      return differences.map(({ accountId: _, ...difference }) => difference)
    }
    const [before] = await sql.unsafe('select ops from accounts where account_id = $1', [accountId])
    const ops = before!.ops as bigint

    await sql.unsafe('update accounts set ops = ops + 3 where account_id = $1', [accountId])
    expect(await found()).toEqual([{ kind: 'ops', stored: ops + 3n, expected: ops }])
    await sql.unsafe('update accounts set ops = ops - 3 where account_id = $1', [accountId])

    const spend =
      "update envelopes set spent_session_nanousd = spent_session_nanousd + $2 where account_id = $1 and agent_id = 'team/a'"
    await sql.unsafe(spend, [accountId, '1'])
    const [spent] = await found()
    expect(spent).toMatchObject({ kind: 'spent', agentId: 'team/a', window: 'session' })
    expect((spent!.stored ?? 0n) - (spent!.expected ?? 0n)).toBe(1n)
    await sql.unsafe(spend, [accountId, '-1'])

    await sql.unsafe("delete from ledger where account_id = $1 and kind = 'settle' and hold_id = $2", [accountId, holds[0]!])
    expect(await found()).toMatchObject([{ kind: 'settlement', holdId: holds[0], stored: null }])
    await sql.unsafe('update holds set state = 0, actual_nanousd = null where account_id = $1 and hold_id = $2', [
      accountId,
      holds[0]!,
    ])
    // The settlement never happened, as far as the hold says: all windows that still hold its moment are off by the drift.
    const unsettled = await found()
    expect(new Set(unsettled.map((difference) => difference.kind === 'spent' && difference.agentId))).toEqual(
      new Set(['*', 'team', 'team/a']),
    )
    expect(new Set(unsettled.map((difference) => difference.kind === 'spent' && difference.window))).toEqual(
      new Set(['weekly', 'monthly', 'session']),
    )
    await sql.unsafe('delete from holds where account_id = $1 and hold_id = $2', [accountId, holds[3]!])
    expect(new Set((await found()).map(({ kind }) => kind))).toEqual(new Set(['ops', 'spent', 'settlement']))

    for (const difference of (await verifyBalances(test.database)).differences)
      expect(describeDifference(difference)).toContain(accountId)
    expect((await verifyBalances(test.database, { maxDifferences: 2 })).differences).toHaveLength(2)
    await sql.unsafe('delete from holds where account_id = $1', [accountId])
    await sql.unsafe('delete from envelopes where account_id = $1', [accountId])
  })

  it('reads one moment while decisions go on', async () => {
    const test = await openTestApp(await openTestDatabase())
    const { key, accountId } = await test.createAccount(10_000)
    await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1000 }, key)
    let running = true
    const work = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (running) {
          await test.api.post(CLEAR, { agent_id: 'a', model: 'm', estimated_tokens: 10 }, key)
          await test.api.post('/v1/budget/reconcile', { agent_id: 'a', actual_input_tokens: 1, actual_output_tokens: 20 }, key)
        }
      }),
    )
    for (let round = 0; round < 10; round++)
      expect((await verifyBalances(test.database, { accountId, pageRows: 7 })).differences).toEqual([])
    running = false
    await work
  })
})

describe('gvnr verify', { timeout: 120_000 }, () => {
  const CLI = new URL('../../../src/cli.ts', import.meta.url).pathname
  const run = async (parameters: string[], environment: Record<string, string>) => {
    const child = spawn(process.execPath, ['--import', 'tsx', CLI, ...parameters], {
      env: { PATH: process.env.PATH, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const ended = new Promise<number | null>((resolve) => child.once('exit', resolve))
    const [code, out, err] = await Promise.all([ended, text(child.stdout), text(child.stderr)])
    return { code, out, err }
  }

  it.each(DATABASE_KINDS)('says on %s whether every balance is right, and which is not', async (kind) => {
    const home = await createTestDatabase(kind)
    const environment: Record<string, string> = home.url === undefined ? { DATA_DIR: home.dataDir } : { DATABASE_URL: home.url }
    try {
      let database = await openDatabase(home)
      const { accountId } = await populate(await openTestApp(database))
      await database.close()
      expect(await run(['verify'], environment)).toEqual({
        code: 0,
        out: '1 accounts, 4 envelopes: every balance is right.\n',
        err: '',
      })
      expect(await run(['verify', accountId.toUpperCase()], environment)).toMatchObject({ code: 0 })
      expect(await run(['verify', '0190b3c1-0000-7000-8000-000000000000'], environment)).toMatchObject({
        code: 2,
        err: expect.stringMatching(/no account/),
      })

      database = await openDatabase(home)
      await database.sql.unsafe('update accounts set ops = 7')
      await database.close()
      const broken = await run(['verify'], environment)
      expect(broken).toMatchObject({ code: 1, err: '' })
      expect(broken.out).toMatch(
        new RegExp(`account ${accountId}: has 7 operations, ledger and holds add up to \\d+\n.*: 1 differences\\.`),
      )
    } finally {
      await home.drop()
    }
  })

  it('helps, and says what it does not understand', async () => {
    const folder = `/nowhere/${NOON}`
    const cases: [string[], Record<string, string>, object][] = [
      [['help'], {}, { code: 0, out: expect.stringContaining('verify'), err: '' }],
      [[], {}, { code: 2, err: expect.stringContaining('Usage') }],
      [['veryfi'], {}, { code: 2, err: expect.stringContaining('"veryfi"') }],
      [['verify', 'nonsense'], {}, { code: 2, err: expect.stringContaining('account_id') }],
      [['verify'], { PORT: 'x' }, { code: 2, err: expect.stringContaining('PORT') }],
      [['verify'], { DATA_DIR: folder }, { code: 2, err: expect.stringContaining(folder) }],
      [
        ['verify'],
        { DATABASE_URL: 'postgres://127.0.0.1:1/none' },
        { code: 2, err: expect.stringMatching(/ECONNREFUSED|CONNECT/) },
      ],
    ]
    const results = await Promise.all(cases.map(([parameters, environment]) => run(parameters, environment)))
    for (const [index, [, , expected]] of cases.entries()) expect(results[index]).toMatchObject(expected)
  })
})
