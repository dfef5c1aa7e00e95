import { createHmac, randomBytes } from 'node:crypto'

const PREFIX = 'whsec_'

/** A new signing secret in the form of Standard Webhooks: `whsec_` and 256 random bits in base64. */
export const newSigningSecret = (): string => PREFIX + randomBytes(32).toString('base64')

/**
 * The headers of a signed webhook (Standard Webhooks 1.0): HMAC-SHA256 over `id.timestamp.body`.
 * @param now_ms time of this attempt; receivers refuse signatures that are minutes old
 */
export function signatureHeaders(secret: string, id: string, body: string, now_ms: number): Record<string, string> {
  const timestamp = Math.floor(now_ms / 1000)
  const key = Buffer.from(secret.slice(PREFIX.length), 'base64')
  const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')
  return { 'webhook-id': id, 'webhook-timestamp': String(timestamp), 'webhook-signature': `v1,${signature}` }
}
