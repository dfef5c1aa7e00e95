import { randomUUID } from 'node:crypto'
import { beforeAll, beforeEach, expect, it } from 'vitest'
import { findIntent, type IntentRow, insertIntent, leaseIntent, releaseIntent } from '../../../src/billing/intents.store.ts'
import { uuidv7 } from '../../../src/core/ids.ts'
import { createLog } from '../../../src/core/log.ts'
import type { Database } from '../../../src/db/client.ts'
import { Presence } from '../../../src/db/presence.ts'
import { NOON } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const LEASE_MS = 40_000

describeEachDatabase('the right to ask for a settlement', (openTestDatabase) => {
  let database: Database
  let intent: IntentRow
  let first: Holder
  let second: Holder

  type Holder = { readonly id: string; take(): Promise<number | null>; give(leaseMs: number): Promise<void> }
  const holder = (): Holder => {
    const id = randomUUID()
    const presence = new Presence({ database, log: createLog('silent') })
    const as = { processId: id, goneIs: presence.goneIs.bind(presence) }
    return {
      id,
      take: () => leaseIntent(database, intent, as, LEASE_MS),
      give: (leaseMs) => releaseIntent(database, { ...intent, leaseMs }, null),
    }
  }
  /** How long ago the first was last seen. The second was all the time. */
  const seen = (ago_ms: number) =>
    database.sql.unsafe(
      `insert into processes select id, t - 9000, t - ago from (select (extract(epoch from clock_timestamp()) * 1000)::bigint t) now,
         (values ($1::uuid, $2::bigint), ($3::uuid, 0)) u(id, ago)
       on conflict (process_id) do update set seen_ms = excluded.seen_ms, since_ms = excluded.since_ms`,
      [first.id, String(ago_ms), second.id],
    )

  beforeAll(async () => {
    database = await openTestDatabase()
  })
  beforeEach(async () => {
    ;[first, second] = [holder(), holder()]
    intent = {
      chainId: 84532,
      payer: '0x1',
      nonce: randomUUID(),
      accountId: uuidv7(NOON),
      receiver: '0x2',
      amountUnits: 5_000_000n,
      validBeforeMs: NOON,
      fromBlock: 1n,
      state: 'open',
      txHash: null,
      leaseMs: 0,
      processId: null,
      createdMs: NOON,
    }
    await insertIntent(database, intent)
    await seen(0)
  })

  it('belongs to one for as long as its process lives', async () => {
    expect(await first.take()).not.toBeNull()
    await seen(4_000)
    expect(await second.take()).toBeNull()
    expect(await first.take()).toBeNull()
    await database.sql.unsafe('update payment_intents set lease_ms = 0 where nonce = $1', [intent.nonce])
    expect(await second.take()).not.toBeNull()
  })

  it('is free again when it is given back', async () => {
    await first.give((await first.take())!)
    expect(await findIntent(database, intent)).toMatchObject({ leaseMs: 0, processId: null })
    expect(await second.take()).not.toBeNull()
  })

  it('passes on when its process is gone, to one of many; who comes back does not end it', async () => {
    const lost = await first.take()
    await seen(6_000)
    const taken = await Promise.all(Array.from({ length: 10 }, () => second.take()))
    const leases = taken.filter((leaseMs) => leaseMs !== null)
    expect(leases).toHaveLength(1)
    await first.give(lost!)
    expect(await second.take()).toBeNull()
    await second.give(leases[0]!)
    expect(await second.take()).not.toBeNull()
  })

  it('waits for its lease when it names no process', async () => {
    await first.take()
    await database.sql.unsafe('update payment_intents set process_id = null where nonce = $1', [intent.nonce])
    await seen(6_000)
    expect(await second.take()).toBeNull()
  })
})
