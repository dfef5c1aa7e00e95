import { and, asc, count, desc, eq, sql } from 'drizzle-orm'
import { IN_LOCKED } from '../budgets/companion.ts'
import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import { type Runner, runnerOf } from '../db/runner.ts'
import { type DomainEvent, eventBit, type Priority, priorityOf } from './events.ts'
import { endpoints, MESSAGE_STATE, outbox } from './tables.ts'

export type Endpoint = typeof endpoints.$inferSelect
export type EndpointChange = Partial<
  Pick<Endpoint, 'name' | 'target' | 'secret' | 'eventMask' | 'thresholds' | 'enabled' | 'verifiedMs'>
>
export type Role = Endpoint['role']

/**
 * Of messages that are looked up by key. Written so that no partial index fits: on a table that has just filled the planner has no
 * statistics and would read the whole queue to find a handful.
 */
const STILL_QUEUED = `o.state + 0 = ${MESSAGE_STATE.queued}`
/**
 * A condition that is always true and makes the commit of its statement not wait for the disk. What a crash then forgets of claims and
 * attempts is sent once more, which at-least-once allows; the decisions' commits keep the disk to themselves.
 */
const UNHURRIED = `(select set_config('synchronous_commit', 'off', true)) is not null`
/** Queued and the first of its stream, as the index of both lanes says it, and no other one. */
const IN_LANE = `state < ${MESSAGE_STATE.sent} and due_ms is not null`
/** Due messages that a claim chooses from. A subselect, because a planner that knows the number and believes in fewer would fetch and sort all there are. */
const MAX_LOOKED_AT = '(select 500)'

/** `null` as endpoint: the account's notification address. */
export type Message = {
  readonly accountId: string
  readonly endpointId: string
  readonly eventId: string
  readonly event: string
  readonly priority: Priority
  readonly body: string
  readonly link: string | null
  readonly attempts: number
  readonly atMs: number
  readonly expiresMs: number | null
  /** Absent when the endpoint was deleted or is the account's notification address. */
  readonly endpoint: Endpoint | null
}
export type Delivery = {
  readonly eventId: string
  readonly event: string
  readonly state: keyof typeof MESSAGE_STATE
  readonly attempts: number
  readonly atMs: number
  readonly dueMs: number | null
  readonly finishedMs: number | null
  readonly outcome: string | null
}

const isUrgent = (event: Pick<DomainEvent, 'stream'>): boolean => priorityOf(event) === 'urgent'

/** The endpoint id that stands for the account's notification address. */
export const EMAIL_ENDPOINT = '00000000-0000-0000-0000-000000000000'

/** True for a message behind another one of its stream, given as alias of (account_id, endpoint_id, stream). */
const isBehind = (alias: string): string =>
  `exists (select 1 from outbox q where q.account_id = ${alias}.account_id and q.endpoint_id = ${alias}.endpoint_id and q.stream = ${alias}.stream and q.state = ${MESSAGE_STATE.queued})`

/**
 * The text of `insert into outbox …` that copies each event to every webhook that wants it. In a statement that already has a CTE
 * `locked (account_id)`, only for those accounts.
 */
