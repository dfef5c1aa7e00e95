import { mkdirSync } from 'node:fs'
import axe from 'axe-core'
import { HtmlValidate } from 'html-validate'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { expect } from 'vitest'

/** Set to a folder to look at the pages as they are tested. */
const SCREENSHOTS = process.env.GVNR_SCREENSHOTS
if (SCREENSHOTS) mkdirSync(SCREENSHOTS, { recursive: true })

export const PHONE = { viewport: { width: 360, height: 640 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }
export const DESKTOP = { viewport: { width: 1280, height: 800 } }
export const LOOKS: [string, BrowserContextOptions][] = [
  ['phone, light', { ...PHONE, colorScheme: 'light' }],
  ['phone, dark', { ...PHONE, colorScheme: 'dark' }],
  ['desktop, light', { ...DESKTOP, colorScheme: 'light' }],
  ['desktop, dark', { ...DESKTOP, colorScheme: 'dark' }],
]

type AxeResult = { violations: { id: string; nodes: { html: string; failureSummary?: string }[] }[] }

/** A page of its own, which must not complain. @param expected what it may complain about */
export async function withPage(
  browser: Browser,
  options: BrowserContextOptions,
  work: (page: Page) => Promise<void>,
  expected?: RegExp,
): Promise<void> {
  const context = await browser.newContext(options)
  const page = await context.newPage()
  const problems: string[] = []
  page.on('console', (message) => message.type() === 'error' && problems.push(message.text()))
  page.on('pageerror', (error) => problems.push(error.message))
  page.on('requestfailed', (failed) => {
    // The stream of a page that is left ends with it.
    if (!failed.url().includes('/dashboard/events')) problems.push(`${failed.url()} failed`)
  })
  await work(page)
  expect(problems.filter((problem) => !expected?.test(problem))).toEqual([])
  await context.close()
}

/** What axe finds, and whether anything is wider than the screen. Needs `bypassCSP`. */
export async function audit(page: Page, name: string): Promise<void> {
  if (SCREENSHOTS) await page.screenshot({ path: `${SCREENSHOTS}/${name.replaceAll(/[^a-z]+/g, '-')}.png`, fullPage: true })
  const result = await page.evaluate<AxeResult>(
    `${axe.source}; axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] })`,
  )
  expect(result.violations.map(({ id, nodes }) => `${id}: ${nodes[0]?.html} ${nodes[0]?.failureSummary}`)).toEqual([])
  const overflow = await page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')
  expect(overflow).toBe(0)
}

const validator = new HtmlValidate({
  extends: ['html-validate:recommended', 'html-validate:document'],
  rules: {
    // How the renderer writes what HTML leaves open.
    'void-style': 'off',
    'doctype-style': 'off',
    'attribute-boolean-style': 'off',
    'attribute-empty-style': 'off',
    // Our own files, named by their content.
    'require-sri': 'off',
    'no-trailing-whitespace': 'off',
    'long-title': 'off',
  },
})

/** What an HTML validator says about a page as it was sent. */
export async function invalidHtml(html: string): Promise<string[]> {
  const { results } = await validator.validateString(html)
  return results.flatMap(({ messages }) =>
    messages.map(({ ruleId, message, line, column }) => `${ruleId} ${line}:${column} ${message}`),
  )
}
