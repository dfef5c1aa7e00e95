import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Server, startServer } from '../support/server.ts'

const run = promisify(execFile)
const ROOT = join(import.meta.dirname, '../..')
const README = readFileSync(join(ROOT, 'README.md'), 'utf8')
const ADDRESS = 'http://127.0.0.1:8787'
const TIMEOUT_MS = 60_000

/** Each `sh` block of the quick start with the `json` block below it, if there is one. */
function quickStart(origin: string): { script: string; answers: unknown[] }[] {
  const section = README.slice(README.indexOf('\n## Quick start'), README.indexOf('\n## The loop'))
  const blocks = [...section.matchAll(/```sh\n([\s\S]*?)```(?:\n```json\n([\s\S]*?)```)?/g)]
  return blocks.map(([, script = '', answers = '']) => ({ script, answers: jsonLines(answers.replaceAll(ADDRESS, origin)) }))
}

const jsonLines = (text: string): unknown[] =>
  text
    .split('\n')
    .filter((line) => line.trim() !== '')
    .map((line) => JSON.parse(line) as unknown)

/** What an answer may be: equal to the README's, except for its `…` and for times. */
function asShown(shown: unknown): unknown {
  if (typeof shown === 'string' && shown.endsWith('…'))
    return expect.stringMatching(new RegExp(`^${shown.slice(0, -1)}[^…]{8,}$`))
  if (typeof shown === 'number' && shown > 1e12) return expect.toSatisfy((value) => Number.isInteger(value) && value > 1e12)
  if (Array.isArray(shown)) return shown.map(asShown)
  if (typeof shown !== 'object' || shown === null) return shown
  return Object.fromEntries(Object.entries(shown).map(([name, value]) => [name, asShown(value)]))
}

describe('README.md', () => {
  let server: Server
  let folder: string

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), 'gvnr-readme-'))
    server = await startServer()
  })
  afterAll(async () => {
    await server.stop()
    rmSync(folder, { recursive: true, force: true })
  })

  it('has a quick start that works as pasted', async () => {
    const blocks = quickStart(server.origin)
    expect(blocks.length).toBeGreaterThanOrEqual(6)
    expect(blocks.flatMap(({ answers }) => answers).length).toBeGreaterThan(blocks.length)
    const script = blocks.map((block) => `${block.script}\necho; echo '--- end of block'`).join('\n')
    expect(script).toContain(ADDRESS)
    const { stdout, stderr } = await run(
      'bash',
      ['--norc', '-euo', 'pipefail', '-c', script.replaceAll(ADDRESS, server.origin)],
      {
        timeout: TIMEOUT_MS,
      },
    )
    expect(stderr).toBe('')
    const outputs = stdout.split('--- end of block\n').slice(0, -1)
    expect(outputs.map(jsonLines)).toEqual(blocks.map(({ answers }) => asShown(answers)))
  })

  it('has a loop in TypeScript that clears, calls and reconciles, and makes no call when denied', async () => {
    const [, loop = ''] = /## The loop in an agent\n\n```ts\n([\s\S]*?)```/.exec(README) ?? []
    const file = join(folder, 'loop.mts')
    writeFileSync(file, `${loop}\n${LOOP_DRIVER}`)
    const env = { ...process.env, GVNR: server.origin }
    const { stdout } = await run(process.execPath, ['--import', import.meta.resolve('tsx'), file], { env, timeout: TIMEOUT_MS })
    expect(JSON.parse(stdout)).toEqual({
      calls: 1,
      answer: 'hello',
      denied: expect.stringMatching(/^denied, envelope_exceeded: Do not make the call/),
      refused: expect.stringMatching(/^invalid_params: /),
      spent_usd: 0.018,
    })
  })

  it('has a demo that plays it', async () => {
    const env = { ...process.env, BASE_URL: server.origin }
    const { stdout, stderr } = await run(process.execPath, ['scripts/demo.mjs'], { cwd: ROOT, env, timeout: TIMEOUT_MS })
    expect(stderr).toBe('')
    expect(stdout.match(/→ approved/g)).toHaveLength(4)
    expect(stdout).toContain('→ 403 forbidden')
    expect(stdout).toContain('→ denied, envelope_exceeded: $0.01 left, enough for 666 tokens')
    expect(stdout).toContain('→ drift -$0.012, $0.022 left')
    expect(stdout).toContain('→ 21 operations left')
    expect(stdout).not.toMatch(/bg_[0-9a-f]{8}/)
  })

  it('has a demo that says when no server answers', async () => {
    const env = { ...process.env, BASE_URL: 'http://127.0.0.1:9' }
    const demo = run(process.execPath, ['scripts/demo.mjs'], { cwd: ROOT, env, timeout: TIMEOUT_MS })
    await expect(demo).rejects.toMatchObject({ code: 1, stderr: expect.stringContaining('`npm start`') })
  })

  it('names an address for MCP that answers with that key', async () => {
    expect(README).toContain(`claude mcp add gvnr --transport http ${ADDRESS}/mcp --header "Authorization: Bearer $GVNR_KEY"`)
    const account = (await (await fetch(`${server.origin}/v1/account`, { method: 'POST' })).json()) as { api_key: string }
    const list = (url: string, headers: Record<string, string>) =>
      fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', accept: 'application/json, text/event-stream', ...headers },
        body: JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'tools/list' }),
      })
    const byHeader = await list(`${server.origin}/mcp`, { authorization: `Bearer ${account.api_key}` })
    const byQuery = await list(`${server.origin}/mcp?api_key=${account.api_key}`, {})
    expect([byHeader.status, byQuery.status]).toEqual([200, 200])
    expect(await byHeader.text()).toContain('budget_clear')
    expect((await list(`${server.origin}/mcp`, {})).status).toBe(401)
  })
})

/** Runs below the README's code: an account with a cap for one call, a call that fits, one that does not, one that is malformed. */
const LOOP_DRIVER = `
const made = await (await fetch(GVNR + '/v1/account', { method: 'POST' })).json()
process.env.GVNR_KEY = made.api_key
const headers = { authorization: 'Bearer ' + made.api_key, 'content-type': 'application/json' }
await fetch(GVNR + '/v1/budget/envelope', { method: 'PUT', headers, body: JSON.stringify({ agent_id: 'looper', limit_usd: 0.04 }) })
let calls = 0
const call = async () => {
  calls++
  return { text: 'hello', usage: { input_tokens: 300, output_tokens: 1140 } }
}
const plan = { agent_id: 'looper', model: 'claude-sonnet-4-6', estimated_tokens: 2000 }
const { text: answer } = await governed(plan, call)
const denied = await governed(plan, call).catch((error) => error.message)
const refused = await governed({ ...plan, estimated_tokens: 0 }, call).catch((error) => error.message)
const envelope = await (await fetch(GVNR + '/v1/budget/envelope/looper', { headers })).json()
console.log(JSON.stringify({ calls, answer, denied, refused, spent_usd: envelope.spent_usd }))
`
