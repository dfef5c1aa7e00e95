import type { Context, Env, Hono } from 'hono'
import { bodyLimit } from 'hono/body-limit'
import {
  isPack,
  opsFromUnits,
  type PackName,
  type UsdcUnits,
  unitsFromAmount,
  unitsOfPack,
  usdFromUnits,
} from '../billing/packs.ts'
import type { BillingService } from '../billing/service.ts'
import { DomainError } from '../core/errors.ts'
import type { KeyCaller } from '../core/operation.ts'
import type { Site } from './layout.tsx'
import { Pay, PayClosed, PayRefused, type PayView } from './pay.tsx'
import { type ClientScript, mountScript } from './script.ts'

/** What the page lets people do; each goes through the same guards as the call of the API. */
export type PayActions<C> = {
  readonly billing: BillingService
  callerOf(key: string): Promise<KeyCaller | null>
  balanceOf(accountId: string): Promise<number>
  /** @throws DomainError `rate_limited` */
  createAccount(c: C): Promise<string>
  /** @throws DomainError what `topup_verify` answers */
  claim(
    c: C,
    caller: KeyCaller,
    input: { tx_hash: string; signature?: string },
  ): Promise<{ credited_ops: number; already: boolean }>
}
export type PayOptions<C> = {
  readonly siteOf: (c: C) => Site
  readonly requestId: (c: C) => string
  readonly script: ClientScript
}

const KEY = /^bg_[0-9a-f]{32}$/
const FORM_LIMIT_BYTES = 64 * 1024
const DEFAULT_UNITS = 5_000_000n
/** Our own script and stylesheet, calls to ourselves, and nothing from elsewhere. The page holds a key: nobody keeps it, nobody frames it. */
const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store',
}

type Shown = {
  units: UsdcUnits
  pack: PackName | null
  caller: KeyCaller | null
  key: string
  newKey?: string
  notice?: PayView['notice']
  claim?: PayView['claim']
}

