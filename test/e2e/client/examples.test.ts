import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Kit, startKit } from '../../support/kit.ts'

const ROOT = join(import.meta.dirname, '../../..')
const EXAMPLES = readdirSync(join(ROOT, 'examples')).filter((name) => name.endsWith('.ts'))
const TEXT = 'One word after the other.'

describe('examples', () => {
  let kit: Kit
  beforeAll(async () => {
    kit = await startKit()
  })
  afterAll(() => kit?.stop())

  /** Runs an example for an agent called crawler of a new account; `onLine` sees what it prints. */
  async function run(name: string, limit_usd: number, onLine: (line: string) => void = () => {}): Promise<string[]> {
    const { key } = await kit.client.createAccount(10)
    await kit.client.setEnvelope(key, { agent_id: 'crawler', limit_usd })
    const env = {
      PATH: process.env.PATH,
      GVNR_URL: kit.server.origin,
      GVNR_KEY: key,
      OPENAI_API_KEY: 'sk-none',
      OPENAI_BASE_URL: `${kit.provider.origin}/v1`,
      ANTHROPIC_API_KEY: 'sk-none',
      ANTHROPIC_BASE_URL: kit.provider.origin,
    }
    const child = spawn(process.execPath, ['--import', 'tsx', `examples/${name}`], {
      cwd: ROOT,
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    let err = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      out += text
      for (const line of text.split('\n')) onLine(line)
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text
    })
    const code = await new Promise((resolve) => child.once('close', resolve))
    if (code !== 0) throw new Error(`${name} ended with ${code}:\n${err}`)
    return out.trimEnd().split('\n')
  }

  it.each(EXAMPLES.filter((name) => name !== 'ask-a-human.ts'))(
    '%s answers within its budget and is denied beyond it',
    async (name) => {
      const calls = kit.provider.requests.length
      expect((await run(name, 1)).sort()).toEqual([TEXT, 'settled'])
      expect(kit.provider.requests).toHaveLength(calls + 1)
      expect(await run(name, 0.000001)).toEqual(['denied, envelope_exceeded'])
      expect(kit.provider.requests).toHaveLength(calls + 1)
    },
  )

  it('ask-a-human.ts goes on when a human allows it', async () => {
    const lines = await run('ask-a-human.ts', 0.000001, (line) => {
      if (line.startsWith('asked: '))
        void fetch(`${line.slice(7)}/decide`, { method: 'POST', body: new URLSearchParams({ decision: 'approved' }) })
    })
    expect(lines).toEqual([expect.stringMatching(/^asked: http/), 'settled', TEXT])
  })

  it('are all in docs/clients.md', () => {
    const text = readFileSync(join(ROOT, 'docs/clients.md'), 'utf8')
    expect(EXAMPLES.length).toBeGreaterThan(3)
    for (const name of EXAMPLES) expect(text).toContain(`examples/${name}`)
  })
})
