import { and, asc, count, desc, eq, sql } from 'drizzle-orm'
import { IN_LOCKED } from '../budgets/companion.ts'
import { ArrayLiteral, Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import type { Runner } from '../db/runner.ts'
import { type DomainEvent, eventBit } from './events.ts'
import { endpoints, MESSAGE_STATE, outbox } from './tables.ts'

export type Endpoint = typeof endpoints.$inferSelect
export type EndpointChange = Partial<
  Pick<Endpoint, 'name' | 'target' | 'secret' | 'eventMask' | 'thresholds' | 'enabled' | 'verifiedMs'>
>
export type Role = Endpoint['role']

/** `null` as endpoint: the account's notification address. */
export type Message = {
  readonly accountId: string
  readonly endpointId: string
  readonly eventId: string
  readonly event: string
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
  readonly dueMs: number
  readonly finishedMs: number | null
  readonly outcome: string | null
}

/** The endpoint id that stands for the account's notification address. */
export const EMAIL_ENDPOINT = '00000000-0000-0000-0000-000000000000'

/**
 * The text of `insert into outbox …` that copies each event to every webhook that wants it. In a statement that already has a CTE
 * `locked (account_id)`, only for those accounts.
 */
export function fanOutSql(p: Parameters, events: readonly DomainEvent[], onlyLocked: boolean): string {
  return `insert into outbox (account_id, endpoint_id, event_id, event, stream, dedup_key, body, link, state, attempts, at_ms, due_ms, expires_ms)
  select u.account_id, w.endpoint_id, u.event_id, u.event, u.stream, u.dedup_key || coalesce(':' || x.threshold, ''),
    case when x.threshold is null then u.body else (u.body::jsonb || jsonb_build_object('threshold_percent', x.threshold))::text end,
    u.link, ${MESSAGE_STATE.queued}, 0, u.at_ms, u.at_ms, u.expires_ms
  from unnest(${p.add('uuid', events, (e, a) => a.raw(e.accountId))}, ${p.add('uuid', events, (e, a) => a.raw(e.id))}, ${p.add('text', events, (e, a) => a.raw(e.name))}, ${p.add('integer', events, (e, a) => a.raw(eventBit(e.name)))}, ${p.add('text', events, (e, a) => a.text(e.stream))}, ${p.add('text', events, (e, a) => a.text(e.dedupKey ?? null))}, ${p.add('text', events, (e, a) => a.text(JSON.stringify(e.data)))}, ${p.add('text', events, (e, a) => a.text(e.link ?? null))}, ${p.add('bigint', events, (e, a) => a.raw(e.atMs))}, ${p.add('bigint', events, (e, a) => a.raw(e.expiresMs ?? null))}, ${p.add('integer', events, (e, a) => a.raw(e.percent?.from ?? null))}, ${p.add('integer', events, (e, a) => a.raw(e.percent?.to ?? null))})
    u(account_id, event_id, event, bit, stream, dedup_key, body, link, at_ms, expires_ms, low, high)
  join endpoints w on w.account_id = u.account_id and w.enabled and (w.event_mask & u.bit) <> 0
  left join lateral (select max(t) as threshold from unnest(w.thresholds) t where t > u.low and t <= u.high) x on true
  where (u.low is null or x.threshold is not null)${onlyLocked ? ` and ${IN_LOCKED}` : ''}
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
    `insert into outbox (account_id, endpoint_id, event_id, event, stream, dedup_key, body, link, state, attempts, at_ms, due_ms, expires_ms)
     select $2::uuid, u.endpoint_id, $3::uuid, $4, $5, $6, $7, $8, ${MESSAGE_STATE.queued}, 0, $9::bigint, $9::bigint, $10::bigint
     from unnest(${ids}) u(endpoint_id)
     on conflict do nothing`,
    [...p.values(), ...values, ...rest],
    { prepare },
  )
}

/**
 * Takes messages that are due, each the first unsent of its stream, and keeps other processes off them for `lease_ms`.
 * @param busy endpoints that are to be left alone for now
 */
export async function claimMessages(
  { sql: raw, prepare }: Database,
  options: { now_ms: number; lease_ms: number; limit: number; busy: readonly string[] },
): Promise<Message[]> {
  const busy = new ArrayLiteral()
  for (const id of options.busy) busy.raw(id)
  const rows = await raw.unsafe(
    `with heads as materialized (
       select o.account_id, o.endpoint_id, o.event_id from outbox o
       where o.state = ${MESSAGE_STATE.queued} and o.due_ms <= $1::bigint and o.endpoint_id <> all($4::uuid[])
         and not exists (
           select 1 from outbox p
           where p.account_id = o.account_id and p.endpoint_id = o.endpoint_id and p.stream = o.stream and p.state = ${MESSAGE_STATE.queued}
             and (p.at_ms, p.event_id) < (o.at_ms, o.event_id))
       order by o.due_ms limit $3::int for update of o skip locked),
     claimed as (
       update outbox o set due_ms = $1::bigint + $2::bigint, attempts = o.attempts + 1 from heads h
       where o.account_id = h.account_id and o.endpoint_id = h.endpoint_id and o.event_id = h.event_id
       returning o.*)
     select c.account_id, c.endpoint_id, c.event_id, c.event, c.body, c.link, c.attempts, c.at_ms, c.expires_ms,
       e.endpoint_id is not null as has_endpoint, e.role, e.kind, e.name, e.target, e.secret, e.event_mask, e.thresholds, e.enabled, e.created_ms, e.verified_ms
     from claimed c left join endpoints e on e.account_id = c.account_id and e.endpoint_id = c.endpoint_id`,
    [String(options.now_ms), String(options.lease_ms), String(options.limit), busy.close()],
    { prepare },
  )
  return rows.map((row) => ({
    accountId: row.account_id as string,
    endpointId: row.endpoint_id as string,
    eventId: row.event_id as string,
    event: row.event as string,
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

/** Records attempts. One whose lease ran out and that another process has claimed since is left to that process. */
export async function recordAttempts(
  { sql: raw, prepare }: Database,
  attempts: readonly Attempt[],
  now_ms: number,
): Promise<void> {
  const p = new Parameters()
  const now = p.addOne('bigint', now_ms)
  await raw.unsafe(
    `update outbox o set state = u.state, due_ms = u.due_ms, outcome = u.outcome,
       finished_ms = case when u.state = ${MESSAGE_STATE.queued} then null else ${now} end,
       link = case when u.state = ${MESSAGE_STATE.queued} then o.link end
     from unnest(${p.add('uuid', attempts, (t, a) => a.raw(t.message.accountId))}, ${p.add('uuid', attempts, (t, a) => a.raw(t.message.endpointId))}, ${p.add('uuid', attempts, (t, a) => a.raw(t.message.eventId))}, ${p.add('integer', attempts, (t, a) => a.raw(t.message.attempts))}, ${p.add('smallint', attempts, (t, a) => a.raw(MESSAGE_STATE[t.state]))}, ${p.add('bigint', attempts, (t, a) => a.raw(t.dueMs))}, ${p.add('text', attempts, (t, a) => a.text(t.outcome))}) u(account_id, endpoint_id, event_id, attempts, state, due_ms, outcome)
     where o.account_id = u.account_id and o.endpoint_id = u.endpoint_id and o.event_id = u.event_id
       and o.attempts = u.attempts and o.state = ${MESSAGE_STATE.queued}`,
    p.values(),
    { prepare },
  )
}

/** Gives claimed messages back unsent, as if they had not been claimed. */
export async function unclaimMessages(
  { sql: raw, prepare }: Database,
  messages: readonly Message[],
  now_ms: number,
): Promise<void> {
  const p = new Parameters()
  const now = p.addOne('bigint', now_ms)
  await raw.unsafe(
    `update outbox o set due_ms = ${now}, attempts = o.attempts - 1
     from unnest(${p.add('uuid', messages, (m, a) => a.raw(m.accountId))}, ${p.add('uuid', messages, (m, a) => a.raw(m.endpointId))}, ${p.add('uuid', messages, (m, a) => a.raw(m.eventId))}, ${p.add('integer', messages, (m, a) => a.raw(m.attempts))}) u(account_id, endpoint_id, event_id, attempts)
     where o.account_id = u.account_id and o.endpoint_id = u.endpoint_id and o.event_id = u.event_id and o.attempts = u.attempts and o.state = ${MESSAGE_STATE.queued}`,
    p.values(),
    { prepare },
  )
}

/** Deletes messages that were finished before a moment, at most `limit`. */
export async function purgeMessages({ orm }: Database, before_ms: number, limit: number): Promise<void> {
  await orm.execute(
    sql`delete from ${outbox} where (account_id, endpoint_id, event_id) in (select account_id, endpoint_id, event_id from ${outbox} where finished_ms < ${before_ms} order by finished_ms limit ${limit})`,
  )
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
 * @returns the endpoint as it is now (as it was, for a deletion), or undefined when it does not exist
 */
export async function editEndpoint({ orm }: Database, accountId: string, edit: EndpointEdit): Promise<Endpoint | undefined> {
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
    return row
  })
}
