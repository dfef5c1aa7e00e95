import type { Context, Env, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import { getNotificationEmail, getSettings, listKeys } from '../accounts/operations.ts'
import { formTokenOf, isFormTokenOf, type Session, type SessionService } from '../accounts/sessions.ts'
import { listApprovals } from '../approvals/operations.ts'
import { listTopups } from '../billing/operations.ts'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import type { KeyCaller, OperationResult } from '../core/operation.ts'
import { viewDashboard } from '../dashboard/operations.ts'
import { listChannels } from '../notifications/operations.ts'
import { listWebhooks } from '../notifications/webhooks.operations.ts'
import { Dashboard } from './dashboard.tsx'
import { ACTIONS, type Fields } from './dashboard-actions.ts'
import { liveParts } from './dashboard-live.tsx'
import type { LiveView, Notice, SettingsView, Viewer } from './dashboard-view.ts'
import type { Site } from './layout.tsx'
import { LiveHub, type LiveOptions } from './live.ts'
import type { ClientScript } from './script.ts'
import { isOwnForm, sessionCookie, sessionTokenOf } from './session-cookie.ts'
import { SignIn } from './sign-in.tsx'

/** A call of an operation by its name, with the rights of the key that the session was opened with. */
export type SessionCall<C> = { readonly c: C; readonly caller: KeyCaller; readonly token: string; readonly formId?: string }

export type DashboardPageDeps<C> = {
  readonly sessions: SessionService
  readonly callerOf: (key: string) => Promise<KeyCaller | null>
  /** The one `execute`. @throws DomainError */
  readonly run: (operation: string, call: SessionCall<C | null>, input: Record<string, unknown>) => Promise<OperationResult>
  readonly mayCall: (operation: string, caller: KeyCaller) => boolean
  readonly marks: (accountIds: readonly string[]) => Promise<ReadonlyMap<string, string>>
  readonly log: Log
  readonly siteOf: (c: C) => Site
  readonly requestId: (c: C) => string
  readonly script: ClientScript
}
export type DashboardPages = {
  /** Closes the pages that follow events, so that their connections can end. */
  release(): void
  /** How many pages follow events. */
  readonly following: () => number
}

const FORM_LIMIT_BYTES = 32 * 1024
const KEY = /^bg_[0-9a-f]{32}$/
const FORM_ID = /^[\w-]{16,64}$/
const TOPUPS = 10
/**
 * `same-origin` rather than none as referrer: with none a browser sends forms with `Origin: null`, and we could not tell ours from others.
 */
const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'Referrer-Policy': 'same-origin',
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
}

