import { createHash } from 'node:crypto'
import type { Context, Env, Hono } from 'hono'
import { LRUCache } from 'lru-cache'
import type { Catalogue } from '../prices/catalogue.ts'
import { DEFAULT_PRICE, PINNED_PRICES } from '../prices/pinned.ts'
import { Docs } from './docs.tsx'
import { favicon } from './governor.tsx'
import { Home, type HomeContent } from './home.tsx'
import type { Site } from './layout.tsx'
import { NotFound } from './not-found.tsx'
import type { ApiDocument } from './reference.ts'
import { type ClientScript, mountScript } from './script.ts'
import { stylesheet } from './stylesheet.ts'
import { renderSynchronously } from './synchronous.tsx'

export type PageDeps<C> = {
  readonly catalogue: Catalogue
  readonly document: () => ApiDocument
  readonly origin: (c: C) => string
  readonly requestId: (c: C) => string
}
export type PageOptions = { readonly version: string; readonly trialOps: number; readonly script: ClientScript }

const OPS_PER_USD = 1000
/** Rates are integer micro-dollars per million tokens. */
const MICRO = 1_000_000
const RENDERED_PAGES = 32

const STYLESHEET_PATH = `/assets/style.${createHash('sha256').update(stylesheet).digest('hex').slice(0, 12)}.css`

/** Our own script, no frame, nothing from elsewhere; `form-action` because a form would otherwise fall outside `default-src`. */
const SECURITY_HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
}

/** What every page needs to know about where it is served. */
export const siteAt = (origin: string, version: string): Site => ({ origin, version, stylesheetPath: STYLESHEET_PATH })

/** Adds the pages for people, and the 404 page for every address that nothing else answers. */
export function mountPages<E extends Env>(app: Hono<E>, deps: PageDeps<Context<E>>, options: PageOptions): void {
  renderSynchronously()
  const icon = favicon()
  const content: HomeContent = {
    prices: pinnedPrices(deps.catalogue),
    unknown: { input: DEFAULT_PRICE.input_usd_per_mtok, output: DEFAULT_PRICE.output_usd_per_mtok },
    trialOps: options.trialOps,
    opsPerUsd: OPS_PER_USD,
  }
  // Pages differ only by the origin they name; who asks under invented ones must not grow memory.
  const rendered = new LRUCache<string, string>({ max: RENDERED_PAGES })
  const page = (name: string, status: 200 | 404, render: (site: Site, script: string) => unknown) => async (c: Context<E>) => {
    const origin = deps.origin(c)
    const key = `${name} ${origin}`
    const known = rendered.get(key)
    const html = known ?? `<!doctype html>${String(render(siteAt(origin, options.version), await options.script.path()))}`
    if (known === undefined) rendered.set(key, html)
    return file(c, html, 'text/html; charset=utf-8', 'no-cache', status)
  }
  const file = (c: Context<E>, body: string, type: string, caching: string, status: 200 | 404 = 200): Response =>
    new Response(body, {
      status,
      headers: { 'Content-Type': type, 'Cache-Control': caching, 'X-Request-Id': deps.requestId(c), ...SECURITY_HEADERS },
    })

  app.get(
    '/',
    page('home', 200, (site, script) => <Home site={site} content={content} script={script} />),
  )
  app.get(
    '/docs',
    page('docs', 200, (site) => <Docs site={site} document={deps.document()} />),
  )
  mountScript(app, 'site', options.script)
  app.get(STYLESHEET_PATH, (c) => file(c, stylesheet, 'text/css; charset=utf-8', 'public, max-age=31536000, immutable'))
  for (const path of ['/favicon.svg', '/favicon.ico']) {
    app.get(path, (c) => file(c, icon, 'image/svg+xml', 'public, max-age=86400'))
  }
  app.notFound(page('not found', 404, (site) => <NotFound site={site} />))
}

function pinnedPrices(catalogue: Catalogue): HomeContent['prices'] {
  return PINNED_PRICES.map(({ id }) => {
    const rate = catalogue.rateFor(id)
    return { model: id, input: Number(rate.input) / MICRO, output: rate.inputOnly ? null : Number(rate.output) / MICRO }
  })
}
