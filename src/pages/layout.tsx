import type { Child } from 'hono/jsx'
import { Governor } from './governor.tsx'

/** What every page needs to know about where it is served. */
export type Site = {
  /** e.g. `https://gvnr.example.com`, without a slash at the end. */
  readonly origin: string
  readonly version: string
  readonly stylesheetPath: string
}

type LayoutProps = {
  readonly site: Site
  readonly title: string
  readonly description: string
  /** The path of the page, for the canonical link and the menu; absent for pages that have none. */
  readonly path?: string
  readonly class: string
  /** The path that the menu marks, where it is not `path`. */
  readonly current?: string
  /** The page's script; the policy of pages without one allows none. */
  readonly script?: string
  readonly children: Child
}

const MENU = [
  { href: '/#start', text: 'Quick start' },
  { href: '/docs', text: 'API reference' },
  { href: '/#prices', text: 'Prices' },
  { href: '/dashboard', text: 'Dashboard' },
] as const

/** The frame of every page. Nothing inline and no third party: the pages are served under `default-src 'none'`. */
export function Layout({ site, title, description, path, class: className, current, script, children }: LayoutProps) {
  return (
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>{title}</title>
        <meta name="description" content={description} />
        {path === undefined ? <meta name="robots" content="noindex" /> : <link rel="canonical" href={site.origin + path} />}
        <link rel="icon" href="/favicon.svg" type="image/svg+xml" />
        <link rel="stylesheet" href={site.stylesheetPath} />
        {script === undefined ? null : <script src={script} defer></script>}
      </head>
      <body>
        <a class="skip" href="#content">
          Skip to the content
        </a>
        <header class="bar">
          <a class="brand" href="/">
            <Governor />
            Gvnr
          </a>
          <nav aria-label="Pages">
            {MENU.map(({ href, text }) => (
              <a href={href} {...(href === (current ?? path) && { 'aria-current': 'page' })}>
                {text}
              </a>
            ))}
          </nav>
        </header>
        <main id="content" class={className}>
          {children}
        </main>
        <footer>
          <span>Gvnr {site.version}, MIT licence</span>
          <a href="/docs">API reference</a>
          <a href="/openapi.json">OpenAPI</a>
          <a href="/llms.txt">llms.txt</a>
          <a href="/.well-known/mcp.json">MCP</a>
          <a href="/pay">Top up</a>
          <a href="/status">Status</a>
        </footer>
      </body>
    </html>
  )
}
