import { pathOf } from '../budgets/path.ts'
import type { PolicyQuestion } from '../budgets/policy.ts'
import type { Purchase } from '../budgets/requests.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { Nanousd } from '../core/money.ts'
import { DISK_MS, makeFolder, writtenWithin } from './disk.ts'
import type { FailSafe } from './file.ts'
import { findLeftovers, Journal, type JournalEntry, type Leftover } from './journal.ts'
import type { GovernancePolicy } from './policy.ts'

/** Most that may wait to be booked; beyond it everything is denied. */
const MAX_PENDING = 100_000
const TRY_MS = 1_000
const BOOKED_AT_ONCE = 100
const LEFTOVERS_MS = 60_000

type Deps = {
  readonly governance: { readonly policy: GovernancePolicy | null; readonly failSafe: FailSafe }
  /** Books what happened, once: by its operation id. */
  readonly book: (accountId: string, operationId: string, purchase: Purchase) => Promise<void>
  /** Throws while the database does not answer. */
  readonly ping: () => Promise<void>
  readonly clock: Clock
  readonly log: Log
  /** How long the disk may take to note something, before it counts as failed. */
  readonly disk_ms?: number
}

type Pending = {
  entry: JournalEntry /** Its final cost is not known yet. */
  isOpen: boolean
  readonly levels: readonly string[]
}

/**
 * What may go on while the database cannot be reached (`fail_safe_action = "allow"`): agents that the governance file names, within its rules,
 * and within its budgets for as long as the outage lasts, since nobody can say what was spent before. Each is on this machine's disk before it
 * is allowed, and is booked, once, when the database is back: whatever the limits say then, because it happened.
 */
export class OutageBook {
  readonly #deps: Deps
  readonly #folder: string
  readonly #pending = new Map<string, Pending>()
  /** Of what is pending, by account and level. */
  readonly #spent = new Map<string, Nanousd>()
  #journal: Promise<Journal> | undefined
  #leftovers: Leftover[] = []
  #timers: NodeJS.Timeout[] = []
  #trying: Promise<void> | null = null
  #lookedMs = 0
  #isAway = false
  readonly stats = { allowed: 0, booked: 0, lost: 0 }

  /** @param folder where the journals are, shared by the processes of this machine */
  constructor(deps: Deps, folder: string) {
    this.#deps = deps
    this.#folder = folder
  }

  /** How many wait to be booked. */
  get pending(): number {
    return this.#pending.size + this.#leftovers.reduce((sum, { entries }) => sum + entries.length, 0)
  }

  /**
   * Whether the database was away when last asked, which is every second from the first purchase that was allowed on. Who asks `allow` at once
   * meanwhile spares its caller the wait for a database that keeps silent.
   */
  get isAway(): boolean {
    return this.#isAway
  }

  /** Whether the file lets an agent do something while the database is away, budgets aside. */
  covers(agentId: string, asked: PolicyQuestion): boolean {
    const { policy, failSafe } = this.#deps.governance
    if (policy === null || failSafe !== 'allow') return false
    return policy.namedLevels(agentId).length > 0 && policy.refusal(pathOf(agentId), asked) === null
  }

  /** Begins to book what waits, of this process and of those that are gone. */
  start(): void {
    const timer = setInterval(() => void this.retry(), TRY_MS)
    timer.unref()
    this.#timers.push(timer)
    void this.retry()
  }

  /** Books what it can and leaves the rest on disk for whoever starts next. */
  async stop(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer)
    await this.retry()
    for (const leftover of this.#leftovers) await leftover.release()
    const journal = await this.#inTime(this.#journal ?? Promise.resolve(undefined)).catch(() => undefined)
    if (journal) await this.#inTime(journal.close(this.#pending.size > 0)).catch(() => {})
  }

