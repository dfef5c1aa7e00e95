import { type Nanousd, usdFromNanousd } from '../core/money.ts'
import type { Refusal } from './requests.ts'
import { DENIAL_REASONS, type DenialReason } from './state.ts'
import { WINDOWS, type Window } from './windows.ts'

/**
 * Why a spend was refused, where the contract answers 403 (section 9): an exceeded envelope names its window, everything else is as in a
 * clearance's denial.
 */
export type SpendReason = Exclude<DenialReason, 'envelope_exceeded'> | `${Window}_budget_exceeded`

export const SPEND_REASONS: readonly SpendReason[] = [
  ...DENIAL_REASONS.filter((reason) => reason !== 'envelope_exceeded'),
  ...WINDOWS.map((window) => `${window}_budget_exceeded` as const),
]

/** The reason and a sentence with the figures, as those surfaces word them. @param required what the spend would have cost */
export function spendRefusal(refusal: Refusal, required: Nanousd): { reason: SpendReason; message: string } {
  const { reason, tightest } = refusal
  switch (reason) {
    case 'envelope_exceeded': {
      if (tightest === null) throw new Error('an exceeded envelope has a limit')
      const name = tightest.window.charAt(0).toUpperCase() + tightest.window.slice(1)
      const figures = `Limit: ${dollars(tightest.limit + tightest.extra)}, Spent: ${dollars(tightest.spent)}, Required: ${dollars(required)}`
      return { reason: `${tightest.window}_budget_exceeded`, message: `${name} budget exceeded. ${figures}` }
    }
    case 'suspended':
      return { reason, message: `Spending is suspended for "${refusal.suspendedPath ?? '*'}" and everything below it.` }
    case 'no_credits':
      return { reason, message: 'The account has no governance operations left.' }
    case 'no_envelope':
      return { reason, message: 'No envelope covers this agent.' }
    case 'loop_detected':
      return { reason, message: 'The same request has been repeated too often.' }
    case 'model_not_allowed':
      return { reason, message: refusal.policy?.message ?? 'This model is not allowed for this agent.' }
    case 'max_tokens_exceeded':
      return { reason, message: refusal.policy?.message ?? 'This is more than this agent may use per request.' }
    case 'tool_not_allowed':
      return { reason, message: refusal.policy?.message ?? 'This action is not allowed for this agent.' }
  }
}

/** Cents, or as many of 6 decimals as the amount has. */
function dollars(amount: Nanousd): string {
  const usd = usdFromNanousd(amount)
  const short = usd.toFixed(2)
  return `$${Number(short) === usd ? short : usd.toFixed(6).replace(/0+$/, '')}`
}
