import { pathOf } from '../budgets/path.ts'
import { instanceStart, WINDOWS } from '../budgets/windows.ts'
import { NIL_UUID } from '../core/ids.ts'
import { type Nanousd, usdFromNanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { countDenials, nextHolds, type PlannedHold, type Position } from './plan.store.ts'
import type { GovernancePolicy } from './policy.ts'

const DAY_MS = 86_400_000
const PAGE_ROWS = 5_000
/** An id may be older than its hold: a request that was interrupted is taken up under its first id. */
const ID_SLACK_MS = DAY_MS

/** What one table of the file would have stopped. */
export type PlanLine = { denied: number; saved: Nanousd; readonly reasons: Map<string, number> }
export type Plan = {
  readonly from_ms: number
  readonly to_ms: number
  readonly approved: number
  readonly spent: Nanousd
  /** Denied already, without the file. */
  readonly deniedAlready: number
  /** By the name in the file. */
  readonly lines: ReadonlyMap<string, PlanLine>
  readonly denied: number
  readonly saved: Nanousd
  /** Beside those: what `max_tokens_per_request` would have denied at most. */
  readonly tooManyTokens: { readonly denied: number; readonly saved: Nanousd }
}

/**
 * Replays what was approved in the last days as if the file had been in force: each spend against the file's rules and budgets, in the order
 * in which the requests came, counting what it really cost once that is known. Reads one snapshot page by page and keeps one account's sums at
 * a time, so its memory depends on the file alone. What was denied already stays denied: a file never loosens.
 * A hold keeps its price and not its tokens, so of `max_tokens_per_request` it is known what it would not have denied, and the rest is said beside the
 * sums.
 */
export async function planGovernance(
  database: Database,
  policy: GovernancePolicy,
  range: { days: number; now_ms: number },
): Promise<Plan> {
  const from_ms = range.now_ms - range.days * DAY_MS
  // A month's budget may have been used up before the days that are looked at.
  const since_ms = instanceStart('monthly', from_ms)
  const replay = new Replay(policy, from_ms)
  const deniedAlready = await database.sql.begin('isolation level repeatable read read only', async (sql) => {
    await sql.unsafe('set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0')
    const snapshot = { sql, prepare: database.prepare }
    let after: Position = { accountId: NIL_UUID, holdId: NIL_UUID }
    for (;;) {
      const page = await nextHolds(snapshot, { from_ms: since_ms, firstId: idAt(since_ms - ID_SLACK_MS) }, after, PAGE_ROWS)
      for (const hold of page) replay.add(hold)
      const last = page.at(-1)
      if (last === undefined || page.length < PAGE_ROWS) break
      after = last
    }
    return await countDenials(snapshot, from_ms)
  })
  return { from_ms, to_ms: range.now_ms, deniedAlready, ...replay.result() }
}

class Replay {
  readonly #policy: GovernancePolicy
  readonly #from_ms: number
  readonly #lines = new Map<string, PlanLine>()
  #accountId = ''
  /** Of one account, by level: what each window's instance has counted. */
  #sums = new Map<string, { readonly starts: number[]; readonly spent: Nanousd[] }>()
  #approved = 0
  #spent = 0n
  #denied = 0
  #saved = 0n
  readonly #tooManyTokens = { denied: 0, saved: 0n }

  constructor(policy: GovernancePolicy, from_ms: number) {
    this.#policy = policy
    this.#from_ms = from_ms
  }

  add(hold: PlannedHold): void {
    if (hold.accountId !== this.#accountId) {
      this.#accountId = hold.accountId
      this.#sums = new Map()
    }
    const path = pathOf(hold.agentId)
    const stopped = this.#stoppedBy(path, hold)
    const isReported = hold.takenMs >= this.#from_ms
    if (isReported) {
      this.#approved++
      this.#spent += hold.counted
    }
    if (stopped === null) {
      for (const level of path) if (this.#policy.limits(level)) this.#count(level, hold)
      if (isReported && this.#policy.refusal(path, { maxTokens: hold.mostTokens }) !== null) {
        this.#tooManyTokens.denied++
        this.#tooManyTokens.saved += hold.counted
      }
    } else if (isReported) this.#report(stopped, hold.counted)
  }

  result(): Omit<Plan, 'from_ms' | 'to_ms' | 'deniedAlready'> {
    const [lines, tooManyTokens] = [this.#lines, this.#tooManyTokens]
    return { approved: this.#approved, spent: this.#spent, lines, denied: this.#denied, saved: this.#saved, tooManyTokens }
  }

  #stoppedBy(path: readonly string[], hold: PlannedHold): { level: string; reason: string } | null {
    const asked = hold.isBooking ? { tool: hold.model.slice(hold.model.indexOf(':') + 1) } : { model: hold.model }
    const refusal = this.#policy.refusal(path, asked)
    if (refusal)
      return { level: refusal.path, reason: refusal.reason === 'tool_not_allowed' ? 'allowed_tools' : 'allowed_models' }
    for (const level of path) {
      const limits = this.#policy.limits(level)
      if (limits === null) continue
      const spent = this.#spentOn(level, hold.takenMs)
      const over = limits.findIndex((limit, index) => limit !== null && (spent[index] ?? 0n) + hold.estimate > limit)
      if (over !== -1) return { level, reason: `${WINDOWS[over]}_budget` }
    }
    return null
  }

  #spentOn(level: string, at_ms: number): Nanousd[] {
    const sum = this.#sums.get(level)
    return WINDOWS.map((window, index) => (sum?.starts[index] === instanceStart(window, at_ms) ? (sum.spent[index] ?? 0n) : 0n))
  }

  #count(level: string, { takenMs, counted }: PlannedHold): void {
    const spent = this.#spentOn(level, takenMs).map((amount) => amount + counted)
    this.#sums.set(level, { starts: WINDOWS.map((window) => instanceStart(window, takenMs)), spent })
  }

  #report({ level, reason }: { level: string; reason: string }, saved: Nanousd): void {
    const line = this.#lines.get(level) ?? { denied: 0, saved: 0n, reasons: new Map<string, number>() }
    this.#lines.set(level, line)
    line.denied++
    line.saved += saved
    line.reasons.set(reason, (line.reasons.get(reason) ?? 0) + 1)
    this.#denied++
    this.#saved += saved
  }
}

