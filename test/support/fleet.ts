import { Client } from './client.ts'
import { type Server, startServer } from './server.ts'

/** Some server processes on one database, with a client for each. */
export type Fleet = { readonly servers: readonly Server[]; readonly clients: readonly Client[]; stop(): Promise<void> }

/** @param options `sockets`: connections of each client */
export async function startFleet(
  databaseUrl: string,
  count: number,
  options: { env?: Readonly<Record<string, string>>; sockets?: number } = {},
): Promise<Fleet> {
  const { env, ...ofClient } = options
  const start = () => startServer({ databaseUrl, env: { SIGNUP_TRIAL_OPS: '0', ...env } })
  const servers = await Promise.all(Array.from({ length: count }, start))
  const clients = servers.map((server) => new Client(() => server.origin, ofClient))
  return {
    servers,
    clients,
    async stop() {
      for (const client of clients) client.close()
      await Promise.all(servers.map((server) => server.stop()))
    },
  }
}
