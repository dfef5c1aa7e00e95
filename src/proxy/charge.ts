import type { Usage } from '../budgets/state.ts'
import { ceilDiv, costNanousd, type Nanousd, nanousdFromUsd } from '../core/money.ts'
import { audioRatesFor } from '../prices/audio.ts'
import type { Catalogue, Rate } from '../prices/catalogue.ts'
import { actualNanousd } from '../prices/cost.ts'
import type { Bound } from './bound.ts'
import type { Seen } from './reader.ts'
import type { PlannedCall, PlannedModel } from './request.ts'
import type { RouteKind } from './routes.ts'
import { type KnownUsage, type Pass, readUsage, reportedPremium } from './usage.ts'

/** Anthropic bills web searches by the piece: $10 for 1,000. */
const WEB_SEARCH_NANOUSD = 10_000_000n
/** Providers whose reported cost is what they charge. */
const REPORTS_COST = new Set(['openrouter'])
/** Models that hear and speak: any of their tokens may be one of audio. */
const AUDIO_MODEL = /audio|realtime/i

export type Charge = { readonly cost: Nanousd; readonly usage: Usage; readonly isEstimated: boolean }

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
    const audio = AUDIO_MODEL.test(id) ? audioRatesFor(id, rate) : rate
    // Which part of the input will be written to a cache is not known: all of it, at the dearest of the input rates.
    const input = dearest([rate.input, rate.cacheWrite, rate.cacheWrite1h, audio.input])
    const dear = { ...rate, input, output: larger(rate.output, audio.output) }
    return withPremium(actualNanousd(dear, { inputTokens, outputTokens }), { bound })
  }
  const [first, ...others] = call.models
  const instead = others.filter(({ isBeside }) => !isBeside).map(costOf)
  const beside = others.filter(({ isBeside }) => isBeside).map(costOf)
  const searches = BigInt(call.bound.webSearches) * WEB_SEARCH_NANOUSD
  const estimate = beside.reduce((sum, cost) => sum + cost, dearest([costOf(first), ...instead]) + searches)
  return { estimate, rates: catalogue.rateFor(`${call.choice.upstream.name}/${first.id}`, first.bound.inputTokens) }
}

/** What was reserved: for a call of which nobody knows what it used. */
export function chargeAsReserved({ bound }: PlannedCall, estimate: Nanousd): Charge {
  const { inputTokens, outputTokens } = bound
  return { cost: estimate, usage: { ...NO_CACHE, inputTokens, outputTokens }, isEstimated: true }
}

/**
 * What a call that has ended is charged. Reported usage counts as it is. What was not reported is estimated: the input at its bound, the
 * output at one token for two bytes of text or one for each piece, whichever is more, and at its bound where the model may have thought
 * unseen; never above the bound. An answer of which nothing can be read costs what was reserved, and so does one that other passes worked
 * on, or that goes on without its client, when its last word did not come.
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
  const isWithoutLastWord = (seen.hasOtherPasses || call.runsOn) && !seen.isFinal
  if (known.isUnreadable || isWithoutLastWord || (known.input === undefined && !end.isStream))
    return chargeAsReserved(call, worstCase(catalogue, call).estimate)
  const isOutputKnown = known.outputTokens !== undefined && (seen.isFinal || end.isWhole) && hasLastWord(kind, seen)
  const outputTokens =
    isOutputKnown || kind === 'embeddings' ? (known.outputTokens ?? 0) : estimatedOutput(call, seen, known, end)
  const input = known.input ?? { ...NO_CACHE, inputTokens: bound.inputTokens }
  const told: Usage = { ...input, outputTokens }
  const isEstimated = known.input === undefined || (!isOutputKnown && kind !== 'embeddings')
  if (known.cost_usd !== undefined && !isEstimated && REPORTS_COST.has(choice.upstream.name))
    return { cost: nanousdFromUsd(known.cost_usd, 'up'), usage: told, isEstimated }
  const { usage, cost } = dearer(
    { usage: told, cost: costOf(catalogue, call, told, known.audio) },
    passesCost(catalogue, call, known.passes ?? []),
  )
  const searches = BigInt(known.webSearches ?? 0) * WEB_SEARCH_NANOUSD
  const premium_percent = Math.max(bound.premium_percent, reportedPremium(kind, seen))
  return { cost: withPremium(cost, { bound: { premium_percent } }) + searches, usage, isEstimated }
}

/** Which of several models answered is not looked up: the dearest of them is charged. */
function costOf(catalogue: Catalogue, call: PlannedCall, usage: Usage, audio: KnownUsage['audio'], model?: string): Nanousd {
  const names = model === undefined ? call.models.filter(({ isBeside }) => !isBeside).map(({ id }) => id) : [model]
  const costs = names.map((name) => {
    const rate = catalogue.rateFor(`${call.choice.upstream.name}/${name}`, usage.inputTokens)
    return actualNanousd(rate, usage) + (audio === undefined ? 0n : audioNanousd(name, rate, audio))
  })
  return dearest(costs)
}

