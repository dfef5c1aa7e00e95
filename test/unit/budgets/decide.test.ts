import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decide } from '../../../src/budgets/decide.ts'
import { limitsOf, spentAt, tightestOf } from '../../../src/budgets/envelope.ts'
import { pathOf } from '../../../src/budgets/path.ts'
import type {
  AccountState,
  ClearCommand,
  Command,
  EnvelopeState,
  HoldState,
  PerWindow,
  ReleaseCommand,
  SettleCommand,
} from '../../../src/budgets/state.ts'
import { HOLD_KIND, HOLD_STATE } from '../../../src/budgets/tables.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
/** A Wednesday noon. */
const NOW = Date.UTC(2026, 0, 14, 12)
const RATES = { input: 1000n, output: 1000n, cachedInput: 500n, cacheWrite: 1250n, cacheWrite1h: 2000n }
const NONE: PerWindow<bigint | null> = [null, null, null, null, null]
const daily = (limit: bigint): PerWindow<bigint | null> => [null, limit, null, null, null]
const same = <T>(value: T): PerWindow<T> => [value, value, value, value, value]

const envelope = (limits: PerWindow<bigint | null>, more: Partial<EnvelopeState> = {}): EnvelopeState => ({
  limits,
  spent: same(0n),
  clockMs: NOW,
  createdMs: NOW,
  ...more,
})
const account = (
  envelopes: Record<string, EnvelopeState | null>,
  more: Partial<AccountState> & { open?: readonly HoldState[] } = {},
): AccountState => ({
  accountId: 'account',
  version: 1n,
  ops: 10n,
  clockMs: NOW,
  envelopes: new Map(Object.entries(envelopes)),
  holds: new Map((more.open ?? []).map((hold) => [hold.holdId, hold])),
  ...more,
})
const hold = (holdId: string, more: Partial<HoldState> = {}): HoldState => ({
  holdId,
  agentId: 'a',
  kind: HOLD_KIND.clearance,
  state: HOLD_STATE.open,
  model: 'm',
  estimate: 10n,
  rates: RATES,
  charged: '2',
  takenMs: NOW,
  takenVersion: 1n,
  expiresMs: NOW + HOUR,
  resolvedMs: null,
  actual: null,
  outcome: null,
  ...more,
})
let ids = 0
const nextId = () => `id-${String(++ids).padStart(6, '0')}`
const clear = (agentId: string, estimate: bigint, more: Partial<ClearCommand> = {}): ClearCommand => ({
  kind: 'clear',
  id: nextId(),
  resumed: false,
  agentId,
  path: pathOf(agentId),
  model: 'm',
  estimate,
  rates: RATES,
  hold_ms: HOUR,
  ...more,
})
const settle = (agentId: string, holdId: string | null, outputTokens: number): SettleCommand => ({
  kind: 'settle',
  id: nextId(),
  resumed: false,
  agentId,
  path: pathOf(agentId),
  holdId,
  usage: { inputTokens: 0, outputTokens, cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 },
})
const release = (holdId: string, boundTo: string | null = null): ReleaseCommand => ({
  kind: 'release',
  id: nextId(),
  resumed: false,
  holdId,
  boundTo,
})

