import type { ApprovalService, ApprovalView } from '../approvals/service.ts'
import { ACCOUNT_PATH, pathOf } from '../budgets/path.ts'
import type { EnvelopeReader, EnvelopeView } from '../budgets/reader.ts'
import type { LimitView } from '../budgets/state.ts'
import { instanceStart } from '../budgets/windows.ts'
import type { Clock } from '../core/clock.ts'
import type { Nanousd } from '../core/money.ts'
import { type Forecast, forecast, paceOf } from '../usage/forecast.ts'
import type { AgentSpend, DecisionRow, SpendPoint, UsageService } from '../usage/service.ts'

export type AgentRow = {
  readonly agentId: string
  /** How many envelopes above it are listed. */
  readonly depth: number
  readonly limits: readonly LimitView[]
  readonly spent24h: Nanousd
  readonly calls24h: number
}
export type Burn = {
  readonly agentId: string
  /** The cap that is drawn in; null when the account has none. */
  readonly limit: LimitView | null
  readonly from_ms: number
  readonly to_ms: number
  readonly spent: Nanousd
  /** Cumulative, ascending in time, up to now. */
  readonly points: readonly { readonly at_ms: number; readonly spent: Nanousd }[]
  readonly rate: Nanousd
  readonly forecast: Forecast
}
export type DashboardData = {
  readonly now_ms: number
  readonly ops: bigint
  readonly opsUsed24h: number
  readonly agents: readonly AgentRow[]
  /** How many were found among those looked at. */
  readonly agentsInAll: number
  readonly burn: Burn
  readonly decisions: readonly DecisionRow[]
  readonly pending: readonly ApprovalView[]
}

const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
const MAX_AGENTS = 100
/** Envelopes looked at, in order of their agents. */
const MAX_ENVELOPES = 500
const DECISIONS = 30
const PENDING = 20
const BURN_STEPS = 48
/** The rates a forecast goes by: over the last hour and the last six. */
const PACE_MS = 6 * HOUR_MS
const PACE_STEP_MS = HOUR_MS / 6

export type DashboardDeps = {
  readonly accounts: { get(accountId: string): Promise<{ readonly ops: bigint }> }
  readonly envelopes: Pick<EnvelopeReader, 'list'>
  readonly approvals: Pick<ApprovalService, 'list'>
  readonly usage: UsageService
  readonly clock: Clock
}

/** What an account's people want to see at a glance. Reads only. */
export class DashboardService {
  readonly #deps: DashboardDeps

  constructor(deps: DashboardDeps) {
    this.#deps = deps
  }

  /**
   * @param boundTo the path of a key that is bound to one: nothing outside it is shown
   * @param agentId whose burn is drawn; the envelope that is closest to its limit when null or without one
   */
  async view(accountId: string, boundTo: string | null, agentId: string | null): Promise<DashboardData> {
    const { accounts, approvals, usage, clock } = this.#deps
    const now_ms = clock.now()
    const day = { agentId: boundTo, from_ms: now_ms - DAY_MS, to_ms: now_ms + 1 }
    const [account, { envelopes }, spenders, decisions, pending] = await Promise.all([
      accounts.get(accountId),
      this.#deps.envelopes.list(accountId, { boundTo, after: '', count: MAX_ENVELOPES }),
      usage.spendByAgent(accountId, day),
      usage.recentDecisions(accountId, { boundTo, limit: DECISIONS }),
      approvals.list(accountId, { state: 'pending', boundTo, limit: PENDING, before: null }),
    ])
    const rows = agentRows(envelopes, spenders)
    return {
      now_ms,
      ops: account.ops,
      opsUsed24h: spenders.reduce((sum, { calls }) => sum + calls, 0),
      agents: rows.slice(0, MAX_AGENTS),
      agentsInAll: rows.length,
      burn: await this.#burn(accountId, focusOf(envelopes, agentId), boundTo, now_ms),
      decisions,
      pending,
    }
  }

