import { pathOf } from '../budgets/path.ts'
import type { EnvelopeReader } from '../budgets/reader.ts'
import type { LimitView } from '../budgets/state.ts'
import { WINDOWS, type Window } from '../budgets/windows.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import type { Nanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { type AgentRow, findAgent, listAgents, type OpenHolds, sumOpenHolds } from './agents.store.ts'
import { forecast, type Pace, paceOf } from './forecast.ts'
import type { ModelSpend, SpendPoint, UsageService } from './service.ts'

export type AgentView = AgentRow & {
  /** What it and everything below it has spent, per window; null where no envelope on it counts that. */
  readonly spent: Readonly<Record<Window, Nanousd>> | null
  readonly limits: readonly LimitView[]
  readonly open: OpenHolds
  /** The path whose suspension stops it; null: none. */
  readonly suspendedPath: string | null
}
export type Step = 'hour' | 'day'
export type Usage = { readonly series: readonly SpendPoint[]; readonly models: readonly ModelSpend[] }
export type Prediction = {
  /** The limit that is reached first, or has the least left when none is; null: no limit of that period. */
  readonly limit: LimitView | null
  readonly pace: Pace
  /** From now on; null: not before the limit's window ends, or nothing can be said. */
  readonly remaining_ms: number | null
}

const HOUR_MS = 3_600_000
export const STEP_MS: Record<Step, number> = { hour: HOUR_MS, day: 24 * HOUR_MS }
const MAX_MODELS = 100
/** Steps of the series that a prediction goes by, and the part of it that counts as recent. */
const PACE_STEPS = 72
const RECENT_PART = 6
/** Limits on one path that are looked at; each costs a read. */
const MAX_LIMITS = 8

type Deps = {
  readonly database: Database
  readonly clock: Clock
  readonly envelopes: Pick<EnvelopeReader, 'standingOf' | 'limitsOnPath'>
  readonly usage: UsageService
}

/** What the agents of an account do, what they spend and how long it will last (contract section 9). Reads only. */
export class AgentService {
  readonly #deps: Deps

  constructor(deps: Deps) {
    this.#deps = deps
  }

  /** Agents in order of id, those within `boundTo` only when the key is bound. */
  async list(accountId: string, page: { boundTo: string | null; after: string; limit: number }): Promise<AgentView[]> {
    return this.#views(accountId, await withDatabaseFailure(listAgents(this.#deps.database, accountId, page)))
  }

  /** @throws DomainError `not_found` */
  async get(accountId: string, agentId: string): Promise<AgentView> {
    const [view] = await this.#views(accountId, [await this.#find(accountId, agentId)])
    if (view === undefined) throw agentNotFound(agentId)
    return view
  }

  /**
   * Spend of an agent and everything below it, per step and per model.
   * @param range whole hours
   * @throws DomainError `not_found`
   */
  async usage(accountId: string, agentId: string, range: { from_ms: number; to_ms: number; step: Step }): Promise<Usage> {
    await this.#find(accountId, agentId)
    const { usage } = this.#deps
    const { from_ms, to_ms } = range
    const [series, models] = await Promise.all([
      usage.spendSeries(accountId, { agentId, from_ms, to_ms, step_ms: STEP_MS[range.step] }),
      usage.spendByModel(accountId, { agentId, from_ms, to_ms, limit: MAX_MODELS }),
    ])
    return { series, models }
  }

  /**
   * How long the budget of a period lasts at the present pace. Of several limits on the path, the one that is reached first: each is measured
   * by what everything below it spends. A window that ends before its limit is reached resets, so there is no such time then.
   * @throws DomainError `not_found`
   */
  async predict(accountId: string, agentId: string, period: Window, lookback_ms: number): Promise<Prediction> {
    await this.#find(accountId, agentId)
    const now_ms = this.#deps.clock.now()
    const limits = (await this.#deps.envelopes.limitsOnPath(accountId, agentId))
      .filter((limit) => limit.window === period)
      .slice(-MAX_LIMITS)
    if (limits.length === 0) {
      return { limit: null, pace: await this.#pace(accountId, agentId, now_ms, lookback_ms), remaining_ms: null }
    }
    let soonest: Prediction | undefined
    for (const limit of limits) {
      const pace = await this.#pace(accountId, limit.agentId, now_ms, lookback_ms)
      const until_ms = period === 'session' ? Number.MAX_SAFE_INTEGER : limit.resetMs
      const { spent, limit: cap, extra } = limit
      const { reachedMs } = forecast({ now_ms, until_ms, spent, rate: pace.rate, cap: cap + extra })
      const found = { limit, pace, remaining_ms: reachedMs === null ? null : reachedMs - now_ms }
      if (soonest === undefined || isSooner(found, soonest)) soonest = found
    }
    if (soonest === undefined) throw new Error('a limit is missing')
    return soonest
  }

  async #pace(accountId: string, agentId: string, now_ms: number, lookback_ms: number): Promise<Pace> {
    const fine_ms = Math.floor(lookback_ms / PACE_STEPS)
    // Long steps are whole hours, which sums tell.
    const step_ms = fine_ms < HOUR_MS ? fine_ms : Math.ceil(fine_ms / HOUR_MS) * HOUR_MS
    const to_ms = fine_ms < HOUR_MS ? now_ms : (Math.floor(now_ms / HOUR_MS) + 1) * HOUR_MS
    const range = { agentId, from_ms: to_ms - step_ms * PACE_STEPS, to_ms, step_ms }
    return paceOf(await this.#deps.usage.spendSeries(accountId, range), now_ms, lookback_ms / RECENT_PART)
  }

  async #find(accountId: string, agentId: string): Promise<AgentRow> {
    const found = await withDatabaseFailure(findAgent(this.#deps.database, accountId, agentId))
    if (found === null) throw agentNotFound(agentId)
    return found
  }

  async #views(accountId: string, rows: readonly AgentRow[]): Promise<AgentView[]> {
    if (rows.length === 0) return []
    const { database, envelopes, clock } = this.#deps
    const ids = rows.map(({ agentId }) => agentId)
    const [standing, open] = await Promise.all([
      envelopes.standingOf(accountId, [...new Set(ids.flatMap(pathOf))]),
      withDatabaseFailure(sumOpenHolds(database, accountId, ids, clock.now())),
    ])
    return rows.map((row) => {
      const own = standing.get(row.agentId)
      return {
        ...row,
        spent: own?.spent ? perWindow(own.spent) : null,
        limits: own?.limits ?? [],
        open: open.get(row.agentId) ?? { count: 0, amount: 0n },
        suspendedPath: pathOf(row.agentId).find((level) => standing.get(level)?.suspendedMs != null) ?? null,
      }
    })
  }
}

/** What is reached at all comes before what is not; then the nearer, then the fuller. */
function isSooner(a: Prediction, b: Prediction): boolean {
  if (a.remaining_ms !== null && b.remaining_ms !== null) return a.remaining_ms < b.remaining_ms
  if (a.remaining_ms !== null || b.remaining_ms !== null) return a.remaining_ms !== null
  return (a.limit?.remaining ?? 0n) < (b.limit?.remaining ?? 0n)
}

const perWindow = (amounts: readonly Nanousd[]): Record<Window, Nanousd> =>
  Object.fromEntries(WINDOWS.map((window, index) => [window, amounts[index] ?? 0n])) as Record<Window, Nanousd>

const agentNotFound = (agentId: string): DomainError =>
  new DomainError('not_found', {
    hint: `No agent "${agentId}" is known: it has no envelope and never asked for anything. GET /v1/agents lists those there are.`,
  })
