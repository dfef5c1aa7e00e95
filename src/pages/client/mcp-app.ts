/**
 * The dashboard inside a conversation: speaks MCP Apps (SEP-1865) with its host and draws what the tool answered. Text of others only ever
 * becomes text nodes.
 */

type Limit = { window: string; spent_usd: number; limit_usd: number }
type View = {
  operations_remaining: number
  operations_used_24h: number
  agents: { agent_id: string; limits: Limit[]; spent_24h_usd: number }[]
  burn: {
    agent_id: string
    limit_usd: number | null
    spent_usd: number
    from: number
    to: number
    points: { at: number; spent_usd: number }[]
    rate_usd_per_hour: number
    forecast_usd: number
    limit_reached_at: number | null
  }
  approvals: { agent_id: string; action_summary: string; effect: string | null }[]
  decisions: { kind: string; agent_id: string | null; subject: string; amount_usd: number }[]
  generated_at: number
}
type Message = { jsonrpc: '2.0'; id?: number | string; method?: string; params?: unknown; result?: unknown; error?: unknown }
type HostContext = { theme?: 'light' | 'dark' }

const PROTOCOL_VERSION = '2026-01-26'
const TOOL = 'view_dashboard'
const SHOWN = 12

let nextId = 1
const waiting = new Map<number | string, (message: Message) => void>()
let canCallTools = false

const send = (message: Omit<Message, 'jsonrpc'>): void => window.parent.postMessage({ jsonrpc: '2.0', ...message }, '*')
const notify = (method: string, params: unknown = {}): void => send({ method, params })
const request = (method: string, params: unknown): Promise<unknown> =>
  new Promise((resolve, reject) => {
    const id = nextId++
    waiting.set(id, ({ result, error }) => (error === undefined ? resolve(result) : reject(new Error('the host refused'))))
    send({ id, method, params })
  })

window.addEventListener('message', (event: MessageEvent<unknown>) => {
  const message = event.data as Message | null
  // The host is whoever embeds us; nobody else may tell us what to show.
  if (event.source !== window.parent || typeof message !== 'object' || message?.jsonrpc !== '2.0') return
  if (message.method === undefined) {
    const answer = waiting.get(message.id ?? '')
    waiting.delete(message.id ?? '')
    answer?.(message)
    return
  }
  if (message.method === 'ui/notifications/tool-result') showResult(message.params)
  if (message.method === 'ui/notifications/host-context-changed') adopt(message.params as HostContext)
  if (message.method === 'ping' || message.method === 'ui/resource-teardown') send({ id: message.id ?? 0, result: {} })
})

new ResizeObserver(() => {
  const { scrollWidth: width } = document.documentElement
  notify('ui/notifications/size-changed', { width, height: Math.ceil(document.body.getBoundingClientRect().height) })
}).observe(document.body)

void connect()

async function connect(): Promise<void> {
  const initialized = (await request('ui/initialize', {
    protocolVersion: PROTOCOL_VERSION,
    appInfo: { name: 'gvnr-dashboard', version: '1' },
    appCapabilities: { availableDisplayModes: ['inline', 'fullscreen'] },
  })) as { hostCapabilities?: { serverTools?: unknown }; hostContext?: HostContext } | undefined
  canCallTools = initialized?.hostCapabilities?.serverTools !== undefined
  adopt(initialized?.hostContext ?? {})
  notify('ui/notifications/initialized')
}

function adopt({ theme }: HostContext): void {
  if (theme === 'light' || theme === 'dark') document.documentElement.dataset.theme = theme
}

function showResult(result: unknown): void {
  const { structuredContent, isError, content } = result as {
    structuredContent?: View
    isError?: boolean
    content?: { type: string; text?: string }[]
  }
  const app = document.getElementById('app')
  if (isError || structuredContent === undefined) {
    app?.replaceChildren(element('p', 'denied', content?.find(({ type }) => type === 'text')?.text ?? 'No figures came.'))
    return
  }
  app?.replaceChildren(...draw(structuredContent))
}

async function refresh(): Promise<void> {
  showResult(await request('tools/call', { name: TOOL, arguments: {} }))
}

const usd = (amount: number): string => `$${amount.toFixed(amount !== 0 && Math.abs(amount) < 0.01 ? 4 : 2)}`
const number = (value: number): string => value.toLocaleString('en-US')
const agentName = (agentId: string | null): string =>
  agentId === null ? 'account' : agentId === '*' ? 'the whole account' : agentId

function element(tag: string, className: string, ...children: (string | Node)[]): HTMLElement {
  const made = document.createElement(tag)
  if (className !== '') made.className = className
  made.append(...children)
  return made
}

