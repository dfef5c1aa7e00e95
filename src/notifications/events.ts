/** What a webhook can be told. The position is the bit in `event_mask`: append only. */
export const EVENTS = [
  'clearance.denied',
  'envelope.threshold',
  'approval.requested',
  'approval.decided',
  'topup.credited',
  'key.created',
  'key.revoked',
  'rate.exceeded',
] as const
export type EventName = (typeof EVENTS)[number]

export const eventBit = (name: EventName): number => 1 << EVENTS.indexOf(name)
export const maskOf = (names: readonly EventName[]): number => names.reduce((mask, name) => mask | eventBit(name), 0)
export const eventsIn = (mask: number): EventName[] => EVENTS.filter((name) => (mask & eventBit(name)) !== 0)

/** Something that happened in an account. `id` is a UUIDv7 and the same for every receiver. */
export type DomainEvent = {
  readonly accountId: string
  readonly id: string
  readonly name: EventName
  /** What it is about: events of one stream reach a receiver in order. */
  readonly stream: string
  readonly atMs: number
  /** What the receiver is told. Holds no credential. */
  readonly data: Readonly<Record<string, unknown>>
  /** Events with the same key reach a receiver once. */
  readonly dedupKey?: string
  /** `envelope.threshold`: percentages of the limit before and after; sent to those with a threshold in between. */
  readonly percent?: { readonly from: number; readonly to: number }
  /** An approval link, removed once the message is out. */
  readonly link?: string
  readonly expiresMs?: number
}

export type Priority = 'urgent' | 'ordinary'

/**
 * Urgent is what somebody waits for: a person has to learn of a request, and an agent of the decision. What tells of something that is
 * over can come later. (A test message is not queued at all.) A property of the stream and not of the event: an urgent event behind
 * ordinary ones of its stream would have to wait for them.
 */
export const priorityOf = ({ stream }: Pick<DomainEvent, 'stream'>): Priority =>
  stream.startsWith('approval:') ? 'urgent' : 'ordinary'
export const prioritiesOf = (events: readonly DomainEvent[]): ReadonlySet<Priority> => new Set(events.map(priorityOf))

const MAX_ACCOUNTS = 2_000
const MAX_KEYS_PER_MINUTE = 200
const MINUTE_MS = 60_000

/**
 * Keeps repeated refusals from flooding a webhook: the first of each kind in a minute is told, the audit trail has every one. Bounded in
 * accounts and in kinds, because agents choose their names. Per process; the outbox's own key catches what two processes tell.
 */
export class FirstOfMinute {
  #minute = 0
  #told = new Map<string, Set<string>>()

  /** True when this kind may be told of; `confirm` it when it is stored. */
  isNew(accountId: string, kind: string, at_ms: number): boolean {
    this.#turn(at_ms)
    const told = this.#told.get(accountId)
    return told === undefined ? this.#told.size < MAX_ACCOUNTS : told.size < MAX_KEYS_PER_MINUTE && !told.has(kind)
  }

  confirm(accountId: string, kind: string, at_ms: number): void {
    this.#turn(at_ms)
    const told = this.#told.get(accountId)
    if (told) told.add(kind)
    else this.#told.set(accountId, new Set([kind]))
  }

  #turn(at_ms: number): void {
    const minute = Math.floor(at_ms / MINUTE_MS)
    if (minute <= this.#minute) return
    this.#minute = minute
    this.#told = new Map()
  }
}
