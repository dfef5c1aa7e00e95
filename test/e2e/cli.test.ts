import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { VERSION } from '../../src/version.ts'
import { createTestDatabase, type TestDatabase } from '../support/databases.ts'
import { startServer } from '../support/server.ts'

const CLI = join(import.meta.dirname, '../../dist/cli.js')

type Result = { readonly code: number; readonly out: string; readonly err: string }

function gvnr(parameters: string[], environment: Record<string, string> = {}): Promise<Result> {
  return new Promise((resolve) => {
    const env = { PATH: process.env.PATH, ...environment }
    execFile(process.execPath, [CLI, ...parameters], { env, timeout: 60_000 }, (error, out, err) => {
      resolve({ code: error === null ? 0 : typeof error.code === 'number' ? error.code : -1, out, err })
    })
  })
}

describe('gvnr', () => {
  let home: TestDatabase
  let environment: Record<string, string>
  beforeAll(async () => {
    home = await createTestDatabase('postgres')
    environment = { DATABASE_URL: home.url! }
  })
  afterAll(() => home?.drop())

  it('helps, and says its version and what it does not understand', async () => {
    const [help, version, none, unknown, inherited] = await Promise.all(
      [['help'], ['--version'], [], ['strat'], ['constructor']].map((parameters) => gvnr(parameters)),
    )
    for (const command of ['start', 'migrate', 'verify', 'sweep', 'keys'])
      expect(help!.out).toMatch(new RegExp(`^  ${command}`, 'm'))
    for (const line of help!.out.split('\n')) expect(line.length).toBeLessThanOrEqual(130)
    expect(version).toEqual({ code: 0, out: `${VERSION}\n`, err: '' })
    expect(none).toMatchObject({ code: 2, err: expect.stringContaining('Usage: gvnr') })
    expect(unknown).toMatchObject({ code: 2, out: '', err: expect.stringContaining('"strat"') })
    expect(inherited).toMatchObject({ code: 2, err: expect.stringContaining('"constructor"') })
  })

  it('says of an address to sweep to what is wrong with it', async () => {
    expect(await gvnr(['sweep', '--to', '0x1'])).toMatchObject({
      code: 2,
      err: expect.stringContaining('--to 0x1 is not an address'),
    })
    expect(await gvnr(['sweep'])).toMatchObject({ code: 2, err: expect.stringContaining('Say where the money goes') })
  })

  it('migrates once', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'gvnr-cli-'))
    try {
      const first = await gvnr(['migrate'], { DATA_DIR: join(folder, 'data') })
      expect(first).toMatchObject({
        code: 0,
        out: expect.stringMatching(/^applied 0000_\w+\n[\s\S]*\d+ migrations applied\.\n$/),
        err: '',
      })
      expect(await gvnr(['migrate'], { DATA_DIR: join(folder, 'data') })).toEqual({
        code: 0,
        out: 'The database is up to date.\n',
        err: '',
      })
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })

  it('makes accounts and keys that the server takes, and revokes them there', async () => {
    const server = await startServer({ databaseUrl: home.url })
    try {
      const who = async (key: string) => {
        const response = await fetch(`${server.origin}/v1/account`, { headers: { authorization: `Bearer ${key}` } })
        return { status: response.status, body: (await response.json()) as Record<string, unknown> }
      }
      const account = JSON.parse((await gvnr(['keys', 'account'], environment)).out)
      expect(await who(account.api_key)).toMatchObject({ status: 200, body: { account_id: account.account_id } })

      const parameters = ['--agent', 'team/crawler', '--name', 'crawler', '--days', '2']
      const key = JSON.parse((await gvnr(['keys', 'create', account.account_id, ...parameters], environment)).out)
      expect(key).toMatchObject({ scope: 'agent', agent_id: 'team/crawler', expires_at: key.created_at + 2 * 86_400_000 })
      expect(await who(key.api_key)).toMatchObject({ body: { key: { name: 'crawler', scope: 'agent' } } })

      expect(await gvnr(['keys', 'revoke', account.account_id, key.key_id], environment)).toMatchObject({ code: 0 })
      await expect.poll(async () => (await who(key.api_key)).status, { timeout: 5_000 }).toBe(401)

      const list = await gvnr(['keys', 'list', account.account_id], environment)
      expect(JSON.parse(list.out).keys).toMatchObject([{ name: 'crawler', revoked_at: expect.any(Number) }, { name: 'owner' }])
      expect(list.out).not.toContain('bg_')
    } finally {
      await server.stop()
    }
  })

  it('checks a governance file, and plans what it would have denied of what the database holds', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'gvnr-cli-'))
    const server = await startServer({ databaseUrl: home.url })
    try {
      const { api_key } = JSON.parse((await gvnr(['keys', 'account'], environment)).out)
      const send = async (method: string, path: string, body: object) => {
        const headers = { authorization: `Bearer ${api_key}`, 'content-type': 'application/json' }
        const response = await fetch(server.origin + path, { method, headers, body: JSON.stringify(body) })
        expect(response.status).toBe(200)
      }
      await send('PUT', '/v1/budget/envelope', { agent_id: 'planned', limit_usd: 9 })
      const booking = { agent_id: 'planned', resource_type: 'custom', action: 'search', cost: 2 }
      for (let time = 0; time < 2; time++) await send('POST', '/v1/book', booking)

      const [good, bad] = [join(folder, 'good.rgf'), join(folder, 'bad.rgf')]
      writeFileSync(good, '[agents.planned]\ndaily_budget = 3\n')
      writeFileSync(bad, '[agents.planned]\ndaily_budget = -3\n')
      expect(await gvnr(['rgf', 'check', good])).toMatchObject({ code: 0, out: expect.stringContaining('well formed, 1 agent') })
      expect(await gvnr(['rgf', 'check', bad])).toMatchObject({ code: 1, out: expect.stringContaining('bad.rgf:2:') })
      const plan = await gvnr(['rgf', 'plan', good, '--days', '1'], environment)
      expect(plan.code).toBe(0)
      expect(plan.out).toContain('[agents.planned] would have denied 1, saved $2.00 (daily_budget 1)')
      expect(await gvnr(['rgf', 'lint', good])).toMatchObject({ code: 2, err: expect.stringContaining('rgf check FILE') })
    } finally {
      await server.stop()
      rmSync(folder, { recursive: true, force: true })
    }
  })

  it('refuses keys that make no sense', async () => {
    const account = JSON.parse((await gvnr(['keys', 'account'], environment)).out)
    const cases: [string[], RegExp][] = [
      [['keys'], /Say keys/],
      [['keys', 'list'], /Say keys/],
      [['keys', 'list', 'me'], /me is no account_id/],
      [['keys', 'list', '0190b3c1-0000-7000-8000-000000000000', '--days', '1'], /belong to `keys create`/],
      [['keys', 'create', '0190b3c1-0000-7000-8000-000000000000'], /no such account/],
      [['keys', 'create', account.account_id, '--scope', 'agent'], /invalid_params: agent_id is required/],
      [['keys', 'create', account.account_id, '--days', 'x'], /invalid_params: expires_in_seconds/],
      [['keys', 'revoke', account.account_id, account.api_key], /not_found/],
      [['start', '--port', '1'], /start takes no parameters/],
    ]
    const results = await Promise.all(cases.map(([parameters]) => gvnr(parameters, environment)))
    for (const [index, [, expected]] of cases.entries())
      expect(results[index]).toMatchObject({ code: 2, out: '', err: expect.stringMatching(expected) })
  })
})
