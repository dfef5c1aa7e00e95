import { Hold, type Policy } from '../budget.ts'
import type { Gvnr } from '../client.ts'
import { BudgetDenied, GvnrError, isRefusal, isUnserved, parsed } from '../errors.ts'
import { StreamUsage, usageOf } from '../usage.ts'
import { type Estimates, type PricedRequest, pricedRequest } from './requests.ts'
import { EventReader } from './sse.ts'

type Fetch = typeof globalThis.fetch
export type FetchOptions = Policy & Estimates & { readonly gvnr: Gvnr }

/** The OpenAI and Anthropic SDKs: a client that can be copied with another `fetch`. */
type Copyable = { withOptions(options: { fetch: Fetch }): unknown }

/**
 * A copy of an OpenAI client whose every chat, response, completion and embedding is cleared first and settled after: also streams, helpers
 * such as `responses.stream` and the SDK's own retries, each of which is a call of its own. Other endpoints pass as they are.
 *
 * A denial comes as the SDK's error of status 403; `budgetDenied(error)` gives what is behind it.
 */
export const governOpenAI = <C extends Copyable>(client: C, options: FetchOptions): C => governed(client, options)

/** The same for a client of the Anthropic SDK: messages, streamed or not. */
export const governAnthropic = <C extends Copyable>(client: C, options: FetchOptions): C => governed(client, options)

function governed<C extends Copyable>(client: C, options: FetchOptions): C {
  const { fetch } = client as { fetch?: Fetch }
  // withOptions answers the class of the client that it is called on; its type says less in some releases.
  return client.withOptions({ fetch: governFetch(options, fetch ?? globalThis.fetch) }) as C
}

/**
 * A `fetch` that clears requests to OpenAI's and Anthropic's endpoints before it sends them, for anything that takes one. A refused request
 * is answered here: 403 with the error the LLM proxy of Gvnr would answer, or 503 when Gvnr cannot be asked.
 */
export function governFetch(options: FetchOptions, fetch: Fetch = globalThis.fetch): Fetch {
  return async (input, init) => {
    const url = typeof input === 'string' ? input : input instanceof URL ? input.href : input.url
    const request = pricedRequest(url, init?.method ?? 'GET', init?.body, options)
    if (request === null) return fetch(input, init)
    const signal = init?.signal ?? undefined
    let hold: Hold
    try {
      hold = await Hold.take(options.gvnr, options, request, signal)
    } catch (error) {
      if (error instanceof BudgetDenied) return denied(error, request)
      if (error instanceof GvnrError) return unavailable(error, request)
      throw error
    }
    let response: Response
    try {
      response = await fetch(input, request.body === undefined ? init : withBody(init, request.body))
    } catch (error) {
      await hold.failed(error)
      throw error
    }
    return await settled(response, hold, request, signal)
  }
}

/** A body of another length than its client declared. */
function withBody(init: RequestInit | undefined, body: string): RequestInit {
  const headers = new Headers(init?.headers)
  headers.delete('content-length')
  return { ...init, headers, body }
}

async function settled(
  response: Response,
  hold: Hold,
  request: PricedRequest,
  signal: AbortSignal | undefined,
): Promise<Response> {
  if (!response.ok) {
    const error = new Error(`the provider answered ${response.status}`)
    await (isRefusal(response.status) ? hold.release(error) : hold.failed(error))
    return response
  }
  if (response.body !== null && response.headers.get('content-type')?.includes('text/event-stream'))
    return streamed(response, response.body, hold, request, signal)
  try {
    await hold.settle(usageOf(parsed(await response.clone().text())))
  } catch (error) {
    // The answer broke off: its reader will see that for itself.
    await hold.failed(error)
  }
  return response
}

function streamed(
  response: Response,
  body: ReadableStream<Uint8Array>,
  hold: Hold,
  request: PricedRequest,
  signal: AbortSignal | undefined,
): Response {
  const source = body.getReader()
  const usage = new StreamUsage()
  const events = new EventReader(usage, { dropsUsageChunk: request.body !== undefined })
  const left = () => hold.settle(usage.result(false), 'stopped_early')
  // An aborted stream is neither read to its end nor cancelled.
  signal?.addEventListener('abort', left, { once: true })
  const end = async (usageKnown: boolean): Promise<void> => {
    signal?.removeEventListener('abort', left)
    await hold.settle(usage.result(usageKnown))
  }
  const passed = new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        for (;;) {
          const step = await source.read().catch(async (error: unknown) => {
            await (usage.result(false) === null && !isUnserved(error) ? hold.failed(error) : end(false))
            throw error
          })
          const pieces = step.done ? events.end() : events.push(step.value)
          for (const piece of pieces) controller.enqueue(piece)
          if (step.done) {
            // Settled before the consumer sees the end: whoever has read it all may rely on the books.
            await end(true)
            controller.close()
          }
          if (step.done || pieces.length > 0) return
        }
      },
      async cancel(reason) {
        await source.cancel(reason)
        await left()
      },
    },
    // Nothing is read ahead of the consumer.
    { highWaterMark: 0 },
  )
  const { status, statusText, headers } = response
  return new Response(passed, { status, statusText, headers })
}

/** Headers that keep the SDKs from trying again. */
const FINAL = { 'content-type': 'application/json', 'x-should-retry': 'false' }

function denied(error: BudgetDenied, { surface }: PricedRequest): Response {
  const { denial, asked } = error
  const details = {
    type: 'budget_exceeded',
    code: 'budget_exceeded',
    message: error.message,
    reason: denial.reason,
    denial,
    asked,
  }
  return refusal(403, details, surface)
}

function unavailable(error: GvnrError, { surface }: PricedRequest): Response {
  const details = { type: 'gvnr_error', code: error.code, message: `Not cleared, so not sent. ${error.message}` }
  return refusal(error.status === 0 ? 503 : error.status >= 500 ? 503 : 400, details, surface)
}

const refusal = (status: number, error: Record<string, unknown>, surface: PricedRequest['surface']): Response =>
  new Response(JSON.stringify(surface === 'anthropic' ? { type: 'error', error } : { error }), { status, headers: FINAL })
