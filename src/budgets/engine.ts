import { AGAIN, Batcher, type BatchResult } from '../core/batcher.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import type { Database } from '../db/client.ts'
import { databaseFailure, isUniqueViolation } from '../db/failure.ts'
import { AccountCache, type CachedAccount } from './cache.ts'
import type { Companion } from './companion.ts'
import { decide } from './decide.ts'
import { createDenialAllowance, denialNotRecorded } from './denial-allowance.ts'
import { loadMissing } from './load.ts'
import { noPolicy, type PolicySource } from './policy.ts'
import type { LaneSql } from './rows.store.ts'
import type { AccountChange, Command, Outcome, OutcomeOf } from './state.ts'
import { lockAccounts, writeChanges } from './write.store.ts'

export type EngineOptions = {
  /** Lanes per process; an account always uses the same one. One measured best (docs/decisions/0003-decision-engine.md). */
  readonly lanes: number
  readonly maxBatch: number
  readonly maxQueue: number
}

type Item = {
  readonly accountId: string
  readonly command: Command
  /** How often another process has moved the account between decision and write. */
  lostRaces: number
}
type Group = { readonly accountId: string; readonly items: Item[] }
type Settled = PromiseSettledResult<Outcome>

/** After this many lost races a command is decided under a plain lock instead. */
const MAX_LOST_RACES = 3

/** Is told of decisions and batches. On the hot path: it must not throw, wait or take time. */
export type EngineObserver = {
  decided(command: Command, outcome: Outcome): void
  /** @param items decided together, or to be decided again @param began_ms of the process's monotonic clock */
  batch(items: readonly { readonly command: Command }[], began_ms: number): void
}

export type EngineStats = { batches: number; commands: number; conflicts: number; locked: number; failures: number }

/**
 * The hot path (DESIGN 2): commands of an account queue in its lane; a batch is decided in memory by `decide` and stored by one
 * statement that takes effect only for accounts whose version has not moved. Everything that changes an account's quota, envelopes or
 * holds goes through here.
 */
export class DecisionEngine {
  readonly stats: EngineStats = { batches: 0, commands: 0, conflicts: 0, locked: 0, failures: 0 }
  readonly #database: Database
  readonly #lane: LaneSql
  readonly #clock: Clock
  readonly #companions: readonly Companion[]
  readonly #policy: PolicySource
  readonly #observer: EngineObserver | undefined
  readonly #lanes: Batcher<Item, Outcome>[]
  readonly #cache = new AccountCache()
  readonly #denials = createDenialAllowance()

  constructor(
    deps: {
      database: Database
      clock: Clock
      companions?: readonly Companion[]
      policy?: PolicySource
      observer?: EngineObserver
    },
    options: EngineOptions,
  ) {
    this.#database = deps.database
    this.#lane = { sql: deps.database.laneSql, prepare: deps.database.prepare }
    this.#clock = deps.clock
    this.#companions = deps.companions ?? []
    this.#policy = deps.policy ?? noPolicy
    this.#observer = deps.observer
    this.#lanes = Array.from(
      { length: options.lanes },
      () => new Batcher<Item, Outcome>((items) => this.#runBatch(items), options),
    )
  }

  /**
   * Decides one command, durably: the promise resolves after the commit.
   * @param options `isPatient`: nobody waits for it, so that it may wait a little for others to go with
   * @throws DomainError `overloaded`, `database_unavailable`, `account_not_found`
   */
  submit<K extends Command['kind']>(
    accountId: string,
    command: Extract<Command, { kind: K }>,
    options?: { readonly isPatient: boolean },
  ): Promise<OutcomeOf[K]> {
    const lane = this.#lanes[this.#lanes.length === 1 ? 0 : laneIndex(accountId, this.#lanes.length)]
    if (lane === undefined) throw new Error('an engine needs at least one lane')
    return lane.submit({ accountId, command, lostRaces: 0 }, options) as Promise<OutcomeOf[K]>
  }

  /** The quota as this process last saw it; 0 of an account that it has not seen lately. */
  opsOf(accountId: string): bigint {
    return this.#cache.opsOf(accountId)
  }

