import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DCLinter } from 'dclint'
import { validate } from 'dockerfile-utils'
import { describe, expect, it } from 'vitest'
import { external } from '../../scripts/external.mjs'
import { VERSION } from '../../src/version.ts'

const ROOT = join(import.meta.dirname, '../..')
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8')

describe('Dockerfile', () => {
  const dockerfile = read('Dockerfile')
  const last = dockerfile.slice(dockerfile.lastIndexOf('\nFROM '))

  it('is well-formed', () => {
    expect(validate(dockerfile).map(({ message, range }) => `${range.start.line + 1}: ${message}`)).toEqual([])
    expect(validate('FORM node\n')).not.toEqual([])
  })

  it('ends in an image without tools, run by somebody else than root, that can say whether it works', () => {
    expect(last).toMatch(/^USER node$/m)
    expect(last.indexOf('\nUSER ')).toBeLessThan(last.indexOf('\nENTRYPOINT '))
    expect(last).toMatch(/^HEALTHCHECK .*CMD \["node", "packaging\/healthcheck\.mjs"\]$/m)
    expect(last).not.toMatch(/npm|curl|apt-get|--from=build \/build\/node_modules/)
    expect(dockerfile).not.toMatch(/^(?:ENV|ARG) .*(?:SECRET|PASSWORD|KEY|TOKEN)/m)
  })

  it('copies what exists and is not ignored', () => {
    const sources = [...dockerfile.matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, list]) => list!.split(' '))
    const allowed = read('.dockerignore')
      .split('\n')
      .filter((line) => line.startsWith('!'))
      .map((line) => line.slice(1))
    expect(sources.length).toBeGreaterThan(5)
    for (const source of sources) {
      expect(existsSync(join(ROOT, source)), source).toBe(true)
      expect(allowed, source).toContain(source.replace(/^\.\//, '').split('/')[0])
    }
  })
})

describe('compose.yaml', () => {
  it('follows the compose specification and the rules of dclint', () => {
    const problems = new DCLinter({ rules: {}, quiet: false, debug: false, exclude: [] }).lintFiles(
      [join(ROOT, 'compose.yaml')],
      false,
    )
    expect(
      problems.flatMap(({ messages }: { messages: { line: number; message: string }[] }) =>
        messages.map(({ line, message }) => `${line}: ${message}`),
      ),
    ).toEqual([])
  })

  it('passes on what the proxy and the governance file need, and mounts where an outage is noted', () => {
    const compose = read('compose.yaml')
    for (const name of [
      'UPSTREAM_OPENAI_KEY',
      'UPSTREAM_ANTHROPIC_KEY',
      'UPSTREAM_OPENROUTER_KEY',
      'UPSTREAMS',
      'SECRETS_KEY',
      'RGF_FILE',
    ])
      expect(compose).toContain(`      ${name}: \${${name}:-}\n`)
    expect(compose).toContain(`PROXY_OPERATOR_KEYS: \${PROXY_OPERATOR_KEYS:-auto}`)
    expect(compose).toMatch(/read_only: true/)
    expect(compose).toContain('- data:/data\n')
    expect(compose).toContain('RGF_JOURNAL_DIR: /data/journal\n')
    expect(read('Dockerfile')).toContain('RGF_JOURNAL_DIR=/data/journal')
    expect(read('packaging/gvnr.service')).toContain('RGF_JOURNAL_DIR=/var/lib/gvnr/journal')
  })

  it('holds no secret, and waits for what it needs to be healthy', () => {
    const compose = read('compose.yaml')
    const secrets = compose.split('\n').filter((line) => /^\s+\w*(?:SECRET|PASSWORD|_URL)\w*:/.test(line))
    expect(secrets.length).toBeGreaterThan(2)
    for (const line of secrets) expect(line).toMatch(/\$\{\w+(?::[-?].*)?\}|smtp:\/\/mail:1025$/)
    expect(compose.match(/condition: service_healthy/g)).toHaveLength(2)
    expect(compose.match(/healthcheck:/g)).toHaveLength(2)
    for (const [, port] of compose.matchAll(/^ +- '([\d.:]+)'$/gm)) expect(port).toMatch(/^127\.0\.0\.1:/)
  })
})

describe('packaging/gvnr.service', () => {
  const unit = read('packaging/gvnr.service')

  it('runs without privileges on a file system of its own', () => {
    for (const line of [
      'DynamicUser=yes',
      'NoNewPrivileges=yes',
      'ProtectSystem=strict',
      'CapabilityBoundingSet=',
      'PrivateDevices=yes',
    ])
      expect(unit.split('\n')).toContain(line)
    expect(unit).toMatch(/^ExecStart=.*\/gvnr\/dist\/cli\.js start$/m)
    for (const line of unit.split('\n')) expect(line).toMatch(/^$|^#|^\[\w+\]$|^[A-Z]\w+=/)
  })
})

const SYSTEMD = '/usr/bin/systemd-analyze'

describe.runIf(existsSync(SYSTEMD))('what systemd says of packaging/gvnr.service', () => {
  const said = (...parameters: string[]) => spawnSync(SYSTEMD, parameters, { encoding: 'utf8' })

  it('is nothing, and of a mistake something', () => {
    const verified = said('verify', join(ROOT, 'packaging/gvnr.service'))
    expect([verified.status, verified.stderr.replaceAll(/^.*(?:SYSTEMD_UNIT_PATH|Failed to connect).*$/gm, '').trim()]).toEqual([
      0,
      '',
    ])
    const folder = mkdtempSync(join(tmpdir(), 'gvnr-unit-'))
    writeFileSync(join(folder, 'bad.service'), read('packaging/gvnr.service').replace('ProtectHome=yes', 'ProtectHome=maybe'))
    expect(said('verify', join(folder, 'bad.service')).stderr).toContain('protect home')
    rmSync(folder, { recursive: true })
  })
})

describe('package.json', () => {
  const manifest = JSON.parse(read('package.json'))

  it('brings with an installation exactly what the bundle leaves outside', () => {
    expect(Object.keys(manifest.dependencies)).toSatisfy((names: string[]) =>
      names.every((name) => external.some((one) => one === name || (one.endsWith('/*') && name.startsWith(one.slice(0, -1))))),
    )
    for (const one of external.filter((name) => !name.endsWith('*'))) expect(manifest.dependencies).toHaveProperty([one])
  })

  it('pins every version, and is the release that the changelog begins with', () => {
    const versions = { ...manifest.dependencies, ...manifest.devDependencies }
    for (const [name, version] of Object.entries(versions))
      expect(version, name).toMatch(/^(?:npm:@?[\w./-]+@)?\d+\.\d+\.\d+[\w.-]*$/)
    expect(manifest.version).toBe(VERSION)
    expect(/^## (\S+)/m.exec(read('CHANGELOG.md'))?.[1]).toBe(VERSION)
  })
})
