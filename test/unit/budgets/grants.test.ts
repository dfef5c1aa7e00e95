import { describe, expect, it } from 'vitest'
import { decide } from '../../../src/budgets/decide.ts'
import type { AccountState, GrantCommand } from '../../../src/budgets/state.ts'

const account = (ops: bigint): AccountState => ({
  accountId: '019ab5c4-1f00-7c11-8a52-6f0d3c9b7e21',
  version: 4n,
  ops,
  clockMs: 1000,
  envelopes: new Map([['*', null]]),
  holds: new Map(),
})
const grant = (id: string, ops: bigint, more: Partial<GrantCommand> = {}): GrantCommand => ({
  kind: 'grant',
  entry: ops < 0n ? 'correction' : 'topup',
  id,
  resumed: false,
  ops,
  detail: 'test',
  ...more,
})

describe('grants', () => {
  it('add, and a correction takes no more than there is', () => {
    const { outcomes, change } = decide(account(10n), [grant('a', 5n), grant('b', -12n), grant('c', -12n), grant('d', 1n)], 2000)
    expect(outcomes).toEqual([{ ops: 15n }, { ops: 3n }, { ops: 0n }, { ops: 1n }])
    expect(change.ledger.map(({ id, kind, ops }) => [id, kind, ops])).toEqual([
      ['a', 'topup', 5n],
      ['b', 'correction', -12n],
      ['c', 'correction', -3n],
      ['d', 'topup', 1n],
    ])
    expect(change.ops).toBe(1n)
  })

  it('count once when one batch names the same entry twice', () => {
    const { outcomes, change } = decide(account(0n), [grant('a', 5n), grant('a', 5n), grant('b', 1n)], 2000)
    expect(outcomes).toEqual([{ ops: 5n }, { ops: 5n }, { ops: 6n }])
    expect(change.ledger).toHaveLength(2)
  })

  it('that were recorded before change nothing', () => {
    const { outcomes, change } = decide(account(7n), [grant('a', 5n, { resumed: true })], 2000)
    expect(outcomes).toEqual([{ ops: 7n }])
    expect([change.changed, change.ledger.length]).toEqual([false, 0])
  })
})
