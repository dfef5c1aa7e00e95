import { createHash, randomBytes } from 'node:crypto'
import type { EnvelopeReader, RaiseView } from '../budgets/reader.ts'
import type { BudgetService } from '../budgets/service.ts'
import type { Raise } from '../budgets/state.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid, uuidv7 } from '../core/ids.ts'
import { actorOf, type Caller, isWithin } from '../core/operation.ts'
import { plainLine } from '../core/text.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Recorder } from '../db/recorder.ts'
import type { DomainEvent } from '../notifications/events.ts'
import type { NotificationService, NotificationState, Plan } from '../notifications/service.ts'
import { effectText } from './effect.ts'
import {
  type Approval,
  findApproval,
  findByToken,
  findExpired,
  insertApproval,
  type Links,
  type Listed,
  listApprovals,
  type NewApproval,
  purgeApprovals,
} from './store.ts'
import type { DecisionWaiters } from './waiters.ts'

export type { Approval } from './store.ts'

export type ApprovalDecision = 'approved' | 'denied'
export type ApprovalRequest = {
  readonly agentId: string
  readonly actionSummary: string
  readonly ttl_ms: number
  /** Ids or kinds; null for all channels of the account. */
  readonly channels: readonly string[] | null
  readonly raise: (Omit<Raise, 'window'> & { readonly window: Raise['window'] | null }) | null
  /** Whether the link in the result decides. When it does not, only the link in the messages to the account's people does. */
  readonly askerMayDecide: boolean
}
export type Requested = {
  readonly token: string
  readonly url: string
  readonly expiresMs: number
  readonly notification: Readonly<Record<string, NotificationState>>
}
/** A request with what approving would change as of now; `effect` is null when it changes nothing or is decided. */
export type ApprovalView = { readonly approval: Approval; readonly effect: RaiseView | null }
/** `mayDecide`: whether this link decides, or only shows. */
export type ApprovalPage = ApprovalView & { readonly mayDecide: boolean }
export type Decided = ApprovalView & {
  /** `changed`: nothing was decided, because what approving would do is no longer what was shown. */
  readonly outcome: 'decided' | 'changed'
}

const TOKEN = /^ap_[\w-]{32}$/
const TOKEN_BYTES = 24
const DECIDED_KEPT_MS = 90 * 86_400_000

const LOOK_ONLY =
  "This link shows the request and cannot decide it. The account's owner decides at the dashboard or with the link that was sent to the owner."

const newToken = (): string => `ap_${randomBytes(TOKEN_BYTES).toString('base64url')}`
const hashOf = (token: string): Buffer => createHash('sha256').update(token).digest()

export type ApprovalServiceDeps = {
  readonly database: Database
  readonly clock: Clock
  readonly budgets: Pick<BudgetService, 'decide'>
  readonly envelopes: Pick<EnvelopeReader, 'get' | 'viewRaise'>
  readonly notifications: Pick<NotificationService, 'planChannels' | 'announce' | 'record' | 'wake'>
  readonly waiters: DecisionWaiters
  readonly changes: Recorder
}

/** Requests to a human, their one decision, and what it raises (contract section 5). */
export class ApprovalService {
  readonly #deps: ApprovalServiceDeps

  constructor(deps: ApprovalServiceDeps) {
    this.#deps = deps
  }

