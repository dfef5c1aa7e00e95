import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Api, ApiResponse, TestApp } from './app.ts'
import { expectStatus } from './app.ts'

export type Requested = {
  readonly approval_id: string
  readonly approval_url: string
  readonly expires_at: number
  readonly notification: Readonly<Record<string, string>>
}

/** Asks for an approval that must be accepted. */
export async function requestApproval(api: Api, key: string, fields: Record<string, unknown> = {}): Promise<Requested> {
  const body = { agent_id: 'crawler', action_summary: 'Buy a newspaper', ...fields }
  return expectStatus(200, await api.post('/v1/approval/request', body, key)) as unknown as Requested
}

export const checkApproval = (api: Api, key: string, id: string, query = ''): Promise<ApiResponse> =>
  api.get(`/v1/approval/check/${id}${query}`, key)

export type PageResponse = { readonly status: number; readonly html: string; readonly headers: Headers }

export async function openPage(app: Pick<TestApp['app'], 'request'>, id: string, init: RequestInit = {}): Promise<PageResponse> {
  const response = await app.request(`/approve/${id}`, init)
  return { status: response.status, html: await response.text(), headers: response.headers }
}

/** Presses a button of the page as a browser does: with the fields that the page holds. */
export async function press(
  app: Pick<TestApp['app'], 'request'>,
  id: string,
  decision: 'approved' | 'denied',
  html?: string,
): Promise<PageResponse> {
  const page = html ?? (await openPage(app, id)).html
  const terms = /name="terms" value="([^"]+)"/.exec(page)?.[1]
  const response = await app.request(`/approve/${id}/decide`, {
    method: 'POST',
    headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({ decision, ...(terms !== undefined && { terms }) }).toString(),
  })
  return { status: response.status, html: await response.text(), headers: response.headers }
}

export type Received = { readonly path: string; readonly headers: IncomingHttpHeaders; readonly body: string }
export type Receiver = {
  readonly origin: string
  readonly received: Received[]
  /** Answers the next requests with these statuses (`reset` breaks the connection, `hang` never answers), later ones with 200. */
  fail(...answers: (number | 'reset' | 'hang')[]): void
  /** Resolves when so many have come; fails after five seconds. */
  waitFor(count: number): Promise<Received[]>
  close(): Promise<void>
}

/** A server that takes webhooks. */
export async function startReceiver(): Promise<Receiver> {
  const received: Received[] = []
  const answers: (number | 'reset' | 'hang')[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const answer = answers.shift() ?? 200
      received.push({ path: request.url ?? '', headers: request.headers, body: Buffer.concat(chunks).toString() })
      if (answer === 'reset') request.socket.destroy()
      else if (answer !== 'hang') response.writeHead(answer).end()
    })
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received,
    fail: (...next) => answers.push(...next),
    waitFor: async (count) => {
      await until(() => received.length >= count, `${count} messages`)
      return received
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
}

/** Polls until it holds. @throws after `timeout_ms`, naming what was awaited */
export async function until(holds: () => boolean | Promise<boolean>, what: string, timeout_ms = 5000): Promise<void> {
  const deadline = Date.now() + timeout_ms
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`waited ${timeout_ms} ms in vain for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
