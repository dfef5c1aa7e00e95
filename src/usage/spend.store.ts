import type { Nanousd } from '../core/money.ts'
import { Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'
import { bookedTokens, settledTokens } from './rollup.store.ts'
import { storable, within } from './store.ts'
import { SPAN } from './tables.ts'

/** Most rows of an account that one question looks at beside the sums, newest first. */
const MAX_HOLDS = 200_000
const HOUR_MS = 3_600_000
const DAY_MS = 24 * HOUR_MS
/** What a hold counts as: nothing once released, what was used once settled, its estimate until then. */
const COUNTED =
  'case h.state when 2 then 0 when 1 then coalesce(h.actual_nanousd, h.estimate_nanousd) else h.estimate_nanousd end'

export type Range = { readonly agentId: string | null; readonly from_ms: number; readonly to_ms: number }
export type SpendRow = { readonly index: number; readonly spent: Nanousd; readonly calls: number }

const floorTo = (at_ms: number, length_ms: number): number => Math.floor(at_ms / length_ms) * length_ms
const ceilTo = (at_ms: number, length_ms: number): number => Math.ceil(at_ms / length_ms) * length_ms

/**
 * The rows of a range, to be summed: `agent_id, model, at_ms, spent, calls, input_tokens, output_tokens`. One statement and so one moment:
 * sums as far as they go (`usage_heads`), and what has happened since, which is little. The parts of the range that are no whole hours are read
 * from the holds themselves; those are found by their versions, since an account's time never runs backwards. Tokens are known of whole hours
 * only.
 * @param finest `hold`: nothing from sums; `day`: whole days from sums of days, where it does not matter when in the range
 */
function spendIn(p: Parameters, accountId: string, { agentId, from_ms, to_ms }: Range, finest: 'hold' | 'hour' | 'day'): string {
  const account = p.addOne('uuid', accountId)
  const head = `(select coalesce((select version from usage_heads where account_id = ${account}), -1))`
  const ms = (at_ms: number): string => p.addOne('bigint', at_ms)
  const hours = { from: Math.min(ceilTo(from_ms, HOUR_MS), to_ms), to: to_ms }
  hours.to = Math.max(floorTo(to_ms, HOUR_MS), hours.from)
  if (finest === 'hold') hours.from = hours.to = to_ms
  const days = { from: Math.min(ceilTo(hours.from, DAY_MS), hours.to), to: hours.to }
  days.to = finest === 'day' ? Math.max(floorTo(hours.to, DAY_MS), days.from) : days.from
  const sums = (span: number, from: number, to: number): string[] =>
    from >= to
      ? []
      : [
          `select agent_id, model, start_ms as at_ms, spent_nanousd as spent, calls, input_tokens, output_tokens from usage_spend
           where account_id = ${account} and span = ${span} and start_ms >= ${ms(from)} and start_ms < ${ms(to)}`,
        ]
  const edge = (from: number, to: number): string[] => {
    if (from >= to) return []
    const bound = (which: string): string =>
      `(select ${which} from usage_spend where account_id = ${account} and span = ${SPAN.hour}
        and start_ms >= ${ms(floorTo(from, HOUR_MS))} and start_ms < ${ms(to)})`
    return [
      `select agent_id, model, taken_ms, ${COUNTED}, 1, 0, 0 from (
         select * from holds where account_id = ${account} and taken_version >= 0 and taken_version >= ${bound('min(first_version)')}
           and taken_version <= least(${head}, ${bound('max(last_version)')})
         order by taken_version desc, hold_id desc limit ${MAX_HOLDS}) h
       where taken_ms >= ${ms(from)} and taken_ms < ${ms(to)}`,
    ]
  }
  const [from, to, sumsFrom, sumsTo] = [from_ms, to_ms, hours.from, hours.to].map(ms)
  const parts = [
    ...edge(from_ms, hours.from),
    ...sums(SPAN.hour, hours.from, days.from),
    ...sums(SPAN.day, days.from, days.to),
    ...sums(SPAN.hour, days.to, hours.to),
    ...edge(hours.to, to_ms),
    `select agent_id, model, taken_ms, ${COUNTED}, 1, ${bookedTokens('input_tokens')}, ${bookedTokens('output_tokens')} from (
       select * from holds where account_id = ${account} and taken_version >= 0 and taken_version > ${head}
       order by taken_version desc, hold_id desc limit ${MAX_HOLDS}) h
     where taken_ms >= ${from} and taken_ms < ${to}`,
    // What has changed of a hold that was summed up before; of the others it is in the hold itself.
    `select h.agent_id, h.model, h.taken_ms,
       case when h.taken_version <= ${head} and h.taken_ms >= ${sumsFrom} and h.taken_ms < ${sumsTo} then l.amount_nanousd else 0 end,
       0, ${settledTokens('input_tokens')}, ${settledTokens('output_tokens')}
     from (select * from ledger where account_id = ${account} and version >= 0 and version > ${head} and kind in ('settle', 'release')
       order by version desc, entry_id desc limit ${MAX_HOLDS}) l
     join holds h on h.account_id = ${account} and h.hold_id = l.hold_id where h.taken_ms >= ${from} and h.taken_ms < ${to}`,
  ]
  const agent = agentId === null ? '' : `where ${within(p.addOne('text', agentId))}`
  return `select h.* from (${parts.join(' union all ')}) h (agent_id, model, at_ms, spent, calls, input_tokens, output_tokens) ${agent}`
}

/** Spend per step of a range, steps without any left out. From sums where the steps are whole hours. */
export async function sumSpend(
  { sql: raw, prepare }: Database,
  accountId: string,
  range: Range & { step_ms: number },
): Promise<SpendRow[]> {
  const { from_ms, step_ms } = range
  const finest =
    from_ms % HOUR_MS !== 0 || step_ms % HOUR_MS !== 0 ? 'hold' : from_ms % DAY_MS || step_ms % DAY_MS ? 'hour' : 'day'
  const p = new Parameters()
  const rows = await raw.unsafe(
    `select ((s.at_ms - ${p.addOne('bigint', from_ms)}) / ${p.addOne('bigint', step_ms)})::int as index, ${storable('sum(s.spent)')} as spent, sum(s.calls)::int as calls
     from (${spendIn(p, accountId, range, finest)}) s group by 1 order by 1`,
    p.values(),
    { prepare },
  )
  return rows.map((row) => ({ index: Number(row.index), spent: row.spent as bigint, calls: Number(row.calls) }))
}

export type AgentSpend = { readonly agentId: string; readonly spent: Nanousd; readonly calls: number }

/** Spend per agent in a range, the largest first. */
export async function sumSpendByAgent(
  { sql: raw, prepare }: Database,
  accountId: string,
  range: Range & { limit: number },
): Promise<AgentSpend[]> {
  const p = new Parameters()
  const rows = await raw.unsafe(
    `select s.agent_id, ${storable('sum(s.spent)')} as spent, sum(s.calls)::int as calls from (${spendIn(p, accountId, range, 'day')}) s
     group by 1 having sum(s.calls) > 0 order by 2 desc, 1 limit ${p.addOne('integer', range.limit)}`,
    p.values(),
    { prepare },
  )
  return rows.map((row) => ({ agentId: row.agent_id as string, spent: row.spent as bigint, calls: Number(row.calls) }))
}

export type ModelSpend = {
  readonly model: string
  readonly spent: Nanousd
  readonly calls: number
  /** Of the settled calls among them. */
  readonly inputTokens: bigint
  readonly outputTokens: bigint
}

/** Spend and tokens per model in a range of whole hours, the largest spend first. */
export async function sumSpendByModel(
  { sql: raw, prepare }: Database,
  accountId: string,
  range: Range & { limit: number },
): Promise<ModelSpend[]> {
  const p = new Parameters()
  const rows = await raw.unsafe(
    `select s.model, ${storable('sum(s.spent)')} as spent, sum(s.calls)::int as calls, sum(s.input_tokens)::bigint as input_tokens, sum(s.output_tokens)::bigint as output_tokens
     from (${spendIn(p, accountId, range, 'day')}) s group by 1 having sum(s.calls) > 0 order by 2 desc, 1 limit ${p.addOne('integer', range.limit)}`,
    p.values(),
    { prepare },
  )
  return rows.map((row) => ({
    model: row.model as string,
    spent: row.spent as bigint,
    calls: Number(row.calls),
    inputTokens: row.input_tokens as bigint,
    outputTokens: row.output_tokens as bigint,
  }))
}
