import { describe, expect, it } from 'vitest'
import { decide } from '../../../src/budgets/decide.ts'
import { limitsOf, termsOf } from '../../../src/budgets/envelope.ts'
import { pathOf } from '../../../src/budgets/path.ts'
import type { AccountState, DecideCommand, EnvelopeState, OutcomeOf, Raise } from '../../../src/budgets/state.ts'

const NOON = Date.UTC(2026, 0, 14, 12)
const HOUR = 3_600_000
const USD = 1_000_000_000n
const RATES = { input: 3n, output: 15n, cachedInput: 1n, cacheWrite: 4n, cacheWrite1h: 6n }

const envelope = (limit: bigint | null, spent: bigint, change: Partial<EnvelopeState> = {}): EnvelopeState => ({
  limits: [null, limit, null, null, null],
  spent: [spent, spent, spent, spent, spent],
  clockMs: NOON,
  createdMs: NOON,
  ...change,
})
const account = (envelopes: Record<string, EnvelopeState>, change: Partial<AccountState> = {}): AccountState => ({
  accountId: 'a',
  version: 1n,
  ops: 10n,
  clockMs: NOON,
  envelopes: new Map(Object.entries(envelopes)),
  holds: new Map(),
  ...change,
})
const extraOf = (amount: bigint, window: Raise['window'] = 'daily', agentId = 'bot'): Raise => ({
  agentId,
  window,
  kind: 'extra',
  amount,
})
const capOf = (amount: bigint, window: Raise['window'] = 'daily'): Raise => ({ agentId: 'bot', window, kind: 'limit', amount })
const decision = (change: Partial<DecideCommand> = {}): DecideCommand => ({
  kind: 'decide',
  id: 'approval-1',
  resumed: false,
  agentId: 'bot',
  actionSummary: 'more',
  decision: 'approved',
  responder: 'link',
  expiresMs: NOON + HOUR,
  raise: null,
  terms: null,
  ...change,
})
const clear = (estimate: bigint) => ({
  kind: 'clear' as const,
  id: `hold-${estimate}`,
  resumed: false,
  agentId: 'bot',
  path: pathOf('bot'),
  model: 'm',
  estimate,
  rates: RATES,
  hold_ms: 1000,
})
const approving = (raise: Raise, state: AccountState, at = NOON) =>
  decision({ raise, terms: termsOf(raise, state.envelopes.get(raise.agentId) ?? null, at) })
const first = (outcomes: readonly unknown[]) => outcomes[0] as OutcomeOf['decide']

describe('an approval', () => {
  it('is decided once: every later decision is shown the first', () => {
    const { outcomes, change } = decide(account({}), [decision(), decision({ decision: 'denied', responder: 'late' })], NOON)
    expect(outcomes[0]).toEqual({
      decided: { approvalId: 'approval-1', decision: 'approved', responder: 'link', decidedMs: NOON },
    })
    expect(outcomes[1]).toEqual({ decided: expect.objectContaining({ decision: 'approved' }) })
    expect(change.decisions).toHaveLength(1)
    expect(change.ledger).toHaveLength(1)
  })

  it('that was decided before changes nothing', () => {
    const earlier = { approvalId: 'approval-1', decision: 'denied' as const, responder: 'x', decidedMs: NOON - 1 }
    const state = account({ bot: envelope(5n * USD, 0n) }, { decisions: new Map([['approval-1', earlier]]) })
    const { outcomes, change } = decide(state, [approving(capOf(10n * USD), state)], NOON)
    expect(outcomes[0]).toEqual({ decided: earlier })
    expect(change.changed).toBe(false)
    expect(change.limited.size + change.ledger.length + change.decisions.length).toBe(0)
  })

  it('is a timeout from its expiry on, to the millisecond, and raises nothing', () => {
    const state = account({ bot: envelope(5n * USD, 0n) })
    const command = approving(capOf(10n * USD), state)
    expect(first(decide(state, [command], NOON + HOUR - 1).outcomes)).toMatchObject({ decided: { decision: 'approved' } })
    const late = decide(state, [command], NOON + HOUR)
    expect(first(late.outcomes)).toMatchObject({ decided: { decision: 'timeout', responder: null } })
    expect(late.change.limited.size).toBe(0)
  })

  it('times out by the account clock when this process is behind', () => {
    const { outcomes } = decide(account({}, { clockMs: NOON + HOUR }), [decision()], NOON)
    expect(first(outcomes)).toMatchObject({ decided: { decision: 'timeout' } })
  })

  it('cannot be timed out early', () => {
    const { outcomes, change } = decide(account({}), [decision({ decision: 'timeout' })], NOON)
    expect(first(outcomes)).toEqual({ refused: 'pending' })
    expect(change.changed).toBe(false)
  })

  it('denied raises nothing', () => {
    const state = account({ bot: envelope(5n * USD, 0n) })
    const { change } = decide(state, [{ ...approving(capOf(10n * USD), state), decision: 'denied' }], NOON)
    expect(change.limited.size).toBe(0)
    expect(change.ledger[0]).toMatchObject({ kind: 'approval', amount: 0n })
  })
})

