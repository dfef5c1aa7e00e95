import { execFileSync } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { mkdtemp, open, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Purchase } from '../../../src/budgets/requests.ts'
import { verifyBalances } from '../../../src/budgets/verify.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import { DomainError } from '../../../src/core/errors.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { createLog } from '../../../src/core/log.ts'
import { whyUnusable } from '../../../src/governance/disk.ts'
import { readGovernanceFile } from '../../../src/governance/file.ts'
import { readLines } from '../../../src/governance/journal.ts'
import { OutageBook } from '../../../src/governance/outage.ts'
import { GovernancePolicy } from '../../../src/governance/policy.ts'
import { NOON, openTestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

let root: string
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'gvnr-outage-'))
})
afterAll(() => rm(root, { recursive: true, force: true }))

const ACCOUNT = '019ab5c4-1f00-7c11-8a52-6f0d3c9b7e21'
const purchase = (cost: bigint, agentId = 'a'): Purchase => ({ agentId, label: 'api_call:x', cost, detail: '{}' })

function policyOf(source: string): GovernancePolicy {
  const read = readGovernanceFile(source)
  if ('problems' in read) throw new Error(JSON.stringify(read.problems))
  return new GovernancePolicy(read.file)
}

let folders = 0
/** A process during an outage; `database.isUp` brings it back, `booked` is what it was told then. */
function setUp(folder = join(root, String(folders++)), failSafe: 'allow' | 'deny' = 'allow', disk_ms = 10_000) {
  const booked: { id: string; cost: bigint }[] = []
  const database = { isUp: false, failing: false }
  const book = async (_account: string, id: string, { cost }: Purchase) => {
    if (!database.isUp) throw new DomainError('database_unavailable')
    if (database.failing) throw new DomainError('overloaded')
    booked.push({ id, cost })
  }
  const governance = { policy: policyOf('[agents.a]\ndaily_budget = 0.000000100\n'), failSafe }
  const ping = async () => {
    if (!database.isUp) throw new DomainError('database_unavailable')
  }
  const outage = new OutageBook(
    { governance, book, ping, clock: new ManualClock(NOON), log: createLog('silent'), disk_ms },
    folder,
  )
  return { outage, booked, database, folder }
}
const id = () => uuidv7(NOON)
const files = async (folder: string) => (await readdir(folder, { recursive: true })).filter((name) => name.endsWith('.ndjson'))

/** A disk that keeps silent until `answer`: every thread that Node has for files waits for somebody to write into a pipe. */
async function silentDisk() {
  const pipe = join(root, `pipe-${folders++}`)
  execFileSync('mkfifo', [pipe])
  const waiting = Array.from({ length: 32 }, () => open(pipe, 'r'))
  return async () => {
    const writer = openSync(pipe, 'r+')
    for (const handle of await Promise.all(waiting)) await handle.close()
    closeSync(writer)
  }
}

describe('the disk', () => {
  it('is proved before it is needed, and nothing is left of the proof', async () => {
    const folder = join(root, 'new', 'below', 'it')
    expect(await whyUnusable(folder, NOON)).toBeNull()
    expect(await readdir(folder)).toEqual([])
    expect(await whyUnusable('/proc/gvnr/journal', NOON)).toMatch(
      /^RGF_JOURNAL_DIR \(\/proc\/gvnr\/journal\) cannot be written.*ENOENT/,
    )
    const file = join(root, 'a-file')
    await writeFile(file, '')
    expect(await whyUnusable(file, NOON)).toMatch(/^RGF_JOURNAL_DIR .*ENOTDIR/)
    expect(await whyUnusable(join(file, 'below'), NOON)).toMatch(/^RGF_JOURNAL_DIR .*ENOTDIR/)
  })

  it('denies when it keeps silent, and what it notes too late is never booked', async () => {
    const { outage, folder, booked, database } = setUp(undefined, 'allow', 50)
    const answer = await silentDisk()
    const late = id()
    expect(await outage.allow(ACCOUNT, late, purchase(40n))).toBe(false)
    expect(await whyUnusable(folder, NOON, 50)).toMatch(/^RGF_JOURNAL_DIR .*the disk did not answer within 50 ms/)
    await answer()
    const journal = async () => {
      const [file] = await files(folder).catch(() => [])
      return file === undefined ? '' : await readFile(join(folder, file), 'utf8')
    }
    await expect.poll(journal, { timeout: 10_000 }).toContain('withdraw')
    expect(readLines(await journal())).toEqual([])
    database.isUp = true
    await outage.stop()
    expect(booked).toEqual([])
  })
})

