import { sql } from 'drizzle-orm'
import { bigint, index, integer, pgTable, primaryKey, smallint, text, uuid } from 'drizzle-orm/pg-core'

const ms = (name: string) => bigint(name, { mode: 'number' })
const money = (name: string) => bigint(name, { mode: 'bigint' })

/**
 * One row per agent path that ever had a cap. It counts every window at once, so that changing or deleting limits
 * never forgets what was spent. A row whose limits are all null is a deleted envelope. Only the decision engine writes here.
 */
export const envelopes = pgTable(
  'envelopes',
  {
    accountId: uuid('account_id').notNull(),
    agentId: text('agent_id').notNull(),
    limitHourlyNanousd: money('limit_hourly_nanousd'),
    limitDailyNanousd: money('limit_daily_nanousd'),
    limitWeeklyNanousd: money('limit_weekly_nanousd'),
    limitMonthlyNanousd: money('limit_monthly_nanousd'),
    limitSessionNanousd: money('limit_session_nanousd'),
    spentHourlyNanousd: money('spent_hourly_nanousd').notNull(),
    spentDailyNanousd: money('spent_daily_nanousd').notNull(),
    spentWeeklyNanousd: money('spent_weekly_nanousd').notNull(),
    spentMonthlyNanousd: money('spent_monthly_nanousd').notNull(),
    spentSessionNanousd: money('spent_session_nanousd').notNull(),
    /** One-off raises, each valid in the window instance that contains `extra_clock_ms`; all null for none. */
    extraHourlyNanousd: money('extra_hourly_nanousd'),
    extraDailyNanousd: money('extra_daily_nanousd'),
    extraWeeklyNanousd: money('extra_weekly_nanousd'),
    extraMonthlyNanousd: money('extra_monthly_nanousd'),
    extraSessionNanousd: money('extra_session_nanousd'),
    extraClockMs: ms('extra_clock_ms'),
    /** Windows that were set back to 0, with the account version that did it (`session:41`); holds taken before it no longer count there. */
    resets: text('resets'),
    /** Since when nothing is approved at or below this path; null when it is not suspended. */
    suspendedMs: ms('suspended_ms'),
    /** How many identical clearances within how long are a loop; null when nobody asked. */
    loopMaxRepeats: integer('loop_max_repeats'),
    loopWindowMs: ms('loop_window_ms'),
    /** The time of the last write: says which instance of each window the spent figures belong to. */
    clockMs: ms('clock_ms').notNull(),
    createdMs: ms('created_ms').notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.agentId] })],
)

/** `holds.state`: open → settled | released. An open hold past `expires_ms` is expired and stays counted at its estimate. */
export const HOLD_STATE = { open: 0, settled: 1, released: 2 } as const
/**
 * `holds.kind`: what made the hold. A booking is settled as it is made; a reservation belongs to a call that the proxy forwards, which keeps
 * it open as long as the call runs.
 */
export const HOLD_KIND = { clearance: 0, booking: 1, reservation: 2 } as const
export type HoldKind = (typeof HOLD_KIND)[keyof typeof HOLD_KIND]

/*
 * The indexes by version are for statements that go through an account's history in order: these say `version >= 0`, which is always so. Any
 * other statement finds its rows by their keys and cannot take such an index by mistake: planned on a small table it would, and then read
 * the account's whole history for each row (docs/decisions/0003).
 */

/**
 * Approved spends. The row is itself the ledger entry for its op and its estimate; settling and releasing
 * add a `ledger` row for the difference. Resolved at most once.
 */
