import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid, uuidv7 } from '../core/ids.ts'
import type { Guards, Scope, Throttle } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Runner } from '../db/runner.ts'
import type { KeyResolver } from './keys.ts'
import { hashOf, newApiKey } from './keys.ts'
import {
  type Account,
  type Alongside,
  type ApiKeyRow,
  type ApprovalLinks,
  countEvent,
  countLiveKeys,
  findAccount,
  findKeysByHash,
  insertAccount,
  insertKey,
  listKeys,
  type NewApiKey,
  purgeThrottles,
  replaceKeyHash,
  revokeKey,
  updateApprovalLinks,
  updateNotificationEmail,
} from './store.ts'

type CallId = { readonly operationId: string; readonly resumed: boolean }

/** Adds governance ops; implemented by the budgets room, through which every change of the quota goes. */
export type Quota = { grant(accountId: string, call: CallId, ops: bigint, detail: string): Promise<bigint> }

/** Tells whoever follows the account's keys, in the transaction that changes them; implemented by the notifications room. */
export type KeyEvents = {
  record(
    runner: Runner,
    event: {
      readonly accountId: string
      readonly id: string
      readonly name: 'key.created' | 'key.revoked'
      readonly stream: string
      readonly atMs: number
      readonly data: Readonly<Record<string, unknown>>
    },
  ): Promise<void>
}

export type NewKey = {
  readonly name: string
  readonly scope: Scope
  readonly agentId: string | null
  readonly expiresInSeconds: number | null
}

const MAX_LIVE_KEYS = 1000
const MAX_LISTED_KEYS = 2000

/** Accounts, their keys and settings (contract section 2). */
export class AccountService {
  readonly #database: Database
  readonly #clock: Clock
  readonly #keys: KeyResolver
  readonly #quota: Quota
  readonly #events: KeyEvents
  readonly #trialOps: number

  constructor(
    deps: { database: Database; clock: Clock; keys: KeyResolver; quota: Quota; events: KeyEvents },
    options: { trialOps: number },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#keys = deps.keys
    this.#quota = deps.quota
    this.#events = deps.events
    this.#trialOps = options.trialOps
  }

