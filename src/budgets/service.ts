import type { Clock } from '../core/clock.ts'
import { uuidv7 } from '../core/ids.ts'
import { type Nanousd, nanousdFromUsd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Catalogue } from '../prices/catalogue.ts'
import { affordableTokens, estimateNanousd } from '../prices/cost.ts'
import { bookingOf, envelopeNotFound, holdIdOf, NO_USAGE, refusalOf, resolvedOrThrow, smallestUp, storable } from './commands.ts'
import type { DecisionEngine } from './engine.ts'
import { loadLedgerEntries } from './load.store.ts'
import { pathOf } from './path.ts'
import { noPolicy, type PolicyRefusal, type PolicySource } from './policy.ts'
import type { CallId, ClearRequest, Priced, Purchase, Refusal, Reservation } from './requests.ts'
import type { LaneSql } from './rows.store.ts'
import type { Approval, DecideCommand, GrantKind, LoopLimit, OutcomeOf, PerWindow, Resolved, Usage } from './state.ts'
import { HOLD_KIND } from './tables.ts'
import { WINDOWS, type Window } from './windows.ts'

/** What the proxy tells of a call after its answer: nobody waits for it. */
const UNAWAITED = { isPatient: true }

/** Clearances, their settlement and what else the engine decides (contract section 3); `EnvelopeReader` tells how it stands. */
export class BudgetService {
  readonly #engine: DecisionEngine
  readonly #catalogue: Catalogue
  /** The general pool: reads here must not make decisions queue. */
  readonly #lane: LaneSql
  readonly #clock: Clock
  readonly #policy: PolicySource

  /** @param deps `policy` must be the engine's */
  constructor(deps: {
    engine: DecisionEngine
    catalogue: Catalogue
    database: Database
    clock: Clock
    policy?: PolicySource
  }) {
    this.#engine = deps.engine
    this.#catalogue = deps.catalogue
    this.#lane = { sql: deps.database.sql, prepare: deps.database.prepare }
    this.#clock = deps.clock
    this.#policy = deps.policy ?? noPolicy
  }

