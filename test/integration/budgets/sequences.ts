import fc from 'fast-check'
import { MODEL_PRICES, MODEL_WINDOWS, type ModelRequest, type ModelWindow } from '../../support/reference-model.ts'

/**
 * A request whose clearance is still a number: the how manieth of the account's, from the newest. Its `agent_id` may be a place in the
 * sequence's cast (`#0` to `#3`) or `#own`, the agent of that clearance: sequences that keep to a few agents get further.
 */
export type Draft = ModelRequest & { readonly clearance?: number | 'foreign' | 'nonsense' | null }
export type Step =
  | { readonly kind: 'one'; readonly account: number; readonly server: number; readonly draft: Draft }
  | { readonly kind: 'together'; readonly account: number; readonly drafts: readonly (readonly [server: number, draft: Draft])[] }
  | { readonly kind: 'wait'; readonly ms: number }
  | { readonly kind: 'boundary'; readonly window: ModelWindow; readonly offset_ms: number }
  | { readonly kind: 'skew'; readonly ms: number }

const TREE = ['*', 'team', 'team/crawler', 'team/crawler/run-7', 'team/other', 'solo']
const ODD = [
  'null',
  'NULL',
  '"',
  'a"b\\',
  '{x,y}',
  '{}',
  ',',
  ' ',
  ' padded ',
  'back\\slash',
  'ünï/😀',
  "it's",
  'a//b',
  'a/',
  '/',
  '/lead',
  '*/x',
  '%2F',
  '100%',
  'a?b#c&d=e',
  'a+b',
  'line\nbreak\ttab',
  '$1',
  '__proto__',
  'constructor/toString',
  'é',
  'e\u0301',
  'TEAM',
  '😀'.repeat(128),
  '/'.repeat(128),
]
export const CAST_SIZE = 4
/** The agents of one sequence. */
export const casts: fc.Arbitrary<string[]> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<string[]>(['team/crawler', '*', 'team', 'team/crawler/run-7']) },
  {
    weight: 2,
    arbitrary: fc.uniqueArray(fc.constantFrom(...TREE, ...ODD), { minLength: CAST_SIZE, maxLength: CAST_SIZE }),
  },
)
const agentIds = fc.constantFrom('#0', '#0', '#0', '#1', '#2', '#3')
const models = fc.constantFrom(...MODEL_PRICES.map(({ model }) => model))
const tokenCounts = fc.oneof(
  { weight: 6, arbitrary: fc.integer({ min: 1, max: 400_000 }) },
  { weight: 1, arbitrary: fc.constantFrom(1, 2, 999_999, 1_000_000, 1_000_000_000) },
)
const usageCounts = fc.oneof(tokenCounts, fc.constant(0))
const limitUsd = fc.oneof(
  { weight: 1, arbitrary: fc.constantFrom(0.000001, 0.000002, 0.01, 0.25, 1, 4.999999) },
  { weight: 2, arbitrary: fc.constantFrom(5, 12.5, 40, 500, 1_000_000) },
)
const windows = fc.constantFrom(...MODEL_WINDOWS)
const once = fc.option(fc.constantFrom('k1', 'k2', '💡'), { nil: undefined, freq: 6 })
const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined, freq: 2 })
const clearances = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 4 }) },
  { weight: 1, arbitrary: fc.constantFrom('foreign' as const, 'nonsense' as const) },
)
const shareName = fc.record({
  agent_id: fc.constantFrom('ünï/😀', 'a"b\\'),
  provider: fc.constant('x/{y},'),
  model: fc.constant('openrouter/anthropic/claude'),
})

const withOnce = (draft: Draft, key: string | undefined): Draft =>
  key === undefined ? draft : ({ ...draft, once: key } as Draft)
const clear = fc
  .record({
    agent_id: agentIds,
    model: models,
    estimated_tokens: tokenCounts,
    estimated_input_tokens: optional(usageCounts),
    hold_seconds: optional(fc.constantFrom(1, 30, 3600, 86_400, 604_800)),
  })
  .map((input): Draft => ({ operation: 'clear', input: withoutUndefined(input) }))
const reconcile = fc
  .record({
    clearance: fc.option(clearances, { freq: 2 }),
    input: fc.record({
      agent_id: fc.oneof({ weight: 5, arbitrary: fc.constant('#own') }, { weight: 1, arbitrary: agentIds }),
      actual_input_tokens: usageCounts,
      actual_output_tokens: usageCounts,
    }),
  })
  .map(({ clearance, input }): Draft => ({ operation: 'reconcile', clearance, input }))
