import { DomainError, errorCodes } from '../core/errors.ts'
import { Layout, type Site } from './layout.tsx'
import {
  type ApiDocument,
  type ApiOperation,
  curlOf,
  errorsOf,
  type Field,
  inputsOf,
  type Route,
  resultOf,
  routesOf,
} from './reference.ts'

type DocsProps = { readonly site: Site; readonly document: ApiDocument }

const GENERAL = [
  { id: 'start', title: 'How to call' },
  { id: 'authentication', title: 'Authentication' },
  { id: 'denials', title: 'Denials and errors' },
  { id: 'idempotency', title: 'Repeating a call' },
  { id: 'mcp', title: 'MCP' },
] as const

/** `/docs`: the API reference, from the same document as `/openapi.json`. */
export function Docs({ site, document }: DocsProps) {
  const groups = document.tags.map((tag) => ({ ...tag, id: tag.name.toLowerCase(), routes: routesOf(document, tag.name) }))
  return (
    <Layout
      site={site}
      title="API reference: Gvnr"
      description="Every operation of Gvnr: path, scope, inputs, results, errors and a curl example."
      path="/docs"
      class="docs"
    >
      <nav class="contents" aria-label="Contents">
        <strong>General</strong>
        <ul>
          {GENERAL.map(({ id, title }) => (
            <li>
              <a href={`#${id}`}>{title}</a>
            </li>
          ))}
          <li>
            <a href="#errors">Error codes</a>
          </li>
        </ul>
        {groups.map(({ name, routes }) => (
          <>
            <strong>{name}</strong>
            <ul>
              {routes.map(({ operation }) => (
                <li>
                  <a href={`#${operation.operationId}`}>{operation.summary}</a>
                </li>
              ))}
            </ul>
          </>
        ))}
      </nav>
      <article>
        <h1>API reference</h1>
        <General origin={site.origin} />
        {groups.map(({ name, id, description, routes }) => (
          <section id={`tag-${id}`}>
            <h2>{name}</h2>
            <p>{description}.</p>
            {routes.map((route) => (
              <Operation document={document} route={route} origin={site.origin} />
            ))}
          </section>
        ))}
        <Errors />
      </article>
    </Layout>
  )
}

function General({ origin }: { readonly origin: string }) {
  return (
    <>
      <section id="start">
        <h2>How to call</h2>
        <p>
          The base address is <code>{origin}</code>. Every path below also answers under <code>/api</code>. Bodies are JSON. Money
          is in US dollars, rounded to 6 places; times are Unix milliseconds. A machine-readable form of this page is at{' '}
          <a href="/openapi.json">/openapi.json</a> (OpenAPI 3.1); <code>npx openapi-typescript {origin}/openapi.json</code> turns
          it into types.
        </p>
      </section>
      <section id="authentication">
        <h2>Authentication</h2>
        <p>
          Send the key as <code>Authorization: Bearer bg_…</code>, or as <code>X-API-Key: bg_…</code>. Clients that cannot send
          headers may put it in the query as <code>?api_key=bg_…</code>; it is kept out of the log.{' '}
          <a href="#create_account">Making an account</a> returns its owner key, once.
        </p>
        <p>
          A key has a scope. <code>owner</code> may do everything. <code>agent</code> is bound to one agent and those below it: it
          may clear, reconcile, release and check rates, but not raise its own limit. <code>read</code> may only read. Give each
          agent <a href="#create_key">a key of its own</a>.
        </p>
      </section>
      <section id="denials">
        <h2>Denials and errors</h2>
        <p>
          A denial is an answer, not an error: status 200 with <code>approved:false</code> or <code>allowed:false</code>, a{' '}
          <code>reason</code> and a <code>hint</code>. Every error is a status of 400 or more with this body:
        </p>
        <pre tabindex={0}>
          <code>{JSON.stringify(new DomainError('invalid_json').toBody(), null, 2)}</code>
        </pre>
        <p>
          <code>error</code> is stable and safe to test for; <code>hint</code> says what to do next, for people and models. Send
          the same request again only if <code>retryable</code> is true, after the time in <code>Retry-After</code> if there is
          one. All codes are <a href="#errors">listed below</a>. Every response has an <code>X-Request-Id</code>; name it when you
          report a problem.
        </p>
      </section>
      <section id="idempotency">
        <h2>Repeating a call</h2>
        <p>
          If an answer got lost, repeating the call could do the work twice. Send an <code>Idempotency-Key</code> header (1 to 256
          characters of your choice) with any call that changes something: the first response is kept for 24 hours and sent again,
          marked <code>Idempotent-Replayed: true</code>.
        </p>
      </section>
      <section id="mcp">
        <h2>MCP</h2>
        <p>
          The MCP endpoint is <code>{origin}/mcp</code> (Streamable HTTP, no session). Operations marked as MCP tools have the
          same inputs, rules and results there.
        </p>
        <pre tabindex={0}>
          <code>{`claude mcp add gvnr --transport http ${origin}/mcp \\\n  --header "Authorization: Bearer $GVNR_KEY"`}</code>
        </pre>
      </section>
    </>
  )
}

