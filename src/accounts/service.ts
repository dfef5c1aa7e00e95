import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid, uuidv7 } from '../core/ids.ts'
import { actorOf, type Caller, type Guards, isWithin, type Scope, type Throttle } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Recorder } from '../db/recorder.ts'
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
  expireKey,
  findAccount,
  findKey,
  findKeysByHash,
  insertAccount,
  insertKey,
  listKeys,
  type NewApiKey,
  purgeThrottles,
  renameKey,
  replaceKeyHash,
  revokeKey,
  updateApprovalLinks,
  updateNotificationEmail,
} from './store.ts'

type CallId = { readonly operationId: string; readonly resumed: boolean; readonly caller: Caller }

/** Adds governance ops; implemented by the budgets room, through which every change of the quota goes. */
export type Quota = { grant(accountId: string, call: Omit<CallId, 'caller'>, ops: bigint, detail: string): Promise<bigint> }

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
  /** The key that it takes over from. */
  readonly rotates?: string
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
  readonly #changes: Recorder
  readonly #trialOps: number

  constructor(
    deps: { database: Database; clock: Clock; keys: KeyResolver; quota: Quota; events: KeyEvents; changes: Recorder },
    options: { trialOps: number },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#keys = deps.keys
    this.#quota = deps.quota
    this.#events = deps.events
    this.#changes = deps.changes
    this.#trialOps = options.trialOps
  }

  /** Makes an account with an owner key and the trial quota. The key is in the result and nowhere else. */
  async create(
    call: CallId,
    options: { name: string; expiresInSeconds: number | null } = { name: 'owner', expiresInSeconds: null },
  ): Promise<{ apiKey: string; accountId: string; ops: bigint; row: NewApiKey }> {
    const apiKey = newApiKey()
    const accountId = call.operationId
    const createdMs = this.#clock.now()
    const row: NewApiKey = {
      accountId,
      keyId: accountId,
      keyHash: hashOf(apiKey),
      name: options.name,
      scope: 'owner',
      agentId: null,
      createdMs,
      expiresMs: expiryOf(createdMs, options.expiresInSeconds),
    }
    const recorded = this.#record(accountId, call, 'account.created', null, keyData(row))
    const isNew = await withDatabaseFailure(insertAccount(this.#database, { accountId, createdMs }, row, recorded))
    // Taken up after an interruption: nobody was given the first run's secret.
    if (!isNew) await withDatabaseFailure(replaceKeyHash(this.#database, row))
    const ops = this.#trialOps > 0 ? await this.#quota.grant(accountId, call, BigInt(this.#trialOps), 'signup trial') : 0n
    return { apiKey, accountId, ops, row }
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
      expiresMs: expiryOf(createdMs, wanted.expiresInSeconds),
    }
    const told = this.#tell(accountId, call, 'key.created', row, wanted.rotates === undefined ? {} : { rotates: wanted.rotates })
    if (!(await withDatabaseFailure(insertKey(this.#database, row, told)))) {
      // Not resumed: another process has taken this request over meanwhile and handed its own secret out.
      if (!call.resumed) throw new DomainError('idempotency_conflict', { retryAfterSeconds: 1 })
      // Resumed: the first run may have made the row, but its secret is lost. Nobody has it, so this one takes its place.
      await withDatabaseFailure(replaceKeyHash(this.#database, row))
    }
    return { apiKey, row }
  }

  /** Newest first, revoked ones included; for a key that is bound to a path those within it. */
  async listKeys(accountId: string, boundTo: string | null): Promise<ApiKeyRow[]> {
    const rows = await withDatabaseFailure(listKeys(this.#database, accountId, MAX_LISTED_KEYS))
    return boundTo === null ? rows : rows.filter(({ agentId }) => agentId !== null && isWithin(agentId, boundTo))
  }

  /** Kills a key at once here, and within a second on every process. @throws DomainError `not_found` */
  async revokeKey(accountId: string, call: CallId, keyId: string): Promise<void> {
    const row = await this.#key(accountId, keyId)
    // Resumed: the first run may have revoked it; that is this call's success.
    const options = { now_ms: this.#clock.now(), evenRevoked: call.resumed }
    const told = this.#tell(accountId, call, 'key.revoked', row, {})
    const hash = await withDatabaseFailure(revokeKey(this.#database, accountId, keyId, options, told))
    if (hash === undefined) throw keyNotFound()
    await this.#keys.announceRevoked(hash)
  }

  /**
   * A new secret for a key's name, rights and path; the old one works on for a while, so that nothing stands still meanwhile.
   * @param overlap_seconds 0 ends the old one at once; else at least 60, as every process has heard of it by then
   * @throws DomainError `not_found`, `forbidden`
   */
  async rotateKey(
    accountId: string,
    call: CallId,
    keyId: string,
    options: { overlap_seconds: number; expiresInSeconds: number | null },
  ): Promise<{ apiKey: string; row: NewApiKey; oldExpiresMs: number }> {
    const old = await this.#key(accountId, keyId)
    const now_ms = this.#clock.now()
    const isDead = old.revokedMs !== null || (old.expiresMs !== null && old.expiresMs <= now_ms)
    if (isDead && !call.resumed) throw keyNotFound()
    const life_ms = old.expiresMs === null ? null : old.expiresMs - old.createdMs
    const { name, scope, agentId } = old
    const expiresInSeconds = options.expiresInSeconds ?? (life_ms === null ? null : Math.max(1, Math.round(life_ms / 1000)))
    const made = await this.createKey(accountId, call, { name, scope, agentId, expiresInSeconds, rotates: keyId })
    if (options.overlap_seconds === 0) {
      if (old.revokedMs === null) await this.revokeKey(accountId, call, keyId)
      return { ...made, oldExpiresMs: now_ms }
    }
    const oldExpiresMs = Math.min(old.expiresMs ?? Number.MAX_SAFE_INTEGER, now_ms + options.overlap_seconds * 1000)
    const recorded = this.#record(accountId, call, 'key.rotated', old.agentId, { ...keyData(old), expires_at: oldExpiresMs })
    await withDatabaseFailure(expireKey(this.#database, accountId, keyId, oldExpiresMs, recorded))
    await this.#keys.announceRevoked(old.keyHash)
    return { ...made, oldExpiresMs }
  }

  /** @throws DomainError `not_found` */
  async renameKey(accountId: string, call: CallId, keyId: string, name: string): Promise<ApiKeyRow> {
    const old = await this.#key(accountId, keyId)
    const recorded = this.#record(accountId, call, 'key.renamed', old.agentId, { ...keyData(old), new_name: name })
    await withDatabaseFailure(renameKey(this.#database, accountId, keyId, name, recorded))
    await this.#keys.announceRevoked(old.keyHash)
    return { ...old, name }
  }

  /** @throws DomainError `not_found` */
  async #key(accountId: string, keyId: string): Promise<ApiKeyRow> {
    const row = isUuid(keyId) ? await withDatabaseFailure(findKey(this.#database, accountId, keyId)) : undefined
    if (row === undefined) throw keyNotFound()
    return row
  }

  #tell(
    accountId: string,
    call: CallId,
    name: 'key.created' | 'key.revoked',
    row: NewApiKey,
    more: Record<string, unknown>,
  ): Alongside {
    const atMs = this.#clock.now()
    const { key_id, ...created } = keyData(row)
    const data = { key_id, ...(name === 'key.created' && created), ...more }
    const event = { accountId, id: uuidv7(atMs), name, stream: `key:${row.keyId}`, atMs, data }
    const recorded = this.#record(accountId, call, name, row.agentId, { ...keyData(row), ...more })
    return async (runner) => {
      await this.#events.record(runner, event)
      await recorded(runner)
    }
  }

  #record(accountId: string, call: CallId, type: string, agentId: string | null, data: Record<string, unknown>): Alongside {
    const atMs = this.#clock.now()
    const change = { accountId, id: uuidv7(atMs), type, agentId, actor: actorOf(call.caller), data, atMs }
    return (runner) => this.#changes.record(runner, change)
  }

  async setNotificationEmail(accountId: string, call: CallId, email: string | null): Promise<void> {
    const type = email === null ? 'notification_email.deleted' : 'notification_email.set'
    const recorded = this.#record(accountId, call, type, null, { notification_email: email })
    await withDatabaseFailure(updateNotificationEmail(this.#database, accountId, email, recorded))
  }

  async setApprovalLinks(accountId: string, call: CallId, approvalLinks: ApprovalLinks): Promise<void> {
    const recorded = this.#record(accountId, call, 'settings.changed', null, { approval_links: approvalLinks })
    await withDatabaseFailure(updateApprovalLinks(this.#database, accountId, approvalLinks, recorded))
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

const expiryOf = (createdMs: number, seconds: number | null): number | null =>
  seconds === null ? null : createdMs + seconds * 1000

const keyData = ({ keyId, name, scope, agentId }: Pick<NewApiKey, 'keyId' | 'name' | 'scope' | 'agentId'>) => ({
  key_id: keyId,
  name,
  scope,
  agent_id: agentId,
})

const keyNotFound = (): DomainError =>
  new DomainError('not_found', {
    hint: 'This account has no live key with that key_id. GET /v1/account/keys lists them.',
  })