export function fanOutSql(p: Parameters, events: readonly DomainEvent[], onlyLocked: boolean): string {
  return `insert into outbox (account_id, endpoint_id, event_id, event, stream, dedup_key, body, link, state, attempts, at_ms, due_ms, expires_ms, urgent)
  select m.account_id, m.endpoint_id, m.event_id, m.event, m.stream, m.full_key,
    case when m.threshold is null then m.body else (m.body::jsonb || jsonb_build_object('threshold_percent', m.threshold))::text end,
    m.link, ${MESSAGE_STATE.queued}, 0, m.at_ms, case when m.place = 1 and not ${isBehind('m')} then m.at_ms end, m.expires_ms, m.urgent
  from (
    select n.*, row_number() over (partition by n.account_id, n.endpoint_id, n.stream order by n.at_ms, n.event_id) as place from (
    select u.*, w.endpoint_id, x.threshold, u.dedup_key || coalesce(':' || x.threshold, '') as full_key
    from unnest(${p.add('uuid', events, (e, a) => a.raw(e.accountId))}, ${p.add('uuid', events, (e, a) => a.raw(e.id))}, ${p.add('text', events, (e, a) => a.raw(e.name))}, ${p.add('integer', events, (e, a) => a.raw(eventBit(e.name)))}, ${p.add('text', events, (e, a) => a.text(e.stream))}, ${p.add('text', events, (e, a) => a.text(e.dedupKey ?? null))}, ${p.add('text', events, (e, a) => a.text(JSON.stringify(e.data)))}, ${p.add('text', events, (e, a) => a.text(e.link ?? null))}, ${p.add('bigint', events, (e, a) => a.raw(e.atMs))}, ${p.add('bigint', events, (e, a) => a.raw(e.expiresMs ?? null))}, ${p.add('integer', events, (e, a) => a.raw(e.percent?.from ?? null))}, ${p.add('integer', events, (e, a) => a.raw(e.percent?.to ?? null))}, ${p.add('boolean', events, (e, a) => a.raw(isUrgent(e)))})
      u(account_id, event_id, event, bit, stream, dedup_key, body, link, at_ms, expires_ms, low, high, urgent)
    join endpoints w on w.account_id = u.account_id and w.enabled and (w.event_mask & u.bit) <> 0
    left join lateral (select max(t) as threshold from unnest(w.thresholds) t where t > u.low and t <= u.high) x on true
    where (u.low is null or x.threshold is not null)${onlyLocked ? ` and ${IN_LOCKED}` : ''}) n
    where n.full_key is null or not exists (
      select 1 from outbox d where d.account_id = n.account_id and d.endpoint_id = n.endpoint_id and d.dedup_key = n.full_key)) m
  on conflict do nothing`
}

/** Copies events to the webhooks that want them, in the caller's transaction. @returns how many messages that made */
export async function insertEvents(runner: Runner, prepare: boolean, events: readonly DomainEvent[]): Promise<number> {
  const p = new Parameters()
  const text = `${fanOutSql(p, events, false)} returning 1`
  return (await runner.unsafe(text, p.values(), { prepare })).length
}

/** Queues one event for endpoints that were chosen by the caller, in its transaction. */
export async function insertMessages(
  runner: Runner,
  prepare: boolean,
  event: Omit<DomainEvent, 'name'> & { readonly name: string },
  endpointIds: readonly string[],
): Promise<void> {
  const p = new Parameters()
  const ids = p.add('uuid', endpointIds, (id, a) => a.raw(id))
  const values = [event.accountId, event.id, event.name, event.stream, event.dedupKey ?? null, JSON.stringify(event.data)]
  const rest = [event.link ?? null, String(event.atMs), event.expiresMs === undefined ? null : String(event.expiresMs)]
  await runner.unsafe(
    `insert into outbox (account_id, endpoint_id, event_id, event, stream, dedup_key, body, link, state, attempts, at_ms, due_ms, expires_ms, urgent)
     select $2::uuid, u.endpoint_id, $3::uuid, $4, $5, $6, $7, $8, ${MESSAGE_STATE.queued}, 0, $9::bigint, case when not ${isBehind('u')} then $9::bigint end, $10::bigint, ${isUrgent(event)}
     from (select e.endpoint_id, $2::uuid as account_id, $5::text as stream from unnest(${ids}) e(endpoint_id)) u
     on conflict do nothing`,
    [...p.values(), ...values, ...rest],
    { prepare },
  )
}

/** How many more messages an endpoint can take; endpoints with the same `countedAs` share the places. */
export type Places = { readonly endpointId: string; readonly countedAs: string; readonly places: number }

/**
 * Takes messages of one priority that are due, each the first unsent of its stream, and keeps other processes off them for `lease_ms`.
 * @param options at most `limit` in all; to an endpoint as many as `counted` says, to others `perEndpoint` each
 */
