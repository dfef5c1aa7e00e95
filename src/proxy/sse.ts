const LF = 0x0a
const CR = 0x0d
/** Longest event that is looked into. Longer ones are forwarded all the same. */
const MAX_EVENT_BYTES = 4 * 1024 * 1024
/** Most data lines of one event that are looked into: providers send one. */
const MAX_DATA_LINES = 1024
/** Longest blank line before its last byte: what of it may lie before a seam. */
const SEAM_BYTES = 3

/** One event of a stream: its bytes with the blank line that ends it, and its data. */
export type SseEvent = { readonly bytes: Buffer; readonly data: Buffer | null }

/**
 * Cuts a server-sent event stream into its events wherever the chunks happen to be cut. Holds nothing but the event that is not complete
 * yet; one longer than 4 MiB is given up on and passed as it is (`data: null`). Every byte is searched once, and copied once at most, when
 * its event ends.
 */
export class SseSplitter {
  #held: Buffer[] = []
  #heldBytes = 0
  /** The last bytes of what is held: an event's end may begin there. */
  #seam: Buffer = EMPTY
  #isOversized = false

  /** @returns the events that are complete now, in order */
  push(chunk: Buffer): SseEvent[] {
    const events: SseEvent[] = []
    const ends = new EventEnds(chunk)
    let start = this.#heldBytes > 0 ? this.#endAcrossSeam(chunk) : 0
    if (this.#heldBytes > 0) {
      if (start === -1) start = ends.after(0)
      if (start === -1) return this.#hold(chunk, events)
      events.push(this.#eventOf(Buffer.concat([...this.#held, chunk.subarray(0, start)])))
      this.#clear()
    }
    for (let end = ends.after(start); end !== -1; end = ends.after(start)) {
      events.push(this.#eventOf(chunk.subarray(start, end)))
      start = end
    }
    return start < chunk.length ? this.#hold(chunk.subarray(start), events) : events
  }

  /** What is left when the stream has ended. */
  end(): SseEvent | null {
    if (this.#heldBytes === 0) return null
    const event = this.#eventOf(Buffer.concat(this.#held))
    this.#clear()
    return event
  }

  #eventOf(bytes: Buffer): SseEvent {
    const data = this.#isOversized ? null : dataOf(bytes)
    this.#isOversized = false
    return { bytes, data }
  }

  /** @returns where in the chunk a blank line ends that began in what is held, or -1 */
  #endAcrossSeam(chunk: Buffer): number {
    const seam = this.#seam.length
    const end = new EventEnds(Buffer.concat([this.#seam, chunk.subarray(0, SEAM_BYTES)])).after(0)
    return end > seam ? end - seam : -1
  }

  #clear(): void {
    this.#held = []
    this.#heldBytes = 0
    this.#seam = EMPTY
  }

  #hold(rest: Buffer, events: SseEvent[]): SseEvent[] {
    this.#held.push(rest)
    this.#heldBytes += rest.length
    this.#seam = rest.length >= SEAM_BYTES ? rest.subarray(-SEAM_BYTES) : Buffer.concat([this.#seam, rest]).subarray(-SEAM_BYTES)
    if (this.#heldBytes > MAX_EVENT_BYTES) {
      const whole = Buffer.concat(this.#held)
      events.push({ bytes: whole.subarray(0, -SEAM_BYTES), data: null })
      this.#seam = Buffer.from(whole.subarray(-SEAM_BYTES))
      this.#held = [this.#seam]
      this.#heldBytes = SEAM_BYTES
      this.#isOversized = true
    }
    return events
  }
}

const EMPTY = Buffer.alloc(0)

/** Finds a byte from left to right, and remembers what it found: a byte that is rare is not searched again for each that is not. */
class Finder {
  readonly #bytes: Buffer
  readonly #byte: number
  #found = -2

  constructor(bytes: Buffer, byte: number) {
    this.#bytes = bytes
    this.#byte = byte
  }

  /** At or after `from`, which never goes back; the length when there is none. */
  next(from: number): number {
    if (this.#found < from) {
      const at = this.#bytes.indexOf(this.#byte, from)
      this.#found = at === -1 ? this.#bytes.length : at
    }
    return this.#found
  }
}

/** The blank lines of some bytes. Lines end with LF, CR LF or CR (HTML Living Standard 9.2.5). */
class EventEnds {
  readonly #bytes: Buffer
  readonly #lf: Finder
  readonly #cr: Finder

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.#lf = new Finder(bytes, LF)
    this.#cr = new Finder(bytes, CR)
  }

  /** Behind the first blank line that begins at or after `from`, or -1. */
  after(from: number): number {
    const bytes = this.#bytes
    for (let at = from; ; ) {
      const [lf, cr] = [this.#lf.next(at), this.#cr.next(at)]
      const first = Math.min(lf, cr)
      if (first >= bytes.length) return -1
      const next = bytes[first + 1]
      if (first === lf) {
        if (next === LF) return lf + 2
        if (next === CR && bytes[lf + 2] === LF) return lf + 3
      } else if (next === CR) return cr + 2
      at = first + 1
    }
  }
}

const DATA = Buffer.from('data')
const COLON = 0x3a
const SPACE = 0x20
const NEWLINE = Buffer.from('\n')

/** The value of the event's `data` lines; null when it has none, or more than anybody sends. */
function dataOf(event: Buffer): Buffer | null {
  const data: Buffer[] = []
  const lf = new Finder(event, LF)
  const cr = new Finder(event, CR)
  for (let start = 0; start < event.length; ) {
    const end = Math.min(lf.next(start), cr.next(start))
    if (event[start] === DATA[0] && event[start + 4] === COLON && event.compare(DATA, 0, 4, start, start + 4) === 0) {
      if (data.length >= 2 * MAX_DATA_LINES) return null
      data.push(event.subarray(Math.min(end, event[start + 5] === SPACE ? start + 6 : start + 5), end), NEWLINE)
    }
    start = end + 1
  }
  if (data.length <= 2) return data[0] ?? null
  return Buffer.concat(data.slice(0, -1))
}
