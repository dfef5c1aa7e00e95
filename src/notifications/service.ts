import { allFulfilled, Batcher } from '../core/batcher.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid, uuidv7 } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import { actorOf, type Caller } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Recorder } from '../db/recorder.ts'
import type { Runner } from '../db/runner.ts'
import type { Delivery, Result } from './delivery.ts'
import type { Priority } from './events.ts'
import { type DomainEvent, type EventName, eventsIn, FirstOfMinute, maskOf, prioritiesOf, priorityOf } from './events.ts'
import { allowedUrl } from './outbound.ts'
import type { EndpointSealing } from './sealing.ts'
import { newSigningSecret } from './signature.ts'
import {
  countEndpoints,
  type Delivery as DeliveryRow,
  EMAIL_ENDPOINT,
  type Endpoint,
  type EndpointChange,
  editEndpoint,
  findEndpoint,
  insertEvents,
  insertMessages,
  listDeliveries,
  listEndpoints,
  oldestDue,
  purgeMessages,
  type Role,
  requeueMessage,
  setVerified,
} from './store.ts'

export type { Endpoint, EndpointChange } from './store.ts'

type CallId = { readonly operationId: string; readonly resumed: boolean; readonly caller: Caller }

export const CHANNEL_KINDS = ['email', 'slack', 'discord', 'telegram', 'webhook'] as const
export type ChannelKind = (typeof CHANNEL_KINDS)[number]

/** Per channel, what became of a message to a person (contract section 5). */
export type NotificationState = 'queued' | 'no_address' | 'skipped_no_config'
export type Plan = {
  /** By channel id, or by kind where a kind was asked for that has no channel. */
  readonly states: Readonly<Record<string, NotificationState>>
  readonly endpointIds: readonly string[]
}

export type NewEndpoint = Pick<Endpoint, 'role' | 'kind' | 'name' | 'target' | 'secret' | 'thresholds'> & {
  readonly events: readonly EventName[]
}

export type NotificationDeps = {
  readonly database: Database
  readonly clock: Clock
  readonly log: Log
  readonly delivery: Delivery
  readonly wake: (priority?: Priority) => void
  readonly addressOf: (accountId: string) => Promise<string | null>
  readonly changes: Recorder
  readonly sealing: EndpointSealing
}

const MAX_ENDPOINTS = 20
const MAX_DELIVERIES = 100
const SENT_KEPT_MS = 7 * 86_400_000
const QUEUE = { maxBatch: 256, maxQueue: 1_000 }
/** The channel id of the account's notification address. */
export const EMAIL_CHANNEL = 'email'

/** Channels to people, webhooks to programs, and the outbox behind both (contract sections 5 and 9). */
export class NotificationService {
  readonly #deps: NotificationDeps
  readonly #allowPrivate: boolean
  readonly #exceeded = new FirstOfMinute()
  readonly #publishing: Batcher<DomainEvent, void>