export const holds = pgTable(
  'holds',
  {
    accountId: uuid('account_id').notNull(),
    holdId: uuid('hold_id').notNull(),
    agentId: text('agent_id').notNull(),
    kind: smallint('kind').notNull(),
    state: smallint('state').notNull(),
    model: text('model').notNull(),
    estimateNanousd: money('estimate_nanousd').notNull(),
    /** The rates it was priced at, pico-dollars per token: input, output, cached input, cache write, 1-hour cache write. Then, where they depend on the length of the input, those of each tier: `;200000:` and the five for more input tokens than that. */
    rates: text('rates').notNull(),
    /** Which levels of the agent's path have counted it: bit i (hex) is level i of `pathOf(agent_id)`. */
    charged: text('charged').notNull(),
    takenMs: ms('taken_ms').notNull(),
    /** The account's version that this hold made: the order in which an account's holds were decided, which ids of concurrent requests are not. */
    takenVersion: bigint('taken_version', { mode: 'bigint' }).notNull().default(sql`0`),
    expiresMs: ms('expires_ms').notNull(),
    resolvedMs: ms('resolved_ms'),
    actualNanousd: money('actual_nanousd'),
    /** The figures of the first resolution, answered again to every repeat. */
    outcome: text('outcome'),
    /** What was booked, as JSON; null for other kinds. */
    detail: text('detail'),
  },
  (t) => [
    primaryKey({ columns: [t.accountId, t.holdId] }),
    index('holds_open').on(t.accountId, t.agentId, t.takenVersion, t.holdId).where(sql`${t.state} = 0`),
    index('holds_version').on(t.accountId, t.takenVersion, t.holdId).where(sql`${t.takenVersion} >= 0`),
  ],
)

/**
 * Identical clearances of agents that have a loop limit: one row per agent and fingerprint, gone when its window has passed. Written with
 * the decision that counts it.
 */
export const loops = pgTable(
  'loops',
  {
    accountId: uuid('account_id').notNull(),
    agentId: text('agent_id').notNull(),
    fingerprint: text('fingerprint').notNull(),
    seen: integer('seen').notNull(),
    denials: integer('denials').notNull(),
    startedMs: ms('started_ms').notNull(),
    lastMs: ms('last_ms').notNull(),
    expiresMs: ms('expires_ms').notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.agentId, t.fingerprint] }), index('loops_expiry').on(t.expiresMs)],
)

/** Refused clearances, for the audit trail. */
export const denials = pgTable(
  'denials',
  {
    accountId: uuid('account_id').notNull(),
    denialId: uuid('denial_id').notNull(),
    agentId: text('agent_id').notNull(),
    /** Of the hold it would have become. */
    kind: smallint('kind').notNull().default(0),
    model: text('model').notNull(),
    estimateNanousd: money('estimate_nanousd').notNull(),
    reason: text('reason').notNull(),
    deniedMs: ms('denied_ms').notNull(),
    /** The version that the batch which denied it made, or would have made: denials alone do not raise it. */
    version: bigint('version', { mode: 'bigint' }).notNull().default(sql`0`),
  },
  (t) => [
    primaryKey({ columns: [t.accountId, t.denialId] }),
    index('denials_version').on(t.accountId, t.version, t.denialId).where(sql`${t.version} >= 0`),
  ],
)

export const LEDGER_KINDS = [
  'grant',
  'topup',
  'correction',
  'settle',
  'release',
  'limit',
  'approval',
  'reset',
  'suspend',
  'resume',
] as const

/** Append-only: every movement that is not a hold. Holds plus ledger recompute every balance. */
export const ledger = pgTable(
  'ledger',
  {
    accountId: uuid('account_id').notNull(),
    entryId: uuid('entry_id').notNull(),
    kind: text('kind', { enum: LEDGER_KINDS }).notNull(),
    agentId: text('agent_id'),
    holdId: uuid('hold_id'),
    opsDelta: bigint('ops_delta', { mode: 'bigint' }).notNull(),
    amountNanousd: money('amount_nanousd').notNull(),
    /** What it was for, e.g. "signup", or the new limits of an envelope. */
    detail: text('detail').notNull(),
    atMs: ms('at_ms').notNull(),
    /** The account's version that this entry made. */
    version: bigint('version', { mode: 'bigint' }).notNull().default(sql`0`),
  },
  (t) => [
    primaryKey({ columns: [t.accountId, t.entryId] }),
    index('ledger_version').on(t.accountId, t.version, t.entryId).where(sql`${t.version} >= 0`),
  ],
)