describe('a clearance', () => {
  it('is refused for the first of no_credits, no_envelope, envelope_exceeded', () => {
    const reason = (state: AccountState, estimate = 5n) => decide(state, [clear('a', estimate)], NOW).outcomes[0]
    expect(reason(account({}, { ops: 0n }))).toMatchObject({ reason: 'no_credits', remaining: 0n, tightest: null })
    expect(reason(account({ a: envelope(daily(1n)) }, { ops: 0n }))).toMatchObject({ reason: 'no_credits' })
    expect(reason(account({ a: null }))).toMatchObject({ reason: 'no_envelope', remaining: 0n })
    expect(reason(account({ a: envelope(NONE) }))).toMatchObject({ reason: 'no_envelope' })
    expect(reason(account({ a: envelope(daily(4n)) }))).toMatchObject({ reason: 'envelope_exceeded', remaining: 4n })
    expect(reason(account({ a: envelope(daily(5n)) }))).toMatchObject({ approved: true, remaining: 0n, ops: 9n })
  })

  it('that is refused changes nothing but the list of denials', () => {
    const { change } = decide(account({ a: envelope(daily(4n)) }), [clear('a', 5n)], NOW + 1)
    expect(change.changed).toBe(false)
    expect([...change.charged, ...change.limited, ...change.newHolds, ...change.resolvedHolds, ...change.ledger]).toEqual([])
    expect(change.denials).toMatchObject([{ agentId: 'a', estimate: 5n, reason: 'envelope_exceeded', atMs: NOW + 1 }])
    expect(change.ops).toBe(10n)
  })

  it('of nothing still burns an op', () => {
    expect(decide(account({ a: envelope(daily(1n)) }), [clear('a', 0n)], NOW).outcomes[0]).toMatchObject({
      approved: true,
      ops: 9n,
    })
  })

  it('charges every row on its path, deleted ones too, in every window, and remembers which', () => {
    const state = account({ '*': null, a: envelope(NONE), 'a/b': envelope(daily(9n)), 'a/b/c': null, other: envelope(daily(9n)) })
    const { change } = decide(state, [clear('a/b/c', 3n)], NOW)
    expect([...change.charged.keys()]).toEqual(['a', 'a/b'])
    for (const charged of change.charged.values()) expect(charged.spent).toEqual(same(3n))
    expect(change.newHolds).toMatchObject([{ charged: '6', takenMs: NOW, expiresMs: NOW + HOUR, state: HOLD_STATE.open }])
  })

  it('names the tightest limit, the widest agent and shortest window first among equals', () => {
    const state = account({ '*': envelope([7n, 5n, 5n, null, null]), a: envelope([5n, null, null, null, null]) })
    expect(decide(state, [clear('a', 6n)], NOW).outcomes[0]).toMatchObject({
      remaining: 5n,
      tightest: { agentId: '*', window: 'daily', limit: 5n, spent: 0n, resetMs: NOW + 12 * HOUR },
    })
  })

  it('sees an overspent window as having nothing left', () => {
    const state = account({ a: envelope(daily(5n), { spent: same(9n) }) })
    expect(decide(state, [clear('a', 1n)], NOW).outcomes[0]).toMatchObject({ remaining: 0n, tightest: { spent: 9n } })
  })

  it('rolls the windows that have passed and keeps the others', () => {
    const state = account({ a: envelope([5n, 5n, 5n, 5n, 50n], { spent: same(5n) }) })
    const spentAfter = (at: number) => decide(state, [clear('a', 1n)], at).change.charged.get('a')?.spent
    expect(spentAfter(NOW + HOUR)).toBeUndefined()
    expect(spentAfter(NOW + 5 * DAY)).toBeUndefined() // Monday: the month is still full
    expect(spentAfter(Date.UTC(2026, 1, 1))).toEqual([1n, 1n, 1n, 1n, 6n])
  })

  it('is decided at the latest time the account has seen, however slow the clock', () => {
    const state = account({ a: envelope(daily(5n), { spent: same(5n), clockMs: NOW - DAY }) }, { clockMs: NOW })
    const { outcomes, change } = decide(state, [clear('a', 5n)], NOW - DAY)
    expect(outcomes[0]).toMatchObject({ approved: true, expiresMs: NOW + HOUR })
    expect(change.clockMs).toBe(NOW)
  })

  it('that was taken up again is the one that was made', () => {
    const made = hold('made', { expiresMs: NOW + 5 })
    const state = account({ a: envelope(daily(50n), { spent: same(10n) }) }, { open: [made], ops: 0n })
    const { outcomes, change } = decide(state, [clear('a', 10n, { id: 'made', resumed: true })], NOW)
    expect(outcomes[0]).toEqual({ approved: true, holdId: 'made', remaining: 40n, ops: 0n, expiresMs: NOW + 5 })
    expect(change.changed).toBe(false)
  })
})

