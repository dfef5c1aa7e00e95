import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { systemClock } from '../../src/core/clock.ts'
import { Authenticator } from '../../src/transport/auth.ts'
import { FailedKeys } from '../../src/transport/failed-keys.ts'

const ROOT = join(import.meta.dirname, '../..')
const SECRET = 'a-secret-of-the-operator-0123456789'

describe("the operator's secret", () => {
  const failures = new FailedKeys({ clock: systemClock }, { perMinute: 0 })
  const keys = { resolve: () => null, remembered: () => null } as never
  const auth = new Authenticator({ keys, failures }, { adminSecret: SECRET })
  const isAdmin = (given: string | undefined, one = auth) =>
    one.isAdmin({ url: '/', header: (name) => (name === 'x-admin-secret' ? given : undefined) })

  it('is equal or not, whatever the length', () => {
    expect(isAdmin(SECRET)).toBe(true)
    for (const other of ['', SECRET.slice(0, -1), `${SECRET}0`, SECRET.toUpperCase(), `${SECRET}\0`, undefined])
      expect(isAdmin(other)).toBe(false)
    const without = new Authenticator({ keys, failures }, { adminSecret: undefined })
    for (const any of ['', 'undefined', SECRET]) expect(isAdmin(any, without)).toBe(false)
  })
})

describe('secrets', () => {
  const sources = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
    .filter((name) => /\.tsx?$/.test(name) && !name.startsWith('client'))
    .map((name) => ({ name, code: readFileSync(join(ROOT, 'src', name), 'utf8') }))

  it('are compared by digest in constant time, never as text', () => {
    expect(sources.length).toBeGreaterThan(100)
    const compared =
      /(?:secret|signature|bearer|formToken|form_token|apiKey|api_key)\)?\s*[!=]==(?!\s*(?:undefined|null|''|""|true|false|'string'|\())/i
    const found = sources.flatMap(({ name, code }) =>
      code
        .split('\n')
        .filter((line) => compared.test(line) && !/^\s*(?:\*|\/\/)/.test(line))
        .map((line) => `${name}: ${line.trim()}`),
    )
    expect(found).toEqual([])
    expect('if (bearer === expected)').toMatch(compared)
    expect(sources.find(({ name }) => name === 'transport/auth.ts')?.code).toContain(
      'timingSafeEqual(digest(given), this.#adminSecret)',
    )
  })

  it('come from the random source of the system', () => {
    const lines = sources.flatMap(({ code }) => code.match(/.*Math\.random.*/g) ?? [])
    // What is left to the weak source are pauses.
    expect(lines.filter((line) => !/_ms\b|sleep|Jitter/i.test(line))).toEqual([])
    expect(sources.find(({ name }) => name === 'accounts/keys.ts')?.code).toContain('randomBytes(16)')
  })
})

describe('docs/security.md', () => {
  const text = readFileSync(join(ROOT, 'docs/security.md'), 'utf8')

  it('names tests that there are', () => {
    const proofs = [...text.matchAll(/`(test\/[\w./-]+\.test\.tsx?)`(?: \("([^"]+)"\))?/g)]
    expect(proofs.length).toBeGreaterThan(20)
    for (const [, file, title] of proofs) {
      expect(existsSync(join(ROOT, file!)), file).toBe(true)
      if (title !== undefined) expect(readFileSync(join(ROOT, file!), 'utf8'), file).toContain(title)
    }
  })

  it('proves every control', () => {
    const rows = text
      .split('\n')
      .filter((line) => line.startsWith('| ') && !/^\| (?:---|against|asset|who)/i.test(line) && line.split('|').length === 5)
    expect(rows.length).toBeGreaterThan(15)
    for (const row of rows) expect(row).toMatch(/`test\//)
  })
})
