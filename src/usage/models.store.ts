import { MAX_NANOUSD, type Nanousd } from '../core/money.ts'
import type { Database } from '../db/client.ts'
import { COUNTED, firstIdAt, holdsIn, ID_SLACK_MS, type Range, rangeValues } from './store.ts'

export type ModelSpend = {
  readonly model: string
  readonly spent: Nanousd
  readonly calls: number
  /** Of the settled calls among them. */
  readonly inputTokens: bigint
  readonly outputTokens: bigint
}

/** What was used, as the engine writes it into the ledger when a clearance is settled; null for entries of other kinds. */
const tokens = (name: string): string =>
  `sum(case when l.detail like '{%"input_tokens":%' then (l.detail::json ->> '${name}')::bigint else 0 end)::bigint`

/** Spend and tokens per model in a range, the largest spend first. */
export async function sumSpendByModel(
  { sql, prepare }: Database,
  accountId: string,
  range: Range & { limit: number },
): Promise<ModelSpend[]> {
  const rows = await sql.unsafe(
    `select h.model, least(sum(h.counted), ${MAX_NANOUSD})::bigint as spent, count(*)::int as calls,
       coalesce(${tokens('input_tokens')}, 0) as input_tokens, coalesce(${tokens('output_tokens')}, 0) as output_tokens
     from (${holdsIn(`h.hold_id, h.model, ${COUNTED} as counted`)}) h
     left join (select hold_id, detail from ledger where account_id = $1::uuid and kind = 'settle' and entry_id >= $7::uuid) l on l.hold_id = h.hold_id
     group by 1 order by 2 desc, 1 limit $8::int`,
    [...rangeValues(accountId, range), firstIdAt(range.from_ms - ID_SLACK_MS), String(range.limit)],
    { prepare },
  )
  return rows.map((row) => ({
    model: row.model as string,
    spent: row.spent as bigint,
    calls: row.calls as number,
    inputTokens: row.input_tokens as bigint,
    outputTokens: row.output_tokens as bigint,
  }))
}
