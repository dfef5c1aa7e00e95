import { createGvnr, type Gvnr, type Outcome } from '../../src/client/index.ts'
import { Client } from './client.ts'
import { createTestDatabase } from './databases.ts'
import { startProvider } from './provider.ts'
import { startServer } from './server.ts'

/** A Gvnr server and a provider, both real processes or sockets, and an agent with a key of its own and a cap. */
export async function startKit(limit_usd = 1) {
  const home = await createTestDatabase('postgres')
  const server = await startServer({ databaseUrl: home.url })
  const provider = await startProvider()
  const client = new Client(() => server.origin)
  const owner = await client.createAccount(1000)
  const outcomes: Outcome[] = []
  let agents = 0
  return {
    server,
    provider,
    client,
    owner: owner.key,
    outcomes,
    /** A further agent with a cap, and a kit that speaks for it. */
    async agent(cap_usd = limit_usd): Promise<{ id: string; key: string; gvnr: Gvnr; spent: () => Promise<number> }> {
      const id = `agent-${++agents}`
      await client.setEnvelope(owner.key, { agent_id: id, limit_usd: cap_usd })
      const { key } = await client.createKey(owner.key, { scope: 'agent', agent_id: id })
      outcomes.length = 0
      provider.requests.length = 0
      provider.trouble = null
      return {
        id,
        key,
        gvnr: createGvnr({ baseUrl: server.origin, apiKey: key, agentId: id }),
        spent: async () => (await client.getEnvelope(owner.key, id)).body.spent_usd,
      }
    },
    onOutcome: (outcome: Outcome) => void outcomes.push(outcome),
    async stop() {
      client.close()
      await provider.stop()
      await server.stop()
      await home.drop()
    },
  }
}

export type Kit = Awaited<ReturnType<typeof startKit>>
