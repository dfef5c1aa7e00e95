import { afterAll, beforeAll, expect, it } from 'vitest'
import { errorCodes } from '../../../src/core/errors.ts'
import { operations } from '../../../src/operations.ts'
import { PINNED_PRICES } from '../../../src/prices/pinned.ts'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const PAGES = ['/', '/docs', '/no-such-page'] as const

describeEachDatabase('pages', (openTestDatabase) => {
  let test: TestApp
  const get = (path: string, headers: Record<string, string> = {}) =>
    test.app.request(`http://localhost:8787${path}`, { headers })
  const html = async (path: string, headers?: Record<string, string>) => (await get(path, headers)).text()

  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase(), { config: { PAYTO_ADDRESS: `0x${'1'.repeat(40)}` } })
  })
  afterAll(() => test.stop())

  it.each(PAGES)('%s is a complete page under a strict policy', async (path) => {
    const response = await get(path)
    const text = await response.text()
    expect(response.status).toBe(path === '/no-such-page' ? 404 : 200)
    expect(response.headers.get('content-type')).toBe('text/html; charset=utf-8')
    const policy = (response.headers.get('content-security-policy') ?? '').split('; ')
    expect(policy).toEqual(
      expect.arrayContaining(["default-src 'none'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]),
    )
    expect(response.headers.get('x-content-type-options')).toBe('nosniff')
    expect(response.headers.get('referrer-policy')).toBe('no-referrer')
    expect(response.headers.get('x-request-id')).toMatch(/^[0-9a-f]{16}$/)
    expect(text).toMatch(/^<!doctype html><html lang="en"><head><meta charset="utf-8"/)
    expect(text).toMatch(/<\/html>$/)
    expect(text.match(/<title>[^<]+<\/title>/g)?.[0]).toContain('Gvnr')
    expect(text.match(/<h1[ >]/g)).toHaveLength(1)
  })

  it.each(PAGES)('%s needs nothing that the policy forbids, and nothing from elsewhere', async (path) => {
    const text = await html(path)
    expect(text).not.toMatch(
      /<script(?! src="\/assets\/site\.[0-9a-f]{12}\.js" defer=""><)|<style|<iframe|<form| style="| on\w+="|javascript:/i,
    )
    const addresses = [...text.matchAll(/ (?:href|src)="([^"]*)"/g)].map(([, address]) => address!)
    expect(addresses.length).toBeGreaterThan(5)
    expect(addresses.filter((address) => !/^[/#]/.test(address) && !address.startsWith('http://localhost:8787/'))).toEqual([])
  })

  it('has no link that leads nowhere', async () => {
    const texts = new Map<string, string>()
    const open = async (path: string): Promise<string> => {
      const known = texts.get(path)
      if (known !== undefined) return known
      const response = await get(path)
      const text = await response.text()
      expect(response.status, path).toBe(path === '/no-such-page' ? 404 : 200)
      texts.set(path, text)
      return text
    }
    let checked = 0
    for (const page of PAGES) {
      const links = new Set([...(await open(page)).matchAll(/ href="([^"]*)"/g)].map(([, href]) => href!))
      for (const link of links) {
        const { pathname, hash } = new URL(link, `http://localhost:8787${page}`)
        const target = await open(pathname)
        if (hash !== '') expect(target, `${page} links ${link}`).toContain(`id="${hash.slice(1)}"`)
        checked++
      }
    }
    expect(checked).toBeGreaterThan(operations.length)
    expect([...(await open('/docs')).matchAll(/ id="([^"]+)"/g)].map(([, id]) => id)).toSatisfy(
      (ids: string[]) => new Set(ids).size === ids.length,
    )
  })

  it('documents every operation and every error code, each with an anchor', async () => {
    const text = await html('/docs')
    for (const { name, path } of operations) {
      const start = text.indexOf(`id="${name}"`)
      const end = text.indexOf('class="operation"', start)
      const section = text.slice(start, end === -1 ? undefined : end)
      expect(start, name).toBeGreaterThan(0)
      expect(section, name).toContain(path)
      expect(section, name).toMatch(/Scope: |No key needed|Operator secret/)
      expect(section, name).toContain('curl ')
      expect(section, name).toContain('Fields of the response')
      expect(section, name).toContain('#error-internal_error')
    }
    for (const code of errorCodes) expect(text).toContain(`id="error-${code}"`)
  })

  it('shows the prices that clearances use', async () => {
    const text = await html('/')
    for (const { id } of PINNED_PRICES) expect(text).toContain(`<code>${id}</code>`)
    const row = text.slice(text.indexOf('<code>gpt-4o-mini</code>')).split('</tr>')[0]
    expect(row).toContain('$0.15')
    expect(row).toContain('$0.60')
  })

  it('serves its stylesheet under its hash, cached for good', async () => {
    const [, path = ''] = /<link rel="stylesheet" href="([^"]+)"/.exec(await html('/')) ?? []
    expect(path).toMatch(/^\/assets\/style\.[0-9a-f]{12}\.css$/)
    const response = await get(path)
    expect(response.headers.get('content-type')).toBe('text/css; charset=utf-8')
    expect(response.headers.get('cache-control')).toBe('public, max-age=31536000, immutable')
    const text = await response.text()
    expect(text).toContain('prefers-color-scheme: dark')
    expect(text).not.toMatch(/url\(|@import/)
    expect((await get('/assets/style.000000000000.css')).status).toBe(404)
  })

  it('serves an icon', async () => {
    const response = await get('/favicon.svg')
    expect(response.headers.get('content-type')).toBe('image/svg+xml')
    expect(await response.text()).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg"/)
  })

  it('names the origin it was asked under, escaped', async () => {
    const text = await html('/')
    expect(text).toContain('curl -X POST http://localhost:8787/v1/account')
    const other = await test.app.request(`http://other.example/docs`)
    expect(await other.text()).toContain('http://other.example/mcp')
    const hostile = await test.app.request(new Request("http://a'b&quot;.example/"))
    expect(await hostile.text()).not.toContain("http://a'b")
  })

  it('answers unknown addresses with a page, and with JSON below /v1', async () => {
    for (const path of ['/v1/nothing', '/api/v1/nothing', '/v1']) {
      const response = await get(path)
      expect([path, response.status, response.headers.get('content-type')]).toEqual([path, 404, 'application/json'])
    }
    for (const path of ['/nothing', '/docs/nothing', '/%3Cb%3E', '/.env', '/v2/x']) {
      const response = await get(path)
      expect([path, response.status]).toEqual([path, 404])
      expect(await response.text()).toContain('Nothing here')
    }
    expect(test.logged).toEqual([])
  })

  it('is ready', async () => {
    const response = await get('/ready')
    expect(await response.json()).toMatchObject({ ok: true, database: 'ok' })
  })
})
