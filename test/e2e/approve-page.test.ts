import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startBrowser } from '../support/browser.ts'
import { Client } from '../support/client.ts'
import { audit, LOOKS, PHONE, withPage as withPageOf } from '../support/looks.ts'
import { type Server, startServer } from '../support/server.ts'

describe('the approval page in a browser', () => {
  let server: Server
  let client: Client
  let browser: Browser
  let key: string
  let asked = 0

  beforeAll(async () => {
    ;[server, browser] = await Promise.all([startServer(), startBrowser()])
    client = new Client(server.origin)
  })
  afterAll(async () => {
    client?.close()
    await browser?.close()
    await server?.stop()
  })

  /** A new account for every twenty requests: an account may ask thirty times a minute. */
  const request = async (fields: Record<string, unknown> = {}): Promise<{ approval_id: string; approval_url: string }> => {
    if (asked++ % 20 === 0) {
      key = (await client.createAccount(100)).key
      await client.setEnvelope(key, { agent_id: 'research/crawler', limit_usd: 5 })
      await client.clear(key, { agent_id: 'research/crawler', model: 'gpt-4o', estimated_tokens: 498_000 })
    }
    const body = {
      agent_id: 'research/crawler',
      action_summary: 'Crawl 400 more pages of the city archive to finish the 1911 index',
      grant: { limit_usd: 10, window: 'daily' },
      ...fields,
    }
    const answer = await client.send<{ approval_id: string; approval_url: string }>({
      method: 'POST',
      path: '/v1/approval/request',
      key,
      body,
    })
    expect(answer.status).toBe(200)
    return answer.body
  }
  const withPage = (options: BrowserContextOptions, work: (page: Page) => Promise<void>, expected?: RegExp): Promise<void> =>
    withPageOf(browser, options, work, expected)

  it.each(LOOKS)('is accessible in every state: %s', async (name, look) => {
    await withPage(
      { ...look, bypassCSP: true },
      async (page) => {
        const raise = await request()
        await page.goto(raise.approval_url)
        await audit(page, `pending ${name}`)
        await page.getByRole('button', { name: 'Approve' }).click()
        await page.getByText('The agent may go ahead.').waitFor()
        await audit(page, `approved ${name}`)
        const plain = await request({ grant: undefined })
        await page.goto(plain.approval_url)
        await page.getByRole('button', { name: 'Deny' }).click()
        await page.getByText('The agent has been told no.').waitFor()
        await audit(page, `denied ${name}`)
        const brief = await request({ ttl_seconds: 1 })
        await new Promise((resolve) => setTimeout(resolve, 1100))
        await page.goto(brief.approval_url)
        await page.getByText('No answer in time').first().waitFor()
        await audit(page, `timeout ${name}`)
        const moved = await request({ grant: { limit_usd: 20, window: 'daily' } })
        await page.goto(moved.approval_url)
        await client.setEnvelope(key, { agent_id: 'research/crawler', limit_usd: 6 })
        const [answer] = await Promise.all([
          page.waitForResponse((response) => response.request().method() === 'POST'),
          page.getByRole('button', { name: 'Approve' }).click(),
        ])
        expect(answer.status()).toBe(409)
        await page.getByRole('alert').waitFor()
        await audit(page, `changed ${name}`)
        await client.setEnvelope(key, { agent_id: 'research/crawler', limit_usd: 5 })
      },
      /status of 409/,
    )
  })

  it('holds the longest and widest that an agent may write', async () => {
    await withPage({ ...PHONE, bypassCSP: true }, async (page) => {
      const { approval_url } = await request({ agent_id: 'W'.repeat(128), action_summary: 'W'.repeat(280), grant: undefined })
      await page.goto(approval_url)
      await audit(page, 'long')
    })
  })

  it('decides without JavaScript, by keyboard, and shows the decision after a reload', async () => {
    await withPage({ ...PHONE, javaScriptEnabled: false }, async (page) => {
      const { approval_url, approval_id } = await request()
      await page.goto(approval_url)
      await page.reload()
      await page.getByRole('button', { name: 'Approve' }).focus()
      await page.keyboard.press('Enter')
      await page.getByText('The agent may go ahead.').waitFor()
      expect(page.url()).toBe(approval_url)
      await page.reload()
      await page.getByText('The agent may go ahead.').waitFor()
      expect(await page.getByRole('button').count()).toBe(0)
      const checked = await client.send({ method: 'GET', path: `/v1/approval/check/${approval_id}`, key })
      expect(checked.body.decision).toBe('approved')
    })
  })

  it('has buttons for a thumb', async () => {
    await withPage(PHONE, async (page) => {
      await page.goto((await request()).approval_url)
      for (const button of await page.getByRole('button').all()) {
        const box = (await button.boundingBox())!
        expect(box.height).toBeGreaterThanOrEqual(56)
        expect(box.width).toBeGreaterThanOrEqual(140)
        expect(box.y + box.height).toBeLessThanOrEqual(640)
      }
    })
  })

  it('writes no link to the log', () => {
    expect(server.logs()).not.toMatch(/ap_[\w-]{16}/)
  })
})
