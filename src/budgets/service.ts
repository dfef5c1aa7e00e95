import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid } from '../core/ids.ts'
import { type Nanousd, nanousdFromUsd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Catalogue } from '../prices/catalogue.ts'
import { affordableTokens, estimateNanousd, type TokenRates } from '../prices/cost.ts'
import type { DecisionEngine } from './engine.ts'
import { extraAt, limitsOf, spentAt, termsOf } from './envelope.ts'
import { pathOf } from './path.ts'
import type {
  Approval,
  DecideCommand,
  Denial,
  DenialReason,
  GrantKind,
  LimitView,
  OutcomeOf,
  PerWindow,
  Raise,
  Resolved,
  Unresolved,
  Usage,
} from './state.ts'
import { type EnvelopeFilter, type LaneSql, loadLedgerEntries, readEnvelopes } from './store.ts'
import { HOLD_KIND, type HoldKind } from './tables.ts'
import { nextReset, WINDOWS, type Window } from './windows.ts'

/** What a call creates is named by its operation id, so that a resumed call finds what the first one made. */
export type CallId = { readonly operationId: string; readonly resumed: boolean }

export type ClearRequest = {
  readonly agentId: string
  readonly model: string
  readonly estimatedTokens: number
  readonly estimatedInputTokens: number
  readonly hold_ms: number
  /** A clearance when absent. */
  readonly holdKind?: HoldKind
}
/** A call that is about to be forwarded. */
export type Reservation = {
  readonly agentId: string
  readonly model: string
  readonly estimate: Nanousd
  readonly rates: TokenRates
  readonly hold_ms: number
}
/** Something bought that is no model call, at a known price. */
export type Purchase = {
  readonly agentId: string
  /** What is stored where a clearance has its model; up to 128 characters. */
  readonly label: string
  readonly cost: Nanousd
  /** JSON, kept with the booking. */
  readonly detail: string
}
export type Refusal = {
  readonly approved: false
  readonly reason: DenialReason
  readonly remaining: Nanousd
  readonly tightest: LimitView | null
  readonly suspendedPath?: string
  readonly affordableTokens: number
  /** How much more the tightest limit would have to have left. */
  readonly shortfall: Nanousd
}

/** Where a raise starts from, as of now. `limit` is null when the window has no cap. */
export type RaiseView = {
  readonly raise: Raise
  readonly limit: Nanousd | null
  readonly extra: Nanousd
  readonly spent: Nanousd
  readonly resetMs: number
  readonly terms: string
}

export type EnvelopeView = { readonly agentId: string; readonly tightest: LimitView; readonly limits: readonly LimitView[] }

/** Envelopes, clearances and their settlement (contract section 3). */
export class BudgetService {
  readonly #engine: DecisionEngine
  readonly #catalogue: Catalogue
  /** The general pool: reads here must not make decisions queue. */
  readonly #lane: LaneSql
  readonly #clock: Clock

  constructor(deps: { engine: DecisionEngine; catalogue: Catalogue; database: Database; clock: Clock }) {
    this.#engine = deps.engine
    this.#catalogue = deps.catalogue
    this.#lane = { sql: deps.database.sql, prepare: deps.database.prepare }
    this.#clock = deps.clock
  }