function shape(tag: string, attributes: Record<string, string>, ...children: Node[]): SVGElement {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag)
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value)
  made.append(...children)
  return made
}

function draw(view: View): Node[] {
  const parts: Node[] = [
    element('h1', '', 'Gvnr'),
    element('p', 'figure', number(view.operations_remaining)),
    element('p', 'soft', `operations left; ${number(view.operations_used_24h)} used in 24 hours`),
    element('h2', '', `Burn: ${agentName(view.burn.agent_id)}`),
    chart(view),
    element('p', 'soft', outlook(view)),
  ]
  if (view.approvals.length > 0) {
    const asked = view.approvals.map((one) =>
      element('li', '', element('strong', '', agentName(one.agent_id)), ` ${one.action_summary}`),
    )
    parts.push(element('h2', '', 'Waiting for a human'), element('ul', '', ...asked))
  }
  parts.push(element('h2', '', 'Agents'), element('ul', '', ...view.agents.slice(0, SHOWN).map(agentItem)))
  parts.push(element('h2', '', 'Latest decisions'), element('ul', '', ...view.decisions.slice(0, SHOWN).map(decisionItem)))
  if (canCallTools) {
    const button = element('button', '', 'Refresh')
    button.addEventListener('click', () => void refresh())
    parts.push(button)
  }
  return parts
}

function outlook({ burn, generated_at }: View): string {
  const rate = `${usd(burn.rate_usd_per_hour)} an hour`
  if (burn.limit_usd === null) return `${usd(burn.spent_usd)} in 24 hours, ${rate}. No cap is set.`
  const spent = `${usd(burn.spent_usd)} of ${usd(burn.limit_usd)}`
  if (burn.limit_reached_at === null) return `${spent}, ${rate}: within the cap until the window ends.`
  const minutes = Math.floor((burn.limit_reached_at - generated_at) / 60_000)
  return minutes <= 0 ? `${spent}: the cap is reached.` : `${spent}, ${rate}: the cap is reached in ${minutes} minutes.`
}

function agentItem(agent: View['agents'][number]): HTMLElement {
  const bars = agent.limits.flatMap((limit) => {
    const share = limit.spent_usd / limit.limit_usd
    const width = String(100 * Math.min(1, Math.max(0, share)))
    const colour = share >= 1 ? 'bar over' : share >= 0.8 ? 'bar near' : 'bar'
    return [
      element('div', 'soft', `${usd(limit.spent_usd)} of ${usd(limit.limit_usd)}, ${limit.window}`),
      shape(
        'svg',
        { class: colour, viewBox: '0 0 100 8', preserveAspectRatio: 'none', 'aria-hidden': 'true' },
        shape('rect', { class: 'all', width: '100', height: '8' }),
        shape('rect', { class: 'part', width, height: '8' }),
      ),
    ]
  })
  const row = element(
    'div',
    'row',
    element('strong', '', agentName(agent.agent_id)),
    element('span', '', usd(agent.spent_24h_usd)),
  )
  return element('li', '', row, ...bars)
}

function decisionItem({ kind, agent_id, subject, amount_usd }: View['decisions'][number]): HTMLElement {
  const what = element('span', '', element('span', kind, kind), ` ${agentName(agent_id)} ${subject}`)
  return element('li', 'row', what, element('span', '', kind === 'change' ? '' : usd(amount_usd)))
}

function chart({ burn, generated_at }: View): SVGElement {
  const top = 1.12 * Math.max(burn.limit_usd ?? burn.forecast_usd, burn.spent_usd, 1e-6)
  const x = (at: number): string => (((at - burn.from) / (burn.to - burn.from)) * 100).toFixed(2)
  const y = (amount: number): string => (100 - (Math.min(amount, top) / top) * 100).toFixed(2)
  const lines: [string, string][] = []
  if (burn.points.length > 1)
    lines.push(['spent', `M${burn.points.map(({ at, spent_usd }) => `${x(at)} ${y(spent_usd)}`).join('L')}`])
  if (burn.rate_usd_per_hour > 0) {
    const end = burn.limit_reached_at ?? burn.to
    const amount = burn.limit_reached_at === null ? burn.forecast_usd : (burn.limit_usd ?? burn.forecast_usd)
    lines.push(['forecast', `M${x(generated_at)} ${y(burn.spent_usd)}L${x(end)} ${y(amount)}`])
  }
  if (burn.limit_usd !== null) lines.push(['cap', `M0 ${y(burn.limit_usd)}H100`])
  return shape(
    'svg',
    { class: 'chart', viewBox: '0 0 100 100', preserveAspectRatio: 'none', role: 'img', 'aria-label': 'Spend, forecast and cap' },
    ...lines.map(([name, d]) => shape('path', { class: name, d })),
  )
}
