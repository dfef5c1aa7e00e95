import { Layout, type Site } from './layout.tsx'

/** The answer to every address that has no page. */
export function NotFound({ site }: { readonly site: Site }) {
  return (
    <Layout site={site} title="Not found: Gvnr" description="There is no page at this address." class="lost">
      <h1>Nothing here</h1>
      <p class="lead">There is no page at this address. Check it for typos, or start from one of these.</p>
      <div class="buttons">
        <a class="button main" href="/">
          Home
        </a>
        <a class="button" href="/docs">
          API reference
        </a>
      </div>
    </Layout>
  )
}