/** `/dashboard`: sign in with a key, look, and do what the key may. Nothing here decides about rights; every step is a call of an operation. */
export function mountDashboard<E extends Env>(
  app: Hono<E>,
  deps: DashboardPageDeps<Context<E>>,
  options: { live?: Partial<LiveOptions> } = {},
): DashboardPages {
  type C = Context<E>
  const { sessions, run } = deps
  const html = (c: C, page: unknown, status = 200, headers: Record<string, string> = {}): Response =>
    new Response(`<!doctype html>${String(page)}`, {
      status,
      headers: { 'Content-Type': 'text/html; charset=utf-8', 'X-Request-Id': deps.requestId(c), ...HEADERS, ...headers },
    })
  const goTo = (c: C, location: string, headers: Record<string, string> = {}): Response =>
    new Response(null, {
      status: 303,
      headers: { Location: location, 'X-Request-Id': deps.requestId(c), ...HEADERS, ...headers },
    })
  const signIn = (c: C, problem: string | null, status = 200): Response =>
    html(c, <SignIn site={deps.siteOf(c)} problem={problem} />, status)
  const hub = new LiveHub<LiveView>(
    {
      sessions: (tokens) => sessions.findAll(tokens),
      marks: deps.marks,
      load: ({ session, agentId }) => readLive({ c: null, caller: session.caller, token: '' }, agentId),
      log: deps.log,
    },
    options.live,
  )

  const readLive = async (call: SessionCall<C | null>, agentId: string | null): Promise<LiveView> => {
    const [view, pending] = await Promise.all([
      run(viewDashboard.name, call, agentId === null ? {} : { agent_id: agentId }),
      run(listApprovals.name, call, { state: 'pending', limit: 20 }),
    ])
    return { view: viewDashboard.output.parse(view.body), pending: listApprovals.output.parse(pending.body).approvals }
  }
  /** null where the key may not look. */
  const readSetting = async (name: string, call: SessionCall<C>, input: Record<string, unknown> = {}): Promise<unknown> =>
    deps.mayCall(name, call.caller) ? (await run(name, call, input)).body : null
  const readSettings = async (call: SessionCall<C>): Promise<SettingsView> => {
    const [keys, channels, webhooks, topups, email, settings] = await Promise.all([
      readSetting(listKeys.name, call),
      readSetting(listChannels.name, call),
      readSetting(listWebhooks.name, call),
      readSetting(listTopups.name, call, { limit: String(TOPUPS) }),
      readSetting(getNotificationEmail.name, call),
      readSetting(getSettings.name, call),
    ])
    return {
      keys: keys === null ? null : listKeys.output.parse(keys).keys,
      channels: channels === null ? null : listChannels.output.parse(channels).channels,
      webhooks: webhooks === null ? null : listWebhooks.output.parse(webhooks).webhooks,
      topups: topups === null ? null : listTopups.output.parse(topups).topups,
      email: email === null ? null : getNotificationEmail.output.parse(email).notification_email,
      approvalLinks: settings === null ? null : getSettings.output.parse(settings).approval_links,
    }
  }
  const viewerOf = (session: Session, token: string): Viewer => ({
    caller: session.caller,
    formToken: formTokenOf(token),
    may: (operation) => deps.mayCall(operation, session.caller),
  })
  const opened = async (c: C): Promise<{ session: Session; token: string } | null> => {
    const token = sessionTokenOf(c, deps.siteOf(c).origin)
    const session = token === undefined ? null : await sessions.find(token)
    return token === undefined || session === null ? null : { session, token }
  }
  const show = async (
    c: C,
    { session, token }: { session: Session; token: string },
    shown: { notice: Notice | null; agentId: string | null; status?: number },
  ): Promise<Response> => {
    const call = { c, caller: session.caller, token }
    const [live, settings, scriptPath] = await Promise.all([
      readLive(call, shown.agentId),
      readSettings(call),
      deps.script.path(),
    ])
    const page = (
      <Dashboard
        site={deps.siteOf(c)}
        viewer={viewerOf(session, token)}
        live={live}
        settings={settings}
        notice={shown.notice}
        agentId={shown.agentId}
        scriptPath={scriptPath}
      />
    )
    return html(c, page, shown.status)
  }
  /** An agent in the address that this key may not see, or that is none, is left out. */
  const agentAsked = (c: C, { caller }: Session): string | null => {
    const asked = c.req.query('agent')
    const parsed = viewDashboard.input.safeParse({ agent_id: asked })
    if (asked === undefined || !parsed.success) return null
    const isOwn = caller.agentId === null || asked === caller.agentId || asked.startsWith(`${caller.agentId}/`)
    return isOwn ? asked : null
  }

  app.get('/dash', (c) => goTo(c, '/dashboard'))
  app.get('/dashboard', async (c) => {
    const found = await opened(c)
    if (found === null) return signIn(c, null)
    const done = ACTIONS[c.req.query('done') ?? '']?.done ?? ''
    const notice: Notice | null = done === '' ? null : { kind: 'done', text: done }
    return show(c, found, { notice, agentId: agentAsked(c, found.session) })
  })

  app.get('/dashboard/events', async (c) => {
    const found = await opened(c)
    if (found === null) return new Response(null, { status: 401, headers: HEADERS })
    const agentId = agentAsked(c, found.session)
    const stream = hub.open(found.token, { session: found.session, agentId }, (data, session) =>
      JSON.stringify(liveParts({ ...data, viewer: viewerOf(session, found.token) })),
    )
    if (stream === null) return new Response(null, { status: 429, headers: { 'Retry-After': '30', ...HEADERS } })
    return new Response(stream, {
      headers: {
        ...HEADERS,
        'Content-Type': 'text/event-stream; charset=utf-8',
        'X-Accel-Buffering': 'no',
        'X-Request-Id': deps.requestId(c),
      },
    })
  })

  app.use('/dashboard/*', bodyLimit({ maxSize: FORM_LIMIT_BYTES }))
  app.post('/dashboard/sign-in', async (c) => {
    const { origin } = deps.siteOf(c)
    if (!isOwnForm(c, origin)) return signIn(c, 'This form was not sent from this page. Sign in here.', 403)
    const key = (await fieldsOf(c)).get('api_key') ?? ''
    const caller = KEY.test(key) ? await deps.callerOf(key) : null
    if (caller === null) return signIn(c, 'No account has this key, or it was revoked. Check it for typos.', 401)
    const { token, expiresMs } = await sessions.open(caller)
    const cookie = sessionCookie(origin, token, sessions.secondsLeft(expiresMs))
    return goTo(c, '/dashboard', { 'Set-Cookie': cookie })
  })

  app.post('/dashboard/:action', async (c) => {
    const { origin } = deps.siteOf(c)
    const name = c.req.param('action')
    const action = Object.hasOwn(ACTIONS, name) ? ACTIONS[name] : undefined
    if (action === undefined && name !== 'sign-out') return c.notFound()
    const fields = await fieldsOf(c)
    const found = await opened(c)
    if (found === null) return signIn(c, 'You are signed out. Sign in and try again.', 401)
    if (!isOwnForm(c, origin) || !isFormTokenOf(found.token, fields.get('form_token') ?? '')) {
      const text = 'This form was not sent from this page, or is an old one. Nothing was done: try again here.'
      return show(c, found, { notice: { kind: 'error', text }, agentId: null, status: 403 })
    }
    if (action === undefined) {
      await sessions.close(found.session)
      return goTo(c, '/dashboard', { 'Set-Cookie': sessionCookie(origin, '', 0) })
    }
    const formId = fields.get('form_id')
    const call = { c, caller: found.session.caller, token: found.token, ...(formId && FORM_ID.test(formId) && { formId }) }
    try {
      const { body } = await run(name, call, action.input(fields))
      const notice = action.notice?.(body) ?? null
      if (notice === null) return goTo(c, `/dashboard?done=${name}#${action.section}`)
      return await show(c, found, { notice, agentId: null })
    } catch (error) {
      if (!(error instanceof DomainError)) throw error
      return show(c, found, { notice: { kind: 'error', text: problemOf(error) }, agentId: null, status: error.status })
    }
  })
  return { release: () => hub.release(), following: () => hub.count }
}

async function fieldsOf<E extends Env>(c: Context<E>): Promise<Fields> {
  const isForm = /^application\/x-www-form-urlencoded\b/i.test(c.req.header('content-type') ?? '')
  const fields = new URLSearchParams(isForm ? await c.req.text() : '')
  return {
    get: (name) => {
      const value = fields.get(name)?.trim()
      return value === '' ? undefined : value
    },
  }
}

/** What went wrong, for a person: the hint, and which field it is about. */
function problemOf(error: DomainError): string {
  const { issues } = error.details
  const first: unknown = Array.isArray(issues) ? issues[0] : undefined
  if (typeof first !== 'object' || first === null || !('path' in first) || !('message' in first)) return error.hint
  return `${String(first.path).replaceAll('_', ' ')}: ${String(first.message)}.`
}
