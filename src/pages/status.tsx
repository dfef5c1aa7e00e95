import type { Status } from '../status/service.ts'
import { Layout, type Site } from './layout.tsx'
import { Moment } from './moment.tsx'

const TITLE = {
  ok: 'Everything works',
  degraded: 'Something is not as it should be',
  down: 'Not working',
} as const
const WORD = { ok: 'works', slow: 'slow', down: 'down', off: 'not set up' } as const

/** `/status`: what the service needs, as it was found a few seconds ago. */
export const StatusPage = ({ site, status }: { readonly site: Site; readonly status: Status }) => (
  <Layout site={site} title="Status: Gvnr" description="Whether Gvnr and what it needs work." path="/status" class="status">
    <h1 class={`state ${status.state}`}>{TITLE[status.state]}</h1>
    <div class="scroll" tabindex={0}>
      <table>
        <thead>
          <tr>
            <th scope="col">What</th>
            <th scope="col">State</th>
            <th scope="col">How</th>
            <th scope="col" class="number">
              Took
            </th>
          </tr>
        </thead>
        <tbody>
          {status.checks.map((check) => (
            <tr>
              <td>{check.name}</td>
              <td class={`state ${check.state}`}>{WORD[check.state]}</td>
              <td>{check.detail}</td>
              <td class="number">{check.state === 'off' ? '' : `${check.took_ms} ms`}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
    <p class="soft">
      Looked at <Moment at_ms={status.checkedMs} /> UTC; each thing at most once in five seconds.{' '}
      <a href="/status.json">As JSON</a>
    </p>
  </Layout>
)
