import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { decide } from '../../../src/budgets/decide.ts'
import { pathOf } from '../../../src/budgets/path.ts'
import type { Policy } from '../../../src/budgets/policy.ts'
import type { AccountState, Approval, ClearCommand, Denial, EnvelopeState, PerWindow } from '../../../src/budgets/state.ts'

const NOW = Date.UTC(2026, 0, 14, 12)
const RATES = { input: 1n, output: 1n, cachedInput: 1n, cacheWrite: 1n, cacheWrite1h: 1n }
const AGENTS = ['*', 'a', 'a/b', 'c'] as const
type Limits = PerWindow<bigint | null>

const amount = fc.bigInt({ min: 0n, max: 100n })
const limit = fc.option(amount, { nil: null, freq: 2 })
const limits: fc.Arbitrary<Limits> = fc.tuple(limit, limit, limit, limit, limit)
const spent = fc.tuple(amount, amount, amount, amount, amount)
const envelope: fc.Arbitrary<EnvelopeState> = fc.record({
  limits,
  spent,
  clockMs: fc.constant(NOW),
  createdMs: fc.constant(NOW),
})
const perAgent = <T>(value: fc.Arbitrary<T>) => fc.tuple(...AGENTS.map(() => fc.option(value, { nil: null })))
const requests = fc.array(fc.record({ agentId: fc.constantFrom('a', 'a/b', 'a/b/c', 'c', 'd'), estimate: amount }), {
  minLength: 1,
  maxLength: 12,
})

const policyOf = (file: readonly (Limits | null)[]): Policy => ({
  limits: (agentId) => file[AGENTS.indexOf(agentId as (typeof AGENTS)[number])] ?? null,
  refusal: () => null,
  limitedPaths: AGENTS.filter((_, index) => file[index] != null),
})
const account = (envelopes: readonly (EnvelopeState | null)[]): AccountState => ({
  accountId: 'account',
  version: 1n,
  ops: 100n,
  clockMs: NOW,
  envelopes: new Map(AGENTS.map((agentId, index) => [agentId, envelopes[index] ?? null])),
  holds: new Map(),
})
const clear = ({ agentId, estimate }: { agentId: string; estimate: bigint }, index = 0): ClearCommand => ({
  kind: 'clear',
  id: `hold-${index}`,
  resumed: false,
  agentId,
  path: pathOf(agentId),
  model: 'm',
  estimate,
  rates: RATES,
  hold_ms: 1000,
})
const decideOne = (state: AccountState, command: ClearCommand, policy: Policy | null) =>
  decide(state, [command], NOW, policy).outcomes[0] as Approval | Denial

const smaller = (a: bigint | null, b: bigint | null): bigint | null => (a === null ? b : b === null ? a : a < b ? a : b)

describe('limits of the governance file', () => {
  it('only tighten: what both allow is what either alone allows, where both have counted the same', () => {
    fc.assert(
      fc.property(perAgent(envelope), perAgent(limits), requests, (envelopes, file, [request]) => {
        if (request === undefined) return
        const command = clear(request)
        // The same spend counted, under the account's limits, under the file's and under both.
        const bare = envelopes.map((one) => one && { ...one, limits: [null, null, null, null, null] as Limits })
        const byAccount = decideOne(account(envelopes), command, null)
        const byFile = decideOne(account(bare), command, policyOf(file))
        const byBoth = decideOne(account(envelopes), command, policyOf(file))
        const isUncapped = (outcome: Approval | Denial) => !outcome.approved && outcome.reason === 'no_envelope'
        const allows = (outcome: Approval | Denial) => outcome.approved || isUncapped(outcome)
        expect(byBoth.approved).toBe(allows(byAccount) && allows(byFile) && !(isUncapped(byAccount) && isUncapped(byFile)))
        if (byBoth.approved && byAccount.approved) expect(byBoth.remaining).toBeLessThanOrEqual(byAccount.remaining)
        if (byBoth.approved && byFile.approved) expect(byBoth.remaining).toBeLessThanOrEqual(byFile.remaining)
      }),
      { numRuns: 2000 },
    )
  })

  it('are the smaller of the two limits on each path and window, over a whole batch', () => {
    fc.assert(
      fc.property(perAgent(envelope), perAgent(limits), requests, (envelopes, file, asked) => {
        const commands = asked.map(clear)
        const minimum = envelopes.map((one, index): EnvelopeState | null => {
          const further = file[index] ?? null
          if (further === null) return one
          const from = one ?? { limits: further, spent: [0n, 0n, 0n, 0n, 0n], clockMs: NOW, createdMs: NOW }
          const least = from.limits.map((own, window) => smaller(own, further[window] ?? null)) as unknown as Limits
          return { ...from, limits: least }
        })
        const both = decide(account(envelopes), commands, NOW, policyOf(file))
        const expected = decide(account(minimum), commands, NOW, null)
        const figures = (outcomes: readonly unknown[]) =>
          (outcomes as (Approval | Denial)[]).map(({ approved, remaining, ...rest }) => ({
            approved,
            remaining,
            reason: 'reason' in rest ? rest.reason : null,
          }))
        expect(figures(both.outcomes)).toEqual(figures(expected.outcomes))
        // What is counted is counted the same, in a row of its own where the account had none.
        const counted = ({ change }: typeof both) =>
          AGENTS.map((agentId) => (change.limited.get(agentId) ?? change.charged.get(agentId))?.spent)
        expect(counted(both)).toEqual(counted(expected))
        expect(both.change.newHolds.map(({ charged }) => charged)).toEqual(expected.change.newHolds.map(({ charged }) => charged))
      }),
      { numRuns: 1000 },
    )
  })
})