describe('a settlement', () => {
  const spent = (value: bigint) => ({ a: envelope(daily(100n), { spent: same(value) }) })

  it('moves the drift into the instances in which the hold was taken, and no other', () => {
    const monday = NOW + 5 * DAY
    const state = account(
      { a: envelope(same(100n), { spent: [1n, 2n, 3n, 14n, 15n], clockMs: monday }) },
      { open: [hold('h', { expiresMs: monday + HOUR })], clockMs: monday },
    )
    const { outcomes, change } = decide(state, [settle('a', 'h', 30)], monday)
    expect(outcomes[0]).toMatchObject({ drift: 20n, replayed: false })
    expect(change.charged.get('a')?.spent).toEqual([1n, 2n, 3n, 34n, 35n])
    expect(change.ledger).toMatchObject([{ kind: 'settle', holdId: 'h', amount: 20n, ops: 0n }])
  })

  it('drops the spend of an instance that has passed meanwhile', () => {
    const state = account(spent(10n), { open: [hold('h', { expiresMs: NOW + 2 * DAY })] })
    const { change } = decide(state, [settle('a', 'h', 4)], NOW + DAY)
    expect(change.charged.get('a')).toMatchObject({ spent: [0n, 0n, 4n, 4n, 4n], clockMs: NOW + DAY })
  })

  it('takes the most recent open hold of the agent, of those left by the commands before it', () => {
    const open = [hold('h1'), hold('h3'), hold('h2'), hold('h4', { agentId: 'b' }), hold('h5', { expiresMs: NOW })]
    const state = account(spent(50n), { open })
    const { outcomes } = decide(
      state,
      [settle('a', null, 1), settle('a', 'h2', 2), settle('a', null, 3), settle('a', null, 4)],
      NOW,
    )
    expect(outcomes.map((outcome) => ('hold' in outcome ? outcome.hold.holdId : outcome))).toEqual([
      ...['h3', 'h2', 'h1'],
      { error: 'no_pending_clearance', expired: false },
    ])
  })

  it('takes as most recent what was decided last, not what has the highest id: an id is given when a request arrives', () => {
    const open = [hold('id-2', { takenVersion: 5n }), hold('id-1', { takenVersion: 6n }), hold('id-0', { takenVersion: 6n })]
    const { outcomes } = decide(account(spent(30n), { open }), [settle('a', null, 0)], NOW)
    expect(outcomes).toMatchObject([{ hold: { holdId: 'id-1' } }])
  })

  it('of "the most recent" goes before the clearances of its batch, whose holds are not written yet', () => {
    const state = account(spent(10n), { open: [hold('h')] })
    const commands: Command[] = [clear('a', 5n), settle('a', null, 0), clear('a', 6n)]
    const { outcomes, change } = decide(state, commands, NOW)
    expect(outcomes).toMatchObject([{ remaining: 95n }, { drift: -10n, remaining: 100n }, { remaining: 89n }])
    expect(change.newHolds.map(({ estimate }) => estimate)).toEqual([5n, 6n])
  })

  it('happens once: again the stored figures, a release finds nothing, and the other way round', () => {
    const state = account(spent(20n), { open: [hold('s'), hold('r')] })
    const commands = [settle('a', 's', 3), settle('a', 's', 9), release('s'), release('r'), release('r'), settle('a', 'r', 1)]
    const { outcomes, change } = decide(state, commands, NOW)
    const nothing = { error: 'no_pending_clearance', expired: false }
    expect(outcomes).toMatchObject([
      { drift: -7n, remaining: 87n, replayed: false },
      { drift: -7n, remaining: 87n, replayed: true },
      nothing,
      { drift: -10n, remaining: 97n, replayed: false },
      { drift: -10n, remaining: 97n, replayed: true },
      nothing,
    ])
    expect(change.ledger).toHaveLength(2)
    expect(change.resolvedHolds).toHaveLength(2)
  })

  it('comes too late at the moment of expiry, not before', () => {
    const state = account(spent(10n), { open: [hold('h')] })
    expect(decide(state, [settle('a', 'h', 1)], NOW + HOUR).outcomes[0]).toEqual({ error: 'no_pending_clearance', expired: true })
    expect(decide(state, [release('h')], NOW + HOUR).outcomes[0]).toEqual({ error: 'no_pending_clearance', expired: true })
    expect(decide(state, [settle('a', 'h', 1)], NOW + HOUR - 1).outcomes[0]).toMatchObject({ drift: -9n })
  })

  it('knows no hold of another agent, nor one outside the path of a bound key', () => {
    const state = account({ ...spent(10n), b: envelope(daily(9n)) }, { open: [hold('h')] })
    expect(decide(state, [settle('b', 'h', 1)], NOW).outcomes[0]).toMatchObject({ error: 'no_pending_clearance' })
    expect(decide(state, [settle('c', 'h', 1)], NOW).outcomes[0]).toMatchObject({ error: 'no_envelope' })
    expect(decide(state, [release('h', 'b')], NOW).outcomes[0]).toMatchObject({ error: 'no_pending_clearance' })
    expect(decide(state, [release('h', 'a')], NOW).outcomes[0]).toMatchObject({ drift: -10n })
  })

  it('refuses to go on when a row is missing that was charged', () => {
    expect(() => decide(account({ a: null }, { open: [hold('h')] }), [settle('a', 'h', 1)], NOW)).toThrow(/not there/)
  })
})

