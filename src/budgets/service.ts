import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid } from '../core/ids.ts'
import { type Nanousd, nanousdFromUsd } from '../core/money.ts'
import { isWithin } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Catalogue } from '../prices/catalogue.ts'
import { affordableTokens, estimateNanousd } from '../prices/cost.ts'
import { limitsOf } from './decide.ts'
import type { DecisionEngine } from './engine.ts'
import { pathOf } from './path.ts'
import type { Approval, DenialReason, GrantKind, LimitView, OutcomeOf, PerWindow, Resolved, Unresolved, Usage } from './state.ts'
import { loadLedgerEntries, readEnvelopes } from './store.ts'
import { WINDOWS, type Window } from './windows.ts'

/** What a call creates is named by its operation id, so that a resumed call finds what the first one made. */
export type CallId = { readonly operationId: string; readonly resumed: boolean }

export type ClearRequest = {
  readonly agentId: string
  readonly model: string
  readonly estimatedTokens: number
  readonly estimatedInputTokens: number
  readonly hold_ms: number
}
export type Refusal = {
  readonly approved: false
  readonly reason: DenialReason
  readonly remaining: Nanousd
  readonly tightest: LimitView | null
  readonly affordableTokens: number
}

export type EnvelopeView = { readonly agentId: string; readonly tightest: LimitView; readonly limits: readonly LimitView[] }

/** Envelopes, clearances and their settlement (contract section 3). */
export class BudgetService {
  readonly #engine: DecisionEngine
  readonly #catalogue: Catalogue
  readonly #database: Database
  readonly #clock: Clock

  constructor(deps: { engine: DecisionEngine; catalogue: Catalogue; database: Database; clock: Clock }) {
    this.#engine = deps.engine
    this.#catalogue = deps.catalogue
    this.#database = deps.database
    this.#clock = deps.clock
  }

