import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server as HttpServer, request } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../../support/client.ts'
import { type ConformanceSuite, conformanceCommand } from '../../support/node-next.ts'
import { type Server, startServer } from '../../support/server.ts'

/** What the product must pass by itself; a baseline may not list these. The rest of each suite wants a server made of fixtures. */
const SUITES: Record<ConformanceSuite, { args: string[]; mustPass: string[] }> = {
  '2025-11-25': {
    args: [],
    mustPass: [
      'server-initialize',
      'ping',
      'completion-complete',
      'tools-list',
      'resources-list',
      'prompts-list',
      'dns-rebinding-protection',
    ],
  },
  '2026-07-28': {
    args: ['--requirements', '2026-07-28'],
    mustPass: [
      'completion-complete',
      'tools-list',
      'server-sse-multiple-streams',
      'resources-list',
      'sep-2164-resource-not-found',
      'prompts-list',
      'dns-rebinding-protection',
      'caching',
      'input-required-result-unsupported-methods',
      'input-required-result-validate-input',
      'http-header-validation',
    ],
  },
}

describe('the official MCP conformance suites', () => {
  let server: Server
  let proxy: HttpServer
  let url: string
  let results: string
  beforeAll(async () => {
    results = await mkdtemp(join(tmpdir(), 'gvnr-conformance-'))
    server = await startServer()
    const rest = new Client(server.origin)
    const { key } = await rest.createAccount(1000)
    rest.close()
    proxy = await startKeyProxy(server.port, key)
    url = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}/mcp`
  })
  afterAll(async () => {
    proxy?.closeAllConnections()
    proxy?.close()
    await server?.stop()
    await rm(results, { recursive: true, force: true })
  })

  it.each(Object.entries(SUITES))(
    '%s: passes all but what its baseline lists, with nothing stale in it',
    async (suite, wanted) => {
      const baseline = join(import.meta.dirname, `baseline-${suite}.yml`)
      const { program, args } = conformanceCommand(suite as ConformanceSuite)
      const { code, output } = await run(program, [
        ...args,
        ...['server', '--url', url, '--expected-failures', baseline, '-o', join(results, suite), ...wanted.args],
      ])
      expect(code, output).toBe(0)
      const passed = [...output.matchAll(/^✓ ([\w-]+): \d+ passed, 0 failed/gm)].map(([, name]) => name)
      expect(wanted.mustPass.filter((scenario) => !passed.includes(scenario))).toEqual([])
    },
  )
})

/** The suites cannot send a key, so this adds it. Host and Origin pass through as they are: some scenarios test them. */
function startKeyProxy(port: number, key: string): Promise<HttpServer> {
  const proxy = createServer((incoming, outgoing) => {
    const { method, url: path, rawHeaders } = incoming
    const headers = [...rawHeaders, 'Authorization', `Bearer ${key}`]
    const upstream = request({ host: '127.0.0.1', port, path, method, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode ?? 502, answer.rawHeaders)
      answer.pipe(outgoing)
    })
    upstream.on('error', () => outgoing.destroy())
    incoming.pipe(upstream)
    outgoing.on('close', () => upstream.destroy())
  })
  return new Promise((resolve) => proxy.listen(0, '127.0.0.1', () => resolve(proxy)))
}

function run(program: string, args: string[]): Promise<{ code: number; output: string }> {
  return new Promise((resolve) => {
    execFile(program, args, { timeout: 100_000, maxBuffer: 16 * 1024 * 1024 }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1
      resolve({ code, output: `${stdout}\n${stderr}` })
    })
  })
}