describe('what is allowed during an outage', () => {
  it('is on disk before it is allowed, and is booked once, when the database is back', async () => {
    const { outage, booked, database, folder } = setUp()
    const one = id()
    expect(await outage.allow(ACCOUNT, one, purchase(40n))).toBe(true)
    const [file] = await files(folder)
    expect(readLines(await readFile(join(folder, file!), 'utf8'))).toMatchObject([{ id: one, cost: 40n, accountId: ACCOUNT }])
    await outage.retry()
    expect(outage.pending).toBe(1)
    database.isUp = true
    await outage.retry()
    await outage.retry()
    expect(booked).toEqual([{ id: one, cost: 40n }])
    expect(outage.pending).toBe(0)
    expect(await readFile(join(folder, file!), 'utf8')).toBe('')
    await outage.stop()
    expect(await files(folder)).toEqual([])
  })

  it('keeps within the budgets of the file for as long as it lasts, and has room again afterwards', async () => {
    const { outage, database } = setUp()
    expect(await outage.allow(ACCOUNT, id(), purchase(60n))).toBe(true)
    expect(await outage.allow(ACCOUNT, id(), purchase(41n, 'a/b'))).toBe(false)
    expect(await outage.allow(ACCOUNT, id(), purchase(40n, 'a/b'))).toBe(true)
    expect(await outage.allow('019ab5c4-1f00-7c11-8a52-000000000000', id(), purchase(60n))).toBe(true)
    database.isUp = true
    await outage.retry()
    database.isUp = false
    expect(await outage.allow(ACCOUNT, id(), purchase(100n))).toBe(true)
    await outage.stop()
  })

  it('is nothing for agents that the file does not name, and nothing at all with "deny"', async () => {
    const { outage, folder } = setUp()
    expect(await outage.allow(ACCOUNT, id(), purchase(1n, 'b'))).toBe(false)
    const strict = setUp(folder, 'deny')
    expect(await strict.outage.allow(ACCOUNT, id(), purchase(1n))).toBe(false)
    await expect(files(folder)).rejects.toThrow('ENOENT')
  })

  it('waits for its final cost while the call runs, and stands at the estimate when its process is gone', async () => {
    const { outage, booked, database, folder } = setUp()
    const [open, settled, lost] = [id(), id(), id()]
    for (const one of [open, settled, lost])
      expect(await outage.allow(ACCOUNT, one, purchase(30n), {}, { isOpen: true })).toBe(true)
    await outage.settle(settled, 7n, '{"output_tokens":1}')
    database.isUp = true
    await outage.retry()
    expect(booked).toEqual([{ id: settled, cost: 7n }])
    await outage.settle(open, 12n, '{}')
    // This process ends with one call still running.
    await outage.stop()
    expect(booked).toEqual([
      { id: settled, cost: 7n },
      { id: open, cost: 12n },
    ])
    const next = setUp(folder)
    next.database.isUp = true
    await next.outage.retry()
    // The journal names all three: booking by id makes the first two no-ops for the engine.
    expect(next.booked).toEqual([
      { id: open, cost: 12n },
      { id: settled, cost: 7n },
      { id: lost, cost: 30n },
    ])
    expect(await files(folder)).toEqual([])
    await next.outage.stop()
  })

  it('says that the database is away from the first that was allowed on, until it answers, and covers what the file names', async () => {
    const { outage, database } = setUp()
    expect(outage.isAway).toBe(false)
    expect(outage.covers('a/b', {})).toBe(true)
    expect(outage.covers('b', {})).toBe(false)
    expect(setUp(undefined, 'deny').outage.covers('a', {})).toBe(false)
    const one = id()
    expect(await outage.allow(ACCOUNT, one, purchase(30n), {}, { isOpen: true })).toBe(true)
    expect(outage.isAway).toBe(true)
    await outage.retry()
    expect(outage.isAway).toBe(true)
    database.isUp = true
    // Nothing is ready to be booked, and still it is found to be back.
    await outage.retry()
    expect(outage.isAway).toBe(false)
    await outage.settle(one, 30n, '{}')
    await outage.stop()
  })

  it('leaves the journals of live processes alone', async () => {
    const one = setUp()
    expect(await one.outage.allow(ACCOUNT, id(), purchase(30n))).toBe(true)
    const two = setUp(one.folder)
    two.database.isUp = true
    await two.outage.retry()
    expect(two.booked).toEqual([])
    await one.outage.stop()
    await two.outage.stop()
    const three = setUp(one.folder)
    three.database.isUp = true
    await three.outage.retry()
    expect(three.booked).toHaveLength(1)
    await three.outage.stop()
  })

  it('is read from a journal that was cut off in the middle of a line', () => {
    const line = (one: string) =>
      JSON.stringify({
        kind: 'allow',
        id: one,
        account_id: ACCOUNT,
        agent_id: 'a',
        label: 'x',
        cost_nanousd: '5',
        detail: '{}',
        at_ms: 1,
      })
    const [first, second] = [id(), id()]
    expect(readLines(`${line(first)}\nnonsense\n${line(second)}`).map((entry) => entry.id)).toEqual([first])
  })
})