const release = clearances.map((clearance): Draft => ({ operation: 'release', clearance, input: { clearance_id: '' } }))
/** As the first step for both accounts, so that not all of a sequence is denied. */
export const setEnvelope = fc
  .oneof(
    fc.record({ agent_id: agentIds, limit_usd: limitUsd, window: optional(windows) }),
    fc.record({
      agent_id: agentIds,
      limits: fc.array(fc.tuple(windows, limitUsd), { minLength: 1, maxLength: 5 }).map((limits) => Object.fromEntries(limits)),
    }),
  )
  .map((input): Draft => ({ operation: 'set_envelope', input: withoutUndefined(input) }))
const deleteEnvelope = agentIds.map((agent_id): Draft => ({ operation: 'delete_envelope', input: { agent_id } }))
const reads = fc.oneof(
  agentIds.map((agent_id): Draft => ({ operation: 'get_envelope', input: { agent_id } })),
  fc.constantFrom<Draft>({ operation: 'balance' }, { operation: 'list_envelopes' }),
)
const grant = fc.integer({ min: 1, max: 20 }).map((operations): Draft => ({ operation: 'grant', input: { operations } }))
const rates = fc.oneof(
  { weight: 3, arbitrary: shareName.map((input): Draft => ({ operation: 'rate_check', input })) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(shareName, fc.integer({ min: 1, max: 3 }))
      .map(([name, requests_per_minute]): Draft => ({ operation: 'set_share', input: { ...name, requests_per_minute } })),
  },
  { weight: 1, arbitrary: shareName.map((input): Draft => ({ operation: 'get_share', input })) },
  { weight: 1, arbitrary: shareName.map((input): Draft => ({ operation: 'delete_share', input })) },
)
const idempotencyCheck = fc
  .record({
    key: fc.constantFrom('k', '{"a,\\', 'ü '.repeat(128)),
    ttl_seconds: optional(fc.constantFrom(1, 60, 100_000)),
  })
  .map((input): Draft => ({ operation: 'idempotency_check', input: withoutUndefined(input) }))

const drafts = fc.oneof(
  { weight: 12, arbitrary: clear },
  { weight: 7, arbitrary: reconcile },
  { weight: 3, arbitrary: release },
  { weight: 6, arbitrary: setEnvelope },
  { weight: 2, arbitrary: deleteEnvelope },
  { weight: 3, arbitrary: reads },
  { weight: 1, arbitrary: grant },
  { weight: 4, arbitrary: rates },
  { weight: 1, arbitrary: idempotencyCheck },
)
/** Those that the account's own key sends; the operator's have idempotency keys of their own. */
const mayBeOnce = (draft: Draft) =>
  ['clear', 'reconcile', 'release', 'set_envelope', 'delete_envelope', 'set_share'].includes(draft.operation)
const accountIndex = fc.integer({ min: 0, max: 1 })
const serverIndex = fc.integer({ min: 0, max: 1 })
export const steps: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.tuple(accountIndex, serverIndex, drafts, once).map(([account, server, draft, key]) => ({
      kind: 'one' as const,
      account,
      server,
      draft: mayBeOnce(draft) ? withOnce(draft, key) : draft,
    })),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('together' as const),
      account: accountIndex,
      drafts: fc.array(fc.tuple(serverIndex, drafts), { minLength: 2, maxLength: 4 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('wait' as const),
      ms: fc.oneof(
        fc.integer({ min: 1, max: 120_000 }),
        // To the very millisecond in which something expires or begins.
        fc.constantFrom(999, 1000, 30_000, 60_000, 3_600_000, 86_400_000),
        fc.integer({ min: 1, max: 40 * 86_400_000 }),
        fc.integer({ min: -3 * 86_400_000, max: -1 }),
      ),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant('boundary' as const),
      window: windows,
      offset_ms: fc.constantFrom(-1, 0, 1, 999),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant('skew' as const), ms: fc.constantFrom(0, -1000, -90_000, -7_200_000, 5000) }),
  },
)
export const starts = fc.constantFrom(
  Date.UTC(2024, 1, 28, 23, 59, 30), // the eve of a leap day
  Date.UTC(2026, 11, 31, 23, 30), // of a year
  Date.UTC(2027, 0, 31, 12), // the last day of a long month
  Date.UTC(2026, 4, 24, 23, 59, 59, 999), // of a week
)

function withoutUndefined<T extends object>(fields: T) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]: Exclude<T[K], undefined>
  }
}
