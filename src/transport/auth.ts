import { createHash, timingSafeEqual } from 'node:crypto'
import type { KeyResolver } from '../accounts/keys.ts'
import { DomainError } from '../core/errors.ts'
import type { Access, AdminCaller, Caller, KeyCaller, PublicCaller } from '../core/operation.ts'
import { type FailedKeys, tooManyFailures } from './failed-keys.ts'

/** The parts of a request that say who sends it. */
export type Credentials = {
  header(name: string): string | undefined
  readonly url: string
  /** Where the request comes from, for the limit on refused keys. */
  readonly address?: () => string
}

export type Authenticated = { readonly caller: Caller; readonly bearer?: string }

const PUBLIC: PublicCaller = { kind: 'public' }
const ADMIN: AdminCaller = { kind: 'admin' }
const MAX_KEY_LENGTH = 256

/** The bearer key of a request: `Authorization: Bearer`, else `X-API-Key`, else `?api_key=` (contract section 1). */
export function bearerOf(request: Credentials): string | undefined {
  const authorization = request.header('authorization')
  if (authorization !== undefined && /^bearer /i.test(authorization)) return authorization.slice(7).trim() || undefined
  const header = request.header('x-api-key')
  if (header) return header
  const query = request.url.indexOf('?')
  if (query === -1 || !request.url.includes('api_key=', query)) return undefined
  return new URLSearchParams(request.url.slice(query + 1)).get('api_key') || undefined
}

/** Decides who calls. One instance for all transports. */
export class Authenticator {
  readonly #keys: KeyResolver
  readonly #failures: FailedKeys
  readonly #adminSecret: Buffer | null

  constructor(deps: { keys: KeyResolver; failures: FailedKeys }, options: { adminSecret: string | undefined }) {
    this.#keys = deps.keys
    this.#failures = deps.failures
    this.#adminSecret = options.adminSecret ? digest(options.adminSecret) : null
  }

  /**
   * @throws DomainError `missing_api_key`, `invalid_api_key`, `unauthorized`, `rate_limited`, `database_unavailable`
   */
  authenticate(access: Access, request: Credentials): Authenticated | Promise<Authenticated> {
    if (access.kind === 'public') return { caller: PUBLIC }
    if (access.kind === 'admin') {
      this.requireAdmin(request)
      const bearer = adminSecretOf(request)
      return bearer === undefined ? { caller: ADMIN } : { caller: ADMIN, bearer }
    }
    const bearer = bearerOf(request)
    if (bearer === undefined) throw new DomainError('missing_api_key')
    if (bearer.length > MAX_KEY_LENGTH) throw new DomainError('invalid_api_key')
    const found = this.callerOf(bearer, request.address?.() ?? '')
    return found instanceof Promise ? found.then((caller) => authenticated(caller, bearer)) : authenticated(found, bearer)
  }

  /**
   * Whom a key stands for, null when nobody. Keys in use go on working from an address that has sent too many bad ones.
   * @throws DomainError `rate_limited`, `database_unavailable`
   */
  callerOf(bearer: string, address: string): KeyCaller | null | Promise<KeyCaller | null> {
    const wait_ms = this.#failures.wait_ms(address)
    if (wait_ms > 0) {
      const known = this.#keys.remembered(bearer)
      if (known === null) throw tooManyFailures(wait_ms)
      return known
    }
    const counted = (caller: KeyCaller | null): KeyCaller | null => {
      if (caller === null) this.#failures.count(address)
      return caller
    }
    const found = this.#keys.resolve(bearer)
    return found instanceof Promise ? found.then(counted) : counted(found)
  }

  /**
   * @param given the operator's secret as it was sent, in whatever place
   * @throws DomainError `unauthorized`, `rate_limited`
   */
  requireAdmin(request: Credentials, given = adminSecretOf(request)): void {
    const address = request.address?.() ?? ''
    const wait_ms = this.#failures.wait_ms(address)
    if (wait_ms > 0) throw tooManyFailures(wait_ms)
    if (this.isAdmin(request, given)) return
    if (given !== undefined) this.#failures.count(address)
    throw new DomainError('unauthorized')
  }

  /** True when the request carries the operator's secret. Compared by digest, in constant time. */
  isAdmin(request: Credentials, given = adminSecretOf(request)): boolean {
    return this.#adminSecret !== null && given !== undefined && timingSafeEqual(digest(given), this.#adminSecret)
  }
}

export const adminSecretOf = (request: Credentials): string | undefined =>
  request.header('x-admin-secret') ?? request.header('x-admin-token')

const digest = (secret: string): Buffer => createHash('sha256').update(secret).digest()

function authenticated(caller: Caller | null, bearer: string): Authenticated {
  if (caller === null) throw new DomainError('invalid_api_key')
  return { caller, bearer }
}
