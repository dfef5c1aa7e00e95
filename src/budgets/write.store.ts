import { ArrayLiteral, Parameters } from '../db/array-literal.ts'
import { type Companion, type CompanionPart, IN_LOCKED } from './companion.ts'
import { EXTRAS, encodeRates, encodeResets, encodeResolution, type LaneSql, LIMITS, query, SPENDS } from './rows.store.ts'
import type { AccountChange, EnvelopeState, HoldState } from './state.ts'
import { HOLD_STATE } from './tables.ts'

/** Locks accounts in key order, for deciding under the lock when optimism has failed too often. Inside a transaction only. */
export async function lockAccounts(lane: LaneSql, accountIds: readonly string[]): Promise<void> {
  const ids = new ArrayLiteral()
  for (const id of accountIds) ids.raw(id)
  await query(lane, 'select 1 from accounts where account_id = any($1::uuid[]) order by account_id for no key update', [
    ids.close(),
  ])
}

/**
 * Writes decided changes in one statement: the account rows whose version still matches are locked in key order and only
 * their changes are stored. @returns the accounts that were stored; the others were moved by another process and must be decided again
 */
export async function writeChanges(
  lane: LaneSql,
  changes: readonly AccountChange[],
  companions: readonly Companion[],
): Promise<Set<string>> {
  const ordered = changes.length === 1 ? changes : [...changes].sort(byAccount)
  const { text, values, used } = writeStatement(ordered, companions, lane.prepare)
  const [row] = await query(lane, text, values)
  const stored = new Set(
    row?.stored === ordered.length
      ? ordered.map((change) => change.account.accountId)
      : ((row?.accounts as string | null) ?? '').split(','),
  )
  for (const part of used) part.stored?.(stored)
  return stored
}

/** Ids are lower-case UUIDs: as text they sort as PostgreSQL sorts them. */
const byAccount = (a: AccountChange, b: AccountChange): number => (a.account.accountId < b.account.accountId ? -1 : 1)

/**
 * Only the parts that have rows are in the text, so a batch of plain approvals runs a short statement: few texts exist.
 * @param isOrdered rows are joined in the order of the arrays, by the settings of the lanes' connections (db/client.ts)
 */
