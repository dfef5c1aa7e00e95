import type { RaiseView } from '../budgets/reader.ts'
import type { Nanousd } from '../core/money.ts'
import { plainLine } from '../core/text.ts'

const NANOUSD_PER_USD = 1_000_000_000n

/** Dollars with cents, and with more places where the amount has them: `$1,234.50`, `$0.0025`. */
export function usdText(amount: Nanousd): string {
  const sign = amount < 0n ? '-' : ''
  const absolute = amount < 0n ? -amount : amount
  const whole = (absolute / NANOUSD_PER_USD).toLocaleString('en-US')
  const fraction = (absolute % NANOUSD_PER_USD).toString().padStart(9, '0').slice(0, 6)
  return `${sign}$${whole}.${fraction.replace(/0{1,4}$/, '')}`
}

const PER: Record<RaiseView['raise']['window'], string> = {
  hourly: 'an hour',
  daily: 'a day',
  weekly: 'a week',
  monthly: 'a month',
  session: 'in all',
}
const CURRENT: Record<RaiseView['raise']['window'], string> = {
  hourly: 'for this hour',
  daily: 'for today',
  weekly: 'for this week',
  monthly: 'for this month',
  session: 'for good',
}

export const agentText = (agentId: string): string => (agentId === '*' ? 'the whole account' : plainLine(agentId))

/** What approving changes, in one sentence without its subject: "raises crawler from $5.00 to $10.00 a day; $4.98 is spent". */
export function effectText({ raise, limit, extra, spent }: RaiseView): string {
  const agent = agentText(raise.agentId)
  const per = PER[raise.window]
  const amount = usdText(raise.amount)
  const isSpent = `${spent > 0n ? usdText(spent) : 'nothing'} is spent`
  if (raise.kind === 'extra') {
    if (limit === null) return `changes nothing: ${agent} has no limit ${per} any more`
    return `adds ${amount} ${CURRENT[raise.window]} to the ${usdText(limit + extra)} ${per} of ${agent}; ${isSpent}`
  }
  if (limit === null) return `sets a limit of ${amount} ${per} for ${agent}; ${isSpent}`
  const current = limit + extra
  const verb = raise.amount > current ? 'raises' : raise.amount < current ? 'lowers' : 'keeps'
  return verb === 'keeps'
    ? `keeps ${agent} at ${amount} ${per}; ${isSpent}`
    : `${verb} ${agent} from ${usdText(current)} to ${amount} ${per}; ${isSpent}`
}
