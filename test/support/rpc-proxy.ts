import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

export type RpcRequest = { readonly id: number; readonly method: string; readonly params: readonly unknown[] }
export type RpcFault = {
  /** Breaks the connection. */
  down?: boolean
  /** Answers with this HTTP status and no JSON. */
  status?: number
  delay_ms?: number
  /** Replaces the result of a call; `undefined` leaves it. */
  result?(request: RpcRequest, result: unknown): unknown
  /** Answers with this error of the node instead. */
  error?(request: RpcRequest): { code: number; message: string } | undefined
  /** Which calls it concerns; all when absent. */
  only?: readonly string[]
}
export type RpcProxy = {
  readonly url: string
  /** What is wrong from now on; null: nothing. */
  fault: RpcFault | null
  /** Methods asked for, in order. */
  readonly calls: string[]
  stop(): Promise<void>
}

/** A node in front of another, which goes wrong when it is told to. */
export async function startRpcProxy(target: string): Promise<RpcProxy> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      void answer(Buffer.concat(chunks).toString()).catch(() => response.destroy())
    })
    const answer = async (text: string): Promise<void> => {
      const asked = JSON.parse(text) as RpcRequest
      proxy.calls.push(asked.method)
      const { fault } = proxy
      const isConcerned = fault !== null && (fault.only === undefined || fault.only.includes(asked.method))
      if (isConcerned && fault.delay_ms !== undefined) await sleep(fault.delay_ms)
      if (isConcerned && fault.down) {
        response.destroy()
        return
      }
      if (isConcerned && fault.status !== undefined) {
        response.writeHead(fault.status).end('upstream trouble')
        return
      }
      const refusal = isConcerned ? fault.error?.(asked) : undefined
      if (refusal !== undefined) {
        response.writeHead(200, { 'content-type': 'application/json' })
        response.end(JSON.stringify({ jsonrpc: '2.0', id: asked.id, error: refusal }))
        return
      }
      const upstream = await fetch(target, { method: 'POST', headers: { 'content-type': 'application/json' }, body: text })
      const body = (await upstream.json()) as { result?: unknown }
      const replaced = isConcerned ? fault.result?.(asked, body.result) : undefined
      const final = replaced === undefined ? body : { jsonrpc: '2.0', id: asked.id, result: replaced }
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(final))
    }
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const proxy: RpcProxy = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    fault: null,
    calls: [],
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  return proxy
}
