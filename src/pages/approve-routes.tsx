import { createHash } from 'node:crypto'
import type { Context, Env, Hono } from 'hono'
import { z } from 'zod'
import { approvalJson } from '../approvals/operations.ts'
import type { ApprovalService, Decided } from '../approvals/service.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import type { Log } from '../core/log.ts'
import { plainLine } from '../core/text.ts'
import { Approve, approveStyle, Message } from './approve.tsx'
import type { Site } from './layout.tsx'
import { stylesheet } from './stylesheet.ts'

export type ApprovalPageDeps<C> = {
  readonly approvals: Pick<ApprovalService, 'page' | 'decide'>
  readonly clock: Clock
  readonly log: Log
  readonly origin: (c: C) => string
  readonly requestId: (c: C) => string
}

const MAX_BODY_BYTES = 4096
const MAX_RESPONDER = 80
const RETRY_SECONDS = 2

const css = stylesheet + approveStyle
const STYLESHEET_PATH = `/assets/approve.${createHash('sha256').update(css).digest('hex').slice(0, 12)}.css`

/** Contract section 5. The link is a credential: it is neither cached, nor framed, nor passed on as a referrer, nor indexed. */
const SECURITY_HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
}
const PAGE_HEADERS = { ...SECURITY_HEADERS, 'Cache-Control': 'no-store', 'X-Robots-Tag': 'noindex' }

const decisionSchema = z.object({
  decision: z.enum(['approved', 'denied']),
  terms: z.string().max(200).optional(),
  responder: z.string().max(MAX_RESPONDER).optional(),
})

const CHANGED =
  'What approving would do has changed since this page was opened, so nothing was decided. Read it again and decide.'

/**
 * Adds `GET /approve/:id` and `POST /approve/:id/decide`. Only the POST decides: mail scanners, chat previews and browsers that fetch ahead
 * open links, and none of that may count as an answer.
 */
export function mountApprovalPage<E extends Env>(
  app: Hono<E>,
  deps: ApprovalPageDeps<Context<E>>,
  options: { readonly version: string },
): void {
  const { approvals, clock, log } = deps
  const siteOf = (c: Context<E>): Site => ({
    origin: deps.origin(c),
    version: options.version,
    stylesheetPath: STYLESHEET_PATH,
  })
  const html = (c: Context<E>, status: number, page: unknown, headers: Record<string, string> = {}): Response =>
    new Response(`<!doctype html>${String(page)}`, {
      status,
      headers: { 'Content-Type': 'text/html; charset=utf-8', 'X-Request-Id': deps.requestId(c), ...PAGE_HEADERS, ...headers },
    })
  const json = (c: Context<E>, status: number, body: unknown): Response =>
    new Response(JSON.stringify(body), {
      status,
      headers: { 'Content-Type': 'application/json', 'X-Request-Id': deps.requestId(c), ...PAGE_HEADERS },
    })
  const unknown = (c: Context<E>): Response =>
    html(
      c,
      404,
      <Message site={siteOf(c)} title="No such request">
        There is no approval request behind this link. Check that it is complete: mail programs sometimes cut long links.
      </Message>,
    )
  const refuse = (c: Context<E>, error: unknown): Response => {
    const known = error instanceof DomainError ? error : null
    if (known === null) log.error({ err: error, request_id: deps.requestId(c) }, 'unexpected failure')
    const failure = known ?? new DomainError('internal_error', { details: { request_id: deps.requestId(c) } })
    if (wantsJson(c)) return json(c, failure.status, failure.toBody())
    return html(
      c,
      failure.status,
      <Message site={siteOf(c)} title={failure.status < 500 ? 'That did not work' : 'Not answering right now'}>
        {failure.status < 500
          ? 'Go back, open the link again and press one of the buttons.'
          : 'Nothing was decided by this. Try again in a moment.'}
      </Message>,
      failure.status === 503 ? { 'Retry-After': String(RETRY_SECONDS) } : {},
    )
  }

  app.get(STYLESHEET_PATH, () => {
    const headers = { 'Content-Type': 'text/css; charset=utf-8', 'Cache-Control': 'public, max-age=31536000, immutable' }
    return new Response(css, { headers: { ...headers, ...SECURITY_HEADERS } })
  })

  app.get('/approve/:token', async (c) => {
    try {
      const token = c.req.param('token')
      const page = await approvals.page(token)
      if (page === null) return unknown(c)
      return html(c, 200, <Approve site={siteOf(c)} token={token} page={page} now_ms={clock.now()} />)
    } catch (error) {
      return refuse(c, error)
    }
  })

  app.post('/approve/:token/decide', async (c) => {
    try {
      const token = c.req.param('token')
      const answer = decisionSchema.safeParse(await bodyOf(c))
      if (!answer.success) throw new DomainError('invalid_params', { hint: 'Send decision=approved or decision=denied.' })
      const { decision, terms, responder } = answer.data
      const by = plainLine(responder ?? '') || 'approval link'
      const decided = await approvals.decide(token, decision, { shown: terms ?? null, responder: by })
      if (decided === null) return wantsJson(c) ? json(c, 404, new DomainError('approval_not_found').toBody()) : unknown(c)
      return answerOf(c, token, decided)
    } catch (error) {
      return refuse(c, error)
    }
  })

  const answerOf = (c: Context<E>, token: string, decided: Decided): Response => {
    if (decided.outcome === 'changed') {
      if (wantsJson(c))
        return json(c, 409, new DomainError('approval_changed', { details: { terms: decided.effect?.terms } }).toBody())
      return html(
        c,
        409,
        <Approve site={siteOf(c)} token={token} page={{ ...decided, mayDecide: true }} now_ms={clock.now()} notice={CHANGED} />,
      )
    }
    if (wantsJson(c)) return json(c, 200, { approval_id: token, ...approvalJson(decided.approval) })
    // See other: reloading the result repeats nothing.
    return new Response(null, {
      status: 303,
      headers: { Location: `/approve/${token}`, 'X-Request-Id': deps.requestId(c), ...PAGE_HEADERS },
    })
  }
}

const isJson = (type: string | undefined): boolean => /^application\/json\b/i.test(type ?? '')

function wantsJson<E extends Env>(c: Context<E>): boolean {
  return isJson(c.req.header('content-type')) || /\bapplication\/json\b/i.test(c.req.header('accept') ?? '')
}

/** The fields of a form or of a JSON object. @throws DomainError `payload_too_large`, `invalid_json`, `unsupported_media_type` */
async function bodyOf<E extends Env>(c: Context<E>): Promise<unknown> {
  const type = c.req.header('content-type')
  const text = await boundedText(c.req.raw)
  if (isJson(type)) {
    try {
      return JSON.parse(text) as unknown
    } catch {
      throw new DomainError('invalid_json')
    }
  }
  if (!/^application\/x-www-form-urlencoded\b/i.test(type ?? '')) throw new DomainError('unsupported_media_type')
  return Object.fromEntries(new URLSearchParams(text))
}

async function boundedText(request: Request): Promise<string> {
  if (Number(request.headers.get('content-length') ?? 0) > MAX_BODY_BYTES) throw new DomainError('payload_too_large')
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of (request.body ?? []) as AsyncIterable<Uint8Array>) {
    bytes += chunk.length
    if (bytes > MAX_BODY_BYTES) throw new DomainError('payload_too_large')
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