describe('a raise', () => {
  it('applies to the very next clearance of the same batch', () => {
    const state = account({ bot: envelope(5n * USD, 4n * USD) })
    const { outcomes } = decide(state, [clear(2n * USD), approving(extraOf(1n * USD), state), clear(2n * USD)], NOON)
    expect(outcomes[0]).toMatchObject({ approved: false, reason: 'envelope_exceeded' })
    expect(outcomes[2]).toMatchObject({ approved: true, remaining: 0n })
  })

  it('of the cap changes that window only and ends a one-off raise of it', () => {
    const before = envelope(5n * USD, 4n * USD, {
      limits: [null, 5n * USD, null, 100n * USD, null],
      extra: { amounts: [0n, 2n * USD, 0n, 3n * USD, 0n], clockMs: NOON },
    })
    const state = account({ bot: before })
    const { change } = decide(state, [approving(capOf(10n * USD), state)], NOON)
    expect(change.limited.get('bot')).toMatchObject({
      limits: [null, 10n * USD, null, 100n * USD, null],
      extra: { amounts: [0n, 0n, 0n, 3n * USD, 0n] },
    })
  })

  it('of a cap makes an envelope where there was none', () => {
    const { change } = decide(account({}), [approving(capOf(10n * USD, 'weekly'), account({}))], NOON)
    expect(change.limited.get('bot')).toMatchObject({ limits: [null, null, 10n * USD, null, null], createdMs: NOON })
  })

  it('for once adds to the current instance and is gone with it', () => {
    const state = account({ bot: envelope(5n * USD, 5n * USD) })
    const raised = decide(state, [approving(extraOf(2n * USD), state)], NOON).change.limited.get('bot')!
    expect(limitsOf('bot', raised, NOON)[0]).toMatchObject({ limit: 5n * USD, extra: 2n * USD, remaining: 2n * USD })
    expect(limitsOf('bot', raised, NOON + 12 * HOUR)[0]).toMatchObject({ extra: 0n, remaining: 5n * USD })
    const tomorrow = decide(account({ bot: raised }), [clear(6n * USD)], NOON + 12 * HOUR)
    expect(tomorrow.outcomes[0]).toMatchObject({ approved: false, remaining: 5n * USD })
  })

  it('for once is still gone after charges moved the envelope into the next instance', () => {
    const state = account({ bot: envelope(5n * USD, 0n) })
    const raised = decide(state, [approving(extraOf(2n * USD), state)], NOON).change.limited.get('bot')!
    const charged = decide(account({ bot: raised }), [clear(1n * USD)], NOON + 12 * HOUR).change.charged.get('bot')!
    expect(limitsOf('bot', charged, NOON + 13 * HOUR)[0]).toMatchObject({ extra: 0n, spent: 1n * USD, remaining: 4n * USD })
  })

  it('for once adds up', () => {
    const state = account({ bot: envelope(5n * USD, 0n) })
    const once = decide(state, [approving(extraOf(2n * USD), state)], NOON).change.limited.get('bot')!
    const again = account({ bot: once })
    const twice = decide(again, [approving(extraOf(3n * USD), again)], NOON + HOUR / 2).change.limited.get('bot')!
    expect(limitsOf('bot', twice, NOON + HOUR / 2)[0]).toMatchObject({ extra: 5n * USD })
  })

  it('for once, of a session, stays for good', () => {
    const state = account({ bot: envelope(null, 0n, { limits: [null, null, null, null, USD] }) })
    const raised = decide(state, [approving(extraOf(USD, 'session'), state)], NOON).change.limited.get('bot')!
    expect(limitsOf('bot', raised, NOON + 9000 * HOUR)[0]).toMatchObject({ extra: USD, remaining: 2n * USD })
  })

  it('for once, where no cap is set any more, is approved and changes nothing', () => {
    const state = account({ bot: envelope(null, 0n) })
    const { outcomes, change } = decide(state, [approving(extraOf(USD), state)], NOON)
    expect(first(outcomes)).toMatchObject({ decided: { decision: 'approved' } })
    expect(change.limited.size).toBe(0)
  })

  it.each([
    ['the cap changed', (shown: EnvelopeState) => ({ ...shown, limits: [null, 6n * USD, null, null, null] as const }), NOON],
    ['the cap was deleted', (shown: EnvelopeState) => ({ ...shown, limits: [null, null, null, null, null] as const }), NOON],
    [
      'another one-off came in between',
      (shown: EnvelopeState) => ({ ...shown, extra: { amounts: [0n, 1n, 0n, 0n, 0n] as const, clockMs: NOON } }),
      NOON,
    ],
    ['the day ended', (shown: EnvelopeState) => shown, NOON + 12 * HOUR],
  ])('is refused when %s since it was shown', (_what, change, at) => {
    const shown = envelope(5n * USD, 0n)
    const command = { ...approving(extraOf(2n * USD), account({ bot: shown })), expiresMs: NOON + 24 * HOUR }
    const now = decide(account({ bot: change(shown) }), [command], at)
    expect(first(now.outcomes)).toEqual({ refused: 'changed' })
    expect(now.change.changed).toBe(false)
  })

  it('stands what is spent meanwhile', () => {
    const command = approving(extraOf(2n * USD), account({ bot: envelope(5n * USD, 0n) }))
    const { outcomes } = decide(account({ bot: envelope(5n * USD, 4n * USD) }), [command], NOON)
    expect(first(outcomes)).toMatchObject({ decided: { decision: 'approved' } })
  })

  it('ends with the next PUT or DELETE of the envelope', () => {
    const state = account({ bot: envelope(5n * USD, 0n, { extra: { amounts: [0n, USD, 0n, 0n, 0n], clockMs: NOON } }) })
    const base = { id: 'x', resumed: false, agentId: 'bot' }
    const put = decide(state, [{ ...base, kind: 'set_envelope', limits: [null, 3n * USD, null, null, null] }], NOON)
    expect(limitsOf('bot', put.change.limited.get('bot')!, NOON)[0]).toMatchObject({ limit: 3n * USD, extra: 0n })
    const deleted = decide(state, [{ ...base, kind: 'delete_envelope' }], NOON).change.limited.get('bot')!
    expect(deleted.extra ?? null).toBeNull()
  })
})