  /** Prices a planned call and decides it. No call leaves this process but the one to the database. */
  async clear(accountId: string, call: CallId, request: ClearRequest): Promise<Approval | Refusal> {
    const rate = this.#catalogue.rateFor(request.model, request.estimatedInputTokens)
    const estimate = estimateNanousd(rate, request.estimatedTokens, request.estimatedInputTokens)
    const outcome = await this.#engine.submit(accountId, {
      kind: 'clear',
      id: call.operationId,
      resumed: call.resumed,
      agentId: request.agentId,
      path: pathOf(request.agentId),
      model: request.model,
      estimate,
      rates: rate,
      hold_ms: request.hold_ms,
      ...(request.holdKind !== undefined && { holdKind: request.holdKind }),
    })
    if (outcome.approved) return outcome
    const tokens = outcome.tightest === null ? 0 : affordableTokens(rate, outcome.remaining, request.estimatedInputTokens)
    return refusalOf(outcome, estimate, tokens)
  }

  /** Charges a purchase and settles it in one step: approved, it is spent. */
  async book(accountId: string, call: CallId, purchase: Purchase): Promise<Approval | Refusal> {
    const outcome = await this.#engine.submit(accountId, {
      kind: 'clear',
      id: call.operationId,
      resumed: call.resumed,
      agentId: purchase.agentId,
      path: pathOf(purchase.agentId),
      model: purchase.label,
      estimate: purchase.cost,
      rates: NO_RATES,
      hold_ms: 0,
      holdKind: HOLD_KIND.booking,
      detail: purchase.detail,
    })
    return outcome.approved ? outcome : refusalOf(outcome, purchase.cost, 0)
  }

  /** Holds the most that a forwarded call can cost. Its caller prices it, since only he knows the whole call. */
  async reserve(accountId: string, call: CallId, request: Reservation): Promise<Approval | Refusal> {
    const { agentId, model, estimate, rates, hold_ms } = request
    const outcome = await this.#engine.submit(accountId, {
      kind: 'clear',
      id: call.operationId,
      resumed: call.resumed,
      agentId,
      path: pathOf(agentId),
      model,
      estimate,
      rates,
      hold_ms,
      holdKind: HOLD_KIND.reservation,
    })
    return outcome.approved ? outcome : refusalOf(outcome, estimate, 0)
  }

  /**
   * Keeps the reservation of a running call from expiring.
   * @returns false when it is no longer open
   */
  async renew(accountId: string, call: CallId, reservationId: string, hold_ms: number): Promise<boolean> {
    const command = { kind: 'renew' as const, id: call.operationId, resumed: call.resumed, holdId: reservationId, hold_ms }
    return (await this.#engine.submit(accountId, command)).renewed
  }

  /**
   * Settles a reservation with what the call really used, also after its expiry: only who forwards a call knows its end.
   * @param request `cost`: what the call costs, where the usage at the reservation's prices does not say it; `detail`: how the usage is
   * known, for the ledger
   * @throws DomainError `no_pending_clearance` when it was released
   */
  async settleReservation(
    accountId: string,
    call: CallId,
    request: { agentId: string; reservationId: string; usage: Usage; cost?: Nanousd; detail: string },
  ): Promise<Resolved> {
    const { agentId, reservationId, usage, cost, detail } = request
    const outcome = await this.#engine.submit(accountId, {
      kind: 'settle',
      id: call.operationId,
      resumed: call.resumed,
      agentId,
      path: pathOf(agentId),
      holdId: reservationId,
      usage,
      ...(cost !== undefined && { cost }),
      holdKind: HOLD_KIND.reservation,
      detail,
    })
    return resolvedOrThrow(outcome)
  }

  /** Gives a reservation back: the call was never made, or cost nothing. */
  async releaseReservation(accountId: string, call: CallId, reservationId: string): Promise<Resolved> {
    const outcome = await this.#engine.submit(accountId, {
      kind: 'release',
      id: call.operationId,
      resumed: call.resumed,
      holdId: reservationId,
      boundTo: null,
      holdKind: HOLD_KIND.reservation,
    })
    return resolvedOrThrow(outcome)
  }

  /**
   * Sets what an agent has spent in some windows back to 0. What was cleared before no longer counts there, whatever becomes of it.
   * @throws DomainError `not_found` when the agent never had an envelope
   */
  async reset(accountId: string, call: CallId, agentId: string, windows: readonly Window[], detail: string): Promise<void> {
    const { existed } = await this.#engine.submit(accountId, {
      kind: 'reset',
      id: call.operationId,
      resumed: call.resumed,
      agentId,
      windows,
      detail,
    })
    if (!existed) throw envelopeNotFound(agentId)
  }

  /**
   * The kill switch: nothing is approved at or below a path (`*`: in the whole account) from the next decision on, or again.
   * @returns false when that was so already
   */
  async setSuspended(accountId: string, call: CallId, agentId: string, suspended: boolean, detail: string): Promise<boolean> {
    const command = { kind: 'suspend' as const, id: call.operationId, resumed: call.resumed, agentId, suspended, detail }
    return (await this.#engine.submit(accountId, command)).changed
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
    const [found] = await this.#read(accountId, { agentId })
    if (found === undefined) throw envelopeNotFound(agentId)
    return found
  }

  /**
   * Envelopes in order of agent id (by bytes), those within `boundTo` only when the key is bound.
   * @param after the agent id to go on behind; '' to begin
   * @returns at most `count`, and the agent id to go on behind when there are more
   */
  async listEnvelopes(
    accountId: string,
    page: { boundTo: string | null; after: string; count: number },
  ): Promise<{ envelopes: EnvelopeView[]; next: string | null }> {
    const envelopes = await this.#read(accountId, { ...page, count: page.count + 1 })
    if (envelopes.length <= page.count) return { envelopes, next: null }
    envelopes.length = page.count
    return { envelopes, next: envelopes.at(-1)?.agentId ?? null }
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
    const [entry] = await withDatabaseFailure(loadLedgerEntries(this.#lane, [[accountId, operationId]]))
    if (!entry?.recorded) throw new Error(`correction ${operationId} left no ledger entry`)
    return -entry.opsDelta
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

  /** Takes a decision on an approval; the first one stands. A raise that comes with it applies in the same step. */
  decide(accountId: string, command: Omit<DecideCommand, 'kind' | 'resumed'>): Promise<OutcomeOf['decide']> {
    return this.#engine.submit(accountId, { ...command, kind: 'decide', resumed: false })
  }

  async #read(accountId: string, filter: EnvelopeFilter): Promise<EnvelopeView[]> {
    const rows = await withDatabaseFailure(readEnvelopes(this.#lane, accountId, filter))
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

const NO_RATES: TokenRates = { input: 0n, output: 0n, cachedInput: 0n, cacheWrite: 0n, cacheWrite1h: 0n }

const refusalOf = (denial: Denial, estimate: Nanousd, tokens: number): Refusal => ({
  ...denial,
  affordableTokens: tokens,
  shortfall: denial.tightest === null ? 0n : estimate - denial.tightest.remaining,
})

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