  constructor(deps: NotificationDeps, options: { allowPrivate: boolean }) {
    this.#deps = deps
    this.#allowPrivate = options.allowPrivate
    this.#publishing = new Batcher(async (events: DomainEvent[]) => {
      if ((await insertEvents(deps.database.sql, deps.database.prepare, events)) > 0)
        for (const priority of prioritiesOf(events)) deps.wake(priority)
      return allFulfilled(events.map(() => undefined))
    }, QUEUE)
  }

  // Events

  /** Queues an event for the webhooks that want it, in the caller's transaction. Call `wake` after it has committed. */
  async record(runner: Runner, event: DomainEvent): Promise<void> {
    await insertEvents(runner, this.#deps.database.prepare, [event])
  }

  /** Queues an event by itself; resolves when it is stored. Repeating it under the same id tells nobody twice. */
  async publish(event: DomainEvent): Promise<void> {
    const { database, wake } = this.#deps
    if ((await withDatabaseFailure(insertEvents(database.sql, database.prepare, [event]))) > 0) wake(priorityOf(event))
  }

  /** Queues a message to people, in the caller's transaction. */
  async announce(runner: Runner, event: DomainEvent, plan: Plan): Promise<void> {
    if (plan.endpointIds.length > 0) await insertMessages(runner, this.#deps.database.prepare, event, plan.endpointIds)
  }

  wake(): void {
    this.#deps.wake()
  }

  /** Tells that a rate share refused a request, the first time in a minute. Never holds up or fails the refusal. */
  rateExceeded(share: { accountId: string; agentId: string; provider: string; model: string }): void {
    const { accountId, agentId, provider, model } = share
    const atMs = this.#deps.clock.now()
    const kind = `${agentId}\n${provider}\n${model}`
    if (!this.#exceeded.isNew(accountId, kind, atMs)) return
    this.#exceeded.confirm(accountId, kind, atMs)
    const event: DomainEvent = {
      accountId,
      id: uuidv7(atMs),
      name: 'rate.exceeded',
      stream: `agent:${agentId}`,
      atMs,
      dedupKey: `rate:${Math.floor(atMs / 60_000)}:${kind}`,
      data: { agent_id: agentId, provider, model },
    }
    this.#publishing
      .submit(event)
      .catch((error: unknown) => this.#deps.log.warn({ err: error }, 'a rate.exceeded event could not be stored'))
  }

  /** Resolves when no event is on its way into the outbox. */
  settled(): Promise<void> {
    return this.#publishing.settled()
  }

  /**
   * Which channels a message to the account's people goes to.
   * @param wanted ids or kinds; null for all channels there are
   * @throws DomainError `invalid_channels` for an id that is none of the account's
   */
  async planChannels(accountId: string, wanted: readonly string[] | null): Promise<Plan> {
    const { database, delivery, addressOf } = this.#deps
    const [channels, address] = await withDatabaseFailure(
      Promise.all([listEndpoints(database, accountId, 'channel'), addressOf(accountId)]),
    )
    const states: Record<string, NotificationState> = {}
    const endpointIds: string[] = []
    const add = (id: string, endpointId: string, state: NotificationState): void => {
      if (states[id] !== undefined) return
      states[id] = state
      if (state === 'queued') endpointIds.push(endpointId)
    }
    const addMail = () =>
      add(EMAIL_CHANNEL, EMAIL_ENDPOINT, delivery.hasMail ? (address === null ? 'no_address' : 'queued') : 'skipped_no_config')
    if (wanted === null) {
      addMail()
      for (const { endpointId } of channels) add(endpointId, endpointId, 'queued')
    }
    for (const name of wanted ?? []) {
      if (name === EMAIL_CHANNEL) {
        addMail()
        continue
      }
      const matching = channels.filter(({ endpointId, kind }) => endpointId === name || kind === name)
      for (const { endpointId } of matching) add(endpointId, endpointId, 'queued')
      if (matching.length > 0) continue
      if (!isChannelKind(name)) throw new DomainError('invalid_channels', { details: { issues: [unknownChannel(name)] } })
      states[name] = 'no_address'
    }
    return { states, endpointIds }
  }

  // Endpoints

  async list(accountId: string, role: Role): Promise<Endpoint[]> {
    const found = await withDatabaseFailure(listEndpoints(this.#deps.database, accountId, role))
    return found.map((endpoint) => this.#deps.sealing.openOrHide(endpoint))
  }

  /** @throws DomainError `not_found` */
  async get(accountId: string, role: Role, endpointId: string): Promise<Endpoint> {
    return this.#deps.sealing.openOrHide(await this.#stored(accountId, role, endpointId))
  }

  async #stored(accountId: string, role: Role, endpointId: string): Promise<Endpoint> {
    const found = isUuid(endpointId)
      ? await withDatabaseFailure(findEndpoint(this.#deps.database, accountId, role, endpointId))
      : undefined
    if (found === undefined) throw notFound(role)
    return found
  }

  /** @throws DomainError `invalid_webhook_url`, `forbidden` when the account has as many as it may */
  async create(accountId: string, call: CallId, wanted: NewEndpoint): Promise<Endpoint> {
    const { database, clock } = this.#deps
    const { events, ...fields } = wanted
    if (wanted.kind !== 'telegram') this.#checkUrl(wanted.target)
    if ((await withDatabaseFailure(countEndpoints(database, accountId, wanted.role))) >= MAX_ENDPOINTS) {
      throw new DomainError('forbidden', {
        hint: `An account may have ${MAX_ENDPOINTS} ${wanted.role}s. Delete one that is no longer used.`,
      })
    }
    const row: Endpoint = {
      ...fields,
      accountId,
      endpointId: call.operationId,
      secret: wanted.kind === 'webhook' ? newSigningSecret() : wanted.secret,
      eventMask: maskOf(events),
      enabled: true,
      createdMs: clock.now(),
      verifiedMs: null,
    }
    // Taken up after an interruption: the first run has made it, and its secret was stored with it.
    const sealed = this.#deps.sealing.seal(row, row)
    const made = await withDatabaseFailure(
      editEndpoint(database, accountId, { kind: 'insert', row: sealed }, this.#recorded(call.caller, 'created')),
    )
    return made ? row : this.get(accountId, wanted.role, call.operationId)
  }

  /** @throws DomainError `not_found`, `invalid_webhook_url` */
  async update(accountId: string, caller: Caller, role: Role, endpointId: string, change: EndpointChange): Promise<Endpoint> {
    const before = await this.get(accountId, role, endpointId)
    if (change.target !== undefined && before.kind !== 'telegram') this.#checkUrl(change.target)
    const verified = change.target === undefined || change.target === before.target ? {} : { verifiedMs: null }
    const { sealing, database } = this.#deps
    const edit = { kind: 'update', role, endpointId, change: { ...sealing.seal(before, change), ...verified } } as const
    const after = await withDatabaseFailure(editEndpoint(database, accountId, edit, this.#recorded(caller, 'changed')))
    if (after === undefined) throw notFound(role)
    return sealing.openOrHide(after)
  }

  /** Queued messages to it are dropped with it. @throws DomainError `not_found` */
  async delete(accountId: string, caller: Caller, role: Role, endpointId: string): Promise<void> {
    await this.get(accountId, role, endpointId)
    const edit = { kind: 'delete', role, endpointId } as const
    await withDatabaseFailure(editEndpoint(this.#deps.database, accountId, edit, this.#recorded(caller, 'deleted')))
  }

  /** Sends a test message at once and says how that went. @throws DomainError `not_found` */
  async test(accountId: string, role: Role, endpointId: string): Promise<Result> {
    const { clock, database, delivery } = this.#deps
    const isMail = role === 'channel' && endpointId === EMAIL_CHANNEL
    const endpoint = isMail ? null : await this.#stored(accountId, role, endpointId)
    const atMs = clock.now()
    const result = await delivery.deliver(
      {
        accountId,
        endpointId: endpoint?.endpointId ?? EMAIL_ENDPOINT,
        eventId: uuidv7(atMs),
        event: 'test',
        priority: 'urgent',
        body: '{"message":"Messages of this account arrive here."}',
        link: null,
        atMs,
        expiresMs: null,
        endpoint: endpoint && { ...endpoint, enabled: true },
      },
      atMs,
    )
    if (endpoint && result.state === 'sent')
      await withDatabaseFailure(setVerified(database, accountId, endpoint.endpointId, clock.now()))
    return result
  }

  /** The last deliveries to a webhook, newest first. @throws DomainError `not_found` */
  async deliveries(accountId: string, role: Role, endpointId: string): Promise<DeliveryRow[]> {
    const { endpointId: id } =
      role === 'channel' && endpointId === EMAIL_CHANNEL
        ? { endpointId: EMAIL_ENDPOINT }
        : await this.get(accountId, role, endpointId)
    return withDatabaseFailure(listDeliveries(this.#deps.database, accountId, id, MAX_DELIVERIES))
  }

  /** Sends a finished delivery once more. What was secret in it is gone. @throws DomainError `not_found` */
  async redeliver(accountId: string, endpointId: string, deliveryId: string): Promise<void> {
    await this.get(accountId, 'webhook', endpointId)
    const { database, clock } = this.#deps
    const queued =
      isUuid(deliveryId) && (await withDatabaseFailure(requeueMessage(database, accountId, endpointId, deliveryId, clock.now())))
    if (!queued)
      throw new DomainError('not_found', {
        hint: 'This webhook has no finished delivery with that id. Its deliveries list them.',
      })
    this.wake()
  }

  /** How long the oldest message that is due has been waiting, ms; 0 when nothing is. */
  async lag_ms(): Promise<number> {
    const oldestMs = await withDatabaseFailure(oldestDue(this.#deps.database))
    return oldestMs === null ? 0 : Math.max(0, this.#deps.clock.now() - oldestMs)
  }

  /** Housekeeping: forgets at most `limit` deliveries that were finished long ago. */
  purge(limit: number): Promise<void> {
    return purgeMessages(this.#deps.database, this.#deps.clock.now() - SENT_KEPT_MS, limit)
  }

  /** For the audit trail. The address of a channel may be a secret itself, so only its host is told. */
  #recorded(caller: Caller, what: 'created' | 'changed' | 'deleted') {
    return async (runner: Runner, endpoint: Endpoint): Promise<void> => {
      const { accountId, endpointId, role, kind, name, target, enabled, eventMask, thresholds } =
        this.#deps.sealing.openOrHide(endpoint)
      const atMs = this.#deps.clock.now()
      const host = kind !== 'telegram' && URL.canParse(target) ? new URL(target).host : null
      const data = {
        [`${role}_id`]: endpointId,
        kind,
        name,
        host,
        enabled,
        ...(role === 'webhook' && { events: eventsIn(eventMask), thresholds }),
      }
      const change = { accountId, id: uuidv7(atMs), type: `${role}.${what}`, agentId: null, actor: actorOf(caller), data, atMs }
      await this.#deps.changes.record(runner, change)
    }
  }

  #checkUrl(target: string): void {
    if (allowedUrl(target, this.#allowPrivate) === null) throw new DomainError('invalid_webhook_url')
  }
}

const isChannelKind = (name: string): name is ChannelKind => (CHANNEL_KINDS as readonly string[]).includes(name)

const unknownChannel = (name: string) => ({ path: 'channels', message: `names no channel of this account: ${name}` })

const notFound = (role: Role): DomainError =>
  new DomainError('not_found', {
    hint:
      role === 'webhook'
        ? 'This account has no webhook with that id. GET /v1/webhooks lists them.'
        : 'This account has no channel with that id. GET /v1/account/channels lists them.',
  })