export async function claimMessages(
  { sql: raw, prepare }: Database,
  options: {
    priority: Priority
    now_ms: number
    lease_ms: number
    limit: number
    perEndpoint: number
    counted: readonly Places[]
  },
): Promise<Message[]> {
  const { counted } = options
  const p = new Parameters()
  const now = p.addOne('bigint', options.now_ms)
  const rows = await raw.unsafe(
    `with counted as materialized (
       select * from unnest(${p.add('uuid', counted, (c, a) => a.raw(c.endpointId))}, ${p.add('uuid', counted, (c, a) => a.raw(c.countedAs))}, ${p.add('integer', counted, (c, a) => a.raw(c.places))}) c(endpoint_id, counted_as, places)),
     due as (
       select d.*, c.places, row_number() over (partition by coalesce(c.counted_as, d.endpoint_id) order by d.due_ms) as place from (
         select account_id, endpoint_id, event_id, due_ms from outbox
         where ${options.priority === 'urgent' ? 'urgent' : 'not urgent'} and ${IN_LANE} and due_ms <= ${now}
           and endpoint_id not in (select endpoint_id from counted where places = 0)
         order by due_ms limit ${MAX_LOOKED_AT}) d
       left join counted c on c.endpoint_id = d.endpoint_id),
     heads as materialized (
       select o.account_id, o.endpoint_id, o.event_id from due d
       join outbox o on o.account_id = d.account_id and o.endpoint_id = d.endpoint_id and o.event_id = d.event_id
       where ${UNHURRIED} and d.place <= coalesce(d.places, ${p.addOne('integer', options.perEndpoint)}) and ${STILL_QUEUED} and o.due_ms <= ${now}
       order by d.due_ms limit ${p.addOne('integer', options.limit)} for update of o skip locked),
     claimed as (
       update outbox o set due_ms = ${now} + ${p.addOne('bigint', options.lease_ms)}, attempts = o.attempts + 1 from heads h
       where o.account_id = h.account_id and o.endpoint_id = h.endpoint_id and o.event_id = h.event_id
       returning o.*)
     select c.account_id, c.endpoint_id, c.event_id, c.event, c.body, c.link, c.attempts, c.at_ms, c.expires_ms,
       e.endpoint_id is not null as has_endpoint, e.role, e.kind, e.name, e.target, e.secret, e.event_mask, e.thresholds, e.enabled, e.created_ms, e.verified_ms
     from claimed c left join endpoints e on e.account_id = c.account_id and e.endpoint_id = c.endpoint_id`,
    p.values(),
    { prepare },
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    endpointId: row.endpoint_id as string,
    eventId: row.event_id as string,
    event: row.event as string,
    priority: options.priority,
    body: row.body as string,
    link: row.link as string | null,
    attempts: Number(row.attempts),
    atMs: Number(row.at_ms),
    expiresMs: row.expires_ms === null ? null : Number(row.expires_ms),
    endpoint: row.has_endpoint
      ? {
          accountId: row.account_id as string,
          endpointId: row.endpoint_id as string,
          role: row.role as Endpoint['role'],
          kind: row.kind as Endpoint['kind'],
          name: row.name as string,
          target: row.target as string,
          secret: row.secret as string | null,
          eventMask: Number(row.event_mask),
          thresholds: row.thresholds as number[],
          enabled: row.enabled as boolean,
          createdMs: Number(row.created_ms),
          verifiedMs: row.verified_ms === null ? null : Number(row.verified_ms),
        }
      : null,
  }))
}

/** What became of a claimed message: done (sent or given up), or due again at `dueMs`. */
export type Attempt = {
  readonly message: Message
  readonly state: keyof typeof MESSAGE_STATE
  readonly dueMs: number
  readonly outcome: string
}

/**
 * Records attempts, and makes the next message of a stream due where one is done with. An attempt whose lease ran out and whose message
 * another process has claimed since is left to that process.
 */
export async function recordAttempts(
  { sql: raw, prepare }: Database,
  attempts: readonly Attempt[],
  now_ms: number,
): Promise<void> {
  const p = new Parameters()
  const now = p.addOne('bigint', now_ms)
  await raw.unsafe(
    `with recorded as (
     update outbox o set state = u.state, due_ms = u.due_ms, outcome = u.outcome,
       finished_ms = case when u.state = ${MESSAGE_STATE.queued} then null else ${now} end,
       link = case when u.state = ${MESSAGE_STATE.queued} then o.link end
     from unnest(${p.add('uuid', attempts, (t, a) => a.raw(t.message.accountId))}, ${p.add('uuid', attempts, (t, a) => a.raw(t.message.endpointId))}, ${p.add('uuid', attempts, (t, a) => a.raw(t.message.eventId))}, ${p.add('integer', attempts, (t, a) => a.raw(t.message.attempts))}, ${p.add('smallint', attempts, (t, a) => a.raw(MESSAGE_STATE[t.state]))}, ${p.add('bigint', attempts, (t, a) => a.raw(t.dueMs))}, ${p.add('text', attempts, (t, a) => a.text(t.outcome))}) u(account_id, endpoint_id, event_id, attempts, state, due_ms, outcome)
     where o.account_id = u.account_id and o.endpoint_id = u.endpoint_id and o.event_id = u.event_id
       and o.attempts = u.attempts and ${STILL_QUEUED} and ${UNHURRIED}
     returning o.account_id, o.endpoint_id, o.event_id, o.stream, o.state)
     update outbox o set due_ms = ${now} from recorded r, lateral (
       select n.event_id from outbox n
       where n.account_id = r.account_id and n.endpoint_id = r.endpoint_id and n.stream = r.stream
         and n.state = ${MESSAGE_STATE.queued} and n.event_id <> r.event_id
       order by n.at_ms, n.event_id limit 1) next
     where r.state <> ${MESSAGE_STATE.queued} and o.account_id = r.account_id and o.endpoint_id = r.endpoint_id
       and o.event_id = next.event_id and o.due_ms is null`,
    p.values(),
    { prepare },
  )
}

