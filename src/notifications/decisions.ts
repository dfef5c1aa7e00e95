import type { Companion, CompanionPart } from '../budgets/companion.ts'
import { limitsOf } from '../budgets/envelope.ts'
import { noPolicy, type PolicySource } from '../budgets/policy.ts'
import type { AccountChange, DenialEntry, LimitView } from '../budgets/state.ts'
import { instanceStart } from '../budgets/windows.ts'
import type { Clock } from '../core/clock.ts'
import { uuidv7 } from '../core/ids.ts'
import { usdFromNanousd } from '../core/money.ts'
import type { Parameters } from '../db/array-literal.ts'
import type { Priority } from './events.ts'
import { type DomainEvent, eventBit, FirstOfMinute, prioritiesOf } from './events.ts'
import { fanOutSql } from './store.ts'

const DENIED = eventBit('clearance.denied')
const THRESHOLD = eventBit('envelope.threshold')
const DECIDED = eventBit('approval.decided')
const MAX_PERCENT = 1_000

/** Turns decisions into events for the webhooks that want them, stored by the statement that stores the decision. */
export class DecisionEvents implements Companion {
  readonly #clock: Clock
  readonly #wake: (priority: Priority) => void
  readonly #policy: PolicySource
  readonly #denials = new FirstOfMinute()

  /** @param deps `policy` must be the engine's */
  constructor(deps: { clock: Clock; wake: (priority: Priority) => void; policy?: PolicySource }) {
    this.#clock = deps.clock
    this.#policy = deps.policy ?? noPolicy
    this.#wake = deps.wake
  }

  part(changes: readonly AccountChange[], p: Parameters): CompanionPart | null {
    let events: DomainEvent[] | undefined
    const told: { accountId: string; kind: string; atMs: number }[] = []
    const inBatch = new Set<string>()
    for (const change of changes) {
      const wanted = change.account.events ?? 0
      if (wanted === 0) continue
      events ??= []
      const { accountId } = change.account
      if ((wanted & DENIED) !== 0) {
        for (const denial of change.denials) {
          const kind = `${denial.agentId}\n${denial.model}\n${denial.reason}`
          if (inBatch.has(`${accountId}\n${kind}`) || !this.#denials.isNew(accountId, kind, denial.atMs)) continue
          inBatch.add(`${accountId}\n${kind}`)
          told.push({ accountId, kind, atMs: denial.atMs })
          events.push(denialEvent(accountId, denial))
        }
      }
      if ((wanted & THRESHOLD) !== 0) events.push(...this.#thresholds(change))
      if ((wanted & DECIDED) !== 0) events.push(...decisionEvents(change))
    }
    if (events === undefined || events.length === 0) return null
    const priorities = prioritiesOf(events)
    return {
      sql: `events as (${fanOutSql(p, events, true)})`,
      stored: (accountIds) => {
        for (const { accountId, kind, atMs } of told) if (accountIds.has(accountId)) this.#denials.confirm(accountId, kind, atMs)
        for (const priority of priorities) this.#wake(priority)
      },
    }
  }

  /** Of each limit in force, the account's own or the governance file's, whichever is the stricter one. */
  #thresholds({ account, charged, limited, clockMs }: AccountChange): DomainEvent[] {
    const { accountId } = account
    const events: DomainEvent[] = []
    for (const rows of [charged, limited]) {
      for (const [agentId, after] of rows) {
        const further = this.#policy()?.limits(agentId) ?? null
        const row = account.envelopes.get(agentId) ?? null
        const before = row === null ? [] : limitsOf(agentId, row, clockMs, further)
        for (const limit of limitsOf(agentId, after, clockMs, further)) {
          const { window, spent } = limit
          const to = percentOf(limit)
          const same = before.find((one) => one.window === window)
          const from = same === undefined ? 0 : percentOf(same)
          if (to <= from) continue
          const cap = limit.limit + limit.extra
          events.push({
            accountId,
            id: uuidv7(this.#clock.now()),
            name: 'envelope.threshold',
            stream: `agent:${agentId}`,
            atMs: clockMs,
            percent: { from, to },
            dedupKey: `threshold:${agentId}:${window}:${instanceStart(window, clockMs)}:${cap}`,
            data: {
              agent_id: agentId,
              window,
              limit_usd: usdFromNanousd(cap),
              spent_usd: usdFromNanousd(spent),
              spent_percent: to,
              ...(limit.file && { limit_origin: 'file' }),
            },
          })
        }
      }
    }
    return events
  }
}

/** Whole percent of a limit that is spent, rounded down. */
function percentOf({ spent, limit, extra }: LimitView): number {
  const cap = limit + extra
  if (cap <= 0n) return 0
  const percent = Number((spent * 100n) / cap)
  return Math.min(Math.max(percent, 0), MAX_PERCENT)
}

function denialEvent(accountId: string, denial: DenialEntry): DomainEvent {
  const { tightest } = denial
  return {
    accountId,
    id: denial.id,
    name: 'clearance.denied',
    stream: `agent:${denial.agentId}`,
    atMs: denial.atMs,
    dedupKey: `denied:${Math.floor(denial.atMs / 60_000)}:${denial.reason}:${denial.agentId}\n${denial.model}`,
    data: {
      agent_id: denial.agentId,
      model: denial.model,
      reason: denial.reason,
      estimated_usd: usdFromNanousd(denial.estimate),
      ...(tightest && {
        limit_agent_id: tightest.agentId,
        window: tightest.window,
        limit_usd: usdFromNanousd(tightest.limit + tightest.extra),
        spent_usd: usdFromNanousd(tightest.spent),
      }),
    },
  }
}

const decisionEvents = (change: AccountChange): DomainEvent[] =>
  change.decisions.map((decision) => ({
    accountId: change.account.accountId,
    id: decision.approvalId,
    name: 'approval.decided',
    stream: `approval:${decision.approvalId}`,
    atMs: decision.decidedMs,
    data: {
      approval_ref: decision.approvalId,
      agent_id: decision.agentId,
      action_summary: decision.actionSummary,
      decision: decision.decision,
      responder: decision.responder,
      decided_at: decision.decidedMs,
    },
  }))
