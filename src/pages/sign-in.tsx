import { Layout, type Site } from './layout.tsx'

/** `/dashboard` for who is not signed in. */
export const SignIn = ({ site, problem }: { readonly site: Site; readonly problem: string | null }) => (
  <Layout
    site={site}
    title="Sign in: Gvnr"
    description="Quota, agents, spend and approvals of your account."
    path="/dashboard"
    class="dashboard sign-in"
  >
    <h1>Dashboard</h1>
    <p class="lead">
      Sign in with a key of your account. The owner key may change everything, a <code>read</code> key looks, an{' '}
      <code>agent</code> key sees its own agent.
    </p>
    {problem === null ? null : (
      <p class="notice error" role="alert">
        {problem}
      </p>
    )}
    <form method="post" action="/dashboard/sign-in" class="stack">
      <label>
        <span>API key</span>
        <input
          type="password"
          name="api_key"
          required
          autocomplete="current-password"
          spellcheck={false}
          placeholder="bg_…"
          maxlength={64}
        />
      </label>
      <button class="button main" type="submit">
        Sign in
      </button>
    </form>
    <p class="soft">
      No key yet? <a href="/#start">Make an account</a>. The key is checked and not kept: the session ends after twelve hours,
      when you sign out, and at once when the key is revoked.
    </p>
  </Layout>
)
