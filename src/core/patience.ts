import { setTimeout as sleep } from 'node:timers/promises'
import { DomainError } from './errors.ts'

/** How long who may go on without the database waits for it. */
export const PATIENCE_MS = 3_000

/**
 * The result of a call to the database, unless it keeps silent for too long. The call itself goes on: its caller must bear that it is carried
 * out later.
 * @throws DomainError `database_unavailable`
 */
export async function answeredWithin<T>(call: Promise<T>, limit_ms = PATIENCE_MS): Promise<T> {
  const ended = new AbortController()
  const silence = sleep(limit_ms, undefined, { signal: ended.signal }).then(() => {
    throw new DomainError('database_unavailable')
  })
  call.catch(() => {}) // nobody may be left to hear of it
  try {
    return await Promise.race([call, silence])
  } finally {
    ended.abort()
  }
}