function writeStatement(changes: readonly AccountChange[], companions: readonly Companion[], isOrdered: boolean) {
  const p = new Parameters()
  const changed = changes.filter((change) => change.changed)
  const parts = isOrdered && changed.length === changes.length ? [updateAndLock(p, changes)] : lockThenUpdate(p, changes, changed)
  const charged = rowsOf(changes, (change) => change.charged)
  if (charged.length > 0) {
    parts.push(`charged as (
  update envelopes e set (${SPENDS}, clock_ms) = (u.s0, u.s1, u.s2, u.s3, u.s4, u.clock_ms)
  from unnest(${p.add('uuid', charged, (r, a) => a.raw(r[0]))}, ${p.add('text', charged, (r, a) => a.text(r[1][0]))}, ${spendParameters(p, charged)}, ${p.add('bigint', charged, (r, a) => a.raw(r[1][1].clockMs))}) u(account_id, agent_id, s0, s1, s2, s3, s4, clock_ms)
  where e.account_id = u.account_id and e.agent_id = u.agent_id and ${IN_LOCKED})`)
  }
  const limited = rowsOf(changes, (change) => change.limited)
  if (limited.length > 0) {
    parts.push(`limited as (
  insert into envelopes (account_id, agent_id, ${LIMITS}, ${SPENDS}, ${EXTRAS}, resets, suspended_ms, loop_max_repeats, loop_window_ms, clock_ms, created_ms)
  select * from unnest(${p.add('uuid', limited, (r, a) => a.raw(r[0]))}, ${p.add('text', limited, (r, a) => a.text(r[1][0]))}, ${limitParameters(p, limited)}, ${spendParameters(p, limited)}, ${extraParameters(p, limited)}, ${p.add('text', limited, (r, a) => a.text(encodeResets(r[1][1].resets)))}, ${p.add('bigint', limited, (r, a) => a.raw(r[1][1].suspendedMs ?? null))}, ${p.add('integer', limited, (r, a) => a.raw(r[1][1].loop?.maxRepeats ?? null))}, ${p.add('bigint', limited, (r, a) => a.raw(r[1][1].loop?.window_ms ?? null))}, ${p.add('bigint', limited, (r, a) => a.raw(r[1][1].clockMs))}, ${p.add('bigint', limited, (r, a) => a.raw(r[1][1].createdMs))}) u(account_id)
  where ${IN_LOCKED}
  on conflict (account_id, agent_id) do update set (${LIMITS}, ${SPENDS}, ${EXTRAS}, resets, suspended_ms, loop_max_repeats, loop_window_ms, clock_ms) = (${excluded(LIMITS)}, ${excluded(SPENDS)}, ${excluded(EXTRAS)}, excluded.resets, excluded.suspended_ms, excluded.loop_max_repeats, excluded.loop_window_ms, excluded.clock_ms))`)
  }
  const held = listsOf(changes, (change) => change.newHolds)
  const open = held.filter(([, hold]) => hold.state === HOLD_STATE.open)
  const booked = open.length === held.length ? [] : held.filter(([, hold]) => hold.state !== HOLD_STATE.open)
  if (open.length > 0) parts.push(`held as (${insertHolds(p, open, `${HOLD_STATE.open}`, '', '')})`)
  if (booked.length > 0) {
    const more = `${p.add('bigint', booked, (r, a) => a.raw(r[1].resolvedMs))}, ${p.add('bigint', booked, (r, a) => a.raw(r[1].actual))}, ${p.add('text', booked, (r, a) => a.text(encodeResolution(r[1].outcome)))}, ${p.add('text', booked, (r, a) => a.text(r[1].detail ?? null))}`
    parts.push(
      `booked as (${insertHolds(p, booked, `${HOLD_STATE.settled}`, more, ', resolved_ms, actual_nanousd, outcome, detail')})`,
    )
  }
  const resolved = listsOf(changes, (change) => change.resolvedHolds)
  if (resolved.length > 0) {
    parts.push(`resolved as (
  update holds h set state = u.state, resolved_ms = u.resolved_ms, actual_nanousd = u.actual, outcome = u.outcome
  from unnest(${p.add('uuid', resolved, (r, a) => a.raw(r[0].account.accountId))}, ${p.add('uuid', resolved, (r, a) => a.raw(r[1].holdId))}, ${p.add('smallint', resolved, (r, a) => a.raw(r[1].state))}, ${p.add('bigint', resolved, (r, a) => a.raw(r[1].resolvedMs))}, ${p.add('bigint', resolved, (r, a) => a.raw(r[1].actual))}, ${p.add('text', resolved, (r, a) => a.text(encodeResolution(r[1].outcome)))}) u(account_id, hold_id, state, resolved_ms, actual, outcome)
  where h.account_id = u.account_id and h.hold_id = u.hold_id and ${IN_LOCKED})`)
  }
  const renewed = listsOf(changes, (change) => change.renewedHolds)
  if (renewed.length > 0) {
    parts.push(`renewed as (
  update holds h set expires_ms = u.expires_ms
  from unnest(${p.add('uuid', renewed, (r, a) => a.raw(r[0].account.accountId))}, ${p.add('uuid', renewed, (r, a) => a.raw(r[1].holdId))}, ${p.add('bigint', renewed, (r, a) => a.raw(r[1].expiresMs))}) u(account_id, hold_id, expires_ms)
  where h.account_id = u.account_id and h.hold_id = u.hold_id and ${IN_LOCKED})`)
  }
  const denied = listsOf(changes, (change) => change.denials)
  if (denied.length > 0) {
    // A request taken up after a crash may have left its denial already; ids are otherwise never reused.
    parts.push(`denied as (
  insert into denials (account_id, denial_id, agent_id, kind, model, estimate_nanousd, reason, denied_ms, version)
  select * from unnest(${p.add('uuid', denied, (r, a) => a.raw(r[0].account.accountId))}, ${p.add('uuid', denied, (r, a) => a.raw(r[1].id))}, ${p.add('text', denied, (r, a) => a.text(r[1].agentId))}, ${p.add('smallint', denied, (r, a) => a.raw(r[1].kind))}, ${p.add('text', denied, (r, a) => a.text(r[1].model))}, ${p.add('bigint', denied, (r, a) => a.raw(r[1].estimate))}, ${p.add('text', denied, (r, a) => a.raw(r[1].reason))}, ${p.add('bigint', denied, (r, a) => a.raw(r[1].atMs))}, ${p.add('bigint', denied, (r, a) => a.raw(r[0].account.version + 1n))}) u(account_id)
  where ${IN_LOCKED} on conflict do nothing)`)
  }
  const entries = listsOf(changes, (change) => change.ledger)
  if (entries.length > 0) {
    // As with holds, an id that is taken must fail: the same command was carried out by another process meanwhile.
    parts.push(`entries as (
  insert into ledger (account_id, entry_id, kind, agent_id, hold_id, ops_delta, amount_nanousd, detail, at_ms, version)
  select * from unnest(${p.add('uuid', entries, (r, a) => a.raw(r[0].account.accountId))}, ${p.add('uuid', entries, (r, a) => a.raw(r[1].id))}, ${p.add('text', entries, (r, a) => a.raw(r[1].kind))}, ${p.add('text', entries, (r, a) => a.text(r[1].agentId))}, ${p.add('uuid', entries, (r, a) => a.raw(r[1].holdId))}, ${p.add('bigint', entries, (r, a) => a.raw(r[1].ops))}, ${p.add('bigint', entries, (r, a) => a.raw(r[1].amount))}, ${p.add('text', entries, (r, a) => a.text(r[1].detail))}, ${p.add('bigint', entries, (r, a) => a.raw(r[1].atMs))}, ${p.add('bigint', entries, (r, a) => a.raw(versionAfter(r[0])))}) u(account_id)
  where ${IN_LOCKED})`)
  }
  const used: CompanionPart[] = []
  for (const companion of companions) {
    const part = companion.part(changes, p)
    if (part === null) continue
    parts.push(part.sql)
    used.push(part)
  }
  const text = `with ${parts.join(',\n')}
select count(*)::integer as stored, case when count(*) < ${p.addOne('integer', changes.length)} then string_agg(account_id::text, ',') end as accounts from locked`
  return { text, values: p.values(), used }
}

