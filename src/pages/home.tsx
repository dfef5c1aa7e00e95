import { Layout, type Site } from './layout.tsx'
import { Loop } from './loop.tsx'

/** US dollars per million tokens; `output` is null for models that only read (embeddings). */
export type PriceRow = { readonly model: string; readonly input: number; readonly output: number | null }
export type HomeContent = {
  readonly prices: readonly PriceRow[]
  /** What a model costs that no price list knows. */
  readonly unknown: { readonly input: number; readonly output: number }
  readonly trialOps: number
  readonly opsPerUsd: number
}

const dollars = (usd: number): string => `$${usd.toFixed(Math.max(2, (String(usd).split('.')[1] ?? '').length))}`
const count = (value: number): string => value.toLocaleString('en-US')

/** `/`: what it is, how to start, what it costs. */
type HomeProps = { readonly site: Site; readonly content: HomeContent; readonly script: string }

export function Home({ site, content, script }: HomeProps) {
  const { prices, unknown, trialOps, opsPerUsd } = content
  return (
    <Layout
      site={site}
      title="Gvnr: spend authority for AI agents"
      description="Put a cap in dollars on an AI agent. It clears each model call before making it and reconciles afterwards. REST and MCP."
      path="/"
      class="home"
      script={script}
    >
      <div class="hero">
        <div>
          <h1>Spend authority for AI agents</h1>
          <p class="lead">
            Put a cap in dollars on an agent. It asks before each model call, gets a yes only while the call fits every cap above
            it, and reports what the call really used.
          </p>
          <div class="buttons">
            <a class="button main" href="#start">
              Quick start
            </a>
            <a class="button" href="/docs">
              API reference
            </a>
            <a class="button" href="/dashboard">
              Dashboard
            </a>
          </div>
        </div>
        <Loop />
      </div>
      <div class="facts">
        <div>
          <h2>A cap holds</h2>
          <p>
            However many calls arrive at once, on however many server processes, approvals never add up to more than the cap. An
            approval is in the database before you see it.
          </p>
        </div>
        <div>
          <h2>Caps nest</h2>
          <p>
            A cap on <code>team</code> also holds for <code>team/crawler</code>; <code>*</code> is the whole account. Hourly,
            daily, weekly, monthly, or for good, several at once.
          </p>
        </div>
        <div>
          <h2>An agent cannot lift its own cap</h2>
          <p>
            Each agent gets a key bound to its name. It may clear and reconcile. Raising limits and making keys is for the owner.
          </p>
        </div>
      </div>
      <QuickStart origin={site.origin} trialOps={trialOps} />
      <Mcp origin={site.origin} />
      <section class="columns" id="prices">
        <div>
          <h2>What models cost</h2>
          <p>
            Estimates and settlements use these prices. Dated versions and provider prefixes resolve to the same model. Other
            models come from a maintained list; one that nobody knows counts as {dollars(unknown.input)} in and{' '}
            {dollars(unknown.output)} out, so a typo never counts too little. In US dollars per million tokens:
          </p>
          <Prices rows={prices} />
        </div>
        <div>
          <h2>What Gvnr costs</h2>
          <p class="price">{count(opsPerUsd)} operations for $1</p>
          <p>
            An approved clearance burns one operation. Denials, settlements, reads and rate checks burn none. A new account starts
            with {count(trialOps)} operations; <a href="/pay">top up</a> with USDC, from $1.
          </p>
          <p class="soft">It is open source under the MIT licence: on your own server you grant operations yourself.</p>
        </div>
      </section>
    </Layout>
  )
}

function QuickStart({ origin, trialOps }: { readonly origin: string; readonly trialOps: number }) {
  const headers = `-H "Authorization: Bearer $GVNR_KEY" \\\n  -H 'Content-Type: application/json'`
  return (
    <section id="start">
      <h2>Quick start</h2>
      <ol class="steps">
        <li>
          <h3>Make an account</h3>
          <Command id="account" text={`curl -X POST ${origin}/v1/account`} />
          <pre class="answer" tabindex={0}>
            <code>{`{"api_key":"bg_…","account_id":"…",\n "operations_remaining":${trialOps}}`}</code>
          </pre>
          <p class="soft">The key is shown once. Keep it:</p>
          <Command id="keep" text={'export GVNR_KEY=bg_…'} />
        </li>
        <li>
          <h3>Cap the agent</h3>
          <Command
            id="cap"
            text={`curl -X PUT ${origin}/v1/budget/envelope \\\n  ${headers} \\\n  -d '{"agent_id":"crawler","limit_usd":5,\n       "window":"daily"}'`}
          />
          <pre class="answer" tabindex={0}>
            <code>{'{"success":true,"agent_id":"crawler",\n "limit_usd":5,"window":"daily"}'}</code>
          </pre>
        </li>
        <li>
          <h3>Clear before each call</h3>
          <Command
            id="clear"
            text={`curl ${origin}/v1/budget/clear \\\n  ${headers} \\\n  -d '{"agent_id":"crawler","model":"claude-sonnet-4-6",\n       "estimated_tokens":2000}'`}
          />
          <pre class="answer" tabindex={0}>
            <code>
              {`{"approved":true,"remaining_usd":4.97,\n "operations_remaining":${Math.max(0, trialOps - 1)},\n "clearance_id":"…","expires_at":…}`}
            </code>
          </pre>
        </li>
        <li>
          <h3>Reconcile after it</h3>
          <Command
            id="reconcile"
            text={`curl ${origin}/v1/budget/reconcile \\\n  ${headers} \\\n  -d '{"agent_id":"crawler","clearance_id":"…",\n       "actual_input_tokens":300,"actual_output_tokens":1140}'`}
          />
          <pre class="answer" tabindex={0}>
            <code>{`{"ok":true,"drift_usd":-0.012,"remaining_usd":4.982,\n "operations_remaining":${Math.max(0, trialOps - 1)},"clearance_id":"…"}`}</code>
          </pre>
        </li>
      </ol>
    </section>
  )
}

function Mcp({ origin }: { readonly origin: string }) {
  return (
    <section id="mcp">
      <h2>In Claude and other MCP clients</h2>
      <p>
        The same operations are MCP tools. The server tells the model how to clear and reconcile; <code>tools/list</code> shows
        only what the key may call.
      </p>
      <Command
        id="mcp-command"
        text={`claude mcp add gvnr --transport http ${origin}/mcp \\\n  --header "Authorization: Bearer $GVNR_KEY"`}
      />
      <p class="soft">
        A client that cannot send headers takes <code>{origin}/mcp?api_key=bg_…</code> instead.
      </p>
    </section>
  )
}

/** What to type, with a button that copies it where there is a script. */
const Command = ({ id, text }: { readonly id: string; readonly text: string }) => (
  <div class="command">
    <pre tabindex={0}>
      <code id={`command-${id}`}>{text}</code>
    </pre>
    <button class="button copy" type="button" data-copy={`command-${id}`} hidden>
      Copy
    </button>
  </div>
)

function Prices({ rows }: { readonly rows: readonly PriceRow[] }) {
  return (
    <div class="scroll" tabindex={0}>
      <table>
        <thead>
          <tr>
            <th scope="col">Model</th>
            <th scope="col" class="number">
              Input
            </th>
            <th scope="col" class="number">
              Output
            </th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ model, input, output }) => (
            <tr>
              <td>
                <code>{model}</code>
              </td>
              <td class="number">{dollars(input)}</td>
              <td class="number">{output === null ? <span class="soft">none</span> : dollars(output)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}
