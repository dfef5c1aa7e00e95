import { afterAll, describe, expect, it } from 'vitest'
import { Client } from '../support/client.ts'
import { createTestDatabase } from '../support/databases.ts'
import { type Server, type ServerOptions, startServer } from '../support/server.ts'

/** Printed, never asserted: how long a person waits between the command and the first answer. */
describe('start to first answer', () => {
  const servers: Server[] = []
  afterAll(() => Promise.all(servers.map((server) => server.stop())))

  async function firstAnswer(name: string, starting: () => Promise<Server>): Promise<Server> {
    const started = performance.now()
    const server = await starting()
    const client = new Client(server.origin)
    const { status } = await client.send({ method: 'POST', path: '/v1/account' })
    console.log(`${name}: ${Math.round(performance.now() - started)} ms (listening after ${Math.round(server.start_ms)} ms)`)
    client.close()
    expect(status).toBe(201)
    return server
  }
  const start = async (options: ServerOptions) => {
    const server = await startServer(options)
    servers.push(server)
    return server
  }

  it('embedded, first on an empty folder and then on a used one', async () => {
    const server = await firstAnswer('empty PGlite folder', () => start({}))
    await server.kill('SIGTERM')
    await firstAnswer('used PGlite folder', async () => {
      await server.restart()
      return server
    })
  })

  it('PostgreSQL, first with an empty database and then with a migrated one', async () => {
    const home = await createTestDatabase('postgres')
    try {
      const first = await firstAnswer('PostgreSQL', () => start({ databaseUrl: home.url }))
      await first.kill('SIGTERM')
      await firstAnswer('PostgreSQL again', async () => {
        await first.restart()
        return first
      })
      await first.stop()
    } finally {
      await home.drop()
    }
  })
})
