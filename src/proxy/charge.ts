import type { Usage } from '../budgets/state.ts'
import { ceilDiv, type Nanousd, nanousdFromUsd } from '../core/money.ts'
import type { Catalogue, Rate } from '../prices/catalogue.ts'
import { actualNanousd } from '../prices/cost.ts'
import type { Seen } from './reader.ts'
import type { PlannedCall, PlannedModel } from './request.ts'
import type { RouteKind } from './routes.ts'
import { type KnownUsage, readUsage } from './usage.ts'

/** Anthropic bills web searches by the piece: $10 for 1,000. */
const WEB_SEARCH_NANOUSD = 10_000_000n
/** Providers whose reported cost is what they charge. */
const REPORTS_COST = new Set(['openrouter'])

export type Charge = { readonly cost: Nanousd; readonly usage: Usage; readonly isEstimated: boolean }

/** The call's model first, then those it may fall back to. */
const ratesOf = (catalogue: Catalogue, { choice, alternatives }: PlannedCall, inputTokens: number): [Rate, ...Rate[]] => [
  catalogue.rateFor(`${choice.upstream.name}/${choice.model}`, inputTokens),
  ...alternatives.map((model) => catalogue.rateFor(`${choice.upstream.name}/${model}`, inputTokens)),
]
const larger = (a: bigint, b: bigint): bigint => (a > b ? a : b)
const dearest = (costs: readonly bigint[]): bigint => costs.reduce(larger, 0n)

/**
 * The most that the call can cost, which is reserved for it, and the rates of its model. Of models that stand in for each other the dearest,
 * each at its own bound; what tools use beside them is added.
 */
export function worstCase(catalogue: Catalogue, call: PlannedCall): { estimate: Nanousd; rates: Rate } {
  const costOf = ({ id, bound }: PlannedModel): Nanousd => {
    const { inputTokens, outputTokens } = bound
    const rate = catalogue.rateFor(`${call.choice.upstream.name}/${id}`, inputTokens)
    // Which part of the input will be written to a cache is not known: all of it, at the dearest of the input rates.
    const input = dearest([rate.input, rate.cacheWrite, rate.cacheWrite1h])
    return withPremium(actualNanousd({ ...rate, input }, { inputTokens, outputTokens }), { bound })
  }
  const [first, ...others] = call.models
  const instead = others.filter(({ isBeside }) => !isBeside).map(costOf)
  const beside = others.filter(({ isBeside }) => isBeside).map(costOf)
  const searches = BigInt(call.bound.webSearches) * WEB_SEARCH_NANOUSD
  const estimate = beside.reduce((sum, cost) => sum + cost, dearest([costOf(first), ...instead]) + searches)
  return { estimate, rates: ratesOf(catalogue, call, first.bound.inputTokens)[0] }
}

/**
 * What a call that has ended is charged. Reported usage counts as it is. What was not reported is estimated: the input at its bound, the
 * output at one token for two bytes of text or one for each piece, whichever is more, and at its bound where the model may have thought
 * unseen; never above the bound. An answer of which nothing can be read costs what was reserved.
 */
export function chargeFor(
  catalogue: Catalogue,
  kind: RouteKind,
  call: PlannedCall,
  seen: Seen,
  end: { isWhole: boolean; isStream: boolean },
): Charge {
  const { bound, choice } = call
  const known = readUsage(kind, seen.usage)
  const isOutputKnown = known.outputTokens !== undefined && (seen.isFinal || end.isWhole) && hasLastWord(kind, seen)
  const outputTokens =
    isOutputKnown || kind === 'embeddings' ? (known.outputTokens ?? 0) : estimatedOutput(call, seen, known, end)
  const input = known.input ?? { ...NO_CACHE, inputTokens: bound.inputTokens }
  const usage: Usage = { ...input, outputTokens }
  const isEstimated = known.input === undefined || (!isOutputKnown && kind !== 'embeddings')
  if (known.cost_usd !== undefined && !isEstimated && REPORTS_COST.has(choice.upstream.name))
    return { cost: nanousdFromUsd(known.cost_usd, 'up'), usage, isEstimated }
  // Which of several models answered is not looked up: the dearest of them is charged.
  const tokens = dearest(ratesOf(catalogue, call, usage.inputTokens).map((rate) => actualNanousd(rate, usage)))
  const searches = BigInt(known.webSearches ?? 0) * WEB_SEARCH_NANOUSD
  return { cost: withPremium(tokens, call) + searches, usage, isEstimated }
}

const NO_CACHE = { cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 }

/** Anthropic's first event counts one output token: only the last one knows. */
const hasLastWord = (kind: RouteKind, seen: Seen): boolean => kind === 'chat' || seen.isFinal

function estimatedOutput(call: PlannedCall, seen: Seen, known: KnownUsage, end: { isStream: boolean }): number {
  const { bound } = call
  const isUnreadable = !end.isStream
  if (isUnreadable || (bound.mayReasonUnseen && !(seen.failed && seen.pieces === 0))) return bound.outputTokens
  return Math.min(bound.outputTokens, Math.max(known.outputTokens ?? 0, seen.pieces, Math.ceil(seen.textBytes / 2)))
}

const withPremium = (cost: Nanousd, { bound }: Pick<PlannedCall, 'bound'>): Nanousd =>
  bound.premium_percent === 100 ? cost : ceilDiv(cost * BigInt(bound.premium_percent), 100n)

/** What of the output has certainly been written, for cutting a stream whose maximum nobody has set. */
export function writtenTokens(kind: RouteKind, seen: Seen): number {
  return Math.max(readUsage(kind, seen.usage).outputTokens ?? 0, seen.pieces, Math.ceil(seen.textBytes / 4))
}
