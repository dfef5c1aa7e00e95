const LF = 0x0a
const CR = 0x0d
/** Longest line that is looked into. Longer ones are forwarded all the same. */
const MAX_LINE_BYTES = 4 * 1024 * 1024

/** One event of a stream: its bytes with the blank line that ends it, and its data. */
export type SseEvent = { readonly bytes: Buffer; readonly data: Buffer | null }

/**
 * Cuts a server-sent event stream into its events wherever the chunks happen to be cut. Holds nothing but the event that is not complete
 * yet; one longer than 4 MiB is given up on and passed as it is (`data: null`).
 */
export class SseSplitter {
  #held: Buffer[] = []
  #heldBytes = 0
  /** How far the held bytes have been searched, to not search them again with every chunk. */
  #isOversized = false

  /** @returns the events that are complete now, in order */
  push(chunk: Buffer): SseEvent[] {
    const events: SseEvent[] = []
    let bytes = chunk
    let from = 0
    if (this.#heldBytes > 0) {
      // Only the seam can complete a line break: what was held has none that ends an event.
      const tail = this.#held[this.#held.length - 1] ?? chunk
      if (!mayEndEvent(tail, chunk)) return this.#hold(chunk, events)
      from = Math.max(0, this.#heldBytes - 3)
      bytes = Buffer.concat([...this.#held, chunk])
      this.#held = []
      this.#heldBytes = 0
    }
    let start = 0
    for (let end = eventEnd(bytes, from); end !== -1; end = eventEnd(bytes, start)) {
      const event = bytes.subarray(start, end)
      events.push({ bytes: event, data: this.#isOversized ? null : dataOf(event) })
      this.#isOversized = false
      start = end
    }
    return start < bytes.length ? this.#hold(bytes.subarray(start), events) : events
  }

  /** What is left when the stream has ended. */
  end(): SseEvent | null {
    if (this.#heldBytes === 0) return null
    const bytes = Buffer.concat(this.#held)
    this.#held = []
    this.#heldBytes = 0
    return { bytes, data: this.#isOversized ? null : dataOf(bytes) }
  }

  #hold(rest: Buffer, events: SseEvent[]): SseEvent[] {
    this.#held.push(rest)
    this.#heldBytes += rest.length
    if (this.#heldBytes > MAX_LINE_BYTES) {
      const whole = Buffer.concat(this.#held)
      // The last three bytes stay: an event's end may be cut in the middle.
      events.push({ bytes: whole.subarray(0, -3), data: null })
      this.#held = [Buffer.from(whole.subarray(-3))]
      this.#heldBytes = 3
      this.#isOversized = true
    }
    return events
  }
}

/** Whether a blank line can lie in `chunk` or across the seam before it. */
const mayEndEvent = (tail: Buffer, chunk: Buffer): boolean =>
  chunk.includes(LF) || chunk.includes(CR) || tail[tail.length - 1] === LF || tail[tail.length - 1] === CR

/** Behind the first blank line at or after `from`, or -1. Lines end with LF, CR LF or CR (HTML Living Standard 9.2.5). */
function eventEnd(bytes: Buffer, from: number): number {
  for (let at = from; ; ) {
    const lf = bytes.indexOf(LF, at)
    if (lf === -1) return crEventEnd(bytes, from)
    if (bytes[lf + 1] === LF) return lf + 2
    if (bytes[lf + 1] === CR && bytes[lf + 2] === LF) return lf + 3
    at = lf + 1
  }
}

function crEventEnd(bytes: Buffer, from: number): number {
  for (let at = bytes.indexOf(CR, from); at !== -1; at = bytes.indexOf(CR, at + 1)) if (bytes[at + 1] === CR) return at + 2
  return -1
}

const DATA = Buffer.from('data')
const COLON = 0x3a
const SPACE = 0x20

/** The value of the event's `data` lines; null when it has none. */
function dataOf(event: Buffer): Buffer | null {
  let data: Buffer[] | null = null
  for (let start = 0; start < event.length; ) {
    const end = lineEnd(event, start)
    if (event[start] === DATA[0] && event[start + 4] === COLON && event.compare(DATA, 0, 4, start, start + 4) === 0) {
      const value = event.subarray(event[start + 5] === SPACE ? start + 6 : start + 5, end)
      data = data === null ? [value] : [...data, NEWLINE, value]
    }
    start = end + 1
  }
  if (data === null) return null
  return data.length === 1 ? (data[0] ?? null) : Buffer.concat(data)
}

const NEWLINE = Buffer.from('\n')

function lineEnd(event: Buffer, from: number): number {
  const lf = event.indexOf(LF, from)
  const cr = event.indexOf(CR, from)
  if (lf === -1 && cr === -1) return event.length
  return lf === -1 ? cr : cr === -1 ? lf : Math.min(lf, cr)
}