describe('an envelope', () => {
  it('keeps what is spent when its limits are replaced, deleted and set again', () => {
    const state = account({ a: envelope(daily(10n), { spent: same(4n), createdMs: 1 }) })
    const set = (limits: PerWindow<bigint | null>): Command => ({
      kind: 'set_envelope',
      id: nextId(),
      resumed: false,
      agentId: 'a',
      limits,
    })
    const remove: Command = { kind: 'delete_envelope', id: nextId(), resumed: false, agentId: 'a' }
    const { outcomes, change } = decide(
      state,
      [remove, clear('a', 1n), remove, set([null, null, 6n, null, 9n]), clear('a', 2n)],
      NOW,
    )
    expect(outcomes).toMatchObject([
      { existed: true },
      { reason: 'no_envelope' },
      { existed: false },
      { tightest: { window: 'weekly', remaining: 2n } },
      { approved: true, remaining: 0n },
    ])
    expect(change.charged.size).toBe(0)
    expect(change.limited.get('a')).toEqual(
      envelope([null, null, 6n, null, 9n], { spent: same(6n), createdMs: 1, extra: null, loop: null }),
    )
  })

  it('that was set or deleted by an interrupted run is left as it is now', () => {
    const state = account({ a: envelope(daily(10n)) })
    const { outcomes, change } = decide(
      state,
      [
        { kind: 'delete_envelope', id: nextId(), resumed: true, agentId: 'a' },
        { kind: 'set_envelope', id: nextId(), resumed: true, agentId: 'a', limits: daily(3n) },
        { kind: 'grant', id: nextId(), resumed: true, entry: 'grant', ops: 5n, detail: '' },
      ],
      NOW,
    )
    expect(outcomes).toMatchObject([{ existed: true }, { tightest: { limit: 3n } }, { ops: 10n }])
    expect(change.changed).toBe(false)
    expect([...change.limited, ...change.ledger]).toEqual([])
  })

  it('without a limit has no tightest one', () => {
    expect(tightestOf('a', envelope(NONE), NOW)).toBeNull()
    expect(limitsOf('a', envelope(NONE), NOW)).toEqual([])
  })

  it('reads a window that has passed as spent 0, and never backwards', () => {
    const used = envelope(same(10n), { spent: same(7n) })
    expect(spentAt(used, NOW)).toEqual(same(7n))
    expect(spentAt(used, NOW - DAY)).toEqual(same(7n))
    expect(spentAt(used, NOW + HOUR)).toEqual([0n, 7n, 7n, 7n, 7n])
    expect(spentAt(used, NOW + 12 * HOUR)).toEqual([0n, 0n, 7n, 7n, 7n])
    expect(limitsOf('a', used, NOW + 5 * DAY).map(({ remaining }) => remaining)).toEqual([10n, 10n, 10n, 3n, 3n])
  })
})

describe('any batch of clearances', () => {
  const agents = fc.constantFrom('a', 'a/b', 'a/b/c', 'd', '*')
  const limit = fc.option(fc.bigInt(1n, 60n))
  const limits = fc.tuple(limit, limit, limit, limit, limit)
  const states = fc
    .tuple(fc.dictionary(agents, fc.tuple(limits, fc.bigInt(0n, 30n)), { maxKeys: 4 }), fc.bigInt(0n, 12n))
    .map(([envelopes, ops]) =>
      account(
        Object.fromEntries(
          Object.entries(envelopes).map(([agent, [wanted, used]]) => [agent, envelope(wanted, { spent: same(used) })]),
        ),
        { ops },
      ),
    )
  const requests = fc.array(fc.tuple(agents, fc.bigInt(0n, 25n)), { maxLength: 25 })

  it('overspends no limit, burns no op too many, leaves the state it was given alone, and equals one after the other', () => {
    fc.assert(
      fc.property(states, requests, (state, wanted) => {
        const frozen = structuredClone(state)
        const commands = wanted.map(([agent, estimate]) => clear(agent, estimate))
        const { outcomes, change } = decide(state, commands, NOW)
        expect(state).toEqual(frozen)
        const approved = outcomes.filter((outcome) => 'approved' in outcome && outcome.approved)
        expect(change.ops).toBe(state.ops - BigInt(approved.length))
        expect(change.ops).toBeGreaterThanOrEqual(0n)
        expect(change.newHolds).toHaveLength(approved.length)
        for (const [agent, after] of change.charged)
          for (const [index, limit] of after.limits.entries())
            if (limit !== null && after.spent[index] !== state.envelopes.get(agent)?.spent[index])
              expect(after.spent[index]).toBeLessThanOrEqual(limit)

        let current = state
        const alone = commands.map((command) => {
          const one = decide(current, [command], NOW)
          current = { ...current, ops: one.change.ops, envelopes: new Map([...current.envelopes, ...one.change.charged]) }
          return one.outcomes[0]
        })
        expect(outcomes).toEqual(alone)
        expect(new Map([...state.envelopes, ...change.charged])).toEqual(current.envelopes)
      }),
      { numRuns: 500 },
    )
  })
})
