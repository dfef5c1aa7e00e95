import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import type { Browser, BrowserContext, Page } from 'playwright-core'
import type { Hex } from 'viem'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { DEPOSIT_XPUB, FACILITATOR_KEY, fundedWallet, TREASURY, USD } from '../../support/billing.ts'
import { injectWallet, startBrowser } from '../../support/browser.ts'
import { startChain, type TestChain } from '../../support/chain.ts'
import { Client } from '../../support/client.ts'
import { createTestDatabase, type TestDatabase } from '../../support/databases.ts'
import { type Server, startServer } from '../../support/server.ts'

const SCREENSHOTS = join(import.meta.dirname, '../../../.tmp/screenshots')
const PHONE = { width: 390, height: 844 }

describe('the pay page', () => {
  let chain: TestChain
  let home: TestDatabase
  let shared: Server
  let own: Server
  let browser: Browser
  const problems: string[] = []

  beforeAll(async () => {
    mkdirSync(SCREENSHOTS, { recursive: true })
    chain = await startChain({ blockTime_s: 1 })
    home = await createTestDatabase('postgres')
    const env = {
      BASE_RPC_URL: chain.url,
      FACILITATOR_PRIVATE_KEY: FACILITATOR_KEY,
      SIGNUP_TRIAL_OPS: '0',
      PAYTO_ADDRESS: TREASURY,
    }
    shared = await startServer({ databaseUrl: home.url, env: { ...env, LOG_LEVEL: 'debug' } })
    own = await startServer({ databaseUrl: home.url, env: { ...env, DEPOSIT_XPUB } })
    browser = await startBrowser()
  })
  afterAll(async () => {
    await browser?.close()
    await shared?.stop()
    await own?.stop()
    await home?.drop()
    await chain?.stop()
  })

  async function open(options: Parameters<Browser['newContext']>[0] = {}): Promise<{ context: BrowserContext; page: Page }> {
    const context = await browser.newContext({ viewport: PHONE, ...options })
    const page = await context.newPage()
    page.on('console', (message) => message.type() === 'error' && problems.push(message.text()))
    page.on('pageerror', (error) => problems.push(String(error)))
    page.on('request', (request) => {
      if (!request.url().startsWith(shared.origin) && !request.url().startsWith(own.origin))
        problems.push(`asked ${request.url()}`)
    })
    return { context, page }
  }
  const account = async (server: Server) => {
    const client = new Client(server.origin)
    const { key } = await client.createAccount()
    client.close()
    return key
  }
  const statusText = (page: Page) => page.locator('#status')

  it('takes a wallet from connecting to the final balance', async () => {
    const { context, page } = await open()
    const buyer = await fundedWallet(chain, 50n * USD)
    const wallet = await injectWallet(page, chain, buyer)
    const key = await account(shared)
    await page.goto(`${shared.origin}/pay?usd=5&api_key=${key}`)
    await page.fill('#usd', '7.5')
    expect(await page.textContent('#preview')).toBe('7,500 operations')
    // Leaving the field makes the page for the new amount.
    await Promise.all([page.waitForURL(/usd=7\.5&/), page.locator('#usd').blur()])
    expect(await page.textContent('#preview')).toContain('7,500')
    await page.screenshot({ path: join(SCREENSHOTS, 'pay-phone.png'), fullPage: true })
    await page.click('text=Connect Test Wallet and pay')
    await statusText(page).filter({ hasText: 'Credited' }).waitFor({ timeout: 60_000 })
    expect(await statusText(page).textContent()).toContain('Credited 7,500 operations. You have 7,500.')
    expect(await page.textContent('#balance')).toBe('7,500')
    expect(wallet.asked).toEqual([
      'eth_requestAccounts',
      'eth_chainId',
      'wallet_switchEthereumChain',
      'eth_sendTransaction',
      'personal_sign',
    ])
    expect(await chain.balanceOf(buyer.address)).toBe(42_500_000n)
    await page.screenshot({ path: join(SCREENSHOTS, 'pay-done.png'), fullPage: true })
    await context.close()
  })

  it('says that nothing was paid when the wallet declines', async () => {
    const { context, page } = await open({ colorScheme: 'dark' })
    const wallet = await injectWallet(page, chain, await fundedWallet(chain, USD))
    wallet.refuses = 'eth_sendTransaction'
    await page.goto(`${shared.origin}/pay/starter?api_key=${await account(shared)}`)
    await page.click('text=Connect Test Wallet and pay')
    await statusText(page).filter({ hasText: 'Nothing was paid' }).waitFor()
    expect(wallet.asked).not.toContain('personal_sign')
    expect(await page.textContent('#balance')).toBe('0')
    await page.screenshot({ path: join(SCREENSHOTS, 'pay-declined-dark.png'), fullPage: true })
    await context.close()
  })

  it('shows a deposit to the own address when it arrives', async () => {
    const { context, page } = await open({ viewport: { width: 1280, height: 900 } })
    await page.goto(`${own.origin}/pay?usd=5&api_key=${await account(own)}`)
    const address = (await page.textContent('#address')) as Hex
    await chain.transfer(await fundedWallet(chain, 5n * USD), address, 5n * USD)
    await statusText(page).filter({ hasText: 'Credited 5,000 operations' }).waitFor({ timeout: 60_000 })
    expect(await page.textContent('#balance')).toBe('5,000')
    await page.screenshot({ path: join(SCREENSHOTS, 'pay-deposit-desktop.png'), fullPage: true })
    await context.close()
  })

  it('works without a script: account, address, claim with a signature', async () => {
    const { context, page } = await open({ javaScriptEnabled: false })
    await page.goto(`${shared.origin}/pay?usd=5`)
    await page.screenshot({ path: join(SCREENSHOTS, 'pay-start.png'), fullPage: true })
    await page.click('text=Make an account')
    const key = await page.textContent('#new-key')
    expect(key).toMatch(/^bg_[0-9a-f]{32}$/)
    expect(await page.textContent('main')).toContain('this once')
    await page.screenshot({ path: join(SCREENSHOTS, 'pay-new-key.png'), fullPage: true })
    await page.click('text=I have saved it: continue')
    expect(await page.textContent('#address')).toBe(TREASURY)
    expect(await page.locator('#wallet').isVisible()).toBe(false)
    expect(await page.locator('.qr svg').isVisible()).toBe(true)

    const payer = await fundedWallet(chain, 5n * USD)
    const tx = await chain.transfer(payer, TREASURY, 5n * USD)
    await chain.mine(3)
    await page.fill('#tx_hash', tx)
    await page.click('text=Credit this payment')
    const message = (await page.textContent('.notice pre')) ?? ''
    expect(message).toContain(tx)
    await page.screenshot({ path: join(SCREENSHOTS, 'pay-sign.png'), fullPage: true })
    await page.fill('#signature', await payer.signMessage({ message }))
    await page.click('text=Credit this payment')
    expect(await page.textContent('.notice')).toContain('Credited: 5,000 operations.')
    expect(await page.textContent('#balance')).toBe('5,000')
    await context.close()
  })

  it('refuses malformed and unknown keys, packs and amounts', async () => {
    const statusOf = async (path: string) => (await fetch(shared.origin + path)).status
    expect(await statusOf('/pay?api_key=nonsense')).toBe(400)
    expect(await statusOf(`/pay?api_key=bg_${'0'.repeat(32)}`)).toBe(401)
    expect(await statusOf('/pay/giant')).toBe(404)
    expect(await statusOf('/pay?usd=abc')).toBe(400)
    expect(await statusOf('/pay/studio')).toBe(200)
  })

  it('is kept nowhere, runs nothing from elsewhere and never logs the key', async () => {
    const key = await account(shared)
    const { headers } = await fetch(`${shared.origin}/pay?api_key=${key}`)
    expect(headers.get('cache-control')).toBe('no-store')
    expect(headers.get('referrer-policy')).toBe('no-referrer')
    const policy = headers.get('content-security-policy') ?? ''
    expect(policy).toContain("default-src 'none'")
    expect(policy).toContain("script-src 'self'")
    expect(policy).toContain("frame-ancestors 'none'")
    expect(policy).not.toContain('unsafe')
    expect(shared.logs()).not.toContain(key.slice(3))
    expect(problems.filter((problem) => !problem.includes('400 (Bad Request)'))).toEqual([])
  })
})
