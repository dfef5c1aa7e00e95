import { isObject, parsed } from '../errors.ts'
import type { StreamUsage } from '../usage.ts'

const LF = 10
const CR = 13

/**
 * Cuts a stream of server-sent events after each event, reads the usage in passing and leaves the bytes as they are. Bytes of an event whose
 * end has not come yet are held back, so that one can be left out whole.
 */
export class EventReader {
  readonly #usage: StreamUsage
  readonly #dropsUsageChunk: boolean
  readonly #decoder = new TextDecoder()
  #pending: Uint8Array = new Uint8Array(0)

  /** @param dropsUsageChunk leave out the chunk that was asked for on behalf of a client that did not */
  constructor(usage: StreamUsage, options: { readonly dropsUsageChunk: boolean }) {
    this.#usage = usage
    this.#dropsUsageChunk = options.dropsUsageChunk
  }

  /** What may be passed on after these bytes came. */
  push(bytes: Uint8Array): Uint8Array[] {
    const all = this.#pending.length === 0 ? bytes : joined(this.#pending, bytes)
    const passed: Uint8Array[] = []
    // An end can only be where new bytes are, or one byte before them for each half of it.
    let from = 0
    for (let at = Math.max(0, this.#pending.length - 3); at < all.length; at++) {
      if (!endsEvent(all, at)) continue
      const event = all.subarray(from, at + 1)
      if (this.#read(event)) passed.push(event)
      from = at + 1
    }
    this.#pending = all.subarray(from)
    return passed
  }

  /** What is left when the stream ends without a blank line. */
  end(): Uint8Array[] {
    const rest = this.#pending
    this.#pending = new Uint8Array(0)
    return rest.length > 0 && this.#read(rest) ? [rest] : []
  }

  /** Whether the event is for the client. */
  #read(bytes: Uint8Array): boolean {
    const data = this.#decoder
      .decode(bytes)
      .split(/\r\n|\n|\r/)
      .filter((line) => line.startsWith('data:'))
      .map((line) => line.slice(5))
      .join('\n')
    const event = data === '' ? undefined : parsed(data)
    if (event === undefined) return true
    this.#usage.add(event)
    if (!this.#dropsUsageChunk || !isObject(event)) return true
    return !(Array.isArray(event.choices) && event.choices.length === 0 && isObject(event.usage))
  }
}

/** True at the last byte of a blank line: LF LF, CR LF CR LF or CR CR. */
function endsEvent(bytes: Uint8Array, at: number): boolean {
  const byte = bytes[at]
  if (byte === LF) return bytes[at - 1] === LF || (bytes[at - 1] === CR && bytes[at - 2] === LF && bytes[at - 3] === CR)
  return byte === CR && bytes[at - 1] === CR
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array {
  const all = new Uint8Array(first.length + second.length)
  all.set(first)
  all.set(second, first.length)
  return all
}
