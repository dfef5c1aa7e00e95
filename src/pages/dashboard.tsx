import type { Child } from 'hono/jsx'
import { plainLine } from '../core/text.ts'
import { Agents, Approvals, Burn, Decisions, Quota } from './dashboard-live.tsx'
import { Channels, Keys, Settings, Topups, Webhooks } from './dashboard-settings.tsx'
import type { LiveView, Notice, SettingsView, Viewer } from './dashboard-view.ts'
import { encodeAgent, Field, Form } from './form.tsx'
import { Layout, type Site } from './layout.tsx'

type Props = {
  readonly site: Site
  readonly viewer: Viewer
  readonly live: LiveView
  readonly settings: SettingsView
  readonly notice: Notice | null
  /** Whose burn was asked for. */
  readonly agentId: string | null
  readonly scriptPath: string
}

const SCOPES = { owner: 'everything', agent: 'its own agent', read: 'reading' } as const

/** `/dashboard` for who is signed in. Everything works without a script; with it the figures follow what happens. */
export function Dashboard({ site, viewer, live, settings, notice, agentId, scriptPath }: Props) {
  const { caller } = viewer
  const events = `/dashboard/events${agentId === null ? '' : `?agent=${encodeURIComponent(agentId)}`}`
  return (
    <Layout
      site={site}
      title="Dashboard: Gvnr"
      description="Quota, agents, spend and approvals."
      class="dashboard"
      current="/dashboard"
      script={scriptPath}
    >
      <div class="top">
        <h1>Dashboard</h1>
        <p class="who">
          Key <strong>{plainLine(caller.name)}</strong>, for {SCOPES[caller.scope]}
          {caller.agentId === null ? '' : `: ${plainLine(caller.agentId)}`}
        </p>
        <Form viewer={viewer} action="sign-out">
          <button class="button" type="submit">
            Sign out
          </button>
        </Form>
      </div>
      {notice === null ? null : <NoticeBox notice={notice} />}
      <p id="live-state" class="soft" role="status" data-events={events} hidden></p>
      <div class="panels">
        <Panel id="approvals" title="Waiting for an answer" live="live-approvals" wide>
          <Approvals {...live} viewer={viewer} />
        </Panel>
        <div class="column">
          <Panel id="quota" title="Quota" live="live-quota">
            <Quota view={live.view} />
          </Panel>
          <Panel id="agents" title="Agents" live="live-agents" after={<Envelopes viewer={viewer} view={live.view} />}>
            <Agents view={live.view} />
          </Panel>
          {settings.keys === null ? null : (
            <Panel id="keys" title="Keys">
              <Keys viewer={viewer} keys={settings.keys} now_ms={live.view.generated_at} />
            </Panel>
          )}
          {settings.approvalLinks === null ? null : (
            <Panel id="settings" title="Who decides">
              <Settings viewer={viewer} approvalLinks={settings.approvalLinks} />
            </Panel>
          )}
        </div>
        <div class="column">
          <Panel id="burn" title="Burn" live="live-burn">
            <Burn view={live.view} />
          </Panel>
          <Panel id="decisions" title="Latest decisions" live="live-decisions">
            <Decisions view={live.view} />
          </Panel>
          {settings.channels === null ? null : (
            <Panel id="channels" title="Where requests are sent">
              <Channels viewer={viewer} channels={settings.channels} email={settings.email} />
            </Panel>
          )}
          {settings.webhooks === null ? null : (
            <Panel id="webhooks" title="Webhooks">
              <Webhooks viewer={viewer} webhooks={settings.webhooks} />
            </Panel>
          )}
          {settings.topups === null ? null : (
            <Panel id="topups" title="Top-ups">
              <Topups topups={settings.topups} />
            </Panel>
          )}
        </div>
      </div>
    </Layout>
  )
}

type PanelProps = {
  readonly id: string
  readonly title: string
  readonly live?: string
  readonly wide?: boolean
  readonly after?: Child
  readonly children: Child
}

const Panel = ({ id, title, live, wide, after, children }: PanelProps) => (
  <section id={id} class={wide ? 'panel wide' : 'panel'} aria-labelledby={`${id}-title`}>
    <h2 id={`${id}-title`}>{title}</h2>
    {live === undefined ? children : <div id={live}>{children}</div>}
    {after}
  </section>
)

export const NoticeBox = ({ notice }: { readonly notice: Notice }) => (
  <div class={`notice ${notice.kind}`} role={notice.kind === 'error' ? 'alert' : 'status'}>
    <p>{notice.text}</p>
    {notice.secret === undefined ? null : (
      <p class="copyable">
        <code id="secret">{notice.secret}</code>
        <button class="button copy" type="button" data-copy="secret" hidden>
          Copy
        </button>
      </p>
    )}
  </div>
)

const WINDOWS = ['hourly', 'daily', 'weekly', 'monthly', 'session'] as const
const LABELS = { hourly: 'An hour', daily: 'A day', weekly: 'A week', monthly: 'A month', session: 'For good' } as const

const LimitFields = ({ limits }: { readonly limits: ReadonlyMap<string, number> }) => (
  <div class="limits">
    {WINDOWS.map((window) => (
      <Field
        label={`${LABELS[window]}, $`}
        name={window}
        type="number"
        min="0"
        step="any"
        value={limits.has(window) ? String(limits.get(window)) : ''}
      />
    ))}
  </div>
)

/** Caps are set here, outside of what is redrawn: a form must not lose what is being typed. */
function Envelopes({ viewer, view }: { readonly viewer: Viewer; readonly view: LiveView['view'] }) {
  if (!viewer.may('set_envelope')) return null
  const capped = view.agents.filter(({ limits, agent_id }) => limits.length > 0 && agent_id !== viewer.caller.agentId)
  return (
    <>
      <details>
        <summary>Set a cap</summary>
        <Form viewer={viewer} action="set_envelope" class="stack">
          <Field
            label="Agent (a path; * is the account)"
            name="agent_id"
            required
            maxlength={128}
            value={viewer.caller.agentId === null ? '' : `${viewer.caller.agentId}/`}
          />
          <LimitFields limits={new Map()} />
          <button class="button main" type="submit">
            Set
          </button>
        </Form>
      </details>
      {capped.map((agent) => (
        <details>
          <summary>
            Change <bdi>{plainLine(agent.agent_id)}</bdi>
          </summary>
          <Form viewer={viewer} action="set_envelope" class="stack" hidden={{ agent: encodeAgent(agent.agent_id) }}>
            <LimitFields limits={new Map(agent.limits.map((limit) => [limit.window, limit.cap_usd]))} />
            <button class="button main" type="submit">
              Save
            </button>
          </Form>
          <Form viewer={viewer} action="delete_envelope" hidden={{ agent: encodeAgent(agent.agent_id) }}>
            <button class="button no" type="submit">
              Delete this cap
            </button>
          </Form>
        </details>
      ))}
    </>
  )
}
