import type { Clock } from '../core/clock.ts'
import type { Nanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { envelopeNotFound } from './commands.ts'
import { extraAt, limitsOf, NO_ENVELOPE, spentAt, termsOf, tighter } from './envelope.ts'
import { type EnvelopeFilter, loadEnvelopes, readEnvelopes } from './load.store.ts'
import { pathOf } from './path.ts'
import { noPolicy, type PolicySource } from './policy.ts'
import type { LaneSql } from './rows.store.ts'
import type { EnvelopeState, LimitView, LoopLimit, PerWindow, Raise } from './state.ts'
import { nextReset, WINDOWS } from './windows.ts'

/** Where a raise starts from, as of now. `limit` is null when the window has no cap. */
export type RaiseView = {
  readonly raise: Raise
  readonly limit: Nanousd | null
  readonly extra: Nanousd
  readonly spent: Nanousd
  readonly resetMs: number
  readonly terms: string
}

export type EnvelopeView = {
  readonly agentId: string
  readonly tightest: LimitView
  readonly limits: readonly LimitView[]
  readonly loop: LoopLimit | null
}

export type Standing = {
  /** null: nothing counts here yet. */
  readonly spent: PerWindow<Nanousd> | null
  readonly limits: readonly LimitView[]
  readonly suspendedMs: number | null
}

/** Envelopes and limits as they stand now (contract section 3). Reads only. */
export class EnvelopeReader {
  /** The general pool: reads must not make decisions queue. */
  readonly #lane: LaneSql
  readonly #clock: Clock
  readonly #policy: PolicySource

  /** @param deps `policy` must be the engine's */
  constructor(deps: { database: Database; clock: Clock; policy?: PolicySource }) {
    this.#lane = { sql: deps.database.sql, prepare: deps.database.prepare }
    this.#clock = deps.clock
    this.#policy = deps.policy ?? noPolicy
  }

  /**
   * One agent's limits, those of the governance file among them: it has an envelope when either sets one.
   * @throws DomainError `not_found`
   */
  async get(accountId: string, agentId: string): Promise<EnvelopeView> {
    const [found] = await this.#read(accountId, { agentId })
    const view = found ?? this.#viewOf(agentId, NO_ENVELOPE, this.#clock.now())
    if (view === null) throw envelopeNotFound(agentId)
    return view
  }

  /** What was counted, limited and suspended on some paths, as of now; paths on which nothing is are left out. */
  async standingOf(accountId: string, paths: readonly string[]): Promise<Map<string, Standing>> {
    const pairs = paths.map((path) => [accountId, path] as const)
    const rows = await withDatabaseFailure(loadEnvelopes(this.#lane, pairs))
    const now_ms = this.#clock.now()
    return new Map(
      rows.flatMap(({ agentId, envelope, clockMs }): [string, Standing][] => {
        const at_ms = Math.max(now_ms, clockMs)
        const limits = this.#viewOf(agentId, envelope ?? NO_ENVELOPE, at_ms)?.limits ?? []
        if (envelope === null && limits.length === 0) return []
        const { suspendedMs = null } = envelope ?? NO_ENVELOPE
        return [[agentId, { spent: envelope && spentAt(envelope, at_ms), limits, suspendedMs }]]
      }),
    )
  }

  /** Every limit that a spend of this agent must fit, as it stands now, widest level first. */
  async limitsOnPath(accountId: string, agentId: string): Promise<LimitView[]> {
    const path = pathOf(agentId)
    const standing = await this.standingOf(accountId, path)
    return path.flatMap((level) => standing.get(level)?.limits ?? [])
  }

  /**
   * Envelopes in order of agent id (by bytes), those within `boundTo` only when the key is bound. Of the governance file's, those that have
   * counted something here.
   * @param after the agent id to go on behind; '' to begin
   * @returns at most `count`, and the agent id to go on behind when there are more
   */
  async list(
    accountId: string,
    page: { boundTo: string | null; after: string; count: number },
  ): Promise<{ envelopes: EnvelopeView[]; next: string | null }> {
    const envelopes = await this.#read(accountId, { ...page, count: page.count + 1 })
    if (envelopes.length <= page.count) return { envelopes, next: null }
    envelopes.length = page.count
    return { envelopes, next: envelopes.at(-1)?.agentId ?? null }
  }

  /** What a raise would start from now; for showing it before anyone agrees to it. */
  async viewRaise(accountId: string, raise: Raise): Promise<RaiseView> {
    const [row] = await readEnvelopes(this.#lane, accountId, { agentId: raise.agentId })
    const at_ms = Math.max(this.#clock.now(), row?.accountClockMs ?? 0)
    const envelope = row?.envelope ?? null
    const index = WINDOWS.indexOf(raise.window)
    const limit = envelope?.limits[index] ?? null
    return {
      raise,
      limit,
      extra: limit === null ? 0n : extraAt(envelope?.extra, index, at_ms),
      spent: envelope === null ? 0n : (spentAt(envelope, at_ms)[index] ?? 0n),
      resetMs: nextReset(raise.window, at_ms),
      terms: termsOf(raise, envelope, at_ms),
    }
  }

  async #read(accountId: string, filter: EnvelopeFilter): Promise<EnvelopeView[]> {
    const alsoPaths = this.#policy()?.limitedPaths ?? []
    const rows = await withDatabaseFailure(readEnvelopes(this.#lane, accountId, filter, alsoPaths))
    const now_ms = this.#clock.now()
    // The account may have decided at a later time than this process's clock shows; a window never runs backwards.
    return rows.flatMap((row) => this.#viewOf(row.agentId, row.envelope, Math.max(now_ms, row.accountClockMs)) ?? [])
  }

  #viewOf(agentId: string, envelope: EnvelopeState, at_ms: number): EnvelopeView | null {
    const limits = limitsOf(agentId, envelope, at_ms, this.#policy()?.limits(agentId) ?? null)
    const tightest = limits.reduce<LimitView | null>(tighter, null)
    return tightest && { agentId, tightest, limits, loop: envelope.loop ?? null }
  }
}