/** What audio costs more than as many tokens of text. Cached audio is not told apart: it is charged as new. */
function audioNanousd(model: string, rate: Rate, { inputTokens, outputTokens }: NonNullable<KnownUsage['audio']>): Nanousd {
  const audio = audioRatesFor(model, rate)
  return costNanousd([
    { tokens: inputTokens, rate: audio.input - rate.input },
    { tokens: outputTokens, rate: audio.output - rate.output },
  ])
}

type Priced = { readonly usage: Usage; readonly cost: Nanousd }
const dearer = (a: Priced, b: Priced): Priced => (b.cost > a.cost ? b : a)

/** The passes over one request, each at its own model and tier. */
function passesCost(catalogue: Catalogue, call: PlannedCall, passes: readonly Pass[]): Priced {
  return passes.reduce<Priced>(
    (sum, { model, usage }) => ({
      usage: sumOf(sum.usage, usage),
      cost: sum.cost + costOf(catalogue, call, usage, undefined, model ?? undefined),
    }),
    { usage: { ...NO_CACHE, inputTokens: 0, outputTokens: 0 }, cost: 0n },
  )
}

const sumOf = (a: Usage, b: Usage): Usage => ({
  inputTokens: a.inputTokens + b.inputTokens,
  outputTokens: a.outputTokens + b.outputTokens,
  cachedInputTokens: a.cachedInputTokens + b.cachedInputTokens,
  cacheWriteInputTokens: a.cacheWriteInputTokens + b.cacheWriteInputTokens,
  cacheWrite1hInputTokens: a.cacheWrite1hInputTokens + b.cacheWrite1hInputTokens,
})

const NO_CACHE = { cachedInputTokens: 0, cacheWriteInputTokens: 0, cacheWrite1hInputTokens: 0 }

/** Anthropic's first event counts one output token: only the last one knows. */
const hasLastWord = (kind: RouteKind, seen: Seen): boolean => kind === 'chat' || seen.isFinal

function estimatedOutput(call: PlannedCall, seen: Seen, known: KnownUsage, end: { isStream: boolean }): number {
  const { bound } = call
  const isUnreadable = !end.isStream
  if (isUnreadable || (bound.mayReasonUnseen && !(seen.failed && seen.pieces === 0))) return bound.outputTokens
  return Math.min(bound.outputTokens, Math.max(known.outputTokens ?? 0, seen.pieces, Math.ceil(seen.textBytes / 2)))
}

const withPremium = (cost: Nanousd, { bound }: { bound: Pick<Bound, 'premium_percent'> }): Nanousd =>
  bound.premium_percent === 100 ? cost : ceilDiv(cost * BigInt(bound.premium_percent), 100n)

/** What of the output has certainly been written, for cutting a stream whose maximum nobody has set. */
export function writtenTokens(kind: RouteKind, seen: Seen): number {
  return Math.max(readUsage(kind, seen.usage).outputTokens ?? 0, seen.pieces, Math.ceil((seen.textBytes - seen.opaqueBytes) / 4))
}

/** What the ledger keeps of a call: how it ended, and what its charge is made of. */
export function detailOf(end: string, { usage, isEstimated }: Charge): string {
  const { inputTokens, outputTokens, cachedInputTokens, cacheWriteInputTokens, cacheWrite1hInputTokens } = usage
  return JSON.stringify({
    end,
    ...(isEstimated && { estimated: true }),
    input_tokens: inputTokens,
    output_tokens: outputTokens,
    ...(cachedInputTokens > 0 && { cached_input_tokens: cachedInputTokens }),
    ...(cacheWriteInputTokens > 0 && { cache_write_input_tokens: cacheWriteInputTokens }),
    ...(cacheWrite1hInputTokens > 0 && { cache_write_1h_input_tokens: cacheWrite1hInputTokens }),
  })
}