  /** Prices a planned call and decides it. No call leaves this process but the one to the database. */
  async clear(accountId: string, call: CallId, request: ClearRequest): Promise<Approval | Refusal> {
    const rate = this.#catalogue.rateFor(request.model)
    const outcome = await this.#engine.submit(accountId, {
      kind: 'clear',
      id: call.operationId,
      resumed: call.resumed,
      agentId: request.agentId,
      path: pathOf(request.agentId),
      model: request.model,
      estimate: estimateNanousd(rate, request.estimatedTokens, request.estimatedInputTokens),
      rates: rate,
      hold_ms: request.hold_ms,
    })
    if (outcome.approved) return outcome
    return {
      ...outcome,
      affordableTokens: outcome.tightest === null ? 0 : affordableTokens(rate, outcome.remaining, request.estimatedInputTokens),
    }
  }

  /**
   * Settles an open clearance with what the call really used.
   * @param clearanceId null: the agent's most recent open one
   * @throws DomainError `no_envelope`, `no_pending_clearance`
   */
  async reconcile(
    accountId: string,
    call: CallId,
    request: { agentId: string; clearanceId: string | null; usage: Usage },
  ): Promise<Resolved> {
    const outcome = await this.#engine.submit(accountId, {
      kind: 'settle',
      id: call.operationId,
      resumed: call.resumed,
      agentId: request.agentId,
      path: pathOf(request.agentId),
      holdId: request.clearanceId === null ? null : holdIdOf(request.clearanceId),
      usage: request.usage,
    })
    return resolvedOrThrow(outcome)
  }

  /**
   * Gives an unused clearance back: its estimate no longer counts. The op it burned stays burned.
   * @throws DomainError `no_pending_clearance`
   */
  async release(accountId: string, call: CallId, request: { clearanceId: string; boundTo: string | null }): Promise<Resolved> {
    const holdId = holdIdOf(request.clearanceId)
    return resolvedOrThrow(
      await this.#engine.submit(accountId, {
        kind: 'release',
        id: call.operationId,
        resumed: call.resumed,
        holdId,
        boundTo: request.boundTo,
      }),
    )
  }

  /** Replaces an agent's whole set of limits; what is already spent in each window stays. */
  setEnvelope(
    accountId: string,
    call: CallId,
    agentId: string,
    limits: { readonly [W in Window]?: number | undefined },
  ): Promise<OutcomeOf['set_envelope']> {
    const perWindow = WINDOWS.map((window) => {
      const usd = limits[window]
      return usd === undefined ? null : smallestUp(nanousdFromUsd(usd, 'down'))
    })
    return this.#engine.submit(accountId, {
      kind: 'set_envelope',
      id: call.operationId,
      resumed: call.resumed,
      agentId,
      limits: perWindow as unknown as PerWindow<Nanousd | null>,
    })
  }

  /** @throws DomainError `not_found` */
  async deleteEnvelope(accountId: string, call: CallId, agentId: string): Promise<void> {
    const { existed } = await this.#engine.submit(accountId, {
      kind: 'delete_envelope',
      id: call.operationId,
      resumed: call.resumed,
      agentId,
    })
    if (!existed) throw envelopeNotFound(agentId)
  }

  /** @throws DomainError `not_found` */
  async getEnvelope(accountId: string, agentId: string): Promise<EnvelopeView> {
    const [found] = await this.#read(accountId, agentId)
    if (found === undefined) throw envelopeNotFound(agentId)
    return found
  }

  /** Envelopes in order of agent id, those within `boundTo` only when the key is bound. */
  async listEnvelopes(accountId: string, boundTo: string | null): Promise<EnvelopeView[]> {
    const all = await this.#read(accountId, null)
    return boundTo === null ? all : all.filter((envelope) => isWithin(envelope.agentId, boundTo))
  }

  /** Adds governance ops to an account. @param ops a positive integer @returns the new quota */
  async grant(accountId: string, call: CallId, ops: bigint, detail: string, entry: GrantKind = 'grant'): Promise<bigint> {
    const outcome = await this.#engine.submit(accountId, {
      kind: 'grant',
      id: call.operationId,
      resumed: call.resumed,
      entry,
      ops,
      detail,
    })
    return outcome.ops
  }

  /**
   * Takes ops back, at most as many as there are. Repeating it with the same operation id takes nothing more.
   * @param ops a positive integer @returns how many it took
   */
  async takeBack(accountId: string, operationId: string, ops: bigint, detail: string): Promise<bigint> {
    await this.grant(accountId, { operationId, resumed: true }, -ops, detail, 'correction')
    const lane = { sql: this.#database.sql, prepare: this.#database.prepare }
    const [entry] = await withDatabaseFailure(loadLedgerEntries(lane, [[accountId, operationId]]))
    if (!entry?.recorded) throw new Error(`correction ${operationId} left no ledger entry`)
    return -entry.opsDelta
  }

  async #read(accountId: string, agentId: string | null): Promise<EnvelopeView[]> {
    const lane = { sql: this.#database.sql, prepare: this.#database.prepare }
    const rows = await withDatabaseFailure(readEnvelopes(lane, accountId, agentId))
    const now_ms = this.#clock.now()
    return rows.flatMap((row) => {
      // The account may have decided at a later time than this process's clock shows; a window never runs backwards.
      const limits = limitsOf(row.agentId, row.envelope, Math.max(now_ms, row.accountClockMs))
      const tightest = limits.reduce<LimitView | undefined>(
        (least, limit) => (least && least.remaining <= limit.remaining ? least : limit),
        undefined,
      )
      return tightest === undefined ? [] : [{ agentId: row.agentId, tightest, limits }]
    })
  }
}

const NIL_UUID = '00000000-0000-0000-0000-000000000000'
/** An id of another shape names no clearance: answered like any unknown one. */
const holdIdOf = (clearanceId: string): string => {
  const id = clearanceId.toLowerCase()
  return isUuid(id) ? id : NIL_UUID
}

/** A limit too small for the smallest unit still is a limit above zero; no priced call fits it. */
const smallestUp = (limit: Nanousd): Nanousd => (limit === 0n ? 1n : limit)

const envelopeNotFound = (agentId: string): DomainError =>
  new DomainError('not_found', {
    hint: `No envelope is set on "${agentId}". GET /v1/budget/envelope lists those there are; PUT /v1/budget/envelope sets one.`,
  })

function resolvedOrThrow(outcome: Resolved | Unresolved): Resolved {
  if (!('error' in outcome)) return outcome
  if (outcome.expired) {
    throw new DomainError('no_pending_clearance', {
      hint: 'This clearance has expired: its estimate counts as spent and can no longer be changed. Ask for a longer hold with hold_seconds (up to 604800).',
    })
  }
  throw new DomainError(outcome.error)
}