  /**
   * Stores a request and queues it for the account's channels. The token is in the result and in the queued messages and nowhere else.
   * @param origins where whoever asks reaches this server, and where the account's people do, who are sent a link
   * @throws DomainError `invalid_channels`; `no_envelope` for a one-off raise of an agent without a limit
   */
  async request(
    accountId: string,
    call: { operationId: string; caller: Caller },
    origins: { readonly asker: string; readonly people: string },
    wanted: ApprovalRequest,
  ): Promise<Requested> {
    const { clock, envelopes, notifications } = this.#deps
    const raise = wanted.raise === null ? null : await this.#resolveRaise(accountId, wanted.raise)
    const plan = await notifications.planChannels(accountId, wanted.channels)
    const view = raise === null ? null : await withDatabaseFailure(envelopes.viewRaise(accountId, raise))
    const token = newToken()
    const createdMs = clock.now()
    const approval: NewApproval = {
      accountId,
      approvalId: call.operationId,
      agentId: wanted.agentId,
      actionSummary: wanted.actionSummary,
      raise,
      raiseTerms: view?.terms ?? null,
      createdMs,
      expiresMs: createdMs + wanted.ttl_ms,
    }
    const deciding = wanted.askerMayDecide ? null : newToken()
    const links = { tokenHash: hashOf(token), decideHash: deciding === null ? null : hashOf(deciding) }
    const event = requestedEvent(approval, view, `${origins.people}/approve/${deciding ?? token}`)
    const expiresMs = await withDatabaseFailure(this.#store(approval, links, event, plan, actorOf(call.caller)))
    notifications.wake()
    return { token, url: `${origins.asker}/approve/${token}`, expiresMs, notification: plan.states }
  }

  /**
   * A request of this account by its token. Waits for a decision up to `wait_ms`.
   * @param boundTo the agent path of a key that is bound to one
   * @throws DomainError `approval_not_found`
   */
  async check(accountId: string, token: string, boundTo: string | null, wait_ms: number): Promise<Approval> {
    const found = (await this.#find(token))?.approval
    const visible = found && found.accountId === accountId && (boundTo === null || isWithin(found.agentId, boundTo))
    if (!visible) throw new DomainError('approval_not_found')
    if (found.decision !== null || wait_ms <= 0) return this.#current(found)
    const left_ms = found.expiresMs - this.#deps.clock.now()
    const waiting = this.#deps.waiters.wait(found, Math.min(wait_ms, left_ms))
    // The decision may have come between the first look and the wait.
    const again = await this.#reload(found)
    if (again.decision !== null) {
      void waiting
      return again
    }
    await waiting
    return this.#current(await this.#reload(found))
  }

  /** What the page shows; null for a token that is malformed or unknown. */
  async page(token: string): Promise<ApprovalPage | null> {
    const found = await this.#find(token)
    if (found === undefined) return null
    return { ...(await this.#withEffect(await this.#current(found.approval))), mayDecide: found.mayDecide }
  }

  /** Requests of the account, newest first, each as it stands now; at most `limit`, those of `boundTo` and below only. */
  async list(accountId: string, wanted: Omit<Listed, 'now_ms'>): Promise<ApprovalView[]> {
    const { database, clock } = this.#deps
    const found = await withDatabaseFailure(listApprovals(database, accountId, { ...wanted, now_ms: clock.now() }))
    return Promise.all(found.map(async (approval) => this.#withEffect(await this.#current(approval))))
  }

  /**
   * Takes the human's decision; the first one stands and is what everyone is shown. null for an unknown token.
   * @param shown the terms that were on the page; null decides on those of the request
   * @throws DomainError `forbidden` for a link that only shows
   */
  async decide(
    token: string,
    decision: ApprovalDecision,
    options: { shown: string | null; responder: string },
  ): Promise<Decided | null> {
    const found = await this.#find(token)
    if (found === undefined) return null
    if (!found.mayDecide) throw new DomainError('forbidden', { hint: LOOK_ONLY })
    return this.#take(found.approval, decision, options)
  }

  /**
   * The same for a request that is named by its id, on behalf of a key of its account.
   * @throws DomainError `approval_not_found`
   */
  async decideById(
    accountId: string,
    approvalId: string,
    decision: ApprovalDecision,
    options: { shown: string | null; responder: string },
  ): Promise<Decided> {
    const found = isUuid(approvalId)
      ? await withDatabaseFailure(findApproval(this.#deps.database, accountId, approvalId))
      : undefined
    if (found === undefined) throw new DomainError('approval_not_found')
    return this.#take(found, decision, options)
  }

  async #take(
    found: Approval,
    decision: ApprovalDecision,
    options: { shown: string | null; responder: string },
  ): Promise<Decided> {
    if (found.decision !== null) return { outcome: 'decided', approval: found, effect: null }
    const outcome = await this.#decide(found, decision, options.responder, options.shown ?? found.raiseTerms)
    const { approval, effect } = await this.#withEffect(await this.#reload(found))
    return { outcome: outcome === 'changed' ? 'changed' : 'decided', approval, effect }
  }

  /** Housekeeping: makes the timeout of at most `limit` unanswered requests final, so that those who follow events hear of it. */
  async expireDue(limit: number): Promise<number> {
    const { database, clock } = this.#deps
    const due = await withDatabaseFailure(findExpired(database, clock.now(), limit))
    await Promise.all(due.map((approval) => this.#decide(approval, 'timeout', null, null)))
    return due.length
  }

  /** Housekeeping: forgets at most `limit` requests that were decided long ago. */
  purge(limit: number): Promise<void> {
    return purgeApprovals(this.#deps.database, this.#deps.clock.now() - DECIDED_KEPT_MS, limit)
  }

  async #resolveRaise(accountId: string, wanted: NonNullable<ApprovalRequest['raise']>): Promise<Raise> {
    if (wanted.kind === 'limit') return { ...wanted, window: wanted.window ?? 'daily' }
    const envelope = await this.#deps.envelopes.get(accountId, wanted.agentId).catch((error: unknown) => {
      if (error instanceof DomainError && error.code === 'not_found') return null
      throw error
    })
    const window = wanted.window ?? envelope?.tightest.window
    if (window === undefined || !envelope?.limits.some((limit) => limit.window === window)) {
      throw new DomainError('no_envelope', {
        hint: `There is no ${window ?? ''} limit on "${wanted.agentId}" that extra_usd could raise. Ask for limit_usd and window instead.`,
      })
    }
    return { ...wanted, window }
  }

  async #store(approval: NewApproval, links: Links, event: DomainEvent, plan: Plan, actor: string): Promise<number> {
    const { database, notifications, changes, clock } = this.#deps
    const { accountId, approvalId, agentId, actionSummary, expiresMs, raise } = approval
    const data = {
      approval_ref: approvalId,
      action_summary: actionSummary,
      expires_at: expiresMs,
      ...(raise && { grant: { agent_id: raise.agentId, window: raise.window, [raise.kind]: raise.amount.toString() } }),
    }
    const atMs = clock.now()
    return database.sql.begin(async (sql) => {
      const stored = await insertApproval(sql, database.prepare, approval, links)
      if (stored === null)
        throw new DomainError('idempotency_conflict', { hint: 'This request was decided before it was answered.' })
      await notifications.announce(sql, event, plan)
      await notifications.record(sql, event)
      await changes.record(sql, { accountId, id: uuidv7(atMs), type: 'approval.requested', agentId, actor, data, atMs })
      return stored
    })
  }

  async #find(token: string): Promise<Awaited<ReturnType<typeof findByToken>>> {
    return TOKEN.test(token) ? withDatabaseFailure(findByToken(this.#deps.database, hashOf(token))) : undefined
  }

  async #reload({ accountId, approvalId }: Approval): Promise<Approval> {
    const found = await withDatabaseFailure(findApproval(this.#deps.database, accountId, approvalId))
    if (found === undefined) throw new DomainError('approval_not_found')
    return found
  }

  /** A request whose time is over is timed out before anybody is told so: what was seen as timed out can never be approved. */
  async #current(approval: Approval): Promise<Approval> {
    if (approval.decision !== null || approval.expiresMs > this.#deps.clock.now()) return approval
    await this.#decide(approval, 'timeout', null, null)
    return this.#reload(approval)
  }

  async #decide(
    approval: Approval,
    decision: ApprovalDecision | 'timeout',
    responder: string | null,
    terms: string | null,
  ): Promise<'decided' | 'changed' | 'pending'> {
    const { accountId, approvalId, agentId, actionSummary, expiresMs, raise } = approval
    const outcome = await this.#deps.budgets.decide(accountId, {
      id: approvalId,
      agentId,
      actionSummary,
      decision,
      responder,
      expiresMs,
      raise,
      terms,
    })
    if ('refused' in outcome) return outcome.refused
    await this.#deps.waiters.announce(approval)
    return 'decided'
  }

  async #withEffect(approval: Approval): Promise<ApprovalView> {
    const { accountId, raise, decision } = approval
    const effect =
      raise === null || decision !== null ? null : await withDatabaseFailure(this.#deps.envelopes.viewRaise(accountId, raise))
    return { approval, effect }
  }
}

/** The message to people and to webhooks. An id of its own: the decision's event has the approval's. */
const requestedEvent = (approval: NewApproval, view: RaiseView | null, url: string): DomainEvent => ({
  accountId: approval.accountId,
  id: uuidv7(approval.createdMs),
  name: 'approval.requested',
  stream: `approval:${approval.approvalId}`,
  atMs: approval.createdMs,
  expiresMs: approval.expiresMs,
  link: url,
  data: {
    approval_ref: approval.approvalId,
    agent_id: approval.agentId,
    action_summary: plainLine(approval.actionSummary),
    effect: view === null ? null : effectText(view),
    created_at: approval.createdMs,
    expires_at: approval.expiresMs,
  },
})
