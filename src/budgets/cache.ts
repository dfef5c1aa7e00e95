import { LRUCache } from 'lru-cache'
import type { LoadedAccount } from './rows.store.ts'
import type { AccountChange, EnvelopeState, HoldState } from './state.ts'
import { HOLD_STATE } from './tables.ts'

/** What this process last saw of an account. Never trusted: the write statement checks the version. */
export type CachedAccount = {
  readonly accountId: string
  version: bigint
  ops: bigint
  clockMs: number
  readonly events: number
  envelopes: Map<string, EnvelopeState | null>
  /** Envelopes it had when the cache last weighed it. */
  weighed: number
}

const MAX_ACCOUNTS = 20_000
const MAX_ENVELOPES = 100_000
const MAX_ENVELOPES_PER_ACCOUNT = 20_000
const MAX_HOLDS = 20_000

/** Bounded memory of recent accounts, their envelopes, and the open holds taken here, so that a settlement needs no read. */
export class AccountCache {
  readonly #accounts = new LRUCache<string, CachedAccount>({
    max: MAX_ACCOUNTS,
    maxSize: MAX_ENVELOPES + MAX_ACCOUNTS,
    sizeCalculation: (account) => 1 + account.envelopes.size,
  })
  /** A hold is as current as the account entry it was stored with. */
  readonly #holds = new Recent<{ readonly hold: HoldState; readonly owner: CachedAccount }>(MAX_HOLDS)

  get(accountId: string): CachedAccount | undefined {
    return this.#accounts.get(accountId)
  }

  opsOf(accountId: string): bigint {
    return this.#accounts.get(accountId)?.ops ?? 0n
  }

  drop(accountId: string): void {
    this.#accounts.delete(accountId)
  }

  /** The entry for a freshly read account row: the old one while the version is the same, else a new one that knows nothing else yet. */
  adopt(loaded: LoadedAccount): CachedAccount {
    const known = this.#accounts.get(loaded.accountId)
    if (known?.version === loaded.version) return known
    const fresh: CachedAccount = {
      accountId: loaded.accountId,
      version: loaded.version,
      ops: loaded.ops,
      clockMs: loaded.clockMs,
      events: loaded.events,
      envelopes: new Map(),
      weighed: 0,
    }
    this.#accounts.set(loaded.accountId, fresh)
    return fresh
  }

  hold(account: CachedAccount, holdId: string): HoldState | undefined {
    const entry = this.#holds.get(holdId)
    return entry?.owner === account ? entry.hold : undefined
  }

  /** Takes over what the database has just stored. */
  commit(account: CachedAccount, change: AccountChange): void {
    if (change.changed) account.version += 1n
    account.ops = change.ops
    if (change.changed) account.clockMs = change.clockMs
    if (account.envelopes.size > MAX_ENVELOPES_PER_ACCOUNT) account.envelopes = new Map()
    for (const [agentId, envelope] of change.charged) account.envelopes.set(agentId, envelope)
    for (const [agentId, envelope] of change.limited) account.envelopes.set(agentId, envelope)
    for (const hold of change.newHolds) if (hold.state === HOLD_STATE.open) this.#holds.set(hold.holdId, { hold, owner: account })
    for (const hold of change.renewedHolds) this.#holds.set(hold.holdId, { hold, owner: account })
    for (const hold of change.resolvedHolds) this.#holds.delete(hold.holdId)
    this.#weigh(account)
  }

  /** The cache takes an entry's size when it is put in and not again for the same object: one that has grown is put in anew. */
  #weigh(account: CachedAccount): void {
    if (account.weighed === account.envelopes.size || this.#accounts.get(account.accountId) !== account) return
    this.#accounts.delete(account.accountId)
    account.weighed = account.envelopes.size
    this.#accounts.set(account.accountId, account)
  }
}

/** The last `max` entries at most, and at least half of them. Two maps that take turns: cheaper on the hot path than exact order. */
class Recent<V> {
  readonly #max: number
  #young = new Map<string, V>()
  #old = new Map<string, V>()

  constructor(max: number) {
    this.#max = max
  }

  get(key: string): V | undefined {
    return this.#young.get(key) ?? this.#old.get(key)
  }

  set(key: string, value: V): void {
    if (this.#young.size >= this.#max / 2) {
      this.#old = this.#young
      this.#young = new Map()
    }
    this.#young.set(key, value)
  }

  delete(key: string): void {
    this.#young.delete(key)
    this.#old.delete(key)
  }
}
