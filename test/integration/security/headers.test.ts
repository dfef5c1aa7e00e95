import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openTestApp, type TestApp } from '../../support/app.ts'
import { describeEachDatabase } from '../../support/databases.ts'

const SRC = join(import.meta.dirname, '../../../src')

/** Every route that the page files and the discovery declare, as written in the source. */
const ROUTES = ['pages', 'transport'].flatMap((folder) =>
  readdirSync(join(SRC, folder))
    .filter((name) => /\.tsx?$/.test(name))
    .flatMap((name) => [...readFileSync(join(SRC, folder, name), 'utf8').matchAll(/app\.(get|post)\(\s*(['`])(\/[^'`]*)\2/g)])
    .map(([, method, , path]) => ({ method: method!.toUpperCase(), path: path! })),
)

describeEachDatabase('the headers of every page', (openTestDatabase) => {
  let test: TestApp
  let key: string
  let token: string
  beforeAll(async () => {
    test = await openTestApp(await openTestDatabase(), { config: { PAYTO_ADDRESS: `0x${'1'.repeat(40)}` } })
    key = (await test.createAccount()).key
    await test.api.put('/v1/budget/envelope', { agent_id: 'a', limit_usd: 1 }, key)
    const asked = await test.api.post('/v1/approval/request', { agent_id: 'a', action_summary: 'x' }, key)
    token = String(asked.body.approval_url).split('/').at(-1)!
  })
  afterAll(() => test.stop())

  const filled = (path: string) =>
    path.replace(':token', token).replace(':pack', 'starter').replace(':action', 'sign-out').replace(':file', 'x')

  it('knows the pages', () => {
    const paths = ROUTES.map(({ path }) => path)
    expect(paths).toEqual(
      expect.arrayContaining(['/', '/docs', '/pay', '/pay/:pack', '/approve/:token', '/dashboard', '/status', '/health']),
    )
  })

  it('forbid what the page does not need', async () => {
    const html: string[] = []
    const requests = ROUTES.filter(({ path }) => !path.includes('${')).concat(
      { method: 'GET', path: '/nowhere' },
      { method: 'GET', path: `/pay?api_key=${key}` },
      { method: 'GET', path: '/pay?api_key=nonsense' },
      { method: 'GET', path: '/approve/nonsense' },
    )
    for (const { method, path } of requests) {
      const form = { 'Content-Type': 'application/x-www-form-urlencoded', Origin: 'http://localhost', Host: 'localhost' }
      const body = method === 'POST' ? 'api_key=nonsense&decision=maybe' : null
      const response = await test.app.request(`http://localhost${filled(path)}`, {
        method,
        headers: method === 'POST' ? form : {},
        body,
      })
      await response.body?.cancel()
      expect(response.status, path).toBeLessThan(500)
      if (!response.headers.get('content-type')?.startsWith('text/html')) continue
      html.push(path)
      const policy = new Map(
        (response.headers.get('content-security-policy') ?? '').split(';').map((rule) => {
          const [name = '', ...sources] = rule.trim().split(' ')
          return [name, sources.join(' ')] as const
        }),
      )
      const where = `${method} ${path}: ${[...policy].map((rule) => rule.join(' ')).join('; ')}`
      expect(policy.get('default-src'), where).toBe("'none'")
      expect(policy.get('frame-ancestors'), where).toBe("'none'")
      expect(policy.get('base-uri'), where).toBe("'none'")
      expect(["'none'", "'self'"], where).toContain(policy.get('form-action'))
      expect([undefined, "'none'", "'self'"], where).toContain(policy.get('script-src'))
      expect([...policy.values()].join(' '), where).not.toMatch(/unsafe-|\*|https?:|data:.*script/)
      expect(response.headers.get('x-content-type-options'), where).toBe('nosniff')
      expect(response.headers.get('referrer-policy'), where).toMatch(/^(no-referrer|same-origin)$/)
      if (/approve|dashboard|pay/.test(path)) expect(response.headers.get('cache-control'), where).toContain('no-store')
    }
    expect(html.length).toBeGreaterThan(10)
  })
})