  async #burn(accountId: string, focus: LimitView | null, boundTo: string | null, now_ms: number): Promise<Burn> {
    const { usage } = this.#deps
    const agentId = focus?.agentId ?? boundTo ?? ACCOUNT_PATH
    const [from_ms, to_ms] =
      focus === null || focus.window === 'session'
        ? [now_ms - DAY_MS, now_ms + DAY_MS / 2]
        : [instanceStart(focus.window, now_ms), focus.resetMs]
    const fine_ms = Math.ceil((to_ms - from_ms) / BURN_STEPS)
    // Whole hours, where it may be, are told by sums.
    const step_ms = fine_ms < HOUR_MS ? fine_ms : Math.ceil(fine_ms / HOUR_MS) * HOUR_MS
    const [series, recent] = await Promise.all([
      usage.spendSeries(accountId, { agentId, from_ms, to_ms: Math.max(from_ms + 1, now_ms + 1), step_ms }),
      usage.spendSeries(accountId, { agentId, from_ms: now_ms - PACE_MS, to_ms: now_ms + 1, step_ms: PACE_STEP_MS }),
    ])
    const spent = focus?.spent ?? series.reduce((sum, point) => sum + point.spent, 0n)
    const { rate } = paceOf(recent, now_ms, HOUR_MS)
    const cap = focus === null ? null : focus.limit + focus.extra
    return {
      agentId,
      limit: focus,
      from_ms,
      to_ms,
      spent,
      points: cumulative(series, spent, step_ms, now_ms),
      rate,
      forecast: forecast({ now_ms, until_ms: to_ms, spent, rate, cap }),
    }
  }
}

/** Backwards from what is spent now, so that the line ends there also when a part of it is older than what was looked at. */
function cumulative(series: readonly SpendPoint[], spent: Nanousd, step_ms: number, now_ms: number): Burn['points'] {
  const points: { at_ms: number; spent: Nanousd }[] = []
  let left = spent
  for (const point of series.toReversed()) {
    points.push({ at_ms: Math.min(point.at_ms + step_ms, now_ms), spent: left })
    left -= point.spent
    if (left < 0n) left = 0n
  }
  const [first] = series
  if (first) points.push({ at_ms: first.at_ms, spent: left })
  return points.reverse()
}

/** The limit whose burn is drawn: of the agent that was asked for, else the one that is used up most. */
function focusOf(envelopes: readonly EnvelopeView[], agentId: string | null): LimitView | null {
  const asked = envelopes.find((envelope) => envelope.agentId === agentId)
  if (asked) return asked.tightest
  const used = ({ spent, limit, extra }: LimitView): number => Number(spent) / Number(limit + extra)
  return envelopes.reduce<LimitView | null>(
    (most, { tightest }) => (most === null || used(tightest) > used(most) ? tightest : most),
    null,
  )
}

/** Agents with a limit or with spend in the last day, in the order of their paths: the account first, children below their parents. */
function agentRows(envelopes: readonly EnvelopeView[], spenders: readonly AgentSpend[]): AgentRow[] {
  const limits = new Map(envelopes.map((envelope) => [envelope.agentId, envelope.limits]))
  const spent = new Map<string, { spent: Nanousd; calls: number }>()
  for (const { agentId, spent: own, calls } of spenders) {
    // A cap counts everything below it, and so does the figure beside it.
    const counted = new Set([...pathOf(agentId).filter((path) => limits.has(path)), agentId])
    for (const path of counted) {
      const sum = spent.get(path) ?? { spent: 0n, calls: 0 }
      spent.set(path, { spent: sum.spent + own, calls: sum.calls + calls })
    }
  }
  return [...new Set([...limits.keys(), ...spent.keys()])].sort(byPath).map((agentId) => ({
    agentId,
    depth: pathOf(agentId).filter((path) => path !== agentId && limits.has(path)).length,
    limits: limits.get(agentId) ?? [],
    spent24h: spent.get(agentId)?.spent ?? 0n,
    calls24h: spent.get(agentId)?.calls ?? 0,
  }))
}

function byPath(a: string, b: string): number {
  if (a === ACCOUNT_PATH || b === ACCOUNT_PATH) return a === b ? 0 : a === ACCOUNT_PATH ? -1 : 1
  const [left, right] = [a.split('/'), b.split('/')]
  for (let level = 0; level < Math.min(left.length, right.length); level++) {
    const [one = '', other = ''] = [left[level], right[level]]
    if (one !== other) return one < other ? -1 : 1
  }
  return left.length - right.length
}
