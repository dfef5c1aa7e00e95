import type { ApprovalRequested, Denial } from './types.ts'

/** Gvnr refused the request or could not be reached. Nothing was cleared, or it is not known to be. */
export class GvnrError extends Error {
  override readonly name = 'GvnrError'
  /** Stable, e.g. `invalid_api_key`; `unreachable` when no answer came. */
  readonly code: string
  /** HTTP status; 0 when no answer came. */
  readonly status: number
  readonly retryable: boolean
  /** The whole error body. */
  readonly body: Readonly<Record<string, unknown>>

  constructor(status: number, body: Readonly<Record<string, unknown>>, options?: ErrorOptions) {
    const code = typeof body.error === 'string' ? body.error : `http_${status}`
    super(
      `${code}: ${typeof body.hint === 'string' ? body.hint : 'Gvnr answered something that is not its own error body.'}`,
      options,
    )
    this.code = code
    this.status = status
    this.retryable = body.retryable === true
    this.body = body
  }
}

/** A human was asked and this is how it ended. */
export type Asked = { readonly approval: ApprovalRequested; readonly decision: 'approved' | 'denied' | 'timeout' }

/** The clearance was denied: the model was not called. */
export class BudgetDenied extends Error {
  override readonly name = 'BudgetDenied'
  readonly denial: Denial
  /** Set when a human was asked first. `approved` here means that what they allowed was gone again before it could be used. */
  readonly asked: Asked | undefined

  constructor(denial: Denial, asked?: Asked) {
    const human = asked === undefined ? '' : ` A human was asked: ${asked.decision}.`
    super(`budget denied, ${denial.reason}: ${denial.hint ?? ''}${human}`)
    this.denial = denial
    this.asked = asked
  }
}

const MAX_DEPTH = 8

/**
 * The denial behind an error, however deep: SDKs wrap what a call fails with. Null when the error is something else.
 * Understands a `BudgetDenied`, errors of the OpenAI and Anthropic SDKs for the 403 of a governed `fetch`, and chains of `cause`.
 */
export function budgetDenied(error: unknown, depth = 0): BudgetDenied | null {
  if (error instanceof BudgetDenied) return error
  if (!isObject(error) || depth > MAX_DEPTH) return null
  const { denial, asked } = error
  if (isObject(denial) && denial.approved === false) return new BudgetDenied(denial as Denial, asked as Asked | undefined)
  const body = typeof error.responseBody === 'string' ? parsed(error.responseBody) : undefined
  const inside = [error.error, error.cause, error.lastError, body, ...(Array.isArray(error.errors) ? error.errors : [])]
  for (const one of inside) {
    const found = budgetDenied(one, depth + 1)
    if (found !== null) return found
  }
  return null
}

/**
 * Whether a failed call certainly was not served, so that nothing is owed for it: the provider refused it (4xx), or no connection came
 * about. A timeout, a break and a 5xx say nothing about that.
 */
export function isUnserved(error: unknown, depth = 0): boolean {
  if (!isObject(error) || depth > MAX_DEPTH) return false
  const status = [error.status, error.statusCode].find((value) => typeof value === 'number')
  if (typeof status === 'number') return isRefusal(status)
  if (typeof error.code === 'string' && NEVER_CONNECTED.has(error.code)) return true
  return isUnserved(error.cause, depth + 1)
}

/** 408 and 499 come after the request: it may have been worked on. */
export const isRefusal = (status: number): boolean => status >= 400 && status < 500 && status !== 408 && status !== 499

const NEVER_CONNECTED = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'UND_ERR_CONNECT_TIMEOUT'])

export const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null

export function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}
