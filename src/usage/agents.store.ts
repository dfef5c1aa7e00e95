import { type Companion, type CompanionPart, IN_LOCKED } from '../budgets/companion.ts'
import type { AccountChange } from '../budgets/state.ts'
import type { Nanousd } from '../core/money.ts'
import { ArrayLiteral, type Parameters } from '../db/array-literal.ts'
import type { Database } from '../db/client.ts'

/** Agents remembered by a process; when there are more, it forgets them all and begins again. */
const REMEMBERED = 50_000
const SEEN_FOR_MS = 60_000

type Sighting = { readonly accountId: string; readonly agentId: string; readonly atMs: number }

/** Notes which agents decide, with their decisions: once a minute for each agent of this process, so the usual batch stores nothing. */
export class AgentSightings implements Companion {
  /** When each was last stored, by account and agent: two lookups by strings that exist cost less than making one string of them. */
  readonly #seen = new Map<string, Map<string, number>>()
  #remembered = 0

  part(changes: readonly AccountChange[], p: Parameters): CompanionPart | null {
    let found: Sighting[] | undefined
    for (const { account, newHolds, denials, clockMs } of changes) {
      const { accountId } = account
      const known = this.#seen.get(accountId)
      let fresh: Set<string> | undefined
      const see = (agentId: string): void => {
        const before = known?.get(agentId)
        if (before !== undefined && clockMs - before < SEEN_FOR_MS) return
        fresh ??= new Set()
        if (fresh.has(agentId)) return
        fresh.add(agentId)
        found ??= []
        found.push({ accountId, agentId, atMs: clockMs })
      }
      for (const { agentId } of newHolds) see(agentId)
      for (const { agentId } of denials) see(agentId)
    }
    if (found === undefined) return null
    const rows = found
    const columns = [
      p.add('uuid', rows, (row, a) => a.raw(row.accountId)),
      p.add('text', rows, (row, a) => a.text(row.agentId)),
      p.add('bigint', rows, (row, a) => a.raw(row.atMs)),
    ]
    return {
      sql: `sighted as (
  insert into agents (account_id, agent_id, first_ms, last_ms)
  select u.account_id, u.agent_id, u.at_ms, u.at_ms from unnest(${columns.join(', ')}) u(account_id, agent_id, at_ms) where ${IN_LOCKED}
  on conflict (account_id, agent_id) do update set last_ms = greatest(agents.last_ms, excluded.last_ms))`,
      stored: (accountIds) => {
        for (const row of rows) if (accountIds.has(row.accountId)) this.#remember(row)
      },
    }
  }

  #remember({ accountId, agentId, atMs }: Sighting): void {
    if (this.#remembered >= REMEMBERED) {
      this.#seen.clear()
      this.#remembered = 0
    }
    const known = this.#seen.get(accountId) ?? new Map<string, number>()
    this.#seen.set(accountId, known)
    if (!known.has(agentId)) this.#remembered++
    known.set(agentId, atMs)
  }
}

export type AgentRow = {
  readonly agentId: string
  /** null for an agent that has an envelope and never asked for anything. */
  readonly firstMs: number | null
  readonly lastMs: number | null
}

/** Newest open holds that are counted per agent. */
export const MAX_OPEN = 1_000

const PAGE = `(select agent_id from agents where account_id = $1::uuid and agent_id > $2 and ($3::text is null or agent_id = $3 or starts_with(agent_id, $3 || '/')) order by agent_id limit $4::int)
  union (select agent_id from envelopes where account_id = $1::uuid and agent_id > $2 and agent_id <> '*' and ($3::text is null or agent_id = $3 or starts_with(agent_id, $3 || '/')) order by agent_id limit $4::int)`

/** Agents in order of id, from behind `after` on: those that asked for something and those that have an envelope. */
export async function listAgents(
  { sql, prepare }: Database,
  accountId: string,
  page: { boundTo: string | null; after: string; limit: number },
): Promise<AgentRow[]> {
  const rows = await sql.unsafe(
    `select p.agent_id, a.first_ms, a.last_ms from (select agent_id from (${PAGE}) u order by agent_id limit $4::int) p
     left join agents a on a.account_id = $1::uuid and a.agent_id = p.agent_id order by p.agent_id`,
    [accountId, page.after, page.boundTo, String(page.limit)],
    { prepare },
  )
  return rows.map(agentOf)
}

/** One agent, null when it is unknown here. */
export async function findAgent({ sql, prepare }: Database, accountId: string, agentId: string): Promise<AgentRow | null> {
  const [row] = await sql.unsafe(
    `select coalesce(a.agent_id, e.agent_id) as agent_id, a.first_ms, a.last_ms
     from (select agent_id, first_ms, last_ms from agents where account_id = $1::uuid and agent_id = $2) a
     full join (select agent_id from envelopes where account_id = $1::uuid and agent_id = $2) e on e.agent_id = a.agent_id`,
    [accountId, agentId],
    { prepare },
  )
  return row === undefined ? null : agentOf(row)
}

const agentOf = (row: Record<string, unknown>): AgentRow => ({
  agentId: row.agent_id as string,
  firstMs: row.first_ms === null ? null : Number(row.first_ms),
  lastMs: row.last_ms === null ? null : Number(row.last_ms),
})

export type OpenHolds = { readonly count: number; readonly amount: Nanousd }

/** Clearances and reservations that are neither settled nor expired, among each agent's newest `MAX_OPEN` unsettled ones. */
export async function sumOpenHolds(
  { sql, prepare }: Database,
  accountId: string,
  agentIds: readonly string[],
  now_ms: number,
): Promise<Map<string, OpenHolds>> {
  const ids = new ArrayLiteral()
  for (const agentId of agentIds) ids.text(agentId)
  const rows = await sql.unsafe(
    `select u.agent_id, count(*)::int as count, sum(h.estimate_nanousd)::bigint as amount
     from unnest($2::text[]) u(agent_id), lateral (
       select estimate_nanousd, expires_ms from holds where account_id = $1::uuid and agent_id = u.agent_id and state = 0
       order by taken_version desc, hold_id desc limit ${MAX_OPEN}) h
     where h.expires_ms > $3::bigint group by 1`,
    [accountId, ids.close(), String(now_ms)],
    { prepare },
  )
  return new Map(rows.map((row) => [row.agent_id as string, { count: row.count as number, amount: row.amount as bigint }]))
}
