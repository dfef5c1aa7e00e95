import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'

const PREFIX = 'enc1.'
const IV_BYTES = 12
const TAG_BYTES = 16
const KEY_BYTES = 32

/**
 * Encrypts credentials of others (webhook secrets, bot tokens) before they are stored: AES-256-GCM, with a name for what it is that belongs to
 * the text, so that one row's secret cannot be moved into another. Without keys texts stay as they are; texts from before stay readable.
 */
export class SecretBox {
  readonly #keys: readonly { readonly id: string; readonly key: Buffer }[]

  /** @param keys 32 bytes each; the first one encrypts, all of them decrypt */
  constructor(keys: readonly Buffer[]) {
    this.#keys = keys.map((key) => ({ id: createHash('sha256').update(key).digest('hex').slice(0, 8), key }))
  }

  seal(text: string, name: string): string {
    const [current] = this.#keys
    if (current === undefined) return text
    const iv = randomBytes(IV_BYTES)
    const cipher = createCipheriv('aes-256-gcm', current.key, iv).setAAD(Buffer.from(name))
    const sealed = Buffer.concat([iv, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
    return `${PREFIX}${current.id}.${sealed.toString('base64url')}`
  }

  /** @throws when it was sealed with a key that is not there, for another name, or was changed */
  open(text: string, name: string): string {
    if (!text.startsWith(PREFIX)) return text
    const [id, sealed = ''] = text.slice(PREFIX.length).split('.')
    const found = this.#keys.find((key) => key.id === id)
    if (found === undefined) throw new Error('SECRETS_KEY lacks the key that this secret was stored with')
    const bytes = Buffer.from(sealed, 'base64url')
    const decipher = createDecipheriv('aes-256-gcm', found.key, bytes.subarray(0, IV_BYTES))
      .setAAD(Buffer.from(name))
      .setAuthTag(bytes.subarray(bytes.length - TAG_BYTES))
    return Buffer.concat([decipher.update(bytes.subarray(IV_BYTES, bytes.length - TAG_BYTES)), decipher.final()]).toString('utf8')
  }
}

/** Keys as configured: 64 hex digits or base64 of 32 bytes each, separated by commas. null when one is neither. */
export function secretKeysOf(list: string): Buffer[] | null {
  const keys = list.split(',').map((item) => {
    const text = item.trim()
    return /^[0-9a-f]{64}$/i.test(text) ? Buffer.from(text, 'hex') : Buffer.from(text, 'base64')
  })
  return keys.every((key) => key.length === KEY_BYTES) ? keys : null
}
