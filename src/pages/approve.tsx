import type { Child } from 'hono/jsx'
import { agentText, effectText, usdText } from '../approvals/effect.ts'
import type { Approval, ApprovalPage } from '../approvals/service.ts'
import { plainLine } from '../core/text.ts'
import { Layout, type Site } from './layout.tsx'

type Props = {
  readonly site: Site
  readonly token: string
  readonly page: ApprovalPage
  readonly now_ms: number
  readonly notice?: string
}

/** The page behind an approval link: who asks for what, what approving changes, two buttons, and afterwards what was decided. */
export function Approve({ site, token, page, now_ms, notice }: Props) {
  const { approval, effect } = page
  const { decision } = approval
  const agent = agentText(approval.agentId)
  return (
    <Layout site={site} title={titleOf(approval, agent)} description="A request that waits for a decision." class="approve">
      {decision === null ? null : <Result approval={approval} />}
      {notice === undefined ? null : (
        <p class="notice" role="alert">
          {notice}
        </p>
      )}
      <h1>
        <bdi>{agent}</bdi> {decision === null ? 'asks for your approval' : 'asked for your approval'}
      </h1>
      <blockquote>
        <bdi>{plainLine(approval.actionSummary)}</bdi>
      </blockquote>
      {effect === null ? null : <Effect effect={effect} />}
      {decision !== null ? null : page.mayDecide ? (
        <Decide token={token} approval={approval} effect={effect} now_ms={now_ms} />
      ) : (
        <p class="notice">
          This link shows the request and cannot decide it. The account's owner decides at the dashboard, or with the link in the
          owner's notification.
        </p>
      )}
    </Layout>
  )
}

const titleOf = (approval: Approval, agent: string): string =>
  approval.decision === null ? `Approve? ${agent}: Gvnr` : `${RESULT[approval.decision].title}: Gvnr`

const RESULT = {
  approved: {
    title: 'Approved',
    sign: '✓',
    text: 'The agent may go ahead.',
    next: 'It learns of this by itself, at once if it is waiting. There is nothing more to do here: you can close this page.',
  },
  denied: {
    title: 'Denied',
    sign: '✕',
    text: 'The agent has been told no.',
    next: 'Nothing has changed, and the agent is told not to go on. It may ask again with another request.',
  },
  timeout: {
    title: 'No answer in time',
    sign: '–',
    text: 'The request has ended and can no longer be decided.',
    next: 'Nothing has changed. If it is still needed, the agent has to ask again.',
  },
} as const

function Result({ approval }: { readonly approval: Approval }) {
  const { decision, responder, decidedMs } = approval
  if (decision === null) return null
  const { title, sign, text, next } = RESULT[decision]
  return (
    <div class={`result ${decision}`} role="status">
      <span class="sign" aria-hidden="true">
        {sign}
      </span>
      <div>
        <strong>{title}</strong>
        <p>
          {text}
          {decidedMs === null ? null : (
            <>
              {' '}
              <Time at_ms={decidedMs} />
              {responder === null ? '' : `, by ${plainLine(responder)}`}.
            </>
          )}
        </p>
        <p class="soft">{next}</p>
      </div>
    </div>
  )
}

function Effect({ effect }: { readonly effect: NonNullable<ApprovalPage['effect']> }) {
  const { raise, limit, extra, spent } = effect
  const before = limit === null ? null : limit + extra
  const after = raise.kind === 'limit' ? raise.amount : (before ?? 0n) + raise.amount
  return (
    <section class="effect" aria-label="What approving changes">
      <p>
        <strong>Approving</strong> <bdi>{effectText(effect)}</bdi>.
      </p>
      {before === null && raise.kind === 'extra' ? null : (
        <dl>
          <Figure name="Spent" value={usdText(spent)} />
          <Figure name="Limit now" value={before === null ? 'none' : usdText(before)} />
          <Figure name="If approved" value={usdText(after)} strong />
        </dl>
      )}
    </section>
  )
}

const Figure = ({ name, value, strong }: { readonly name: string; readonly value: string; readonly strong?: boolean }) => (
  <div>
    <dt>{name}</dt>
    <dd class={strong ? 'strong' : ''}>{value}</dd>
  </div>
)