const describeTokens = (denied: number, saved: string): string =>
  `max_tokens_per_request would have denied up to ${denied} more, ${saved}: those whose estimate is worth more tokens than it allows. How many of them were input is not stored.`

/** The smallest UUIDv7 of a moment. */
function idAt(at_ms: number): string {
  const time = Math.max(0, at_ms).toString(16).padStart(12, '0')
  return `${time.slice(0, 8)}-${time.slice(8)}-0000-0000-000000000000`
}

/** The plan for people, one line per table of the file that would have stopped something. */
export function describePlan(plan: Plan): string {
  const day = (at_ms: number): string => new Date(at_ms).toISOString().slice(0, 16).replace('T', ' ')
  const dollars = (amount: Nanousd): string => `$${usdFromNanousd(amount).toFixed(2)}`
  const lines = [...plan.lines]
    .sort(([, a], [, b]) => (a.saved === b.saved ? b.denied - a.denied : a.saved < b.saved ? 1 : -1))
    .map(([name, { denied, saved, reasons }]) => {
      const why = [...reasons].map(([reason, count]) => `${reason} ${count}`).join(', ')
      return `[agents.${/^[\w-]+$/.test(name) ? name : JSON.stringify(name)}] would have denied ${denied}, saved ${dollars(saved)} (${why})`
    })
  return [
    `${day(plan.from_ms)} to ${day(plan.to_ms)} UTC: ${plan.approved} approved, ${dollars(plan.spent)}; ${plan.deniedAlready} denied already.`,
    ...lines,
    `Under this file: ${plan.denied} denials more, ${dollars(plan.saved)} saved.`,
    ...(plan.tooManyTokens.denied === 0 ? [] : [describeTokens(plan.tooManyTokens.denied, dollars(plan.tooManyTokens.saved))]),
  ].join('\n')
}
