import { Agent, createServer, request } from 'node:http'
import { pipeline } from 'node:stream'

/* The least that Node can do between a client and a provider: what the CPU time of the proxy is compared with. */

const provider = Number(process.argv[2])
const agent = new Agent({ keepAlive: true, maxSockets: Number.POSITIVE_INFINITY })

const server = createServer((incoming, outgoing) => {
  const headers = { ...incoming.headers, host: `127.0.0.1:${provider}` }
  const options = { host: '127.0.0.1', port: provider, path: incoming.url, method: incoming.method, headers, agent }
  const call = request(options, (answer) => {
    outgoing.writeHead(answer.statusCode ?? 502, answer.headers)
    outgoing.flushHeaders()
    pipeline(answer, outgoing, () => {})
  })
  call.on('error', () => outgoing.destroy())
  outgoing.on('close', () => call.destroy())
  incoming.pipe(call)
})
server.keepAliveTimeout = 60_000
process.on('disconnect', () => process.exit(0))
server.listen(0, '127.0.0.1', 16_384, () => {
  const address = server.address()
  process.send?.({ port: address !== null && typeof address === 'object' ? address.port : 0 })
})
