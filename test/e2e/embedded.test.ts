import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { Client, UnansweredError } from '../support/client.ts'
import { keepBusy } from '../support/load.ts'
import { runToExit, type Server, startServer } from '../support/server.ts'

describe('the embedded database', () => {
  let dataDir: string
  let server: Server
  let client: Client

  beforeEach(async () => {
    dataDir = await mkdtemp(join(tmpdir(), 'gvnr-embedded-'))
    server = await startServer({ dataDir })
    client = new Client(() => server.origin)
  })
  afterEach(async () => {
    client.close()
    await server.stop()
    await rm(dataDir, { recursive: true, force: true, maxRetries: 3 })
  })

  it('survives kill -9 in the middle of work, again and again, and starts at once on the same folder', async () => {
    const { key } = await client.createAccount(100_000)
    await client.setEnvelope(key, { agent_id: 'a', limit_usd: 1000, window: 'session' })
    const approved = new Set<string>()
    let unanswered = 0
    for (let kill = 0; kill < 3; kill++) {
      const before = approved.size
      const stop = keepBusy(16, async () => {
        try {
          const { body } = await client.clear(key, { agent_id: 'a', model: 'gpt-4o', estimated_tokens: 100 })
          if (body.clearance_id === undefined) throw new Error(`refused: ${JSON.stringify(body)}`)
          approved.add(body.clearance_id)
        } catch (error) {
          if (!(error instanceof UnansweredError)) throw error
          unanswered++
          await new Promise((resolve) => setTimeout(resolve, 20))
        }
      })
      for (let waited = 0; approved.size < before + 50 && waited < 500; waited++) await new Promise((r) => setTimeout(r, 20))
      await server.kill('SIGKILL')
      await server.restart()
      await stop()
    }
    const { body } = await client.getEnvelope(key, 'a')
    const balance = await client.send<{ operations_remaining: number }>({ method: 'GET', path: '/v1/account/balance', key })
    const taken = 100_025 - balance.body.operations_remaining
    expect(taken).toBeGreaterThanOrEqual(approved.size)
    expect(taken).toBeLessThanOrEqual(approved.size + unanswered)
    expect(body.spent_usd).toBeCloseTo(taken * 0.001, 6)
    // Each approved clearance can be settled, so each is there.
    const usage = { agent_id: 'a', actual_input_tokens: 0, actual_output_tokens: 0 }
    for (const id of approved) expect((await client.reconcile(key, { ...usage, clearance_id: id })).status).toBe(200)
  })

  it('refuses a second process on the folder with a sentence, and the first goes on', async () => {
    const { code, output } = await runToExit({ dataDir })
    expect(code).toBe(1)
    expect(output).toContain(`another gvnr process is using ${dataDir}`)
    expect(output).toContain('DATABASE_URL')
    await client.createAccount()
  })
})
