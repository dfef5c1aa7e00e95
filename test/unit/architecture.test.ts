import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'
import { describe, expect, it } from 'vitest'

const SRC = join(import.meta.dirname, '../../src')

/**
 * Every room and the rooms it may import, all of them below it. A room is a folder of src; `app` stands for the files that
 * lie in src itself (app.ts, main.ts, config.ts, …), which wire everything and may import everything.
 */
const MAY_IMPORT: Record<string, readonly string[]> = {
  core: [],
  // The client kit is shipped by itself.
  client: [],
  db: ['core'],
  prices: ['core', 'db'],
  accounts: ['core', 'db'],
  budgets: ['core', 'db', 'prices', 'accounts'],
  rate: ['core', 'db', 'accounts'],
  idempotency: ['core', 'db', 'accounts'],
  billing: ['core', 'db'],
  notifications: ['core', 'db', 'accounts', 'budgets'],
  approvals: ['core', 'db', 'accounts', 'budgets', 'notifications'],
  audit: ['core', 'db', 'budgets'],
  metrics: ['core', 'db', 'budgets'],
  proxy: ['core', 'budgets', 'rate', 'prices'],
  usage: ['core', 'db', 'budgets'],
  governance: ['core', 'db', 'prices', 'budgets'],
  resources: ['core', 'budgets'],
  dashboard: ['core', 'accounts', 'budgets', 'approvals', 'usage'],
  status: ['core'],
  // Commands stand beside main.ts: they wire what they need.
  cli: ['app', 'core', 'db', 'accounts', 'audit', 'billing', 'budgets', 'governance'],
  transport: ['core', 'accounts', 'budgets', 'rate', 'idempotency', 'prices', 'billing', 'approvals', 'notifications', 'proxy'],
  pages: ['core', 'accounts', 'budgets', 'rate', 'prices', 'billing', 'approvals', 'notifications', 'dashboard', 'status'],
}

/** Files that stay inside their room: how it stores things is nobody else's business. */
const PRIVATE_FILES = [/^(.+\.)?store\.ts$/, /^tables\.ts$/, /^(.+\.)?sql\.ts$/]

