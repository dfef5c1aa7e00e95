import { execFile } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { type Server, startServer } from '../support/server.ts'

const manifest = createRequire(import.meta.url).resolve('@modelcontextprotocol/inspector/package.json')
const INSPECTOR = join(dirname(manifest), 'clients/launcher/build/index.js')
const run = promisify(execFile)

type Outcome = { code: number; stdout: string; stderr: string }

describe('the MCP Inspector command line', () => {
  let server: Server
  let rest: Client
  let key: string
  beforeAll(async () => {
    server = await startServer({ env: { SIGNUP_TRIAL_OPS: '100' } })
    rest = new Client(server.origin)
    key = (await rest.createAccount()).key
    await rest.setEnvelope(key, { agent_id: 'crawler', limit_usd: 5 })
  })
  afterAll(async () => {
    rest?.close()
    await server?.stop()
  })

  /** `access` says where the key goes; the Inspector takes headers and whole URLs. */
  async function inspect(access: 'header' | 'query', ...args: string[]): Promise<Outcome> {
    const url = access === 'query' ? `${server.origin}/mcp?api_key=${key}` : `${server.origin}/mcp`
    const header = access === 'header' ? ['--header', `Authorization: Bearer ${key}`] : []
    const all = [INSPECTOR, '--cli', url, '--transport', 'http', ...header, '--format', 'json', ...args]
    try {
      return { code: 0, ...(await run(process.execPath, all, { timeout: 60_000 })) }
    } catch (error) {
      const { code, stdout, stderr } = error as Outcome
      return { code, stdout, stderr }
    }
  }

  describe.each(['header', 'query'] as const)('with the key in the %s', (access) => {
    it.each(['legacy', 'modern'])('lists the tools (%s)', async (era) => {
      const { code, stdout, stderr } = await inspect(access, '--protocol-era', era, '--method', 'tools/list')
      expect({ code, stderr }).toMatchObject({ code: 0 })
      const { result } = JSON.parse(stdout) as { result: { tools: { name: string }[] } }
      expect(result.tools.map(({ name }) => name)).toEqual(
        expect.arrayContaining(['budget_clear', 'reconcile', 'set_envelope', 'get_balance']),
      )
    })

    it.each(['legacy', 'modern'])('clears a spend (%s)', async (era) => {
      const args = ['agent_id=crawler', 'model=gpt-4o', 'estimated_tokens=1000'].flatMap((pair) => ['--tool-arg', pair])
      const call = ['--method', 'tools/call', '--tool-name', 'budget_clear', ...args]
      const { code, stdout, stderr } = await inspect(access, '--protocol-era', era, ...call)
      expect({ code, stderr }).toMatchObject({ code: 0 })
      const { result } = JSON.parse(stdout) as { result: { structuredContent: unknown } }
      expect(result.structuredContent).toMatchObject({ approved: true, clearance_id: expect.any(String) })
    })
  })

  it('finds nothing to complain about in the schemas', async () => {
    const { code, stdout, stderr } = await inspect('header', '--strict', '--method', 'tools/list')
    expect({ code, stdout: code === 0 ? '' : stdout, stderr }).toMatchObject({ code: 0 })
  })
})
