import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { external } from '../../scripts/external.mjs'
import { VERSION } from '../../src/version.ts'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '../..')
const MANIFEST = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { dependencies: Record<string, string> }
const TIMEOUT_MS = 120_000

/** What `npm pack` makes, installed beside nothing but the packages it asks for. */
describe('the package', () => {
  let folder: string
  let installed: string

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'gvnr-package-'))
    if (!existsSync(join(ROOT, 'dist/client/index.d.ts'))) throw new Error('run node scripts/build.mjs --types first')
    await run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: ROOT, timeout: TIMEOUT_MS })
    const [archive] = readdirSync(folder).filter((name) => name.endsWith('.tgz'))
    writeFileSync(join(folder, 'package.json'), '{"private":true,"type":"module"}')
    // Its dependencies are taken from here, so that no registry is needed; npm puts the package itself and its command in place.
    const names = external.filter((name) => !name.endsWith('*'))
    const traced = Object.keys(MANIFEST.dependencies).filter((name) => name.startsWith('@opentelemetry/'))
    const links = Object.fromEntries([...names, ...traced].map((name) => [name, `file:${join(ROOT, 'node_modules', name)}`]))
    const parameters = ['--offline', '--no-audit', '--no-fund', '--ignore-scripts', '--legacy-peer-deps']
    const manifest = { private: true, type: 'module', dependencies: { gvnr: `file:${archive}` }, overrides: links }
    writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest))
    await run('npm', ['install', ...parameters], { cwd: folder, timeout: TIMEOUT_MS })
    installed = join(folder, 'node_modules/gvnr')
  }, TIMEOUT_MS)
  afterAll(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))

  it('carries what it needs and nothing else', () => {
    for (const file of [
      'dist/cli.js',
      'dist/client.js',
      'dist/client/index.d.ts',
      'migrations/meta/_journal.json',
      'LICENSE',
      'CHANGELOG.md',
    ])
      expect(existsSync(join(installed, file)), file).toBe(true)
    for (const file of ['src', 'test', 'node_modules', 'dist/cli.js.map', 'dist/main.js', '.env'])
      expect(existsSync(join(installed, file)), file).toBe(false)
    expect(readFileSync(join(installed, 'dist/client.js'), 'utf8')).not.toMatch(/^\s*import\b|\bimport\(|\brequire\(/m)
  })

  it('starts with npx and answers', async () => {
    expect((await run('npx', ['--no', '--', 'gvnr', 'version'], { cwd: folder })).stdout).toBe(`${VERSION}\n`)
    const env = { PATH: process.env.PATH, HOME: folder, PORT: '0' }
    const child = spawn(join(folder, 'node_modules/.bin/gvnr'), ['start'], {
      cwd: folder,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    try {
      let output = ''
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output += text))
      await expect.poll(() => output, { timeout: 60_000 }).toMatch(/Gvnr answers at/)
      const [, origin] = /Gvnr answers at (\S+)/.exec(output)!
      const made = await fetch(`${origin}/v1/account`, { method: 'POST' })
      expect(made.status).toBe(201)
      for (const path of ['/', '/docs', '/llms.txt', '/openapi.json']) expect((await fetch(origin + path)).status, path).toBe(200)
      expect(existsSync(join(folder, '.gvnr'))).toBe(true)
    } finally {
      const ended = new Promise((resolve) => child.once('exit', resolve))
      child.kill('SIGTERM')
      await ended
    }
    expect(child.exitCode).toBe(0)
  })

  it('has a bill of materials: what is in the bundle and what an installation brings', async () => {
    const { stdout } = await run(process.execPath, ['scripts/sbom.mjs'], { cwd: ROOT, timeout: TIMEOUT_MS, maxBuffer: 2 ** 26 })
    const { bomFormat, components } = JSON.parse(stdout) as { bomFormat: string; components: { name: string }[] }
    const names = components.map(({ name }) => name)
    expect(bomFormat).toBe('CycloneDX')
    expect(names).toEqual(expect.arrayContaining(['hono', 'postgres', 'zod', 'pino', '@electric-sql/pglite']))
    for (const tool of ['vitest', 'esbuild', 'typescript', '@biomejs/biome']) expect(names).not.toContain(tool)
  })

  it('gives the client kit to programs in JavaScript and TypeScript', async () => {
    writeFileSync(
      join(folder, 'kit.ts'),
      `import { createGvnr, type ClearAnswer, withBudget } from 'gvnr/client'
      const gvnr = createGvnr({ baseUrl: 'http://127.0.0.1:9', apiKey: 'x', agentId: 'a', maxAttempts: 1 })
      const text: Promise<string> = withBudget({ gvnr, model: 'm', estimatedTokens: 1 }, () => 'hello')
      export const remaining = (answer: ClearAnswer): number => answer.remaining_usd
      // @ts-expect-error a number is wanted
      export const wrong = (): unknown => gvnr.clear({ model: 'm', estimated_tokens: '1' })
      text.catch((error: { code: string }) => console.log(error.code))
      `,
    )
    mkdirSync(join(folder, 'node_modules/@types'), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules/@types/node'), join(folder, 'node_modules/@types/node'))
    const flags = [
      '--strict',
      '--target',
      'es2022',
      '--module',
      'nodenext',
      '--types',
      'node',
      '--skipLibCheck',
      'false',
      '--exactOptionalPropertyTypes',
    ]
    await run(join(ROOT, 'node_modules/.bin/tsc'), [...flags, 'kit.ts'], { cwd: folder, timeout: TIMEOUT_MS }).catch(
      (error: { stdout: string }) => {
        throw new Error(error.stdout)
      },
    )
    expect((await run(process.execPath, ['kit.js'], { cwd: folder })).stdout).toBe('unreachable\n')
  })
})