  /**
   * Whether a purchase may be made although the database is away. True only when it is durably noted.
   * @param options `isOpen` when its cost is an estimate that `settle` will correct
   */
  async allow(
    accountId: string,
    operationId: string,
    purchase: Purchase,
    asked: PolicyQuestion = purchase.tool === undefined ? {} : { tool: purchase.tool },
    options: { isOpen?: boolean } = {},
  ): Promise<boolean> {
    const { policy } = this.#deps.governance
    if (policy === null || this.#pending.size >= MAX_PENDING || !this.covers(purchase.agentId, asked)) return false
    if (this.#pending.has(operationId)) return true
    const levels = policy.namedLevels(purchase.agentId)
    if (levels.some((level) => !this.#fits(policy, accountId, level, purchase.cost))) return false
    const { agentId, label, cost, detail } = purchase
    const entry = { id: operationId, accountId, agentId, label, cost, detail, atMs: this.#deps.clock.now() }
    this.#add({ entry, isOpen: true, levels })
    try {
      await this.#write((journal) => journal.allow(entry))
    } catch (error) {
      this.#remove(operationId)
      // It may reach the disk yet, and must not be booked then.
      this.#write((journal) => journal.withdraw(operationId)).catch(() => {})
      this.#deps.log.error({ err: error }, 'what was asked for during the outage cannot be noted on disk: denied')
      return false
    }
    const pending = this.#pending.get(operationId)
    if (pending) pending.isOpen = options.isOpen ?? false
    this.stats.allowed++
    if (!this.#isAway) this.#deps.log.warn('the database is away: agents of the governance file go on within its budgets')
    this.#isAway = true
    return true
  }

  /**
   * The final cost of something allowed as open. Unknown ids are none of ours and change nothing. Never throws: where the disk fails it is
   * booked from memory, and at its estimate only if the process ends before.
   * @param detail JSON, what is known of it by now
   */
  async settle(operationId: string, cost: Nanousd, detail: string): Promise<void> {
    const pending = this.#pending.get(operationId)
    if (pending === undefined) return
    try {
      await this.#write((journal) => journal.settle(operationId, cost, detail))
    } catch (error) {
      this.#deps.log.error({ err: error, id: operationId }, 'what a call of the outage cost cannot be noted on disk')
    }
    this.#remove(operationId)
    this.#add({ ...pending, entry: { ...pending.entry, cost, detail }, isOpen: false })
  }

  /** Books what waits, as far as the database lets it. Never throws. */
  retry(): Promise<void> {
    this.#trying ??= this.#bookAll()
      .catch((error: unknown) => this.#deps.log.error({ err: error }, 'booking what an outage left failed, will try again'))
      .finally(() => {
        this.#trying = null
      })
    return this.#trying
  }

  async #bookAll(): Promise<void> {
    if (this.#isAway && !(await this.#isBack())) return
    await this.#findLeftovers()
    for (const leftover of [...this.#leftovers]) {
      if (!(await this.#bookEntries(leftover.entries))) return
      await leftover.remove()
      this.#leftovers.splice(this.#leftovers.indexOf(leftover), 1)
    }
    const ready = [...this.#pending.values()].filter(({ isOpen }) => !isOpen).map(({ entry }) => entry)
    if (ready.length === 0 || !(await this.#bookEntries(ready))) return
    // Whatever is allowed from here on is written after the truncation.
    await this.#write(async (journal) => (this.#pending.size === 0 ? journal.clear() : undefined))
  }

  async #isBack(): Promise<boolean> {
    try {
      await this.#deps.ping()
    } catch {
      return false
    }
    this.#isAway = false
    this.#deps.log.info({ to_book: this.pending }, 'the database is back')
    return true
  }

  /** @returns whether all of them are booked; it ends at the first page that is not */
  async #bookEntries(entries: readonly JournalEntry[]): Promise<boolean> {
    for (let at = 0; at < entries.length; at += BOOKED_AT_ONCE) {
      const page = entries.slice(at, at + BOOKED_AT_ONCE)
      const booked = await Promise.all(page.map((entry) => this.#bookOne(entry)))
      for (const [index, { id }] of page.entries()) if (booked[index]) this.#remove(id)
      if (booked.includes(false)) return false
    }
    return true
  }

  async #bookOne(entry: JournalEntry): Promise<boolean> {
    const { id, accountId, agentId, label, cost } = entry
    const detail = JSON.stringify({ ...(JSON.parse(entry.detail) as object), allowed_at: entry.atMs, database: 'was away' })
    try {
      await this.#deps.book(accountId, id, { agentId, label, cost, detail })
      this.stats.booked++
    } catch (error) {
      if (!(error instanceof DomainError) || error.code !== 'account_not_found') {
        if (!(error instanceof DomainError)) this.#deps.log.error({ err: error, id }, 'booking what an outage left failed')
        return false
      }
      this.stats.lost++
      this.#deps.log.error(
        { entry: { ...entry, cost: String(cost) } },
        'spent during the outage by an account that does not exist',
      )
    }
    return true
  }

  async #findLeftovers(): Promise<void> {
    const now = performance.now()
    if (this.#leftovers.length > 0 || (this.#lookedMs !== 0 && now - this.#lookedMs < LEFTOVERS_MS)) return
    this.#lookedMs = now
    // Its own journal is locked by this process, and so not among them.
    this.#leftovers = await findLeftovers(this.#folder)
  }

  /** @throws whatever keeps it from being on disk in time */
  #write(work: (journal: Journal) => Promise<void>): Promise<void> {
    return this.#inTime(this.#ownJournal().then(work))
  }

  #inTime<T>(work: Promise<T>): Promise<T> {
    return writtenWithin(work, this.#deps.disk_ms ?? DISK_MS)
  }

  #ownJournal(): Promise<Journal> {
    this.#journal ??= makeFolder(this.#folder)
      .then(() => Journal.create(this.#folder, this.#deps.clock.now(), MAX_PENDING))
      .catch((error: unknown) => {
        this.#journal = undefined
        throw error
      })
    return this.#journal
  }

  #fits(policy: GovernancePolicy, accountId: string, level: string, cost: Nanousd): boolean {
    const spent = (this.#spent.get(`${accountId} ${level}`) ?? 0n) + cost
    return (policy.limits(level) ?? []).every((limit) => limit === null || spent <= limit)
  }

  #add(pending: Pending): void {
    this.#pending.set(pending.entry.id, pending)
    this.#count(pending, pending.entry.cost)
  }

  #remove(id: string): void {
    const pending = this.#pending.get(id)
    if (pending === undefined) return
    this.#pending.delete(id)
    this.#count(pending, -pending.entry.cost)
  }

  #count({ entry, levels }: Pending, cost: Nanousd): void {
    for (const level of levels) {
      const name = `${entry.accountId} ${level}`
      const spent = (this.#spent.get(name) ?? 0n) + cost
      if (spent === 0n) this.#spent.delete(name)
      else this.#spent.set(name, spent)
    }
  }
}