/** `/pay` and `/pay/:pack`: the page for people. Without its script everything works that can be done by hand. */
export function mountPay<E extends Env>(app: Hono<E>, actions: PayActions<Context<E>>, options: PayOptions<Context<E>>): void {
  const { billing } = actions
  const html = (c: Context<E>, page: unknown, status = 200): Response =>
    new Response(`<!doctype html>${String(page)}`, {
      status,
      headers: { 'Content-Type': 'text/html; charset=utf-8', 'X-Request-Id': options.requestId(c), ...HEADERS },
    })
  const refused = (c: Context<E>, status: number, title: string, text: string): Response =>
    html(c, <PayRefused site={options.siteOf(c)} title={title} text={text} />, status)

  const show = async (c: Context<E>, shown: Shown, status = 200): Promise<Response> => {
    const { network } = billing
    const view: PayView = {
      amountUsd: amountText(shown.units),
      amountUnits: String(shown.units),
      ops: Number(opsFromUnits(shown.units)),
      pack: shown.pack,
      networkName: network.name,
      chainId: network.chainId,
      explorer: network.explorer,
      usdc: billing.usdc,
      account: shown.caller === null ? null : await accountOf(shown.caller, shown.key),
      newKey: shown.newKey ?? null,
      notice: shown.notice ?? null,
      claim: shown.claim ?? { txHash: '', signature: '' },
      scriptPath: await options.script.path(),
    }
    return html(c, <Pay site={options.siteOf(c)} view={view} />, status)
  }
  const accountOf = async ({ accountId }: KeyCaller, key: string) => {
    const [{ address, isOwn }, operations] = await Promise.all([billing.receiverOf(accountId), actions.balanceOf(accountId)])
    return { key, operations, address, isOwn }
  }
  /** The account a key opens; a page that refuses it. */
  const opened = async (c: Context<E>, key: string): Promise<KeyCaller | null | Response> => {
    if (key === '') return null
    if (!KEY.test(key))
      return refused(c, 400, 'This is no key', 'A key is bg_ and 32 digits and letters a to f. Check it for typos.')
    const caller = await actions.callerOf(key)
    if (caller === null) return refused(c, 401, 'Unknown key', 'No account has this key, or it was revoked. Check it for typos.')
    if (caller.scope === 'owner') return caller
    return refused(c, 403, 'Not with this key', 'Payments need the owner key of the account.')
  }
  const closed = (c: Context<E>): Response => html(c, <PayClosed site={options.siteOf(c)} />, 503)

  mountScript(app, 'pay', options.script)
  const page = async (c: Context<E>, pack: PackName | null): Promise<Response> => {
    if (!billing.isConfigured) return closed(c)
    const key = c.req.query('api_key') ?? ''
    const caller = await opened(c, key)
    if (caller instanceof Response) return caller
    const amount = c.req.query('usd')
    if (pack !== null) return show(c, { units: unitsOfPack(pack), pack, caller, key })
    const units = amount === undefined ? DEFAULT_UNITS : unitsFromAmount(amount)
    if (typeof units !== 'string') return show(c, { units, pack: null, caller, key })
    const notice = { kind: 'error' as const, text: new DomainError(units).hint }
    return show(c, { units: DEFAULT_UNITS, pack: null, caller, key, notice }, 400)
  }
  app.get('/pay', (c) => page(c, null))
  app.get('/pay/:pack', (c) => {
    const pack = c.req.param('pack')
    if (isPack(pack)) return page(c, pack)
    return refused(c, 404, 'No such pack', 'The packs are starter, growth and studio.')
  })

  const formOf = async (c: Context<E>) => {
    const form = await c.req.parseBody()
    const field = (name: string) => (typeof form[name] === 'string' ? form[name].trim() : '')
    const units = unitsFromAmount(field('usd'))
    return { field, units: typeof units === 'string' ? DEFAULT_UNITS : units }
  }
  app.use('/pay/*', bodyLimit({ maxSize: FORM_LIMIT_BYTES }))
  app.post('/pay/account', async (c) => {
    if (!billing.isConfigured) return closed(c)
    const { units } = await formOf(c)
    try {
      return await show(c, { units, pack: null, caller: null, key: '', newKey: await actions.createAccount(c) })
    } catch (error) {
      if (!(error instanceof DomainError)) throw error
      return show(c, { units, pack: null, caller: null, key: '', notice: { kind: 'error', text: error.hint } }, error.status)
    }
  })
  app.post('/pay/claim', async (c) => {
    if (!billing.isConfigured) return closed(c)
    const { field, units } = await formOf(c)
    const key = field('api_key')
    const caller = await opened(c, key)
    if (caller instanceof Response) return caller
    const claim = { txHash: field('tx_hash').slice(0, 256), signature: field('signature').slice(0, 20_000) }
    const base = { units, pack: null, caller, key, claim }
    if (caller === null) return show(c, base, 400)
    try {
      const input = { tx_hash: claim.txHash, ...(claim.signature !== '' && { signature: claim.signature }) }
      const { credited_ops, already } = await actions.claim(c, caller, input)
      const text = already
        ? `This payment was credited before: ${credited_ops.toLocaleString('en-US')} operations.`
        : `Credited: ${credited_ops.toLocaleString('en-US')} operations.`
      return await show(c, { ...base, claim: { txHash: '', signature: '' }, notice: { kind: 'done', text } })
    } catch (error) {
      if (!(error instanceof DomainError)) throw error
      return show(c, { ...base, notice: noticeOf(error) }, error.status)
    }
  })
}

function noticeOf(error: DomainError): NonNullable<PayView['notice']> {
  const { message } = error.details
  if (typeof message !== 'string') return { kind: 'error', text: error.hint }
  const isFirst = error.code === 'signature_required'
  const text = isFirst ? 'Sign this text with the wallet that paid, and enter the signature below.' : error.hint
  return { kind: isFirst ? 'sign' : 'error', text, message }
}

const amountText = (units: UsdcUnits): string => {
  const usd = usdFromUnits(units)
  return Number.isInteger(usd) ? String(usd) : usd.toFixed(2)
}
