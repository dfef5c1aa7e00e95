import { pathOf } from '../budgets/path.ts'
import type { PolicyRefusal, PolicySource } from '../budgets/policy.ts'
import type { BudgetService } from '../budgets/service.ts'
import type { Clock } from '../core/clock.ts'
import { uuidv7 } from '../core/ids.ts'

export type ProxyQuestion = {
  readonly agentId: string
  readonly model: string
  /** The most output tokens the call may produce. */
  readonly maxTokens: number
}
export type ProxyRefusal = { readonly reason: Exclude<PolicyRefusal['reason'], 'tool_not_allowed'>; readonly message: string }

/**
 * What the proxy asks before it looks at money: whether the governance file allows the call. A refusal is stored as a decision before it is
 * answered; an allowed call costs nothing here. Loops are not looked for here but where the reservation is made, in the same step.
 * @throws DomainError `database_unavailable`, `overloaded`, only for a call that is refused
 */
export function proxyPolicy(deps: { policy: PolicySource; budgets: Pick<BudgetService, 'refuse'>; clock: Clock }) {
  return async (accountId: string, { agentId, model, maxTokens }: ProxyQuestion): Promise<ProxyRefusal | null> => {
    const refusal = deps.policy()?.refusal(pathOf(agentId), { model, maxTokens }) ?? null
    // A proxied call names no tool.
    if (refusal === null || refusal.reason === 'tool_not_allowed') return null
    const call = { operationId: uuidv7(deps.clock.now()), resumed: false }
    await deps.budgets.refuse(accountId, call, { agentId, model, refusal })
    return { reason: refusal.reason, message: refusal.message }
  }
}
