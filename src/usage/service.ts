import type { Clock } from '../core/clock.ts'
import type { Nanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { type AgentSpend, type ModelSpend, sumSpend, sumSpendByAgent, sumSpendByModel } from './spend.store.ts'
import { type DecisionRow, listDecisions, readMarks } from './store.ts'

export type { AgentSpend, ModelSpend } from './spend.store.ts'
export type { DecisionRow } from './store.ts'

export type SpendPoint = {
  /** Start of the step, Unix ms. */
  readonly at_ms: number
  readonly spent: Nanousd
  /** Approved decisions in the step. */
  readonly calls: number
}

const HOUR_MS = 3_600_000
const MAX_STEPS = 2_000
const MAX_AGENTS = 500
const MAX_DECISIONS = 200

/**
 * What was spent and decided, for people and forecasts: reads only, each bounded in rows. Figures count a clearance in the step in which it
 * was taken, at what it really cost once that is known. Whole hours come from sums (`Rollup`); of what is finer, and of what is not summed up
 * yet, the newest 200,000 decisions are looked at.
 */
export class UsageService {
  readonly #database: Database
  readonly #clock: Clock

  constructor(deps: { database: Database; clock: Clock }) {
    this.#database = deps.database
    this.#clock = deps.clock
  }

  /**
   * Spend per step, every step of the range in order, those without spend included.
   * @param range `agentId`: that agent and everything below it, the whole account when left out; at most 2,000 steps
   */
  async spendSeries(
    accountId: string,
    range: { agentId?: string | null; from_ms: number; to_ms: number; step_ms: number },
  ): Promise<SpendPoint[]> {
    const { from_ms, to_ms, step_ms } = range
    const steps = Math.ceil((to_ms - from_ms) / step_ms)
    if (!(step_ms >= 1 && steps >= 0 && steps <= MAX_STEPS)) throw new RangeError(`a series of ${steps} steps`)
    const rows = await withDatabaseFailure(
      sumSpend(this.#database, accountId, { agentId: pathOrAll(range.agentId), from_ms, to_ms: this.#endOf(to_ms), step_ms }),
    )
    const found = new Map(rows.map((row) => [row.index, row]))
    return Array.from({ length: steps }, (_, index) => ({
      at_ms: from_ms + index * step_ms,
      spent: found.get(index)?.spent ?? 0n,
      calls: found.get(index)?.calls ?? 0,
    }))
  }

  /** Spend per agent, the largest first, at most 500 agents. */
  spendByAgent(
    accountId: string,
    range: { agentId?: string | null; from_ms: number; to_ms: number; limit?: number },
  ): Promise<AgentSpend[]> {
    const limit = Math.min(range.limit ?? MAX_AGENTS, MAX_AGENTS)
    const asked = { ...range, to_ms: this.#endOf(range.to_ms), agentId: pathOrAll(range.agentId), limit }
    return withDatabaseFailure(sumSpendByAgent(this.#database, accountId, asked))
  }

  /** Spend and tokens per model in a range of whole hours, the largest spend first. */
  spendByModel(
    accountId: string,
    range: { agentId?: string | null; from_ms: number; to_ms: number; limit: number },
  ): Promise<ModelSpend[]> {
    return withDatabaseFailure(sumSpendByModel(this.#database, accountId, { ...range, agentId: pathOrAll(range.agentId) }))
  }

  /** Nothing is taken later than now: the hour that runs counts as a whole one, which sums tell without a look at its decisions. */
  #endOf(to_ms: number): number {
    return to_ms > this.#clock.now() ? Math.ceil(to_ms / HOUR_MS) * HOUR_MS : to_ms
  }

  /**
   * Decisions and changes of the account, newest first, at most 200.
   * @param page `boundTo`: those of that path only; `before`: an id, only what is older
   */
  recentDecisions(
    accountId: string,
    page: { boundTo: string | null; limit: number; before?: string | null },
  ): Promise<DecisionRow[]> {
    const limit = Math.min(page.limit, MAX_DECISIONS)
    return withDatabaseFailure(
      listDecisions(this.#database, accountId, { boundTo: page.boundTo, limit, before: page.before ?? null }),
    )
  }

  /** Per account something that changes whenever there is something new to see; one statement for all of them. */
  marks(accountIds: readonly string[]): Promise<Map<string, string>> {
    return withDatabaseFailure(readMarks(this.#database, accountIds))
  }
}

/** An envelope on `*` counts every agent. */
const pathOrAll = (agentId: string | null | undefined): string | null => (agentId === '*' ? null : (agentId ?? null))
