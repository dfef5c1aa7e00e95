import { randomFillSync } from 'node:crypto'

const POOL_BYTES = 16 * 256
const pool = Buffer.alloc(POOL_BYTES)
let poolAt = POOL_BYTES
let lastMs = 0
let sequence = 0

/** @returns where the next `bytes` random bytes of the pool begin */
function takeRandom(bytes: number): number {
  if (poolAt + bytes > POOL_BYTES) {
    randomFillSync(pool)
    poolAt = 0
  }
  poolAt += bytes
  return poolAt - bytes
}

/**
 * A UUIDv7 (RFC 9562, method 1: a 12-bit counter after the millisecond), increasing within this process even when
 * the clock stands still or steps back, so that ordering by id is ordering by creation.
 * @param now_ms Unix milliseconds
 */
export function uuidv7(now_ms: number): string {
  if (now_ms > lastMs) {
    lastMs = now_ms
    sequence = 0
  } else if (++sequence > 0xfff) {
    lastMs += 1
    sequence = 0
  }
  const at = takeRandom(8)
  pool[at] = 0x80 | ((pool[at] ?? 0) & 0x3f)
  const time = lastMs.toString(16).padStart(12, '0')
  const tail = pool.toString('hex', at, at + 8)
  const counter = (0x7000 | sequence).toString(16)
  return `${time.slice(0, 8)}-${time.slice(8)}-${counter}-${tail.slice(0, 4)}-${tail.slice(4)}`
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

export const isUuid = (text: string): boolean => UUID.test(text)

/** Before every other id. */
export const NIL_UUID = '00000000-0000-0000-0000-000000000000'

/** A request id for logs and the X-Request-Id header: 16 hex digits. */
export function requestId(): string {
  const at = takeRandom(8)
  return pool.toString('hex', at, at + 8)
}
