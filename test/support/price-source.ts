import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * A source of prices that answers when a test says so: `POST /v1/admin/price-cache/refresh` runs for as long as that, 10 s at most. Each
 * run of it asks once.
 */
export type PriceSource = {
  /** For PRICES_URL. */
  readonly url: string
  readonly asked: number
  /** From now on nobody is answered. */
  hold(): void
  /** Answers everybody who waits, and at once from now on. */
  answer(): void
  close(): void
}

export async function startPriceSource(): Promise<PriceSource> {
  let asked = 0
  let answer = (): void => {}
  let mayAnswer = Promise.resolve()
  const server = createServer(async (_request, response) => {
    asked++
    await mayAnswer
    response.end(JSON.stringify({ 'a-model': { input_usd_per_mtok: 1, output_usd_per_mtok: 2 } }))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    get asked() {
      return asked
    },
    hold() {
      mayAnswer = new Promise((resolve) => (answer = resolve))
    },
    answer: () => answer(),
    close() {
      answer()
      server.closeAllConnections()
      server.close()
    },
  }
}
