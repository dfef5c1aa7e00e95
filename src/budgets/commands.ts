import { DomainError } from '../core/errors.ts'
import { isUuid, NIL_UUID } from '../core/ids.ts'
import { MAX_NANOUSD, type Nanousd } from '../core/money.ts'
import type { TokenRates } from '../prices/cost.ts'
import { pathOf } from './path.ts'
import type { PolicyRefusal } from './policy.ts'
import type { CallId, Purchase, Refusal } from './requests.ts'
import type { ClearCommand, Denial, Resolved, Unresolved, Usage } from './state.ts'
import { HOLD_KIND } from './tables.ts'

/** @throws DomainError `invalid_params` for more than can be stored */
export function storable(amount: Nanousd, field: string): Nanousd {
  if (amount <= MAX_NANOUSD) return amount
  throw new DomainError('invalid_params', {
    details: { required: [], issues: [{ path: field, message: 'is worth more than 9 billion dollars: ask for less at once' }] },
  })
}

export const NO_USAGE: Usage = {
  inputTokens: 0,
  outputTokens: 0,
  cachedInputTokens: 0,
  cacheWriteInputTokens: 0,
  cacheWrite1hInputTokens: 0,
}
const NO_RATES: TokenRates = { input: 0n, output: 0n, cachedInput: 0n, cacheWrite: 0n, cacheWrite1h: 0n }

export const bookingOf = (call: CallId, purchase: Purchase): ClearCommand => ({
  kind: 'clear',
  id: call.operationId,
  resumed: call.resumed,
  agentId: purchase.agentId,
  path: pathOf(purchase.agentId),
  model: purchase.label,
  estimate: storable(purchase.cost, 'cost'),
  rates: NO_RATES,
  hold_ms: 0,
  holdKind: HOLD_KIND.booking,
  detail: purchase.detail,
})

export const refusalOf = (denial: Denial, estimate: Nanousd, tokens: number, policy: PolicyRefusal | null): Refusal => ({
  ...denial,
  ...(policy && denial.reason === policy.reason && { policy }),
  affordableTokens: tokens,
  shortfall: denial.tightest === null ? 0n : estimate - denial.tightest.remaining,
})

/** An id of another shape names no clearance: answered like any unknown one. */
export const holdIdOf = (clearanceId: string): string => {
  const id = clearanceId.toLowerCase()
  return isUuid(id) ? id : NIL_UUID
}

/** A limit too small for the smallest unit still is a limit above zero; no priced call fits it. */
export const smallestUp = (limit: Nanousd): Nanousd => (limit === 0n ? 1n : limit)

export const envelopeNotFound = (agentId: string): DomainError =>
  new DomainError('not_found', {
    hint: `No envelope is set on "${agentId}". GET /v1/budget/envelope lists those there are; PUT /v1/budget/envelope sets one.`,
  })

export function resolvedOrThrow(outcome: Resolved | Unresolved): Resolved {
  if (!('error' in outcome)) return outcome
  if (outcome.expired) {
    throw new DomainError('no_pending_clearance', {
      hint: 'This clearance has expired: its estimate counts as spent and can no longer be changed. Ask for a longer hold with hold_seconds (up to 604800).',
    })
  }
  throw new DomainError(outcome.error)
}
