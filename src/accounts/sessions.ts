import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { Clock } from '../core/clock.ts'
import { uuidv7 } from '../core/ids.ts'
import type { KeyCaller } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { deleteSession, findSessions, insertSession, purgeSessions, type SessionRow } from './sessions.store.ts'

export type Session = { readonly sessionId: string; readonly caller: KeyCaller; readonly expiresMs: number }

const TOKEN = /^[\w-]{43}$/
const TOKEN_BYTES = 32
/** A working day: who leaves a browser open is asked again the next morning. */
const LIFE_MS = 12 * 3_600_000
const MAX_PER_KEY = 20

const hashOf = (token: string): Buffer => createHash('sha256').update(token).digest()

/**
 * Sessions of people at the dashboard. The token is the cookie's secret; neither it nor the key it was opened with is stored. Every look-up
 * asks the database, also for the key: a revoked key ends its sessions at once, on every process.
 */
export class SessionService {
  readonly #database: Database
  readonly #clock: Clock

  constructor(deps: { database: Database; clock: Clock }) {
    this.#database = deps.database
    this.#clock = deps.clock
  }

  /** Opens a session for whoever holds a key. @returns the token for the cookie, which is kept nowhere else */
  async open(caller: KeyCaller): Promise<{ token: string; expiresMs: number }> {
    const token = randomBytes(TOKEN_BYTES).toString('base64url')
    const createdMs = this.#clock.now()
    const expiresMs = Math.min(createdMs + LIFE_MS, caller.expiresMs ?? Number.POSITIVE_INFINITY)
    const { accountId, keyId } = caller
    const session = { accountId, sessionId: uuidv7(createdMs), tokenHash: hashOf(token), keyId, createdMs, expiresMs }
    await withDatabaseFailure(insertSession(this.#database, session, MAX_PER_KEY))
    return { token, expiresMs }
  }

  /** The session a token opens; null when it is forged, over, or its key is. */
  async find(token: string): Promise<Session | null> {
    return (await this.findAll([token])).get(token) ?? null
  }

  /** Several at once, for those who keep a page open. Tokens without a live session are left out. */
  async findAll(tokens: readonly string[]): Promise<Map<string, Session>> {
    const byHash = new Map(tokens.filter((token) => TOKEN.test(token)).map((token) => [hashOf(token).toString('hex'), token]))
    const found = new Map<string, Session>()
    if (byHash.size === 0) return found
    const hashes = [...byHash.keys()].map((hash) => Buffer.from(hash, 'hex'))
    for (const row of await withDatabaseFailure(findSessions(this.#database, hashes, this.#clock.now()))) {
      const token = byHash.get(row.tokenHash)
      if (token !== undefined) found.set(token, sessionOf(row))
    }
    return found
  }

  secondsLeft(expiresMs: number): number {
    return Math.floor((expiresMs - this.#clock.now()) / 1000)
  }

  async close({ caller, sessionId }: Session): Promise<void> {
    await withDatabaseFailure(deleteSession(this.#database, caller.accountId, sessionId))
  }

  /** Housekeeping: forgets at most `limit` sessions that are over. */
  purge(limit: number): Promise<void> {
    return purgeSessions(this.#database, this.#clock.now(), limit)
  }
}

const macOf = (token: string): Buffer => createHmac('sha256', token).update('gvnr form').digest()
const masked = (mac: Buffer, mask: Buffer): Buffer => Buffer.from(mac.map((byte, index) => byte ^ (mask[index] ?? 0)))

/**
 * What a form of this session carries: another site can neither read nor guess it. Another one each time, under a random mask, since it stands
 * in compressed pages beside words of others, whose size could give a constant away (BREACH).
 */
export function formTokenOf(token: string): string {
  const mac = macOf(token)
  const mask = randomBytes(mac.length)
  return Buffer.concat([mask, masked(mac, mask)]).toString('base64url')
}

/** Compared in constant time. */
export function isFormTokenOf(token: string, given: string): boolean {
  const wanted = macOf(token)
  const bytes = Buffer.from(given, 'base64url')
  if (bytes.length !== 2 * wanted.length) return false
  return timingSafeEqual(wanted, masked(bytes.subarray(wanted.length), bytes.subarray(0, wanted.length)))
}

const sessionOf = (row: SessionRow): Session => ({
  sessionId: row.sessionId,
  expiresMs: row.expiresMs,
  caller: {
    kind: 'key',
    accountId: row.accountId,
    keyId: row.keyId,
    name: row.name,
    scope: row.scope,
    agentId: row.agentId,
    expiresMs: row.keyExpiresMs,
  },
})
