import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Balancer, type Balancing, startBalancer } from '../support/balancer.ts'
import { Client } from '../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { type Fleet, startFleet } from '../support/fleet.ts'
import { findDifferences, findWrongBalances, openSql, spread, type TestSql } from '../support/load.ts'

const PROCESSES = 3
const WIDTH = 96
const FITTING = 2_000
const ASKED = 3_000
/** 1000 tokens of gpt-4o-mini, output: $0.60 per million. */
const COST_NANOUSD = 600_000

describe.each(['round robin', 'sticky'] as const)('three processes behind a balancer [%s]', (balancing: Balancing) => {
  let home: TestDatabase
  let sql: TestSql
  let fleet: Fleet
  let balancer: Balancer
  let client: Client

  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    sql = openSql(home.url!)
    fleet = await startFleet(home.url!, PROCESSES)
    balancer = await startBalancer({ backends: fleet.servers.map(({ port }) => port), balancing })
    client = new Client(balancer.origin, { sockets: WIDTH })
  })
  afterAll(async () => {
    client?.close()
    await balancer?.stop()
    await fleet?.stop()
    await sql?.end()
    await home?.drop()
  })

  it('approve for one hot agent exactly what its cap and its quota hold', async () => {
    const { key, accountId } = await client.createAccount(ASKED)
    const limit_usd = (FITTING * COST_NANOUSD) / 1e9
    await client.setEnvelope(key, { agent_id: 'hot', limit_usd, window: 'session' })
    const answers = { approved: 0, envelope_exceeded: 0, other: 0 }
    await spread(ASKED, WIDTH, async () => {
      const { body } = await client.clear(key, { agent_id: 'hot', model: 'gpt-4o-mini', estimated_tokens: 1000 })
      if (body.approved) answers.approved++
      else if (body.reason === 'envelope_exceeded') answers.envelope_exceeded++
      else answers.other++
    })
    expect(answers).toEqual({ approved: FITTING, envelope_exceeded: ASKED - FITTING, other: 0 })
    expect((await client.getEnvelope(key, 'hot')).body).toMatchObject({ spent_usd: limit_usd, remaining_usd: 0 })
    expect(await sql`select count(*) from holds where account_id = ${accountId}`).toEqual([{ count: BigInt(FITTING) }])
    expect(await findWrongBalances(sql)).toEqual([])
    expect(await findDifferences(home.url!)).toEqual([])
    for (const server of fleet.servers) expect(server.logs()).not.toMatch(/"level":(50|60)/)
  })
})