/**
 * Makes messages due that were queued in the very moment in which the one before them was recorded as done, when neither statement could
 * see the other. Looks at streams in which something was finished since `since_ms`.
 */
export async function adoptOrphans(
  { sql: raw, prepare }: Database,
  options: { now_ms: number; since_ms: number },
): Promise<number> {
  const rows = await raw.unsafe(
    `update outbox o set due_ms = $1::bigint from (
       select distinct account_id, endpoint_id, stream from outbox where finished_ms is not null and finished_ms >= $2::bigint) f, lateral (
       select n.event_id, n.due_ms from outbox n
       where n.account_id = f.account_id and n.endpoint_id = f.endpoint_id and n.stream = f.stream and n.state = ${MESSAGE_STATE.queued}
       order by n.at_ms, n.event_id limit 1) first
     where first.due_ms is null and o.account_id = f.account_id and o.endpoint_id = f.endpoint_id and o.event_id = first.event_id
       and o.state = ${MESSAGE_STATE.queued} and o.due_ms is null
     returning 1`,
    [String(options.now_ms), String(options.since_ms)],
    { prepare },
  )
  return rows.length
}

/** Tells the planner what the outbox looks like now; after it has filled, the database's own turn may be a minute away (or never come). */
export async function analyzeOutbox({ sql: raw, prepare }: Database): Promise<void> {
  await raw.unsafe('analyze outbox', [], { prepare })
}

/** Deletes messages that were finished before a moment, at most `limit`. */
export async function purgeMessages({ orm }: Database, before_ms: number, limit: number): Promise<void> {
  await orm.execute(
    sql`delete from ${outbox} where (account_id, endpoint_id, event_id) in (select account_id, endpoint_id, event_id from ${outbox} where finished_ms < ${before_ms} order by finished_ms limit ${limit})`,
  )
}

/** When the message that has been due the longest became so; null when none is queued. */
export async function oldestDue({ sql: raw, prepare }: Database): Promise<number | null> {
  const rows = await raw.unsafe(
    `select o.due_ms from (values (true), (false)) l(urgent), lateral (
       select due_ms from outbox where urgent = l.urgent and ${IN_LANE} order by due_ms limit 1) o`,
    [],
    { prepare },
  )
  return rows.length === 0 ? null : Math.min(...rows.map((row) => Number(row.due_ms)))
}

/** Deliveries to one endpoint, newest first. */
export async function listDeliveries(
  { orm }: Database,
  accountId: string,
  endpointId: string,
  limit: number,
): Promise<Delivery[]> {
  const { eventId, event, state, attempts, atMs, dueMs, finishedMs, outcome } = outbox
  const rows = await orm
    .select({ eventId, event, state, attempts, atMs, dueMs, finishedMs, outcome })
    .from(outbox)
    .where(and(eq(outbox.accountId, accountId), eq(outbox.endpointId, endpointId)))
    .orderBy(desc(outbox.eventId))
    .limit(limit)
  return rows.map((row) => ({ ...row, state: STATE_NAMES[row.state] ?? 'queued' }))
}
const STATE_NAMES = Object.keys(MESSAGE_STATE) as (keyof typeof MESSAGE_STATE)[]

/** Queues a finished message once more. @returns false when there is no such finished message */
export async function requeueMessage(
  { orm }: Database,
  accountId: string,
  endpointId: string,
  eventId: string,
  now_ms: number,
): Promise<boolean> {
  const rows = await orm
    .update(outbox)
    .set({ state: MESSAGE_STATE.queued, attempts: 0, dueMs: now_ms, finishedMs: null, expiresMs: null })
    .where(
      and(
        eq(outbox.accountId, accountId),
        eq(outbox.endpointId, endpointId),
        eq(outbox.eventId, eventId),
        sql`${outbox.state} <> ${MESSAGE_STATE.queued}`,
      ),
    )
    .returning({ eventId: outbox.eventId })
  return rows.length > 0
}

