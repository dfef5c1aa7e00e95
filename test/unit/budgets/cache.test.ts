import { describe, expect, it } from 'vitest'
import { AccountCache } from '../../../src/budgets/cache.ts'
import { decide } from '../../../src/budgets/decide.ts'
import type { AccountState, Command } from '../../../src/budgets/state.ts'

const account = (index: number) => ({ accountId: `account-${index}`, version: 1n, ops: 10n, clockMs: 0, events: 0 })
const envelope = { limits: [null, 5n, null, null, null], spent: [0n, 0n, 0n, 0n, 0n], clockMs: 0, createdMs: 0 } as const
const setEnvelope = (id: string): Command => ({
  kind: 'set_envelope',
  id,
  resumed: false,
  agentId: 'a',
  limits: [null, 5n, null, null, null],
})

describe('the account cache', () => {
  it('keeps what it knows while the version stays, and forgets all of it when it moves', () => {
    const cache = new AccountCache()
    const known = cache.adopt(account(1))
    known.envelopes.set('a', envelope)
    expect(cache.adopt(account(1))).toBe(known)
    const moved = cache.adopt({ ...account(1), version: 2n, ops: 9n })
    expect(moved).not.toBe(known)
    expect(moved.envelopes.size).toBe(0)
    expect(cache.get('account-1')).toBe(moved)
  })

  it('takes a hold only together with the account entry it was stored with', () => {
    const cache = new AccountCache()
    const first = cache.adopt(account(1))
    first.envelopes.set('*', null)
    first.envelopes.set('a', envelope)
    const state: AccountState = { ...first, holds: new Map() }
    const clear: Command = {
      kind: 'clear',
      id: 'hold-1',
      resumed: false,
      agentId: 'a',
      path: ['*', 'a'],
      model: 'm',
      estimate: 2n,
      rates: { input: 1n, output: 1n, cachedInput: 1n, cacheWrite: 1n, cacheWrite1h: 1n },
      hold_ms: 1000,
    }
    cache.commit(first, decide(state, [clear], 7).change)
    expect(first).toMatchObject({ version: 2n, ops: 9n, clockMs: 7 })
    expect(cache.hold(first, 'hold-1')).toMatchObject({ estimate: 2n, takenMs: 7 })
    cache.drop('account-1')
    expect(cache.hold(cache.adopt({ ...account(1), version: 2n }), 'hold-1')).toBeUndefined()
  })

  it('stays bounded when a few accounts name ever new agents', () => {
    const cache = new AccountCache()
    const accounts = 50
    for (let round = 0; round < 10; round++) {
      for (let index = 0; index < accounts; index++) {
        const cached = cache.get(`account-${index}`) ?? cache.adopt(account(index))
        for (let agent = 0; agent < 1500; agent++) cached.envelopes.set(`agent-${round}-${agent}`, null)
        cache.commit(cached, decide({ ...cached, holds: new Map() }, [setEnvelope(`entry-${round}-${index}`)], 0).change)
      }
    }
    let entries = 0
    for (let index = 0; index < accounts; index++) entries += cache.get(`account-${index}`)?.envelopes.size ?? 0
    // MAX_ENVELOPES + MAX_ACCOUNTS of cache.ts; 750,000 were named.
    expect(entries).toBeLessThanOrEqual(120_000)
  })

  it('starts over with an account that alone has named too many', () => {
    const cache = new AccountCache()
    const cached = cache.adopt(account(1))
    for (let agent = 0; agent < 25_000; agent++) cached.envelopes.set(`agent-${agent}`, null)
    cache.commit(cached, decide({ ...cached, holds: new Map() }, [setEnvelope('entry')], 0).change)
    expect(cached.envelopes.size).toBe(1)
  })
})
