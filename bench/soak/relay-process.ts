import { connect, createServer } from 'node:net'

/* Takes connections at an address and passes them to a Unix socket. Runs in a network of its own; ends with its parent's pipe. */

const [host = '', port = '', target = ''] = process.argv.slice(2)
createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true }, (client) => {
  const server = connect({ path: target, allowHalfOpen: true })
  const end = (): void => {
    client.destroy()
    server.destroy()
  }
  client.on('error', end)
  server.on('error', end)
  client.pipe(server)
  server.pipe(client)
}).listen(Number(port), host, () => process.stdout.write('listening\n'))
process.stdin.on('end', () => process.exit(0)).resume()