export async function listEndpoints({ orm }: Database, accountId: string, role: Role): Promise<Endpoint[]> {
  return orm
    .select()
    .from(endpoints)
    .where(and(eq(endpoints.accountId, accountId), eq(endpoints.role, role)))
    .orderBy(asc(endpoints.endpointId))
}

export async function findEndpoint(
  { orm }: Database,
  accountId: string,
  role: Role,
  endpointId: string,
): Promise<Endpoint | undefined> {
  const [row] = await orm
    .select()
    .from(endpoints)
    .where(and(eq(endpoints.accountId, accountId), eq(endpoints.role, role), eq(endpoints.endpointId, endpointId)))
  return row
}

export async function countEndpoints({ orm }: Database, accountId: string, role: Role): Promise<number> {
  const [row] = await orm
    .select({ n: count() })
    .from(endpoints)
    .where(and(eq(endpoints.accountId, accountId), eq(endpoints.role, role)))
  return Number(row?.n ?? 0)
}

/** Records that a test message arrived. */
export async function setVerified({ orm }: Database, accountId: string, endpointId: string, verifiedMs: number): Promise<void> {
  await orm
    .update(endpoints)
    .set({ verifiedMs })
    .where(and(eq(endpoints.accountId, accountId), eq(endpoints.endpointId, endpointId)))
}

export type EndpointEdit =
  | { readonly kind: 'insert'; readonly row: Endpoint }
  | { readonly kind: 'update'; readonly endpointId: string; readonly role: Role; readonly change: EndpointChange }
  | { readonly kind: 'delete'; readonly endpointId: string; readonly role: Role }

/**
 * Changes an endpoint, and with it which events the account listens to. The account row is written in the same transaction and its version
 * raised, so that every process sees the new set before its next decision of that account.
 * @param alongside what is written with it
 * @returns the endpoint as it is now (as it was, for a deletion), or undefined when it does not exist
 */
export async function editEndpoint(
  { orm }: Database,
  accountId: string,
  edit: EndpointEdit,
  alongside: (runner: Runner, endpoint: Endpoint) => Promise<void>,
): Promise<Endpoint | undefined> {
  return orm.transaction(async (tx) => {
    await tx.execute(sql`select 1 from accounts where account_id = ${accountId} for no key update`)
    const changed = await (() => {
      if (edit.kind === 'insert') return tx.insert(endpoints).values(edit.row).onConflictDoNothing().returning()
      const where = and(
        eq(endpoints.accountId, accountId),
        eq(endpoints.role, edit.role),
        eq(endpoints.endpointId, edit.endpointId),
      )
      return edit.kind === 'update'
        ? tx.update(endpoints).set(edit.change).where(where).returning()
        : tx.delete(endpoints).where(where).returning()
    })()
    const [row] = changed
    if (row === undefined) return undefined
    if (edit.kind === 'delete')
      await tx.delete(outbox).where(and(eq(outbox.accountId, accountId), eq(outbox.endpointId, edit.endpointId)))
    if (row.role === 'webhook') {
      await tx.execute(
        sql`update accounts set version = version + 1, event_mask = (select coalesce(bit_or(event_mask), 0) from endpoints where account_id = ${accountId} and enabled) where account_id = ${accountId}`,
      )
    }
    await alongside(runnerOf(tx), row)
    return row
  })
}

const MAX_COUNTED = 100_000

/** What waits and what was given up since a moment, counted up to a bound. */
export async function countMessages(
  { sql: raw, prepare }: Database,
  since_ms: number,
): Promise<{ queued: number; oldestMs: number | null; failed: number }> {
  const [row] = await raw.unsafe(
    `select
       (select count(*) from (select 1 from outbox where state = ${MESSAGE_STATE.queued} limit ${MAX_COUNTED}) q) as queued,
       (select min(at_ms) from (select at_ms from outbox where state = ${MESSAGE_STATE.queued} limit ${MAX_COUNTED}) q) as oldest_ms,
       (select count(*) from (select 1 from outbox where finished_ms >= $1::bigint and state = ${MESSAGE_STATE.failed} limit ${MAX_COUNTED}) f) as failed`,
    [String(since_ms)],
    { prepare },
  )
  return {
    queued: Number(row?.queued ?? 0),
    oldestMs: row?.oldest_ms === null || row?.oldest_ms === undefined ? null : Number(row.oldest_ms),
    failed: Number(row?.failed ?? 0),
  }
}
