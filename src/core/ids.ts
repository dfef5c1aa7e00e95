import { randomFillSync } from 'node:crypto'

const POOL_BYTES = 16 * 256
const pool = Buffer.alloc(POOL_BYTES)
let poolAt = POOL_BYTES
let lastMs = 0
let sequence = 0

function randomSlice(bytes: number): Buffer {
  if (poolAt + bytes > POOL_BYTES) {
    randomFillSync(pool)
    poolAt = 0
  }
  poolAt += bytes
  return pool.subarray(poolAt - bytes, poolAt)
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
  const bytes = randomSlice(8)
  bytes[0] = 0x80 | ((bytes[0] ?? 0) & 0x3f)
  const time = lastMs.toString(16).padStart(12, '0')
  const tail = bytes.toString('hex')
  const counter = (0x7000 | sequence).toString(16)
  return `${time.slice(0, 8)}-${time.slice(8)}-${counter}-${tail.slice(0, 4)}-${tail.slice(4)}`
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/

export const isUuid = (text: string): boolean => UUID.test(text)

/** A request id for logs and the X-Request-Id header: 16 hex digits. */
export const requestId = (): string => randomSlice(8).toString('hex')
