import { usdText } from '../approvals/effect.ts'
import { leftText } from './approve.tsx'
import type { DashboardView } from './dashboard-view.ts'
import { Moment } from './moment.tsx'

type Burn = DashboardView['burn']

const PER = { hourly: 'this hour', daily: 'today', weekly: 'this week', monthly: 'this month', session: 'in all' } as const
export const usd = (amount: number): string => usdText(BigInt(Math.round(amount * 1e9)))

/** Whole cents, where there are any: a rate is no bill. */
const cents = (amount: number): number => (amount < 0.01 ? amount : Math.round(amount * 100) / 100)

/** What the curve says, in one sentence. */
export function outlookOf(burn: Burn, now_ms: number): string {
  const rate = `${usd(cents(burn.rate_usd_per_hour))} an hour`
  if (burn.limit_usd === null) return `It goes at ${rate}. No cap is set.`
  if (burn.limit_reached_at !== null && burn.limit_reached_at <= now_ms) return `The cap of ${usd(burn.limit_usd)} is reached.`
  if (burn.limit_reached_at === null)
    return `At ${rate}, ${usd(cents(burn.forecast_usd))} of ${usd(burn.limit_usd)} will be spent when the window ends.`
  return `At ${rate}, the cap of ${usd(burn.limit_usd)} is reached in ${leftText(burn.limit_reached_at - now_ms)}.`
}

/** Spend against one cap: what was spent, where it is going, and the cap. Lines only, so that it may be stretched; words stay outside of it. */
export function BurnChart({ burn, now_ms }: { readonly burn: Burn; readonly now_ms: number }) {
  const end = burn.limit_reached_at ?? burn.to
  const top = 1.12 * Math.max(burn.limit_usd ?? 0, burn.spent_usd, burn.limit_usd === null ? burn.forecast_usd : 0, 1e-6)
  const x = (at: number): string => (((at - burn.from) / (burn.to - burn.from)) * 100).toFixed(2)
  const y = (amount: number): string => (100 - (Math.min(amount, top) / top) * 100).toFixed(2)
  const spent = burn.points.map(({ at, spent_usd }) => `${x(at)} ${y(spent_usd)}`)
  const forecastEnd = burn.limit_reached_at === null ? burn.forecast_usd : (burn.limit_usd ?? burn.forecast_usd)
  const outlook = outlookOf(burn, now_ms)
  return (
    <figure class="burn">
      <svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label={`Spend over time. ${outlook}`}>
        {[25, 50, 75].map((at) => (
          <path class="grid" d={`M0 ${at}H100`} />
        ))}
        {spent.length > 1 ? (
          <>
            <path class="area" d={`M${x(burn.from)} 100L${spent.join('L')}L${x(now_ms)} 100Z`} />
            <path class="spent" d={`M${spent.join('L')}`} />
          </>
        ) : null}
        {burn.rate_usd_per_hour > 0 && end > now_ms ? (
          <path class="forecast" d={`M${x(now_ms)} ${y(burn.spent_usd)}L${x(end)} ${y(forecastEnd)}`} />
        ) : null}
        {burn.limit_usd === null ? null : <path class="cap" d={`M0 ${y(burn.limit_usd)}H100`} />}
        <path class="now" d={`M${x(now_ms)} 0V100`} />
      </svg>
      <div class="axis">
        <Moment at_ms={burn.from} />
        <Moment at_ms={burn.to} />
      </div>
      <figcaption>
        <ul class="legend">
          <li class="spent">
            {usd(burn.spent_usd)} spent {burn.window === null ? 'in 24 hours' : PER[burn.window]}
          </li>
          <li class="forecast">forecast</li>
          {burn.limit_usd === null ? null : <li class="cap">cap {usd(burn.limit_usd)}</li>}
        </ul>
        <p>{outlook}</p>
      </figcaption>
    </figure>
  )
}