/** The update is the lock: one visit to each account row instead of two. Every row is updated, in key order. */
const updateAndLock = (p: Parameters, changes: readonly AccountChange[]): string => `locked as (
  update accounts a set ops = u.ops, clock_ms = u.clock_ms, version = a.version + 1
  from unnest(${accountParameters(p, changes)}, ${quotaParameters(p, changes)}) u(account_id, version, ops, clock_ms)
  where a.account_id = u.account_id and a.version = u.version
  returning a.account_id)`

function lockThenUpdate(p: Parameters, changes: readonly AccountChange[], changed: readonly AccountChange[]): string[] {
  const locked = `locked as materialized (
  select a.account_id from accounts a join unnest(${accountParameters(p, changes)}) u(account_id, version)
    on a.account_id = u.account_id and a.version = u.version
  order by a.account_id for no key update of a)`
  if (changed.length === 0) return [locked]
  const updated = `account_rows as (
  update accounts a set ops = u.ops, clock_ms = u.clock_ms, version = a.version + 1
  from unnest(${accountParameters(p, changed)}, ${quotaParameters(p, changed)}) u(account_id, version, ops, clock_ms)
  where a.account_id = u.account_id and ${IN_LOCKED})`
  return [locked, updated]
}

const accountParameters = (p: Parameters, changes: readonly AccountChange[]): string =>
  `${p.add('uuid', changes, (c, a) => a.raw(c.account.accountId))}, ${p.add('bigint', changes, (c, a) => a.raw(c.account.version))}`