describeEachDatabase('booking after an outage', (openTestDatabase) => {
  it('counts what happened once, also beyond the limit and with an empty quota', async () => {
    const database = await openTestDatabase()
    const { app, api, createAccount } = await openTestApp(database)
    const { key, accountId } = await createAccount(1)
    await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key)
    const booking = { ...purchase(800_000_000n), label: 'api_call:x' }
    const one = uuidv7(NOON)
    const two = uuidv7(NOON)
    const { budgets } = app
    for (const operationId of [one, two, one, two]) await budgets.bookAfterwards(accountId, operationId, booking)
    expect((await api.get('/v1/budget/envelope/a', key)).body).toMatchObject({ spent_usd: 1.6, remaining_usd: 0 })
    expect((await api.get('/v1/account/balance', key)).body.operations_remaining).toBe(0)
    expect((await verifyBalances(database)).differences).toEqual([])
  })

  it('settles a reservation that was stored although nobody heard of it, once, at what the call cost', async () => {
    const database = await openTestDatabase()
    const { app, api, createAccount } = await openTestApp(database)
    const { key, accountId } = await createAccount(10)
    await api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key)
    const rates = { input: 1n, output: 1n, cachedInput: 1n, cacheWrite: 1n, cacheWrite1h: 1n }
    const operationId = uuidv7(NOON)
    const reservation = { agentId: 'a', model: 'gpt-4o', estimate: 700_000_000n, rates, hold_ms: 120_000 }
    const { budgets } = app
    await budgets.reserve(accountId, { operationId, resumed: false }, reservation)
    const used = { ...purchase(200_000_000n), label: 'gpt-4o' }
    for (let time = 0; time < 2; time++) await budgets.bookAfterwards(accountId, operationId, used)
    expect((await api.get('/v1/budget/envelope/a', key)).body).toMatchObject({ spent_usd: 0.2 })
    expect((await api.get('/v1/account/balance', key)).body.operations_remaining).toBe(9)
    expect((await verifyBalances(database)).differences).toEqual([])
  })
})
