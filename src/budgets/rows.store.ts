import type { QuerySql } from '../db/client.ts'
import type { TokenRates } from '../prices/cost.ts'
import type { EnvelopeState, Extra, HoldState, PerWindow, Resolution } from './state.ts'

/** `prepare` is false behind poolers that forbid prepared statements. */
export type LaneSql = { readonly sql: QuerySql; readonly prepare: boolean }

export type Row = Record<string, unknown>
export const query = (lane: LaneSql, text: string, values: string[]): Promise<Row[]> =>
  lane.sql.unsafe(text, values, { prepare: lane.prepare })

export const LIMITS =
  'limit_hourly_nanousd, limit_daily_nanousd, limit_weekly_nanousd, limit_monthly_nanousd, limit_session_nanousd'
export const SPENDS =
  'spent_hourly_nanousd, spent_daily_nanousd, spent_weekly_nanousd, spent_monthly_nanousd, spent_session_nanousd'
export const EXTRAS =
  'extra_hourly_nanousd, extra_daily_nanousd, extra_weekly_nanousd, extra_monthly_nanousd, extra_session_nanousd, extra_clock_ms'
/** Of accounts a, for `accountOf`. */
export const ACCOUNT_COLUMNS = 'a.account_id, a.version, a.ops, a.clock_ms, a.event_mask'
/** Of envelopes e, for `envelopeOf`. */
export const ENVELOPE_COLUMNS = `${LIMITS}, ${SPENDS}, ${EXTRAS}, resets, suspended_ms, loop_max_repeats, loop_window_ms, e.clock_ms as envelope_clock_ms, e.created_ms`
/** Of holds h, for `holdOf`. */
export const HOLD_COLUMNS =
  'h.hold_id, h.agent_id, h.kind, h.state, h.model, h.estimate_nanousd, h.rates, h.charged, h.taken_ms, h.taken_version, h.expires_ms, h.resolved_ms, h.actual_nanousd, h.outcome'

export type LoadedAccount = {
  readonly accountId: string
  readonly version: bigint
  readonly ops: bigint
  readonly clockMs: number
  readonly events: number
}

/** The account's part of a row that holds ACCOUNT_COLUMNS. */
export const accountOf = (row: Row): LoadedAccount => ({
  accountId: row.account_id as string,
  version: row.version as bigint,
  ops: row.ops as bigint,
  clockMs: Number(row.clock_ms),
  events: Number(row.event_mask),
})

/** An envelope from a row that holds ENVELOPE_COLUMNS. */
export function envelopeOf(row: Row): EnvelopeState {
  return {
    limits: [
      row.limit_hourly_nanousd,
      row.limit_daily_nanousd,
      row.limit_weekly_nanousd,
      row.limit_monthly_nanousd,
      row.limit_session_nanousd,
    ] as unknown as PerWindow<bigint | null>,
    spent: [
      row.spent_hourly_nanousd,
      row.spent_daily_nanousd,
      row.spent_weekly_nanousd,
      row.spent_monthly_nanousd,
      row.spent_session_nanousd,
    ] as unknown as PerWindow<bigint>,
    clockMs: Number(row.envelope_clock_ms),
    createdMs: Number(row.created_ms),
    extra: row.extra_clock_ms === null ? null : extraOf(row),
    resets: row.resets === null ? null : decodeResets(row.resets as string),
    suspendedMs: row.suspended_ms === null ? null : Number(row.suspended_ms),
    loop:
      row.loop_max_repeats === null
        ? null
        : { maxRepeats: row.loop_max_repeats as number, window_ms: Number(row.loop_window_ms) },
  }
}

const extraOf = (row: Row): Extra => ({
  amounts: [
    row.extra_hourly_nanousd,
    row.extra_daily_nanousd,
    row.extra_weekly_nanousd,
    row.extra_monthly_nanousd,
    row.extra_session_nanousd,
  ] as unknown as PerWindow<bigint>,
  clockMs: Number(row.extra_clock_ms),
})

/** A hold from a row that holds HOLD_COLUMNS. */
export const holdOf = (row: Row): HoldState => ({
  holdId: row.hold_id as string,
  agentId: row.agent_id as string,
  kind: row.kind as HoldState['kind'],
  state: row.state as HoldState['state'],
  model: row.model as string,
  estimate: row.estimate_nanousd as bigint,
  rates: decodeRates(row.rates as string),
  charged: row.charged as string,
  takenMs: Number(row.taken_ms),
  takenVersion: row.taken_version as bigint,
  expiresMs: Number(row.expires_ms),
  resolvedMs: row.resolved_ms === null ? null : Number(row.resolved_ms),
  actual: row.actual_nanousd as bigint | null,
  outcome: row.outcome === null ? null : decodeResolution(row.outcome as string),
})

const encodedRates = new WeakMap<TokenRates, string>()
export function encodeRates(rates: TokenRates): string {
  let encoded = encodedRates.get(rates)
  if (encoded === undefined) {
    const tiers = (rates.tiers ?? []).map((tier) => `;${tier.aboveInputTokens}:${encodePlain(tier.rates)}`)
    encoded = encodePlain(rates) + tiers.join('')
    encodedRates.set(rates, encoded)
  }
  return encoded
}
const encodePlain = (rates: TokenRates): string =>
  [rates.input, rates.output, rates.cachedInput, rates.cacheWrite, rates.cacheWrite1h].join(',')

function decodeRates(text: string): TokenRates {
  const [plain = '', ...tiers] = text.split(';')
  if (tiers.length === 0) return decodePlain(plain)
  const tierOf = (tier: string) => {
    const [above, rates = ''] = tier.split(':')
    return { aboveInputTokens: Number(above), rates: decodePlain(rates) }
  }
  return { ...decodePlain(plain), tiers: tiers.map(tierOf) }
}
function decodePlain(text: string): Omit<TokenRates, 'tiers'> {
  const [input = 0n, output = 0n, cachedInput = 0n, cacheWrite = 0n, cacheWrite1h = 0n] = text.split(',').map(BigInt)
  return { input, output, cachedInput, cacheWrite, cacheWrite1h }
}

/** One version per window, empty for none. */
export const encodeResets = (resets: PerWindow<bigint | null> | null | undefined): string | null =>
  resets ? resets.map((version) => version ?? '').join(',') : null
function decodeResets(text: string): PerWindow<bigint | null> {
  const versions = text.split(',').map((version) => (version === '' ? null : BigInt(version)))
  return versions as unknown as PerWindow<bigint | null>
}

export const encodeResolution = (outcome: Resolution | null): string | null =>
  outcome && `${outcome.drift},${outcome.remaining},${outcome.ops}`
function decodeResolution(text: string): Resolution {
  const [drift = 0n, remaining = 0n, ops = 0n] = text.split(',').map(BigInt)
  return { drift, remaining, ops }
}
