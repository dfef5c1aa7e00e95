import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startBrowser } from '../../support/browser.ts'
import { Client } from '../../support/client.ts'
import { audit, invalidHtml, LOOKS, withPage } from '../../support/looks.ts'
import { NASTY } from '../../support/nasty.ts'
import { type Server, startServer } from '../../support/server.ts'

/** What a host gives a view that declares nothing (SEP-1865, restrictive default). */
const HOST_POLICY =
  "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; media-src 'self' data:; connect-src 'none'"

type Host = { messages: { method?: string; params?: Record<string, unknown> }[] }

describe('the dashboard in a conversation', () => {
  let server: Server
  let client: Client
  let browser: Browser
  let key: string
  let view: string

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer(), startBrowser()])
    client = new Client(server.origin)
    key = (await client.createAccount(1000)).key
    const { contents } = await rpc('resources/read', { uri: 'ui://gvnr/dashboard' })
    view = (contents as { text: string }[])[0]!.text
  })
  afterAll(async () => {
    client?.close()
    await browser?.close()
    await server?.stop()
  })
  const rpc = async (method: string, params: Record<string, unknown>): Promise<Record<string, unknown>> => {
    const body = { jsonrpc: '2.0', id: 1, method, params }
    const answer = await client.send<{ result: Record<string, unknown> }>({ method: 'POST', path: '/mcp', key, body })
    return answer.body.result
  }
  const toolResult = () => rpc('tools/call', { name: 'view_dashboard', arguments: {} })

  /** A page that plays the host: the view in a sandboxed frame with an origin of its own, and the protocol over postMessage. */
  const embed = async (page: Page, theme: string): Promise<void> => {
    await page.exposeFunction('callServer', (params: Record<string, unknown>) => rpc('tools/call', params))
    await page.route('https://host.example/**', (route) => {
      const isView = route.request().url().endsWith('/view')
      const frame =
        '<!doctype html><html lang="en"><title>Host</title><main><iframe title="Gvnr" sandbox="allow-scripts" src="/view" width="100%" height="900" style="border:0"></iframe></main></html>'
      return route.fulfill({
        contentType: 'text/html; charset=utf-8',
        ...(isView && { headers: { 'Content-Security-Policy': HOST_POLICY, 'Content-Type': 'text/html; charset=utf-8' } }),
        body: isView ? view : frame,
      })
    })
    await page.addInitScript(`
      if (window === window.top) {
        window.host = { messages: [] }
        window.addEventListener('message', async ({ data, source }) => {
          window.host.messages.push(data)
          const answer = (result) => source.postMessage({ jsonrpc: '2.0', id: data.id, result }, '*')
          if (data.method === 'ui/initialize')
            answer({ protocolVersion: '2026-01-26', hostInfo: { name: 'test', version: '1' }, hostCapabilities: { serverTools: {} }, hostContext: { theme: '${theme}' } })
          if (data.method === 'tools/call') answer(await window.callServer(data.params))
        })
      }`)
    await page.goto('https://host.example/')
    await page.waitForFunction("window.host.messages.some(({ method }) => method === 'ui/notifications/initialized')")
  }
  const tell = (page: Page, method: string, params: unknown) =>
    page.evaluate(`frames[0].postMessage(${JSON.stringify({ jsonrpc: '2.0', method, params }).replaceAll('</', '<\\/')}, '*')`)
  const frameOf = (page: Page) => page.frameLocator('iframe')

  it('is a valid document', async () => {
    expect((await invalidHtml(view)).filter((problem) => !problem.startsWith('require-csp'))).toEqual([])
  })

  it.each(LOOKS)('shakes hands, draws what the tool answered, and asks again: %s', async (name, look) => {
    await client.setEnvelope(key, { agent_id: 'crawler', limit_usd: 4 })
    await client.clear(key, { agent_id: 'crawler', model: 'gpt-4o', estimated_tokens: 100_000 })
    await withPage(browser, { ...look, bypassCSP: false }, async (page) => {
      await embed(page, look.colorScheme ?? 'light')
      const { messages } = await page.evaluate<Host>('window.host')
      expect(messages.find(({ method }) => method === 'ui/initialize')?.params).toMatchObject({
        protocolVersion: '2026-01-26',
        appInfo: { name: 'gvnr-dashboard' },
        appCapabilities: {},
      })
      await tell(page, 'ui/notifications/tool-input', { arguments: {} })
      await tell(page, 'ui/notifications/tool-result', await toolResult())
      await frameOf(page).getByRole('heading', { name: 'Burn: crawler' }).waitFor()
      expect(await frameOf(page).locator('path.cap').count()).toBe(1)
      expect(await frameOf(page).locator('html').getAttribute('data-theme')).toBe(look.colorScheme)
      await page.waitForFunction(
        "window.host.messages.some(({ method, params }) => method === 'ui/notifications/size-changed' && params.height > 200)",
      )
      await client.setEnvelope(key, { agent_id: `later-${name.length}`, limit_usd: 1 })
      await frameOf(page).getByRole('button', { name: 'Refresh' }).click()
      await frameOf(page).getByText(`later-${name.length}`).first().waitFor()
    })
    await withPage(browser, { ...look, bypassCSP: true }, async (page) => {
      await page.route('https://host.example/**', (route) =>
        route.fulfill({ contentType: 'text/html; charset=utf-8', body: view }),
      )
      await page.goto('https://host.example/')
      await page.evaluate(
        `window.postMessage(${JSON.stringify({ jsonrpc: '2.0', method: 'ui/notifications/tool-result', params: await toolResult() })}, '*')`,
      )
      await page.getByRole('heading', { name: 'Burn: crawler' }).waitFor()
      await audit(page, `mcp app ${name}`)
    })
  })

  it('shows what others wrote as text, and what went wrong', async () => {
    for (const agent_id of NASTY) await client.setEnvelope(key, { agent_id: agent_id.slice(0, 100), limit_usd: 4 })
    await withPage(browser, {}, async (page) => {
      await embed(page, 'dark')
      await tell(page, 'ui/notifications/tool-result', await toolResult())
      await frameOf(page).getByText('<script>alert(1)</script>').first().waitFor()
      expect(await frameOf(page).locator('main img, main script, main a, main [onmouseover]').count()).toBe(0)
      await tell(page, 'ui/notifications/tool-result', { isError: true, content: [{ type: 'text', text: 'It <b>failed</b>' }] })
      await frameOf(page).getByText('It <b>failed</b>').waitFor()
    })
  })
})
