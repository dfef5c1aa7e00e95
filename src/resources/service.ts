import type { CallId, Purchase, Refusal } from '../budgets/requests.ts'
import type { BudgetService } from '../budgets/service.ts'
import type { Approval } from '../budgets/state.ts'
import { DomainError } from '../core/errors.ts'
import { type Nanousd, nanousdFromUsd } from '../core/money.ts'
import { answeredWithin } from '../core/patience.ts'

export const RESOURCE_TYPES = ['api_call', 'compute', 'storage', 'custom', 'llm_call'] as const
export type ResourceType = (typeof RESOURCE_TYPES)[number]

export type BookingRequest = {
  readonly agentId: string
  readonly resourceType: ResourceType
  /** What was bought; compared with the governance file's `allowed_tools`. */
  readonly action: string
  readonly costUsd: number
  readonly metadata: Readonly<Record<string, unknown>> | undefined
}
/** Allowed while the database was away; it is booked when the database is back. */
export type Deferred = { readonly approved: true; readonly deferred: true; readonly holdId: string }
export type BookingOutcome = { readonly cost: Nanousd; readonly decision: Approval | Refusal | Deferred }

/** What may be allowed while the database cannot be reached (governance room). */
export type Outage = {
  /** Whether asking the database is known to be in vain. */
  readonly isAway: boolean
  covers(agentId: string, asked: { readonly tool: string }): boolean
  allow(accountId: string, operationId: string, purchase: Purchase): Promise<boolean>
}

/** Spend that is no model call, at a price the caller knows (contract section 9). */
export class BookingService {
  readonly #budgets: BudgetService
  readonly #outage: Outage

  constructor(deps: { budgets: BudgetService; outage: Outage }) {
    this.#budgets = deps.budgets
    this.#outage = deps.outage
  }

  /**
   * Charges a purchase against every envelope above the agent, or denies it. Approved, it is spent.
   * @throws DomainError `database_unavailable` unless the governance file allows the agent to go on meanwhile
   */
  async book(accountId: string, call: CallId, request: BookingRequest): Promise<BookingOutcome> {
    const { agentId, resourceType, action, metadata } = request
    const cost = nanousdFromUsd(request.costUsd, 'up')
    const purchase: Purchase = {
      agentId,
      label: `${resourceType}:${action}`,
      tool: action,
      cost,
      detail: JSON.stringify({ resource_type: resourceType, action, ...(metadata && { metadata }) }),
    }
    const deferred = async (): Promise<BookingOutcome | null> =>
      (await this.#outage.allow(accountId, call.operationId, purchase))
        ? { cost, decision: { approved: true, deferred: true, holdId: call.operationId } }
        : null
    const known = this.#outage.isAway ? await deferred() : null
    if (known !== null) return known
    try {
      const booking = this.#budgets.book(accountId, call, purchase)
      const mayGoOn = this.#outage.covers(agentId, { tool: action })
      return { cost, decision: await (mayGoOn ? answeredWithin(booking) : booking) }
    } catch (error) {
      // Whether it was or will be stored nobody knows: it is booked afterwards under the same id, so at most once.
      if (!(error instanceof DomainError) || error.code !== 'database_unavailable') throw error
      const outcome = await deferred()
      if (outcome === null) throw error
      return outcome
    }
  }
}
