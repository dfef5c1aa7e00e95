import { setTimeout as sleep } from 'node:timers/promises'
import { type Answer, type Client, type Fields, UnansweredError } from '../../test/support/client.ts'
import { pick } from '../../test/support/load.ts'
import type { Books } from './books.ts'

/** `unknown`: it may have been carried out. `undone`: it was not. */
export type Sent<B> = { readonly answer: Answer<B> } | 'unknown' | 'undone'

/** A request with a key of its own must be known after this, whatever happened meanwhile. */
const KNOWN_WITHIN_MS = 120_000
/** One try of anything that is refused before it is carried out. */
const ACCEPTED_WITHIN_MS = 60_000
const PAUSE_MS = { first: 10, most: 500 }
/** Answered before anything was decided: safe to send again. */
const UNDONE_CODES = new Set(['overloaded', 'rate_limited'])

/** Sends as a careful client does: to any server, elsewhere when one refuses connections, and again what may be sent again. */
export class Sender {
  readonly #clients: () => readonly Client[]
  readonly #random: () => number
  readonly #books: Books

  constructor(clients: () => readonly Client[], random: () => number, books: Books) {
    this.#clients = clients
    this.#random = random
    this.#books = books
  }

  /**
   * @param kind under which duration and errors are booked
   * @param due when the request was to be sent, by the monotonic clock
   * @param repeatable whether sending it twice does its work once
   */
  async send<B = Fields>(
    kind: string,
    due: number,
    repeatable: boolean,
    send: (client: Client) => Promise<Answer<B>>,
  ): Promise<Sent<B>> {
    const limit = due + (repeatable ? KNOWN_WITHIN_MS : ACCEPTED_WITHIN_MS)
    let wasUnknown = false
    for (let attempt = 0; ; attempt++) {
      if (attempt > 0) {
        this.#books.retries++
        await sleep(Math.min(PAUSE_MS.most, PAUSE_MS.first * 2 ** attempt))
      }
      let isUnknown = false
      try {
        const answer = await send(pick(this.#random, this.#clients()))
        const { error } = answer.body as Fields
        const code = errorCode(answer.status, error)
        if (code === null) {
          this.#books.answered(kind, performance.now() - due)
          return { answer }
        }
        this.#books.error(kind, code)
        if (answer.status >= 500 && answer.status !== 503)
          this.#books.fault(`${kind}: ${answer.status} ${JSON.stringify(answer.body)}`)
        isUnknown = !UNDONE_CODES.has(code) && code !== 'idempotency_conflict'
      } catch (error) {
        if (!(error instanceof UnansweredError)) throw error
        this.#books.error(kind, error.refused ? 'connection refused' : 'connection lost')
        isUnknown = !error.refused
      }
      if (isUnknown && !wasUnknown) {
        wasUnknown = true
        this.#books.unknown++
      }
      if (isUnknown && !repeatable) {
        this.#books.unkeyed++
        return 'unknown'
      }
      if (performance.now() < limit) continue
      if (!repeatable) return 'undone'
      this.#books.fault(`${kind}: still not known after ${KNOWN_WITHIN_MS / 1000} s`)
      return 'unknown'
    }
  }
}

/** Null for an answer that says what came of the request: results, and errors that are results of the model's own making. */
function errorCode(status: number, error: unknown): string | null {
  if (status < 400 || (status < 500 && status !== 409 && status !== 429)) return null
  if (status === 409 && error !== 'idempotency_conflict') return null
  return typeof error === 'string' ? error : `status ${status}`
}

/** A tool call, with the tool's result in the place of the body and a failure's status as REST would answer it. */
export async function callTool<B = Fields>(client: Client, key: string, name: string, input: Fields): Promise<Answer<B>> {
  const answer = await client.send<{ result?: { isError?: boolean; structuredContent?: B; content?: { text: string }[] } }>({
    method: 'POST',
    path: '/mcp',
    key,
    headers: { accept: 'application/json, text/event-stream', 'mcp-protocol-version': '2025-11-25' },
    body: { jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: input } },
  })
  const { result } = answer.body
  if (result?.structuredContent !== undefined) return { ...answer, body: result.structuredContent }
  if (result?.isError !== true) return answer as unknown as Answer<B>
  const body = JSON.parse(result.content?.[0]?.text ?? '{}') as Fields
  const status = body.error === 'rate_limited' ? 429 : body.retryable === true ? 503 : body.error === 'internal_error' ? 500 : 400
  return { ...answer, status, body: body as B }
}