/** Who may import a package (by the path below src, `/` between folders). Packages not named here are free. */
const PACKAGE_RULES: readonly { packages: RegExp; allowed: RegExp; because: string }[] = [
  {
    packages: /^(drizzle-orm|postgres|@electric-sql\/pglite)(\/|$)/,
    allowed: /^db\/|(^|\/)(.+\.)?(store|tables|sql)\.ts$/,
    because: 'SQL lives in stores, tables and src/db',
  },
  {
    packages: /^(hono|@hono\/[^/]+)(\/|$)/,
    allowed: /^(transport|pages)\/|^(app-http|main)\.tsx?$/,
    because: 'only the transports know HTTP',
  },
  { packages: /^@modelcontextprotocol\//, allowed: /^transport\//, because: 'only the transports know MCP' },
]

const MAY_READ_ENVIRONMENT = /^config\.ts$/

type Import = { readonly file: string; readonly specifier: string; readonly target: string | null }

const files = sourceFiles(SRC)
const imports = files.flatMap(importsOf)

describe('the shape of src', () => {
  it('scans something', () => {
    expect(files.length).toBeGreaterThan(5)
    expect(imports.filter(({ target }) => target !== null).length).toBeGreaterThan(5)
    expect(imports.filter(({ target }) => target === null).length).toBeGreaterThan(2)
  })

  it('knows every room', () => {
    const rooms = readdirSync(SRC, { withFileTypes: true }).filter((entry) => entry.isDirectory())
    expect(rooms.map(({ name }) => name).filter((name) => MAY_IMPORT[name] === undefined)).toEqual([])
  })

  it('has no circle of rooms', () => {
    expect(Object.keys(MAY_IMPORT).filter((room) => reach(room).has(room))).toEqual([])
  })

  it('resolves every relative import to a file of src', () => {
    const broken = imports.filter(({ target }) => target !== null && (target.startsWith('..') || !existsSync(join(SRC, target))))
    expect(broken.map(describeImport)).toEqual([])
  })

  it('imports no room above or beside', () => {
    const violations = imports.filter(({ file, target }) => {
      if (target === null || roomOf(file) === 'app' || roomOf(file) === roomOf(target)) return false
      return !(MAY_IMPORT[roomOf(file)] ?? []).includes(roomOf(target))
    })
    expect(violations.map(describeImport)).toEqual([])
  })

  it("does not reach into another room's storage", () => {
    const violations = imports.filter(({ file, target }) => {
      if (target === null || roomOf(file) === roomOf(target) || roomOf(target) === 'db') return false
      // The wiring file hands stores to services, but never touches tables or statements.
      if (roomOf(file) === 'app') return /(^|\/)tables\.ts$/.test(target)
      return PRIVATE_FILES.some((pattern) => pattern.test(nameOf(target)))
    })
    expect(violations.map(describeImport)).toEqual([])
  })

  it('keeps packages where they belong', () => {
    const violations = imports.flatMap((found) =>
      PACKAGE_RULES.filter(({ packages, allowed }) => packages.test(found.specifier) && !allowed.test(found.file)).map(
        ({ because }) => `${describeImport(found)}: ${because}`,
      ),
    )
    expect(violations).toEqual([])
  })

  it('reads the environment in config.ts only', () => {
    const readers = files.filter((file) => /\bprocess\s*\.\s*env\b|\benv\b[^\n]*from 'node:process'/.test(codeOf(file)))
    expect(readers.filter((file) => !MAY_READ_ENVIRONMENT.test(file))).toEqual([])
  })
})

describe('the scanner', () => {
  it('sees every form of import and none in comments', () => {
    const code = [
      "import a from './a.ts'",
      "import type { B } from './b.ts'",
      "import {\n  c,\n  d,\n} from '../core/c.ts'",
      "import './effect.ts'",
      "export * from './e.ts'",
      "export type { F } from 'pkg/f'",
      "const g = await import('./g.ts')",
      "// import h from './h.ts'",
      "/* import i from './i.ts' */",
    ].join('\n')
    expect(specifiersIn(withoutComments(code)).sort()).toEqual(
      ['../core/c.ts', './a.ts', './b.ts', './e.ts', './effect.ts', './g.ts', 'pkg/f'].sort(),
    )
  })
})

function sourceFiles(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.tsx?$/.test(entry.name))
    .map((entry) => relative(SRC, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort()
}

function importsOf(file: string): Import[] {
  return specifiersIn(codeOf(file)).map((specifier) => ({
    file,
    specifier,
    target: specifier.startsWith('.') ? join(dirname(file), specifier).split(sep).join('/') : null,
  }))
}

function codeOf(file: string): string {
  return withoutComments(readFileSync(join(SRC, file), 'utf8'))
}

/** Whole comment lines and blocks; a `//` inside a string survives. */
function withoutComments(code: string): string {
  return code.replace(/^\s*\/\*[\s\S]*?\*\//gm, '').replace(/^\s*\/\/.*$/gm, '')
}

function specifiersIn(code: string): string[] {
  const statements = code.matchAll(/^\s*(?:import|export)\b(?:[^'";]*?\bfrom)?\s*'([^']+)'/gm)
  const calls = code.matchAll(/\bimport\(\s*'([^']+)'\s*\)/g)
  return [...statements, ...calls].map(([, specifier]) => specifier!)
}

function roomOf(path: string): string {
  return path.includes('/') ? path.slice(0, path.indexOf('/')) : 'app'
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1)
}

function reach(room: string, seen = new Set<string>()): Set<string> {
  for (const below of MAY_IMPORT[room] ?? []) {
    if (seen.has(below)) continue
    seen.add(below)
    reach(below, seen)
  }
  return seen
}

function describeImport({ file, specifier }: Import): string {
  return `${file} imports ${specifier}`
}