  /** Prices a planned call and decides it. No call leaves this process but the one to the database. */
  async clear(accountId: string, call: CallId, request: ClearRequest): Promise<(Approval | Refusal) & Priced> {
    const rate = this.#catalogue.rateFor(request.model, request.estimatedInputTokens)
    const estimate = storable(estimateNanousd(rate, request.estimatedTokens, request.estimatedInputTokens), 'estimated_tokens')
    const path = pathOf(request.agentId)
    const refusal = this.#policy()?.refusal(path, { model: request.model, maxTokens: request.estimatedTokens }) ?? null
    const outcome = await this.#engine.submit(accountId, {
      kind: 'clear',
      id: call.operationId,
      resumed: call.resumed,
      agentId: request.agentId,
      path,
      model: request.model,
      estimate,
      rates: rate,
      hold_ms: request.hold_ms,
      ...(request.holdKind !== undefined && { holdKind: request.holdKind }),
      ...(request.fingerprint !== undefined && { fingerprint: request.fingerprint }),
      ...(request.loop !== undefined && { loop: request.loop }),
      ...(refusal && { refused: refusal.reason }),
    })
    const priced: Priced = rate.source === 'default' ? { isModelUnknown: true } : {}
    if (outcome.approved) return rate.source === 'default' ? { ...outcome, ...priced } : outcome
    const tokens = outcome.tightest === null ? 0 : affordableTokens(rate, outcome.remaining, request.estimatedInputTokens)
    return { ...refusalOf(outcome, estimate, tokens, refusal), ...priced }
  }

  /** Charges a purchase and settles it in one step: approved, it is spent. */
  async book(accountId: string, call: CallId, purchase: Purchase): Promise<Approval | Refusal> {
    const { tool } = purchase
    const refusal = tool === undefined ? null : (this.#policy()?.refusal(pathOf(purchase.agentId), { tool }) ?? null)
    const outcome = await this.#engine.submit(accountId, {
      ...bookingOf(call, purchase),
      ...(refusal && { refused: refusal.reason }),
    })
    return outcome.approved ? outcome : refusalOf(outcome, purchase.cost, 0, refusal)
  }

  /** Stores that the governance file forbids a call that never came to a reservation. */
  async refuse(
    accountId: string,
    call: CallId,
    asked: { agentId: string; model: string; refusal: PolicyRefusal },
  ): Promise<void> {
    const { agentId, model, refusal } = asked
    const never = bookingOf(call, { agentId, label: model, cost: 0n, detail: '{}' })
    await this.#engine.submit(accountId, { ...never, holdKind: HOLD_KIND.reservation, refused: refusal.reason })
  }

  /**
   * Books what was bought while the database was away, whatever the limits say now: it is spent. Repeating it books nothing more. A
   * reservation that was stored under this id although its answer was lost is settled at this cost instead.
   * @throws DomainError `account_not_found`, `database_unavailable`, `overloaded`
   */
  async bookAfterwards(accountId: string, operationId: string, purchase: Purchase): Promise<void> {
    const command = { ...bookingOf({ operationId, resumed: true }, purchase), forced: true as const }
    const booked = await this.#engine.submit(accountId, command)
    // Only what is made now tells its limits.
    if (!booked.approved || booked.limits !== undefined) return
    const { agentId, cost, detail } = purchase
    await this.#engine.submit(accountId, {
      kind: 'settle',
      id: uuidv7(this.#clock.now()),
      resumed: false,
      agentId,
      path: pathOf(agentId),
      holdId: operationId,
      usage: NO_USAGE,
      cost,
      holdKind: HOLD_KIND.reservation,
      detail,
    })
  }

  /** Holds the most that a forwarded call can cost. Its caller prices it, since only he knows the whole call. */
  async reserve(accountId: string, call: CallId, request: Reservation): Promise<Approval | Refusal> {
    const { agentId, model, estimate, rates, hold_ms, fingerprint, loop } = request
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
      ...(fingerprint !== undefined && { fingerprint }),
      ...(loop !== undefined && { loop }),
    })
    return outcome.approved ? outcome : refusalOf(outcome, estimate, 0, null)
  }

  /**
   * Keeps the reservation of a running call from expiring.
   * @returns false when it is no longer open
   */
  async renew(accountId: string, call: CallId, reservationId: string, hold_ms: number): Promise<boolean> {
    const command = { kind: 'renew' as const, id: call.operationId, resumed: call.resumed, holdId: reservationId, hold_ms }
    return (await this.#engine.submit(accountId, command, UNAWAITED)).renewed
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
    const command = {
      kind: 'settle' as const,
      id: call.operationId,
      resumed: call.resumed,
      agentId,
      path: pathOf(agentId),
      holdId: reservationId,
      usage,
      ...(cost !== undefined && { cost }),
      holdKind: HOLD_KIND.reservation,
      detail,
    }
    const outcome = await this.#engine.submit(accountId, command, UNAWAITED)
    return resolvedOrThrow(outcome)
  }

  /** Gives a reservation back: the call was never made, or cost nothing. */
  async releaseReservation(accountId: string, call: CallId, reservationId: string): Promise<Resolved> {
    const command = {
      kind: 'release' as const,
      id: call.operationId,
      resumed: call.resumed,
      holdId: reservationId,
      boundTo: null,
      holdKind: HOLD_KIND.reservation,
    }
    const outcome = await this.#engine.submit(accountId, command, UNAWAITED)
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
    loop: LoopLimit | null = null,
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
      loop,
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

  /** Takes a decision on an approval; the first one stands. A raise that comes with it applies in the same step. */
  decide(accountId: string, command: Omit<DecideCommand, 'kind' | 'resumed'>): Promise<OutcomeOf['decide']> {
    return this.#engine.submit(accountId, { ...command, kind: 'decide', resumed: false })
  }
}
