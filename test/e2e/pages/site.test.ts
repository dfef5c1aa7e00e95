import type { Browser, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startBrowser } from '../../support/browser.ts'
import { Client } from '../../support/client.ts'
import { audit, DESKTOP, invalidHtml, LOOKS, PHONE, withPage } from '../../support/looks.ts'
import { type Server, startServer } from '../../support/server.ts'

const SONNET = 'claude-sonnet-4-6' // $15 per million output tokens
const MAX_BYTES = 100_000

describe('the pages in a browser', () => {
  let server: Server
  let client: Client
  let browser: Browser
  let key: string

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer({ env: { PAYTO_ADDRESS: `0x${'1'.repeat(40)}` } }), startBrowser()])
    client = new Client(server.origin)
    key = (await client.createAccount(1000)).key
    await client.setEnvelope(key, { agent_id: '*', limit_usd: 60, window: 'monthly' })
    await client.setEnvelope(key, { agent_id: 'research', limits: { hourly: 3, daily: 10 } })
    await client.setEnvelope(key, { agent_id: 'research/crawler', limit_usd: 4 })
    await client.setEnvelope(key, { agent_id: 'support/mail', limit_usd: 2 })
    for (let call = 0; call < 12; call++) await clear('research/crawler', 15_000)
    await clear('support/mail', 130_000)
    await clear('support/mail', 20_000)
    await clear('research/night-run', 9_000)
    await ask('research/crawler', 'Crawl 400 more pages of the city archive to finish the 1911 index', { limit_usd: 8 })
    await ask('support/mail', 'Answer 120 letters of the weekend', { extra_usd: 2.5, window: 'daily' })
    const scoped = { scope: 'agent', agent_id: 'research/crawler', name: 'crawler on the night server' }
    await post('/v1/account/keys', scoped)
    await post('/v1/account/keys', { scope: 'read', name: 'wall display' })
    await post('/v1/webhooks', { url: 'https://hooks.example.com/gvnr/a-rather-long-path', name: 'ledger' })
    await post('/v1/account/channels', { kind: 'slack', url: 'https://hooks.slack.com/services/T/B/X', name: 'on call' })
  })
  afterAll(async () => {
    client?.close()
    await browser?.close()
    await server?.stop()
  })
  const clear = (agent_id: string, estimated_tokens: number) => client.clear(key, { agent_id, model: SONNET, estimated_tokens })
  const post = (path: string, body: unknown) => client.send<Record<string, string>>({ method: 'POST', path, key, body })
  const ask = (agent_id: string, action_summary: string, grant: Record<string, unknown>) =>
    post('/v1/approval/request', { agent_id, action_summary, ttl_seconds: 3600, grant })
  const signIn = async (page: Page, with_ = key) => {
    await page.goto(`${server.origin}/dashboard`)
    await page.getByLabel('API key').fill(with_)
    await page.getByRole('button', { name: 'Sign in' }).click()
    await page.getByRole('heading', { name: 'Dashboard' }).waitFor()
    await page.getByRole('button', { name: 'Sign out', exact: true }).waitFor()
  }

  it.each(LOOKS)('are accessible and fit: %s', async (name, look) => {
    await withPage(
      browser,
      { ...look, bypassCSP: true },
      async (page) => {
        for (const path of ['/', '/docs', '/pay', '/status', '/nothing', '/dashboard']) {
          await page.goto(server.origin + path)
          await audit(page, `page ${path.replaceAll('/', '') || 'home'} ${name}`)
        }
        await signIn(page)
        await page.getByText('Live', { exact: true }).waitFor()
        await audit(page, `page board ${name}`)
        for (const summary of await page.locator('summary').all()) await summary.click()
        await audit(page, `page board open ${name}`)
      },
      /status of 404/,
    )
  })

  it('are valid HTML', async () => {
    await withPage(browser, DESKTOP, async (page) => {
      await signIn(page)
      const [cookie] = await page.context().cookies()
      expect(cookie).toMatchObject({ httpOnly: true, sameSite: 'Strict', path: '/' })
      const headers = { Cookie: `${cookie!.name}=${cookie!.value}` }
      const { body: asked } = await ask('research/crawler', 'Once more', { limit_usd: 8 })
      const approve = String(asked.approval_url)
      for (const address of ['/', '/docs', '/pay', '/status', '/nothing', '/dashboard', approve]) {
        const url = new URL(address, server.origin)
        for (const init of [{}, { headers }])
          expect([address, await invalidHtml(await (await fetch(url, init)).text())]).toEqual([address, []])
      }
    })
  })

  it('are small', async () => {
    for (const path of ['/', '/dashboard']) {
      await withPage(browser, DESKTOP, async (page) => {
        let bytes = 0
        const seen: Promise<number>[] = []
        page.on('response', (response) => {
          if (!response.url().includes('/dashboard/events'))
            seen.push(
              response
                .body()
                .then((body) => body.length)
                .catch(() => 0),
            )
        })
        await page.goto(server.origin + path)
        if (path === '/dashboard') {
          await signIn(page)
          seen.splice(0)
          await page.reload()
        }
        for (const length of await Promise.all(seen)) bytes += length
        expect(bytes).toBeGreaterThan(5_000)
        expect(bytes).toBeLessThan(MAX_BYTES)
      })
    }
  })

  it('copy what is to be typed', async () => {
    await withPage(browser, { ...DESKTOP, permissions: ['clipboard-read', 'clipboard-write'] }, async (page) => {
      await page.goto(server.origin)
      await page.getByRole('button', { name: 'Copy' }).first().click()
      await page.getByRole('button', { name: 'Copied' }).waitFor()
      expect(await page.evaluate('navigator.clipboard.readText()')).toBe(`curl -X POST ${server.origin}/v1/account`)
    })
  })

  it('follow what happens on the dashboard', async () => {
    await withPage(browser, DESKTOP, async (page) => {
      await signIn(page)
      await page.getByText('Live', { exact: true }).waitFor()
      await clear('fresh-agent', 1000)
      await page.locator('#live-decisions').getByText('fresh-agent').first().waitFor()
      await ask('fresh-agent', 'May I buy the paper', { limit_usd: 3 })
      const waiting = page.locator('#live-approvals li', { hasText: 'May I buy the paper' })
      await waiting.getByRole('button', { name: 'Deny' }).click()
      await page.getByText('Your answer is stored').waitFor()
      expect(await page.getByText('May I buy the paper').count()).toBe(0)
    })
  })

  it('work without a script: caps, keys and answers', async () => {
    await withPage(browser, { ...PHONE, javaScriptEnabled: false }, async (page) => {
      await signIn(page)
      await page.getByText('Set a cap').click()
      const form = page.locator('form', { has: page.getByLabel('Agent (a path; * is the account)') })
      await form.getByLabel('Agent (a path; * is the account)').fill('by-hand')
      await form.getByLabel('A day, $').fill('2.5')
      await form.getByRole('button', { name: 'Set' }).click()
      await page.getByText('The cap is set.').waitFor()
      await page.getByText('Change by-hand').click()
      const edit = page.locator('details', { has: page.getByText('Change by-hand') })
      await edit.getByLabel('A day, $').fill('3')
      await edit.getByRole('button', { name: 'Save' }).click()
      await page.getByText('The cap is set.').waitFor()
      const envelope = await client.send({ method: 'GET', path: '/v1/budget/envelope/by-hand', key })
      expect(envelope.body.limit_usd).toBe(3)
      await page.getByText('Make a key').click()
      await page.getByLabel('Name', { exact: true }).first().fill('made by hand')
      await page.getByLabel('May').selectOption('read')
      await page.getByRole('button', { name: 'Make' }).click()
      const secret = await page.locator('#secret').textContent()
      expect((await client.send({ method: 'GET', path: '/v1/account', key: secret! })).body.key).toMatchObject({ scope: 'read' })
      await page.getByRole('button', { name: 'Sign out', exact: true }).click()
      await page.getByLabel('API key').waitFor()
    })
  })

  it('close with the key, also when the page is open', async () => {
    const { body: made } = await post('/v1/account/keys', { name: 'short-lived' })
    await withPage(browser, DESKTOP, async (page) => {
      await signIn(page, made.api_key)
      await page.getByText('Live', { exact: true }).waitFor()
      await client.send({ method: 'DELETE', path: `/v1/account/keys/${made.key_id}`, key })
      await page.getByText('You are signed out.').waitFor()
      await page.reload()
      await page.getByLabel('API key').waitFor()
    })
  })

  it('refuse a form of another site', async () => {
    const other = await startServer()
    await withPage(
      browser,
      { ...DESKTOP, bypassCSP: true },
      async (page) => {
        await signIn(page)
        await page.goto(other.origin)
        const [answer] = await Promise.all([
          page.waitForResponse((response) => response.url().endsWith('/dashboard/set_envelope')),
          page.evaluate(`{
            const form = document.createElement('form')
            form.method = 'post'
            form.action = '${server.origin}/dashboard/set_envelope'
            form.innerHTML = '<input name="agent_id" value="stolen"><input name="daily" value="9">'
            document.body.append(form)
            form.submit()
          }`),
        ])
        expect([401, 403]).toContain(answer.status())
        const envelope = await client.send({ method: 'GET', path: '/v1/budget/envelope/stolen', key })
        expect(envelope.status).toBe(404)
      },
      /status of 40[13]/,
    )
    await other.stop()
  })

  it('write no key and no session to the log', () => {
    expect(server.logs()).not.toMatch(/bg_[0-9a-f]{16}|gvnr_session=[\w-]{10}/)
  })
})
