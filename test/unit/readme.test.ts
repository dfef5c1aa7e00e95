import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { readConfig } from '../../src/config.ts'
import { DomainError, errorCodes } from '../../src/core/errors.ts'
import { operations } from '../../src/operations.ts'
import { DEFAULT_PRICE, PINNED_PRICES } from '../../src/prices/pinned.ts'
import { ROUTES } from '../../src/proxy/routes.ts'

const ROOT = join(import.meta.dirname, '../..')
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')
const readme = read('README.md')

/** The rows of the table whose header begins with these columns, each cell without its backticks. */
function table(...columns: string[]): string[][] {
  const lines = readme.split('\n')
  const start = lines.indexOf(`| ${columns.join(' | ')} |`)
  expect(start, `a table of ${columns.join(', ')}`).toBeGreaterThan(0)
  const end = lines.findIndex((line, index) => index > start && !line.startsWith('|'))
  return lines.slice(start + 2, end).map((line) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim().replace(/^`([^`]*)`$/, '$1')),
  )
}

describe('the tables of README.md', () => {
  it('list every setting with its default', () => {
    const settings = [...read('src/config.ts').matchAll(/^ {2}([A-Z][A-Z0-9_]+):/gm)].map(([, name]) => name!)
    const defaults: Record<string, unknown> = readConfig({})
    const rows = table('name', 'default', 'meaning')
    expect(settings.length).toBeGreaterThan(10)
    expect(rows.map(([name]) => name)).toEqual(settings)
    for (const [name = '', shown = ''] of rows) {
      const value = defaults[name]
      if (value === undefined) expect(shown, name).toMatch(/^(none|from the request)/)
      else expect(shown, name).toBe(value === true ? 'on' : value === false ? 'off' : String(value))
    }
  })

  it('list every error code with its status', () => {
    const expected = errorCodes.map((code) => {
      const error = new DomainError(code)
      return [code, String(error.status), error.toBody().retryable ? 'yes' : 'no']
    })
    expect(table('error', 'status', 'retry')).toEqual(expected)
  })

  it('list the pinned prices', () => {
    const expected = PINNED_PRICES.map(({ id, input_usd_per_mtok: input, output_usd_per_mtok: output }) => [
      id,
      String(input),
      output === undefined ? '' : String(output),
    ])
    expect(table('model', 'input', 'output')).toEqual(expected)
    expect(readme).toContain(`costs ${DEFAULT_PRICE.input_usd_per_mtok} and ${DEFAULT_PRICE.output_usd_per_mtok}`)
  })
})

describe.each([
  'README.md',
  'docs/architecture.md',
  'docs/operations.md',
  'docs/clients.md',
  'docs/topup.md',
  'docs/proxy.md',
  'docs/audit.md',
  'CHANGELOG.md',
])('%s', (path) => {
  const content = read(path)

  it('links only to files that exist', () => {
    const links = [...content.matchAll(/\]\((?!https?:|#)([^)#]+)/g)].map(([, link]) => link!)
    expect(links.filter((link) => !existsSync(join(ROOT, dirname(path), link)))).toEqual([])
  })

  it('names only paths that the API has', () => {
    const paths = [...operations.map((operation) => operation.path), ...ROUTES.map((route) => `/v1${route.path}`)]
    const known = paths.map((path) => new RegExp(`^${path.replaceAll(/\{\w+\}/g, '[^/]+')}$`))
    const named = [...content.replaceAll(/\$\w+/g, '{variable}').matchAll(/\/v1\/[\w{}/-]+/g)].map(([name]) =>
      name.replace(/\/$/, ''),
    )
    const isKnown = (name: string): boolean => known.some((pattern) => pattern.test(name)) || name === '/v1/admin'
    expect(named.filter((name) => !isKnown(name))).toEqual([])
  })

  it('names only files and npm scripts that exist', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> }
    const files = [...content.matchAll(/`((?:src|test|scripts|migrations|bench|docs)\/[\w./-]+)`/g)].map(([, file]) => file!)
    const named = [...content.matchAll(/npm run ([\w:-]+)/g)].map(([, script]) => script!)
    expect(files.filter((file) => !existsSync(join(ROOT, file)))).toEqual([])
    expect(named.filter((script) => scripts[script] === undefined)).toEqual([])
  })
})