function Decide({ token, approval, effect, now_ms }: Omit<Props, 'site' | 'page' | 'notice'> & Omit<ApprovalPage, 'mayDecide'>) {
  return (
    <>
      <p class="time">
        {leftText(approval.expiresMs - now_ms)} left. Answer by <Time at_ms={approval.expiresMs} />.
      </p>
      <form method="post" action={`/approve/${token}/decide`}>
        {effect === null ? null : <input type="hidden" name="terms" value={effect.terms} />}
        <button class="yes" type="submit" name="decision" value="approved">
          <span aria-hidden="true">✓</span> Approve
        </button>
        <button class="no" type="submit" name="decision" value="denied">
          <span aria-hidden="true">✕</span> Deny
        </button>
      </form>
      <p class="soft">
        Opening this page decides nothing. The first answer counts and cannot be changed. Whoever has this link can decide.
      </p>
    </>
  )
}

/** How long is left in the largest unit that fits, never rounded up: "9 minutes". */
export function leftText(left_ms: number): string {
  const seconds = Math.max(0, Math.floor(left_ms / 1000))
  const [count, unit] =
    seconds < 120
      ? [seconds, 'second']
      : seconds < 7200
        ? [Math.floor(seconds / 60), 'minute']
        : seconds < 172_800
          ? [Math.floor(seconds / 3600), 'hour']
          : [Math.floor(seconds / 86_400), 'day']
  return `${count} ${unit}${count === 1 ? '' : 's'}`
}

const Time = ({ at_ms }: { readonly at_ms: number }) => {
  const date = new Date(at_ms)
  const [, day = '', time = ''] = /^\w+, (\d+ \w+ \d+) (\d+:\d+)/.exec(date.toUTCString()) ?? []
  return <time datetime={date.toISOString()}>{`${time} UTC on ${day.replace(/^0/, '')}`}</time>
}

/** A page that only says something: an unknown link, a server that cannot answer. */
export function Message({ site, title, children }: { readonly site: Site; readonly title: string; readonly children: Child }) {
  return (
    <Layout site={site} title={`${title}: Gvnr`} description={title} class="approve">
      <h1>{title}</h1>
      <p class="lead">{children}</p>
    </Layout>
  )
}

/** Rules of this page on top of the shared stylesheet. Large type and targets, strong contrast: read on a phone in the sun. */
export const approveStyle = `
body:has(.approve) .bar nav, body:has(.approve) footer a { display: none; }
.approve { max-width: 34rem; padding: .5rem 0 0; }
body:has(.approve) .bar { padding-block: .8rem; }
.approve h1 { font-size: 1.4rem; overflow-wrap: anywhere; margin-top: .25rem; }
.approve blockquote { margin: .8rem 0; padding: .8rem 1rem; font-size: 1.2rem; line-height: 1.4; background: var(--raised); border-left: .3rem solid var(--accent); border-radius: 0 8px 8px 0; overflow-wrap: anywhere; }
.approve .effect { border: 1px solid var(--line); border-radius: 8px; padding: .3rem 1.1rem .9rem; overflow-wrap: anywhere; }
.approve .effect dl { display: grid; grid-template-columns: repeat(3, auto); justify-content: space-between; gap: .25rem 1rem; margin: 0; }
.approve .effect dt { color: var(--soft); font-size: .9rem; }
.approve .effect dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
.approve .effect dd.strong { font-weight: 680; }
.approve .time { font-size: 1.05rem; }
.approve form { display: grid; gap: .8rem; margin: 1.1rem 0; grid-template-columns: 1fr 1fr; }
.approve button { font: 650 1.25rem/1 var(--sans); min-height: 3.9rem; border-radius: 12px; border: 2px solid; cursor: pointer; width: 100%; }
.approve button.yes { background: var(--accent); border-color: var(--accent); color: var(--accent-ink); }
.approve button.no { background: var(--paper); border-color: var(--deny); color: var(--deny); }
.approve button:focus-visible { outline: 3px solid var(--ink); outline-offset: 3px; }
.approve button:active { filter: brightness(.92); }
.approve .notice + h1 { margin-top: 1rem; }
.approve .notice { margin: 0; border: 2px solid var(--deny); border-radius: 8px; padding: .7rem 1rem; font-weight: 600; }
.approve .result { display: flex; gap: 1rem; align-items: center; border-radius: 12px; padding: 1rem 1.1rem; margin: .5rem 0 1.5rem; border: 2px solid var(--soft); }
.approve .result strong { font-size: 1.5rem; line-height: 1.2; }
.approve .result p { margin: .2rem 0 0; } .approve .result p + p { margin-top: .5rem; }
.approve .result .sign { font-size: 2rem; font-weight: 700; line-height: 1; }
.approve .result.approved { border-color: var(--accent); } .approve .result.approved strong, .approve .result.approved .sign { color: var(--accent); }
.approve .result.denied { border-color: var(--deny); } .approve .result.denied strong, .approve .result.denied .sign { color: var(--deny); }
`
