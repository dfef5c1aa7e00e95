import { sql } from 'drizzle-orm'
import { bigint, boolean, index, integer, pgTable, primaryKey, smallint, text, uniqueIndex, uuid } from 'drizzle-orm/pg-core'

const ms = (name: string) => bigint(name, { mode: 'number' })

/**
 * Where an account wants to be told: channels reach a person who decides approvals, webhooks reach a program that follows events.
 * `target` is a URL or a chat id. URLs of Slack and Discord are secrets themselves and never shown in full. The account's
 * notification address is a channel too, without a row here.
 */
export const endpoints = pgTable(
  'endpoints',
  {
    accountId: uuid('account_id').notNull(),
    endpointId: uuid('endpoint_id').notNull(),
    role: text('role', { enum: ['channel', 'webhook'] }).notNull(),
    kind: text('kind', { enum: ['slack', 'discord', 'telegram', 'webhook'] }).notNull(),
    name: text('name').notNull(),
    target: text('target').notNull(),
    /** Signing secret of a generic webhook, token of a Telegram bot. */
    secret: text('secret'),
    /** Which events it wants, as the bit set of events.ts; 0 for channels. */
    eventMask: integer('event_mask').notNull(),
    /** Percentages of a limit at which `envelope.threshold` is sent, ascending. */
    thresholds: integer('thresholds').array().notNull(),
    enabled: boolean('enabled').notNull(),
    createdMs: ms('created_ms').notNull(),
    /** When a test message last arrived. */
    verifiedMs: ms('verified_ms'),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.endpointId] })],
)

/** `outbox.state`: queued → sent | failed. */
export const MESSAGE_STATE = { queued: 0, sent: 1, failed: 2 } as const

/**
 * Messages to be delivered, each at least once: written in the transaction of what they tell about, sent by whichever process claims
 * them. Messages of one `stream` to one endpoint go out one after the other, in the order of (`at_ms`, `event_id`).
 */
export const outbox = pgTable(
  'outbox',
  {
    accountId: uuid('account_id').notNull(),
    endpointId: uuid('endpoint_id').notNull(),
    eventId: uuid('event_id').notNull(),
    event: text('event').notNull(),
    stream: text('stream').notNull(),
    /** A second message with the same key to the same endpoint is not stored. */
    dedupKey: text('dedup_key'),
    /** JSON. Holds no credential. */
    body: text('body').notNull(),
    /** An approval link. Needed until the message is out, then removed: it lets whoever has it decide. */
    link: text('link'),
    state: smallint('state').notNull(),
    attempts: integer('attempts').notNull(),
    atMs: ms('at_ms').notNull(),
    /**
     * When it may be claimed: now, after the backoff, or when the lease of the process that has it runs out. null while an earlier
     * message of its stream is unsent: so the index of what is due holds one message per stream, however long the queue is.
     */
    dueMs: ms('due_ms'),
    /** After this moment nobody needs it any more. */
    expiresMs: ms('expires_ms'),
    finishedMs: ms('finished_ms'),
    /** Status or reason of the last attempt. */
    outcome: text('outcome'),
    /** Goes before what is not. All messages of a stream or none (events.ts). False for what the release before queues, which does not know it. */
    urgent: boolean('urgent').notNull().default(false),
  },
  (t) => [
    // Not endpoint before event: without statistics the planner would take it for as good as outbox_stream, and read whole queues.
    primaryKey({ columns: [t.accountId, t.eventId, t.endpointId] }),
    // `< 1` and not `= 0`, so that what claims (`state < 1`) fits no other index, whatever the statistics say.
    index('outbox_lane').on(t.urgent, t.dueMs).where(sql`${t.state} < 1 and ${t.dueMs} is not null`),
    // What the release before claims by; it goes when that one is gone.
    index('outbox_due').on(t.dueMs).where(sql`${t.state} = 0 and ${t.dueMs} is not null`),
    index('outbox_stream').on(t.accountId, t.endpointId, t.stream, t.atMs, t.eventId).where(sql`${t.state} = 0`),
    uniqueIndex('outbox_dedup').on(t.accountId, t.endpointId, t.dedupKey).where(sql`${t.dedupKey} is not null`),
    index('outbox_finished').on(t.finishedMs).where(sql`${t.finishedMs} is not null`),
  ],
)
