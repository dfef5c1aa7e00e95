import { mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { runToExit } from '../support/server.ts'

const PASSWORD = 'database-password-7f3'

describe('a configuration that cannot be used', () => {
  let dataDir: string
  beforeAll(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'gvnr-configuration-'))
  })
  afterAll(() => rm(dataDir, { recursive: true, force: true }))

  it.each([
    ['PORT', 'abc'],
    ['PORT', '70000'],
    ['PORT', '-1'],
    ['LOG_LEVEL', 'x'],
    ['DATABASE_URL', 'foo'],
    ['DATABASE_URL', 'mysql://root@localhost/x'],
    ['PUBLIC_URL', 'gvnr.example'],
    ['TRUST_PROXY', 'maybe'],
    ['SIGNUP_TRIAL_OPS', '2.5'],
    ['ACCOUNT_RATE_LIMIT_PER_HOUR', 'ten'],
    ['DB_POOL_SIZE', '0'],
    ['ADMIN_SECRET', 'fifteen letters'],
    ['AUDIT_RETENTION_DAYS', '-1'],
  ])('stops the start and names %s=%s', async (name, value) => {
    const { code, output } = await runToExit({ dataDir, env: { [name]: value } })
    expect(code).toBe(1)
    expect(output).toMatch(new RegExp(`^${name} must be .+\\.$`, 'm'))
    expect(output).not.toMatch(/^\s+at /m)
  })

  it('names every bad value at once', async () => {
    const { code, output } = await runToExit({ dataDir, env: { PORT: 'x', LOG_LEVEL: 'y' } })
    expect(code).toBe(1)
    expect(output).toMatch(/^PORT must be /m)
    expect(output).toMatch(/^LOG_LEVEL must be /m)
  })

  it('says that a port is taken', async () => {
    const holder = createServer()
    await new Promise<void>((resolve) => holder.listen(0, '127.0.0.1', resolve))
    const address = holder.address()
    const port = typeof address === 'object' && address !== null ? address.port : 0
    try {
      const { code, output } = await runToExit({ dataDir, env: { PORT: String(port) } })
      expect(code).toBe(1)
      expect(output).toMatch(new RegExp(`^Cannot listen on 127.0.0.1 port ${port}: .+PORT.+\\.$`, 'm'))
      expect(output).not.toContain('Unhandled')
    } finally {
      holder.close()
    }
  })

  it('says that the database does not answer, without its password', async () => {
    const databaseUrl = `postgres://someone:${PASSWORD}@127.0.0.1:1/nowhere`
    const { code, output } = await runToExit({ databaseUrl })
    expect(code).toBe(1)
    expect(output).toContain('cannot start')
    expect(output).toContain('ECONNREFUSED')
    expect(output).not.toContain(PASSWORD)
  })
})
