import { spendRefusal } from '../budgets/refusal.ts'
import type { Refusal } from '../budgets/requests.ts'
import { DomainError, type ErrorCode } from '../core/errors.ts'
import { type Nanousd, usdFromNanousd } from '../core/money.ts'
import type { Protocol } from './routes.ts'

/** An answer that did not come from a provider. */
export type Answer = { readonly status: number; readonly headers: Readonly<Record<string, string>>; readonly body: unknown }

/** What a rule of the operator or the account refuses before any money is looked at. */
export type PolicyRefusal = {
  readonly reason: 'model_not_allowed' | 'max_tokens_exceeded' | 'loop_detected'
  readonly message: string
}

/** Something the caller can act on, in the words of the provider whose clients it speaks to. */
export class ProxyError extends Error {
  readonly status: number
  readonly code: string
  readonly retryAfterSeconds: number | undefined
  constructor(status: number, code: string, message: string, options: { retryAfterSeconds?: number; cause?: unknown } = {}) {
    super(message, { cause: options.cause })
    this.status = status
    this.code = code
    this.retryAfterSeconds = options.retryAfterSeconds
  }
}

/** `type` of an error by its status, as the providers' clients know it. */
const OPENAI_TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  429: 'rate_limit_error',
  502: 'upstream_error',
  503: 'overloaded_error',
  504: 'upstream_error',
}
const ANTHROPIC_TYPES: Readonly<Record<number, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  503: 'overloaded_error',
}

/** What to do next where a proxied call differs from the rest: it takes no Idempotency-Key, and its errors have no `retry_after_ms`. */
const HINTS: Partial<Record<ErrorCode, string>> = {
  overloaded: 'The server is at capacity, and the call was not forwarded. Wait as long as Retry-After says and try again.',
  database_unavailable:
    'The database is not answering, and the call was not forwarded. Wait as long as Retry-After says and try again.',
  rate_limited:
    'Too many calls with keys that are refused came from this address. Wait as long as Retry-After says and check the key.',
}

/** A failure in the provider's error shape; null for what is a bug and must not be told. */
export function failureAnswer(error: unknown, protocol: Protocol): Answer | null {
  if (error instanceof DomainError)
    return shaped(protocol, error.status, { code: error.code, message: HINTS[error.code] ?? error.hint }, error.retryAfterSeconds)
  if (error instanceof ProxyError)
    return shaped(protocol, error.status, { code: error.code, message: error.message }, error.retryAfterSeconds)
  return null
}

export const internalFailure = (protocol: Protocol, requestId: string): Answer =>
  shaped(protocol, 500, { code: 'internal_error', message: `Something failed on our side. Report the request id ${requestId}.` })

function shaped(
  protocol: Protocol,
  status: number,
  error: { code: string; message: string },
  retryAfterSeconds?: number,
): Answer {
  const headers = retryAfterSeconds === undefined ? {} : { 'Retry-After': String(Math.max(1, Math.ceil(retryAfterSeconds))) }
  if (protocol === 'openai') {
    const type = OPENAI_TYPES[status] ?? (status >= 500 ? 'api_error' : 'invalid_request_error')
    return { status, headers, body: { error: { message: error.message, type, param: null, code: error.code } } }
  }
  const type = ANTHROPIC_TYPES[status] ?? (status >= 500 ? 'api_error' : 'invalid_request_error')
  return { status, headers, body: { type: 'error', error: { type, message: error.message, code: error.code } } }
}

/** A refused reservation (contract section 9): 403, never reaching the provider. */
export function budgetRefusal(protocol: Protocol, agentId: string, refusal: Refusal, required: Nanousd): Answer {
  const { reason, message } = explain(agentId, refusal, required)
  const type = reason === 'loop_detected' ? reason : 'budget_exceeded'
  return refused(protocol, { type, agentId, reason, message })
}

export const policyRefusal = (protocol: Protocol, agentId: string, { reason, message }: PolicyRefusal): Answer =>
  refused(protocol, { type: reason === 'loop_detected' ? 'loop_detected' : 'policy_violation', agentId, reason, message })

function refused(protocol: Protocol, error: { type: string; agentId: string; reason: string; message: string }): Answer {
  const { type, message, agentId, reason } = error
  const plain = { type, message, agent_id: agentId, reason }
  // Clients must not try again by themselves: the same call will be refused again.
  const headers = { 'X-Should-Retry': 'false' }
  if (protocol === 'anthropic') return { status: 403, headers, body: { type: 'error', error: plain } }
  return { status: 403, headers, body: { error: { ...plain, param: null, code: reason } } }
}

function explain(agentId: string, refusal: Refusal, required: Nanousd): { reason: string; message: string } {
  if (refusal.tightest !== null && refusal.reason === 'envelope_exceeded') {
    const { window, limit, extra, spent } = refusal.tightest
    const name = `${window.charAt(0).toUpperCase()}${window.slice(1)}`
    const amounts = `Limit: ${dollars(limit + extra)}, Spent: ${dollars(spent)}, Required: ${dollars(required)}`
    return { reason: `${window}_budget_exceeded`, message: `${name} budget exceeded. ${amounts}` }
  }
  if (refusal.reason === 'no_credits')
    return { reason: 'no_credits', message: 'The account has no governance operations left. Its owner has to add some.' }
  if (refusal.reason === 'suspended')
    return {
      reason: 'suspended',
      message: `Spending of "${refusal.suspendedPath ?? agentId}" is suspended. Only the operator of this server can resume it.`,
    }
  if (refusal.reason !== 'no_envelope') return spendRefusal(refusal, required)
  return {
    reason: 'no_envelope',
    message: `No envelope covers agent "${agentId}". The account owner sets one with PUT /v1/budget/envelope.`,
  }
}

/** Cents, and more digits only for what would otherwise read as nothing. */
function dollars(amount: Nanousd): string {
  const usd = usdFromNanousd(amount)
  return `$${usd !== 0 && usd < 0.01 ? usd.toFixed(6) : usd.toFixed(2)}`
}