  /** Makes an account with an owner key and the trial quota. The key is in the result and nowhere else. */
  async create(call: CallId): Promise<{ apiKey: string; accountId: string; ops: bigint }> {
    const apiKey = newApiKey()
    const accountId = call.operationId
    const createdMs = this.#clock.now()
    const key: NewApiKey = {
      accountId,
      keyId: accountId,
      keyHash: hashOf(apiKey),
      name: 'owner',
      scope: 'owner',
      agentId: null,
      createdMs,
      expiresMs: null,
    }
    await withDatabaseFailure(insertAccount(this.#database, { accountId, createdMs }, key))
    const ops = this.#trialOps > 0 ? await this.#quota.grant(accountId, call, BigInt(this.#trialOps), 'signup trial') : 0n
    return { apiKey, accountId, ops }
  }

  /** @throws DomainError `account_not_found` */
  async get(accountId: string): Promise<Account> {
    const account = await withDatabaseFailure(findAccount(this.#database, accountId))
    if (account === undefined) throw new DomainError('account_not_found')
    return account
  }

  async exists(accountId: string): Promise<boolean> {
    return (await withDatabaseFailure(findAccount(this.#database, accountId))) !== undefined
  }

  /** @throws DomainError `forbidden` when the account already has as many live keys as it may */
  async createKey(accountId: string, call: CallId, wanted: NewKey): Promise<{ apiKey: string; row: NewApiKey }> {
    const apiKey = newApiKey()
    const createdMs = this.#clock.now()
    if ((await withDatabaseFailure(countLiveKeys(this.#database, accountId, createdMs))) >= MAX_LIVE_KEYS) {
      throw new DomainError('forbidden', {
        hint: `An account may have ${MAX_LIVE_KEYS} live keys. Revoke those no longer used: GET /v1/account/keys shows when each was last used.`,
      })
    }
    const row: NewApiKey = {
      accountId,
      keyId: call.operationId,
      keyHash: hashOf(apiKey),
      name: wanted.name,
      scope: wanted.scope,
      agentId: wanted.agentId,
      createdMs,
      expiresMs: wanted.expiresInSeconds === null ? null : createdMs + wanted.expiresInSeconds * 1000,
    }
    const { keyId, name, scope, agentId } = row
    const told = this.#tell(accountId, 'key.created', keyId, { name, scope, agent_id: agentId })
    if (!(await withDatabaseFailure(insertKey(this.#database, row, told)))) {
      // Not resumed: another process has taken this request over meanwhile and handed its own secret out.
      if (!call.resumed) throw new DomainError('idempotency_conflict', { retryAfterSeconds: 1 })
      // Resumed: the first run may have made the row, but its secret is lost. Nobody has it, so this one takes its place.
      await withDatabaseFailure(replaceKeyHash(this.#database, row))
    }
    return { apiKey, row }
  }

  listKeys(accountId: string): Promise<ApiKeyRow[]> {
    return withDatabaseFailure(listKeys(this.#database, accountId, MAX_LISTED_KEYS))
  }

  /** Kills a key at once here, and within a second on every process. @throws DomainError `not_found` */
  async revokeKey(accountId: string, call: Pick<CallId, 'resumed'>, keyId: string): Promise<void> {
    // Resumed: the first run may have revoked it; that is this call's success.
    const options = { now_ms: this.#clock.now(), evenRevoked: call.resumed }
    const told = this.#tell(accountId, 'key.revoked', keyId, {})
    const hash = isUuid(keyId) ? await withDatabaseFailure(revokeKey(this.#database, accountId, keyId, options, told)) : undefined
    if (hash === undefined)
      throw new DomainError('not_found', {
        hint: 'This account has no live key with that key_id. GET /v1/account/keys lists them.',
      })
    await this.#keys.announceRevoked(hash)
  }

  #tell(accountId: string, name: 'key.created' | 'key.revoked', keyId: string, data: Record<string, unknown>): Alongside {
    const atMs = this.#clock.now()
    const event = { accountId, id: uuidv7(atMs), name, stream: `key:${keyId}`, atMs, data: { key_id: keyId, ...data } }
    return (runner) => this.#events.record(runner, event)
  }

  async setNotificationEmail(accountId: string, email: string | null): Promise<void> {
    await withDatabaseFailure(updateNotificationEmail(this.#database, accountId, email))
  }

  async setApprovalLinks(accountId: string, approvalLinks: ApprovalLinks): Promise<void> {
    await withDatabaseFailure(updateApprovalLinks(this.#database, accountId, approvalLinks))
  }

  /** Operator: adds ops to the account that owns a key. @throws DomainError `account_not_found` */
  async seed(call: CallId, apiKey: string, ops: bigint): Promise<bigint> {
    const [row] = await withDatabaseFailure(findKeysByHash(this.#database, [hashOf(apiKey)]))
    if (row === undefined) throw new DomainError('account_not_found')
    return this.#quota.grant(row.accountId, call, ops, 'operator grant')
  }

  /** Counts an event against a limit, exactly, for all processes together. */
  readonly throttle: Guards['throttle'] = async (limit: Throttle) => {
    const now_ms = this.#clock.now()
    const windowStartMs = Math.floor(now_ms / limit.window_ms) * limit.window_ms
    const count = await withDatabaseFailure(countEvent(this.#database, limit.subject, windowStartMs))
    return { allowed: count <= limit.max, retry_after_ms: windowStartMs + limit.window_ms - now_ms }
  }

  /** Housekeeping: removes at most `limit` counters whose window is long over. */
  purgeThrottles(limit: number): Promise<number> {
    return purgeThrottles(this.#database, this.#clock.now() - 2 * 86_400_000, limit)
  }
}
