import { LRUCache } from 'lru-cache'
import { atMost } from '../core/bounded.ts'
import type { Clock } from '../core/clock.ts'
import { NIL_UUID } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import type { Nanousd } from '../core/money.ts'
import { Pace } from '../core/pace.ts'
import type { Database } from '../db/client.ts'
import { extraAt } from './envelope.ts'
import { type CheckedAccount, countUnresolved, nextChecked, readAccount } from './figures.store.ts'
import { decodeLevels, pathOf } from './path.ts'
import { HOLD_KIND, HOLD_STATE } from './tables.ts'
import { instanceStart, WINDOWS } from './windows.ts'

type Finding = { readonly overshoot: Nanousd; readonly leaked: number }

const ACCOUNTS_PER_PAGE = 200
/** How long one call may go on looking at accounts, rests included; the next goes on where it stopped. */
const BUDGET_MS = 8_000
const RESTS = { whenBusy: 49, otherwise: 9 }
const REMEMBERED_ACCOUNTS = 100_000
/** A reservation belongs to a running call, which renews it: this long past its expiry nobody does. */
const ABANDONED_MS = 600_000

/**
 * The figures about holds that a healthy installation shows as 0 (DESIGN 9), computed from what is stored and not from what the engine
 * believes. Goes round through the accounts that have changed, a bounded piece at each call; of an account it looks at the newest holds.
 */
export class HoldFigures {
  readonly #database: Database
  readonly #clock: Clock
  readonly #log: Log
  readonly #pace: Pace
  readonly #checked = new LRUCache<string, bigint>(atMost(REMEMBERED_ACCOUNTS))
  readonly #found = new Map<string, Finding>()
  #after = NIL_UUID

  /** @param deps `commands`: how many this process has decided so far; the checks step back while that grows fast */
  constructor(deps: { database: Database; clock: Clock; log: Log; commands?: () => number }) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#log = deps.log
    this.#pace = new Pace(deps.commands ?? (() => 0), RESTS)
  }

  /** @param ending ends the rests between the checks */
  readonly read = async (ending: AbortSignal): Promise<Readonly<Record<string, number>>> => {
    const until_ms = performance.now() + BUDGET_MS
    const mayGoOn = (): boolean => !ending.aborted && performance.now() < until_ms
    do {
      const listing = this.#pace.begin()
      const page = await nextChecked(this.#database, this.#after, ACCOUNTS_PER_PAGE)
      await this.#pace.rest(listing, ending)
      for (const { accountId, version } of page) {
        if (!mayGoOn()) break
        this.#after = accountId
        if (this.#checked.get(accountId) === version) continue
        const piece = this.#pace.begin()
        await this.#check(accountId)
        await this.#pace.rest(piece, ending)
      }
      if (mayGoOn() && page.length < ACCOUNTS_PER_PAGE) this.#after = NIL_UUID
    } while (this.#after !== NIL_UUID && mayGoOn())
    const { open, expired } = await countUnresolved(this.#database, this.#clock.now())
    const all = [...this.#found.values()]
    return {
      holds_open: open,
      holds_expired: expired,
      overshoot_nanousd: Number(all.reduce((sum, { overshoot }) => sum + overshoot, 0n)),
      leaked_holds: all.reduce((sum, { leaked }) => sum + leaked, 0),
    }
  }

  async #check(accountId: string): Promise<void> {
    const account = await readAccount(this.#database, accountId)
    if (account === null) return
    const overshoot = overshootOf(account)
    const leaked = leakedOf(account, this.#clock.now() - ABANDONED_MS)
    if (overshoot > 0n || leaked > 0) {
      this.#found.set(accountId, { overshoot, leaked })
      this.#log.error({ account_id: accountId, overshoot_nanousd: String(overshoot), leaked_holds: leaked }, 'balances are wrong')
    } else this.#found.delete(accountId)
    this.#checked.set(accountId, account.version)
  }
}

/**
 * What was approved above the limits as they stand. A settlement may cost more than its estimate, so of each hold the smaller of both
 * counts; a limit that was changed after the last approval under it says nothing about that approval, so it is left out.
 */
export function overshootOf({ envelopes, holds, limitChanges }: CheckedAccount): Nanousd {
  const sums = new Map<string, { approved: Nanousd; lastVersion: bigint }>()
  const byAgent = new Map(envelopes.map((row) => [row.agentId, row.envelope]))
  for (const hold of holds) {
    const path = pathOf(hold.agentId)
    const counted = hold.actual !== null && hold.actual < hold.estimate ? hold.actual : hold.estimate
    for (const level of decodeLevels(hold.charged)) {
      const agentId = path[level] ?? ''
      const envelope = byAgent.get(agentId)
      if (envelope === undefined) continue
      for (const [index, window] of WINDOWS.entries()) {
        const reset = envelope.resets?.[index] ?? null
        if (reset !== null && hold.takenVersion <= reset) continue
        if (instanceStart(window, hold.takenMs) !== instanceStart(window, envelope.clockMs)) continue
        const key = `${index} ${agentId}`
        const sum = sums.get(key) ?? { approved: 0n, lastVersion: -1n }
        sum.approved += counted
        if (hold.takenVersion > sum.lastVersion) sum.lastVersion = hold.takenVersion
        sums.set(key, sum)
      }
    }
  }
  let overshoot = 0n
  for (const [agentId, envelope] of byAgent) {
    for (const index of WINDOWS.keys()) {
      const limit = envelope.limits[index] ?? null
      const sum = sums.get(`${index} ${agentId}`)
      if (limit === null || sum === undefined || sum.lastVersion <= (limitChanges.get(agentId) ?? -1n)) continue
      const above = sum.approved - limit - extraAt(envelope.extra, index, envelope.clockMs)
      if (above > 0n) overshoot += above
    }
  }
  return overshoot
}

/** Holds whose end is not booked exactly once, and reservations that nobody keeps any more. */
export function leakedOf({ holds, resolutions }: CheckedAccount, abandonedBefore_ms: number): number {
  let leaked = 0
  for (const hold of holds) {
    if (hold.state === HOLD_STATE.open) {
      if (hold.kind === HOLD_KIND.reservation && hold.expiresMs < abandonedBefore_ms) leaked++
    } else if (hold.kind !== HOLD_KIND.booking && resolutions.get(hold.holdId) !== 1) leaked++
  }
  return leaked
}
