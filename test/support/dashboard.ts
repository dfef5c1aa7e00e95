import type { TestApp } from './app.ts'

type App = Pick<TestApp['app'], 'request'>
export type DashboardPage = { readonly status: number; readonly html: string; readonly headers: Headers }
export type Visitor = {
  readonly cookie: string
  /** The cookie's secret. */
  readonly token: string
  open(path?: string, headers?: Record<string, string>): Promise<DashboardPage>
  /** Sends the form of this action as a browser does: with the fields that the page holds. */
  submit(
    action: string,
    fields?: Record<string, string>,
    init?: { headers?: Record<string, string>; path?: string },
  ): Promise<DashboardPage>
  post(action: string, fields: Record<string, string>, headers?: Record<string, string>): Promise<DashboardPage>
}

const FORM = { 'content-type': 'application/x-www-form-urlencoded' }
const OWN = { origin: 'http://localhost', 'sec-fetch-site': 'same-origin' }

const pageOf = async (response: Response): Promise<DashboardPage> => ({
  status: response.status,
  html: await response.text(),
  headers: response.headers,
})

export async function sendSignIn(app: App, key: string, headers: Record<string, string> = OWN): Promise<DashboardPage> {
  const body = new URLSearchParams({ api_key: key }).toString()
  return pageOf(await app.request('/dashboard/sign-in', { method: 'POST', headers: { ...FORM, ...headers }, body }))
}

/** Signs in at the dashboard. */
export async function visit(app: App, key: string): Promise<Visitor> {
  const answer = await sendSignIn(app, key)
  const set = answer.headers.get('set-cookie') ?? ''
  const token = /gvnr_session=([\w-]+)/.exec(set)?.[1]
  if (answer.status !== 303 || token === undefined)
    throw new Error(`not signed in: ${answer.status} ${answer.html.slice(0, 300)}`)
  return visitorWith(app, token)
}

/** A browser with this cookie, whether or not it is a good one. */
export function visitorWith(app: App, token: string): Visitor {
  const cookie = `gvnr_session=${token}`
  const open: Visitor['open'] = async (path = '/dashboard', headers = {}) =>
    pageOf(await app.request(path, { headers: { cookie, ...headers } }))
  const post: Visitor['post'] = async (action, fields, headers = OWN) =>
    pageOf(
      await app.request(`/dashboard/${action}`, {
        method: 'POST',
        headers: { cookie, ...FORM, ...headers },
        body: new URLSearchParams(fields).toString(),
      }),
    )
  return {
    cookie,
    token,
    open,
    post,
    async submit(action, fields = {}, init = {}) {
      const { html } = await open(init.path)
      const form = formsOf(html).find(
        (candidate) =>
          candidate.action === action &&
          Object.entries(fields).every(
            ([name, value]) => candidate.hidden[name] === undefined || candidate.hidden[name] === value,
          ),
      )
      if (form === undefined) throw new Error(`the page has no form for ${action} with ${JSON.stringify(fields)}`)
      return post(action, { ...form.hidden, ...fields }, init.headers)
    },
  }
}

/** The forms of a page, with what they carry unseen. */
export function formsOf(html: string): { action: string; hidden: Record<string, string> }[] {
  return [...html.matchAll(/<form method="post" action="\/dashboard\/([\w-]+)"[^>]*>(.*?)<\/form>/gs)].map(
    ([, action, inner]) => ({
      action: action!,
      hidden: Object.fromEntries(
        [...inner!.matchAll(/<input type="hidden" name="(\w+)" value="([^"]*)"/g)].map(([, name, value]) => [
          name!,
          plain(value!),
        ]),
      ),
    }),
  )
}

/** The text that escaped HTML stands for. */
export const plain = (html: string): string =>
  html.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&quot;', '"').replaceAll('&#39;', "'").replaceAll('&amp;', '&')

/** The next events of a stream, each with its data. Ends the reading when `until` is content, or at the end of the stream. */
export async function readEvents(
  response: Response,
  until: (events: { event: string; data: string }[]) => boolean,
): Promise<{ events: { event: string; data: string }[]; ended: boolean }> {
  const reader = response.body!.getReader()
  const decoder = new TextDecoder()
  let text = ''
  for (;;) {
    const { done, value } = await reader.read()
    text += decoder.decode(value, { stream: true })
    const events = [...text.matchAll(/event: (\w+)\ndata: (.*)\n\n/g)].map(([, event, data]) => ({ event: event!, data: data! }))
    if (done) return { events, ended: true }
    if (until(events)) {
      await reader.cancel()
      return { events, ended: false }
    }
  }
}