type OperationProps = { readonly document: ApiDocument; readonly route: Route; readonly origin: string }

function Operation({ document, route, origin }: OperationProps) {
  const { method, path, operation } = route
  const inputs = inputsOf(document, operation)
  const result = resultOf(document, operation)
  return (
    <div class="operation" id={operation.operationId}>
      <h3>
        <a href={`#${operation.operationId}`}>{operation.summary}</a>
      </h3>
      <p class="route">
        <span class={`method ${method}`}>{method.toUpperCase()}</span>
        {path}
      </p>
      <p class="who">
        {whoMayCall(operation)}
        {operation['x-mcp-tool'] === true && (
          <>
            {' '}
            MCP tool <code>{operation.operationId}</code>.
          </>
        )}
        {operation.parameters?.some(({ name }) => name === 'Idempotency-Key') && (
          <>
            {' '}
            Takes an <a href="#idempotency">Idempotency-Key</a>.
          </>
        )}
      </p>
      <p>{operation.description}</p>
      {inputs.length > 0 && (
        <>
          <h4>Input</h4>
          <Fields fields={inputs} />
        </>
      )}
      <div class="pair">
        <div>
          <h4>Request</h4>
          <pre tabindex={0}>
            <code>{curlOf(route, origin)}</code>
          </pre>
        </div>
        <div>
          <h4>Response {result.status}</h4>
          <pre tabindex={0}>
            <code>{JSON.stringify(result.example, null, 2)}</code>
          </pre>
        </div>
      </div>
      <details>
        <summary>Fields of the response</summary>
        <Fields fields={result.fields} />
      </details>
      <h4>Errors</h4>
      <p class="codes">
        {errorsOf(operation).map(({ status, codes }) => (
          <>
            {codes.map((code) => (
              <>
                <a href={`#error-${code}`}>
                  {status} <code>{code}</code>
                </a>{' '}
              </>
            ))}
          </>
        ))}
      </p>
    </div>
  )
}

function whoMayCall({ 'x-scopes': scopes, 'x-agent-rule': rule, security }: ApiOperation): string {
  if (scopes === undefined) return security?.length === 0 ? 'No key needed.' : 'Operator secret.'
  const limit = rule === 'below' && scopes.includes('agent') ? ' (agent: only for agents below its own)' : ''
  return `Scope: ${scopes.join(', ')}${limit}.`
}

function Fields({ fields }: { readonly fields: readonly Field[] }) {
  const isInput = fields.some(({ place }) => place !== 'result')
  return (
    <div class="scroll" tabindex={0}>
      <table>
        <thead>
          <tr>
            <th>Field</th>
            <th>Type</th>
            <th>Meaning</th>
          </tr>
        </thead>
        <tbody>
          {fields.map(({ name, place, kind, required, description }) => (
            <tr>
              <td>
                <code>{name}</code>
                {isInput && place !== 'body' && <span class="soft"> {place}</span>}
              </td>
              <td>
                {kind}
                {isInput && required && <span class="must"> required</span>}
                {!isInput && !required && <span class="soft"> (not always)</span>}
              </td>
              <td>{description}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

function Errors() {
  return (
    <section id="errors">
      <h2>Error codes</h2>
      <div class="scroll" tabindex={0}>
        <table>
          <thead>
            <tr>
              <th>Code</th>
              <th>Status</th>
              <th>Retry?</th>
              <th>What to do</th>
            </tr>
          </thead>
          <tbody>
            {errorCodes.map((code) => {
              const error = new DomainError(code)
              return (
                <tr id={`error-${code}`}>
                  <td>
                    <code>{code}</code>
                  </td>
                  <td>{error.status}</td>
                  <td>{error.toBody().retryable ? 'yes' : 'no'}</td>
                  <td>{error.hint}</td>
                </tr>
              )
            })}
          </tbody>
        </table>
      </div>
    </section>
  )
}
