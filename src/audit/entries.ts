import { type HistoryRow, RANK } from '../budgets/history.ts'
import { usdFromNanousd } from '../core/money.ts'
import type { EntryContent } from './chain.ts'
import type { AuditEvent } from './store.ts'

/** An event of either source. */
export type EventRow = ({ readonly source: 'engine' } & HistoryRow) | ({ readonly source: 'event' } & AuditEvent)

type Data = Record<string, unknown>

/** By `holds.kind`. */
const HOLDS = ['clearance', 'booking', 'reservation'] as const
/** As `holds.rates` stores them. */
const RATES = ['input', 'output', 'cached_input', 'cache_write', 'cache_write_1h'] as const
/** Places in `RATES` in order of the names. */
const RATES_BY_NAME = RATES.map((name, index) => ({ name, index })).sort((a, b) => (a.name < b.name ? -1 : 1))

const LEDGER: Readonly<Record<string, string>> = {
  grant: 'quota.granted',
  topup: 'quota.topped_up',
  correction: 'quota.corrected',
  settle: 'hold.settled',
  release: 'hold.released',
  limit: 'envelope.set',
  approval: 'approval.decided',
  reset: 'envelope.reset',
  suspend: 'agent.suspended',
  resume: 'agent.resumed',
}

/**
 * The entry of an event, its keys in order (canonicalJson is faster then). Every character of it is under the seals that exist: what an event of today gives may never change, only new
 * kinds of events may be added. (A test holds examples against their hashes.)
 */
export function contentOf(accountId: string, seq: number, row: EventRow): EntryContent {
  const { id, atMs: at, agentId: agent_id } = row
  const { type, data } = row.source === 'event' ? eventBody(row) : engineBody(row)
  return { account_id: accountId, agent_id, at, data, id, seq, type }
}

const eventBody = (event: AuditEvent): { type: string; data: Data } => ({
  type: event.type,
  data: { actor: event.actor, ...objectOf(event.detail) },
})

function engineBody(row: HistoryRow): { type: string; data: Data } {
  if (row.rank === RANK.ledger) return { type: LEDGER[row.kind] ?? `ledger.${row.kind}`, data: ledgerData(row) }
  const kind = HOLDS[Number(row.kind)] ?? `hold_${row.kind}`
  const isBooking = kind === 'booking'
  const estimate_nanousd = row.amount.toString()
  const estimate_usd = usdFromNanousd(row.amount)
  const estimate = { estimate_nanousd, estimate_usd, [isBooking ? 'label' : 'model']: row.model }
  if (row.rank === RANK.denial) return { type: `${kind}.denied`, data: { ...estimate, reason: row.reason } }
  const data = isBooking ? { detail: parsed(row.detail), ...estimate } : { ...estimate, rates_pusd_per_token: ratesOf(row.rates) }
  return { type: `${kind}.approved`, data }
}

function ledgerData(row: HistoryRow): Data {
  return {
    ...(row.holdId === null && row.amount !== 0n && money('amount', row.amount)),
    ...(row.detail !== null && row.detail !== '' && { detail: parsed(row.detail) }),
    ...(row.holdId !== null && { ...money('drift', row.amount), hold_id: row.holdId }),
    ...(row.ops !== 0n && { operations: Number(row.ops) }),
  }
}

/** Dollars for people, nano-dollars as text for exact sums. */
const money = (name: string, amount: bigint): Data => ({
  [`${name}_nanousd`]: amount.toString(),
  [`${name}_usd`]: usdFromNanousd(amount),
})

const ratesOf = (rates: string | null): Data => {
  // Behind a `;` come the rates of other lengths of input; the ones in front priced the estimate.
  const values = (rates ?? '').split(';', 1).join('').split(',')
  const named: Data = {}
  for (const { name, index } of RATES_BY_NAME) named[name] = values[index] ?? '0'
  return named
}

function parsed(text: string | null): unknown {
  if (text === null || !/^[[{]/.test(text)) return text
  try {
    return JSON.parse(text) as unknown
  } catch {
    return text
  }
}

function objectOf(text: string): Data {
  const value = parsed(text)
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Data) : { detail: text }
}
