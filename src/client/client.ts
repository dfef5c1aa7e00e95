import { GvnrError } from './errors.ts'
import { type Request, send, type TransportOptions } from './transport.ts'
import type {
  Approval,
  ApprovalInput,
  ApprovalRequested,
  BookAnswer,
  BookInput,
  CallOptions,
  ClearAnswer,
  ClearInput,
  RateCheckAnswer,
  RateCheckInput,
  ReconcileAnswer,
  ReconcileInput,
  ReleaseAnswer,
  ReleaseInput,
} from './types.ts'

export type GvnrOptions = {
  /** e.g. `https://gvnr.example.com`. */
  readonly baseUrl: string
  readonly apiKey: string
  /** The agent that calls are for unless they name another. */
  readonly agentId?: string
  /** Another fetch, for proxies and tests. */
  readonly fetch?: typeof globalThis.fetch
  /** How often a call to Gvnr is sent at most before it fails; 5. */
  readonly maxAttempts?: number
  /** How long one attempt may take; 10,000. */
  readonly timeoutMs?: number
}

/** Gvnr's operations that an agent needs. A denial is an answer; everything else that is not done throws `GvnrError`. */
export type Gvnr = {
  readonly agentId: string | undefined
  clear(input: ClearInput, options?: CallOptions): Promise<ClearAnswer>
  reconcile(input: ReconcileInput, options?: CallOptions): Promise<ReconcileAnswer>
  release(input: ReleaseInput, options?: CallOptions): Promise<ReleaseAnswer>
  rateCheck(input: RateCheckInput, options?: CallOptions): Promise<RateCheckAnswer>
  requestApproval(input: ApprovalInput, options?: CallOptions): Promise<ApprovalRequested>
  /** `waitSeconds` (at most 30) holds the answer until a human has decided. */
  checkApproval(approvalId: string, options?: CallOptions & { readonly waitSeconds?: number }): Promise<Approval>
  /** Charges a spend that is no model call, or says `status: "denied"`. */
  book(input: BookInput, options?: CallOptions): Promise<BookAnswer>
}

const ATTEMPTS = 5
const TIMEOUT_MS = 10_000

/** A client for one server and one key. Calls are sent again on broken connections and 503, a bounded number of times, and done once. */
export function createGvnr(options: GvnrOptions): Gvnr {
  if (!options.apiKey) throw new TypeError('createGvnr needs an apiKey (bg_…)')
  const transport: TransportOptions = {
    baseUrl: new URL(options.baseUrl).href.replace(/\/+$/, ''),
    apiKey: options.apiKey,
    fetch: options.fetch ?? globalThis.fetch,
    maxAttempts: options.maxAttempts ?? ATTEMPTS,
    timeout_ms: options.timeoutMs ?? TIMEOUT_MS,
  }
  // openapi.json says what each path answers; this is the one place where it is believed.
  const call = async <T>(request: Request): Promise<T> => (await send(transport, request)) as T
  const post = <T>(path: string, body: object, { signal, idempotencyKey }: CallOptions = {}, answers?: number) =>
    call<T>({
      method: 'POST',
      path,
      body,
      signal,
      idempotencyKey: idempotencyKey ?? globalThis.crypto.randomUUID(),
      ...(answers !== undefined && { answers }),
    })
  const forAgent = <I extends { agent_id?: string }>(input: I): I & { agent_id: string } => {
    const agent_id = input.agent_id ?? options.agentId
    if (agent_id === undefined) throw new TypeError('name the agent: agent_id here, or agentId in createGvnr')
    return { ...input, agent_id }
  }
  return {
    agentId: options.agentId,
    clear: async (input, more) => post('/v1/budget/clear', forAgent(input), more),
    reconcile: async (input, more) => post('/v1/budget/reconcile', forAgent(input), more),
    release: async (input, more) => post('/v1/budget/release', input, more),
    rateCheck: async (input, more) => post('/v1/rate/check', forAgent(input), more),
    requestApproval: async (input, more) => post('/v1/approval/request', forAgent(input), more),
    book: async (input, more) => post('/v1/book', forAgent(input), more, 403).then(booked),
    async checkApproval(approvalId, { waitSeconds = 0, signal } = {}) {
      const query = waitSeconds > 0 ? `?wait_seconds=${waitSeconds}` : ''
      const path = `/v1/approval/check/${encodeURIComponent(approvalId)}${query}`
      return call({ method: 'GET', path, signal, wait_ms: waitSeconds * 1000 })
    },
  }
}

/** A 403 is a denied booking or, from something in between, no answer at all. */
function booked(answer: unknown): BookAnswer {
  const booking = answer as BookAnswer
  if (booking.status !== 'success' && booking.status !== 'denied') throw new GvnrError(403, { ...booking })
  return booking
}