const quotaParameters = (p: Parameters, changes: readonly AccountChange[]): string =>
  `${p.add('bigint', changes, (c, a) => a.raw(c.ops))}, ${p.add('bigint', changes, (c, a) => a.raw(c.clockMs))}`

type EnvelopeRow = readonly [accountId: string, entry: readonly [agentId: string, envelope: EnvelopeState]]

const rowsOf = (
  changes: readonly AccountChange[],
  rows: (change: AccountChange) => ReadonlyMap<string, EnvelopeState>,
): EnvelopeRow[] => changes.flatMap((change) => [...rows(change)].map((entry) => [change.account.accountId, entry] as const))

type ChangeRow<T> = readonly [change: AccountChange, row: T]
const listsOf = <T>(changes: readonly AccountChange[], rows: (change: AccountChange) => readonly T[]): ChangeRow<T>[] =>
  changes.flatMap((change) => rows(change).map((row) => [change, row] as const))

/** The account's version once the change is stored. */
const versionAfter = (change: AccountChange): bigint => change.account.version + (change.changed ? 1n : 0n)

/** @param more placeholders of the arrays of further `columns` */
function insertHolds(p: Parameters, rows: ChangeRow<HoldState>[], state: string, more: string, columns: string): string {
  const base = 'account_id, hold_id, agent_id, kind, model, estimate_nanousd, rates, charged, taken_ms, taken_version, expires_ms'
  const arrays = [
    p.add('uuid', rows, ([change], a) => a.raw(change.account.accountId)),
    p.add('uuid', rows, ([, hold], a) => a.raw(hold.holdId)),
    p.add('text', rows, ([, hold], a) => a.text(hold.agentId)),
    p.add('smallint', rows, ([, hold], a) => a.raw(hold.kind)),
    p.add('text', rows, ([, hold], a) => a.text(hold.model)),
    p.add('bigint', rows, ([, hold], a) => a.raw(hold.estimate)),
    p.add('text', rows, ([, hold], a) => a.text(encodeRates(hold.rates))),
    p.add('text', rows, ([, hold], a) => a.raw(hold.charged)),
    p.add('bigint', rows, ([, hold], a) => a.raw(hold.takenMs)),
    p.add('bigint', rows, ([, hold], a) => a.raw(hold.takenVersion)),
    p.add('bigint', rows, ([, hold], a) => a.raw(hold.expiresMs)),
  ]
  if (more !== '') arrays.push(more)
  return `
  insert into holds (${base}${columns}, state)
  select u.*, ${state} from unnest(${arrays.join(', ')}) u(${base}${columns})
  where ${IN_LOCKED}`
}

const spendParameters = (p: Parameters, rows: readonly EnvelopeRow[]): string =>
  [0, 1, 2, 3, 4].map((index) => p.add('bigint', rows, (r, a) => a.raw(r[1][1].spent[index] ?? 0n))).join(', ')
const limitParameters = (p: Parameters, rows: readonly EnvelopeRow[]): string =>
  [0, 1, 2, 3, 4].map((index) => p.add('bigint', rows, (r, a) => a.raw(r[1][1].limits[index] ?? null))).join(', ')
const extraParameters = (p: Parameters, rows: readonly EnvelopeRow[]): string =>
  [0, 1, 2, 3, 4]
    .map((index) => p.add('bigint', rows, (r, a) => a.raw(r[1][1].extra?.amounts[index] ?? null)))
    .concat(p.add('bigint', rows, (r, a) => a.raw(r[1][1].extra?.clockMs ?? null)))
    .join(', ')
const excluded = (columns: string): string => columns.replaceAll(/\w+/g, 'excluded.$&')
