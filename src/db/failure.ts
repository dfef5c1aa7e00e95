import { DomainError } from '../core/errors.ts'

/** Driver and socket codes that mean: no answer from the server. */
const CONNECTION_CODES = new Set([
  'CONNECTION_CLOSED',
  'CONNECTION_ENDED',
  'CONNECTION_DESTROYED',
  'CONNECT_TIMEOUT',
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENOENT',
])
/**
 * SQLSTATE classes and codes of a server that cannot serve now: connection exceptions (08), lack of resources (53), shutdown and cancelled
 * statements (57), a standby (25006), lost races (40001, 40P01), lock timeouts (55P03). PostgreSQL manual, appendix A.
 */
const TRANSIENT_SQLSTATE = /^(?:08|53|57)|^(?:25006|40001|40P01|55P03)$/

const RETRY_AFTER_SECONDS = 1

/** The DomainError to answer with when a failure comes from a database that cannot serve now; null for every other failure. */
export function databaseFailure(error: unknown): DomainError | null {
  for (let cause = error, depth = 0; cause instanceof Error && depth < 5; cause = cause.cause, depth++) {
    if (cause instanceof DomainError) return cause
    const code = 'code' in cause && typeof cause.code === 'string' ? cause.code : ''
    if (CONNECTION_CODES.has(code) || TRANSIENT_SQLSTATE.test(code))
      return new DomainError('database_unavailable', { cause: error, retryAfterSeconds: RETRY_AFTER_SECONDS })
  }
  return null
}

/** Passes a database call's result on, and its failure as the DomainError the caller should see. */
export async function withDatabaseFailure<T>(call: Promise<T>): Promise<T> {
  try {
    return await call
  } catch (error) {
    throw databaseFailure(error) ?? error
  }
}

/** True when a row could not be inserted because its key is there already. */
export const isUniqueViolation = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === '23505'
