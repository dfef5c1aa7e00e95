import { agentText } from '../approvals/effect.ts'
import { plainLine } from '../core/text.ts'
import { leftText } from './approve.tsx'
import { BurnChart, usd } from './burn-chart.tsx'
import type { DashboardView, LiveView, PendingApproval, Viewer } from './dashboard-view.ts'
import { Form } from './form.tsx'
import { Moment } from './moment.tsx'

const count = (value: number): string => value.toLocaleString('en-US')
const WINDOW = { hourly: 'hour', daily: 'day', weekly: 'week', monthly: 'month', session: 'for good' } as const
const DEEPEST = 5

type LiveProps = LiveView & { readonly viewer: Viewer }

/** The parts of the page that follow what happens, by the id of the element that holds each. */
export const liveParts = (props: LiveProps): Readonly<Record<string, string>> => ({
  'live-quota': String(<Quota view={props.view} />),
  'live-burn': String(<Burn view={props.view} />),
  'live-approvals': String(<Approvals {...props} />),
  'live-agents': String(<Agents view={props.view} />),
  'live-decisions': String(<Decisions view={props.view} />),
})

/** A share as a bar; lengths as attributes, which need no inline style. */
const Bar = ({ share, class: className = '' }: { readonly share: number; readonly class?: string }) => (
  <svg class={`bar-of ${className}`} aria-hidden="true" preserveAspectRatio="none" viewBox="0 0 100 8">
    <rect class="all" width="100" height="8" />
    <rect class="part" width={(100 * Math.min(Math.max(share, 0), 1)).toFixed(2)} height="8" />
  </svg>
)

export function Quota({ view }: { readonly view: DashboardView }) {
  const { operations_remaining: left, operations_used_24h: used } = view
  const share = left + used === 0 ? 0 : left / (left + used)
  return (
    <>
      <p class="figure">{count(left)}</p>
      <Bar share={share} class={left === 0 ? 'over' : ''} />
      <p class="soft">
        operations left; {count(used)} used in 24 hours.
        {left === 0 ? ' Every clearance is denied until there are more.' : ''}
      </p>
    </>
  )
}

export const Burn = ({ view }: { readonly view: DashboardView }) => (
  <>
    <p class="whose">
      <bdi>{agentText(view.burn.agent_id)}</bdi>
    </p>
    <BurnChart burn={view.burn} now_ms={view.generated_at} />
  </>
)

export function Approvals({ pending, view, viewer }: LiveProps) {
  if (pending.length === 0) return <p class="soft">Nobody waits for an answer.</p>
  return (
    <ul class="waiting">
      {pending.map((approval) => (
        <li>
          <Waiting approval={approval} now_ms={view.generated_at} viewer={viewer} />
        </li>
      ))}
    </ul>
  )
}

type WaitingProps = { readonly approval: PendingApproval; readonly now_ms: number; readonly viewer: Viewer }

function Waiting({ approval, now_ms, viewer }: WaitingProps) {
  return (
    <>
      <p>
        <strong>
          <bdi>{agentText(approval.agent_id)}</bdi>
        </strong>{' '}
        <bdi>{plainLine(approval.action_summary)}</bdi>
      </p>
      <p class="soft">
        {approval.effect === null ? null : (
          <>
            Approving <bdi>{approval.effect}</bdi>.{' '}
          </>
        )}
        {leftText(approval.expires_at - now_ms)} left.
      </p>
      {viewer.may('decide_approval') ? (
        <Form
          viewer={viewer}
          action="decide_approval"
          class="decide"
          named={false}
          hidden={{ approval_ref: approval.approval_ref, terms: approval.terms }}
        >
          <button class="button main" type="submit" name="decision" value="approved">
            Approve
          </button>
          <button class="button no" type="submit" name="decision" value="denied">
            Deny
          </button>
        </Form>
      ) : null}
    </>
  )
}

export function Agents({ view }: { readonly view: DashboardView }) {
  if (view.agents.length === 0) return <p class="soft">No agent has a cap or has spent anything in the last day.</p>
  return (
    <>
      <ul class="agents">
        {view.agents.map((agent) => (
          <li class={`depth-${Math.min(agent.depth, DEEPEST)}`}>
            <div class="agent">
              <a href={`/dashboard?agent=${encodeURIComponent(agent.agent_id)}#burn`}>
                <bdi>{agentText(agent.agent_id)}</bdi>
              </a>
              <span class="soft">
                {usd(agent.spent_24h_usd)} in 24 hours, {count(agent.approved_24h)} approved
              </span>
            </div>
            {agent.limits.length === 0 ? <p class="soft none">no cap of its own</p> : null}
            {agent.limits.map((limit) => (
              <div class="limit">
                <span>
                  {usd(limit.spent_usd)} of {usd(limit.limit_usd)} <span class="soft">{WINDOW[limit.window]}</span>
                </span>
                <Bar share={limit.spent_usd / limit.limit_usd} class={fullness(limit.spent_usd / limit.limit_usd)} />
              </div>
            ))}
          </li>
        ))}
      </ul>
      {view.agents_in_all > view.agents.length ? (
        <p class="soft">
          The first {count(view.agents.length)} of {count(view.agents_in_all)} agents.
        </p>
      ) : null}
    </>
  )
}

const fullness = (share: number): string => (share >= 1 ? 'over' : share >= 0.8 ? 'near' : '')

export function Decisions({ view }: { readonly view: DashboardView }) {
  if (view.decisions.length === 0) return <p class="soft">Nothing has been decided yet.</p>
  return (
    <table class="decisions">
      <thead>
        <tr>
          <th scope="col">Time, UTC</th>
          <th scope="col">Agent</th>
          <th scope="col">Decision</th>
          <th scope="col" class="number">
            Amount
          </th>
        </tr>
      </thead>
      <tbody>
        {view.decisions.map((decision) => (
          <tr class={decision.kind}>
            <td>
              <Moment at_ms={decision.at} now_ms={view.generated_at} />
            </td>
            <td>
              <bdi>{decision.agent_id === null ? 'account' : agentText(decision.agent_id)}</bdi>
            </td>
            <td>
              <Outcome decision={decision} />
            </td>
            <td class="number">{decision.kind === 'change' ? '' : usd(decision.amount_usd)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}

const REASONS: Readonly<Record<string, string>> = {
  no_credits: 'no operations left',
  no_envelope: 'no envelope',
  envelope_exceeded: 'over the cap',
  suspended: 'suspended',
}
const CHANGES: Readonly<Record<string, string>> = {
  grant: 'Operations granted',
  topup: 'Top-up credited',
  correction: 'Operations corrected',
  limit: 'Cap changed',
  approval: 'Request decided',
  reset: 'Spend reset',
  suspend: 'Suspended',
  resume: 'Resumed',
}

function Outcome({ decision }: { readonly decision: DashboardView['decisions'][number] }) {
  const { kind, subject, detail } = decision
  if (kind === 'change') return <>{CHANGES[subject] ?? plainLine(subject)}</>
  return (
    <>
      <span class={`verdict ${kind}`}>{kind === 'denied' ? 'Denied' : 'Approved'}</span> <bdi>{plainLine(subject)}</bdi>
      <span class="soft">, {kind === 'denied' ? (REASONS[detail] ?? plainLine(detail)) : plainLine(detail)}</span>
    </>
  )
}