  /** Commands waiting in all lanes. */
  get depth(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.depth, 0)
  }

  async settled(): Promise<void> {
    await Promise.all(this.#lanes.map((lane) => lane.settled()))
  }

  async #runBatch(items: Item[]): Promise<BatchResult<Outcome>[]> {
    this.stats.batches++
    this.stats.commands += items.length
    const began_ms = performance.now()
    const results = new Map<Item, Settled>()
    const lost = new Set<Item>()
    await this.#decideGroups(groupByAccount(items), results, lost)
    this.#observer?.batch(items, began_ms)
    return items.map(
      (item) => results.get(item) ?? (lost.has(item) ? AGAIN : { status: 'rejected', reason: new Error('undecided') }),
    )
  }

  /**
   * Fills `results`, or `lost` with the commands of accounts that another process moved: those go into the next batch, so that the others
   * need not wait for them. One account's poisonous command must not fail its neighbours: what breaks together is tried again alone.
   */
  async #decideGroups(groups: Group[], results: Map<Item, Settled>, lost: Set<Item>): Promise<void> {
    const unlucky = groups.filter(({ items }) => items.some((item) => item.lostRaces >= MAX_LOST_RACES))
    const others = groups.filter((group) => !unlucky.includes(group))
    try {
      if (others.length > 0) {
        const open = this.#conclude(others, await this.#decideAndWrite(this.#lane, others), results)
        this.stats.conflicts += open.length
        for (const { items } of open) {
          for (const item of items) {
            item.lostRaces++
            lost.add(item)
          }
        }
      }
      if (unlucky.length > 0) await this.#decideLocked(unlucky, results)
    } catch (error) {
      this.stats.failures++
      const undecided = groups.filter((group) => group.items.some((item) => !results.has(item) && !lost.has(item)))
      for (const group of undecided) this.#cache.drop(group.accountId)
      const failure = databaseFailure(error)
      const [first, ...rest] = undecided.flatMap((group) => group.items)
      if (first === undefined) return
      if (failure !== null) {
        for (const item of [first, ...rest]) results.set(item, { status: 'rejected', reason: failure })
      } else if (rest.length > 0) {
        for (const item of [first, ...rest])
          await this.#decideGroups([{ accountId: item.accountId, items: [item] }], results, lost)
      } else if (isUniqueViolation(error) && !first.command.resumed) {
        // This process stood still, another took the request over and has carried it out: answer what it did.
        const resumed = { ...first, command: { ...first.command, resumed: true } }
        await this.#decideGroups([{ accountId: first.accountId, items: [resumed] }], results, lost)
        const result = results.get(resumed)
        if (result) results.set(first, result)
        else lost.add(first)
      } else results.set(first, { status: 'rejected', reason: error })
    }
  }

  async #decideLocked(groups: Group[], results: Map<Item, Settled>): Promise<void> {
    this.stats.locked++
    const ids = groups.map((group) => group.accountId).sort()
    const decided = await this.#database.laneSql.begin(async (sql) => {
      const lane = { sql, prepare: this.#lane.prepare }
      await lockAccounts(lane, ids)
      for (const id of ids) this.#cache.drop(id)
      return this.#decideAndWrite(lane, groups)
    })
    const open = this.#conclude(groups, decided, results)
    if (open.length > 0) throw new Error('an account changed under its lock')
  }

  async #decideAndWrite(lane: LaneSql, groups: Group[]): Promise<Decided> {
    const now_ms = this.#clock.now()
    const loaded = await loadMissing(
      lane,
      this.#cache,
      groups.map(({ accountId, items }) => ({ accountId, commands: items.map((item) => item.command) })),
      now_ms,
    )
    const outcomes = new Map<string, Outcome[]>()
    const changes: AccountChange[] = []
    const accounts = new Map<string, CachedAccount>()
    const policy = this.#policy()
    for (const [index, group] of groups.entries()) {
      const ready = loaded[index]
      if (ready === 'moved') outcomes.set(group.accountId, [])
      if (!ready || ready === 'moved') continue
      const maxDenials = this.#denials.left(group.accountId, ready.state.ops, now_ms)
      const decision = decide(ready.state, ready.commands, now_ms, policy, maxDenials)
      outcomes.set(group.accountId, decision.outcomes)
      changes.push(decision.change)
      accounts.set(group.accountId, ready.cached)
    }
    const stored = changes.length === 0 ? new Set<string>() : await writeChanges(lane, changes, this.#companions)
    for (const change of changes) {
      const { accountId } = change.account
      const cached = accounts.get(accountId)
      if (stored.has(accountId) && cached) {
        this.#cache.commit(cached, change)
        if (change.denials.length > 0) this.#denials.use(accountId, change.denials.length, change.ops, now_ms)
      } else this.#cache.drop(accountId)
    }
    return { outcomes, stored }
  }

  /** Answers the groups that were stored and returns those that must be decided again. */
  #conclude(groups: Group[], { outcomes, stored }: Decided, results: Map<Item, Settled>): Group[] {
    const again: Group[] = []
    for (const group of groups) {
      const decided = outcomes.get(group.accountId)
      if (decided !== undefined && !stored.has(group.accountId)) {
        again.push(group)
        continue
      }
      for (const [index, item] of group.items.entries()) {
        const value = decided?.[index]
        if (value === undefined) results.set(item, { status: 'rejected', reason: new DomainError('account_not_found') })
        else if ('unrecorded' in value)
          results.set(item, {
            status: 'rejected',
            reason: denialNotRecorded(value.reason, this.#denials.wait_ms(this.opsOf(group.accountId))),
          })
        else {
          this.#observer?.decided(item.command, value)
          results.set(item, { status: 'fulfilled', value })
        }
      }
    }
    return again
  }
}

type Decided = { readonly outcomes: ReadonlyMap<string, Outcome[]>; readonly stored: ReadonlySet<string> }

function groupByAccount(items: Item[]): Group[] {
  const groups = new Map<string, Group>()
  for (const item of items) {
    const group = groups.get(item.accountId)
    if (group) group.items.push(item)
    else groups.set(item.accountId, { accountId: item.accountId, items: [item] })
  }
  return [...groups.values()]
}

/** FNV-1a over the account id. */
function laneIndex(accountId: string, lanes: number): number {
  let hash = 2166136261
  for (let index = 0; index < accountId.length; index++) hash = Math.imul(hash ^ accountId.charCodeAt(index), 16777619)
  return (hash >>> 0) % lanes
}
