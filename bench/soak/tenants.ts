import type { Client } from '../../test/support/client.ts'
import { AccountModel } from './account-model.ts'

/** gpt-4o-mini, output (contract section 3, "Prices"). */
export const MODEL = 'gpt-4o-mini'
export const NANOUSD_PER_TOKEN = 600
export const AGENT = 'worker'
export const RATE = { agent_id: AGENT, provider: 'openai', model: MODEL }
export const RATE_PER_MINUTE = 30

/** `wide` is never denied; `tight` runs into its cap and asks for more; `quota` runs out of ops and is given more. */
export type TenantKind = 'wide' | 'tight' | 'quota'
type Hold = { readonly id: string; readonly tokens: number }

/** An account with one agent, and everything its requests have told so far. */
export type Tenant = {
  readonly kind: TenantKind
  readonly key: string
  readonly accountId: string
  readonly model: AccountModel
  /** Approved and not resolved; bounded by the scenarios. */
  readonly open: Hold[]
  readonly rate: RateModel
  /** For names that must not repeat. */
  serial: number
}

const LIMIT_USD: Record<TenantKind, number> = { wide: 100_000, tight: 0.01, quota: 100_000 }
const OPS: Record<TenantKind, number> = { wide: 100_000_000, tight: 100_000_000, quota: 30 }

export async function createTenant(client: Client, kind: TenantKind): Promise<Tenant> {
  const { key, accountId } = await client.createAccount(OPS[kind])
  const limit = LIMIT_USD[kind]
  // A window that a server whose clock jumps might believe to be over.
  const limits = kind === 'wide' ? { session: limit, monthly: limit } : { session: limit }
  await client.setEnvelope(key, { agent_id: AGENT, limits })
  await client.setRate(key, { ...RATE, requests_per_minute: RATE_PER_MINUTE })
  const model = new AccountModel(limit * 1e9, OPS[kind])
  return { kind, key, accountId, model, open: [], rate: new RateModel(RATE_PER_MINUTE), serial: 0 }
}

type Minute = { readonly start: number; sure: number; maybe: number }

/** How many requests a minute's share has let through, as far as the answers tell. Minutes are those of the UTC clock. */
export class RateModel {
  readonly #perMinute: number
  #minutes: Minute[] = []

  constructor(perMinute: number) {
    this.#perMinute = perMinute
  }

  /** @returns ends the check: what its answer got wrong, or null */
  begin(): (allowed: boolean | null) => string | null {
    const first = this.#minute(Date.now())
    first.maybe++
    return (allowed) => {
      const last = this.#minute(Date.now())
      if (allowed === null) {
        if (last !== first) last.maybe++
        return null
      }
      first.maybe--
      if (last !== first) {
        if (allowed) {
          first.maybe++
          last.maybe++
        }
        return null
      }
      if (allowed) {
        first.sure++
        return first.sure > this.#perMinute ? `${first.sure} requests allowed in one minute` : null
      }
      const most = first.sure + first.maybe
      return most < this.#perMinute ? `denied after at most ${most} requests in the minute` : null
    }
  }

  #minute(at_ms: number): Minute {
    const start = at_ms - (at_ms % 60_000)
    const known = this.#minutes.find((minute) => minute.start === start)
    if (known !== undefined) return known
    const minute = { start, sure: 0, maybe: 0 }
    this.#minutes = [minute, ...this.#minutes.slice(0, 2)]
    return minute
  }
}
