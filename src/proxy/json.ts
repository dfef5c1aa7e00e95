import { ProxyError } from './answers.ts'

/** Where a field's value stands in the bytes, `end` exclusive. */
export type Span = { readonly start: number; readonly end: number }
export type Edit = Span & { readonly text: string }

const QUOTE = 0x22
const BACKSLASH = 0x5c

/** What a byte outside of strings is to the walk: nothing, or one of these. */
const KINDS = new Uint8Array(256)
const [STRING, OPEN, CLOSE, COMMA, COLON] = [1, 2, 3, 4, 5] as const
for (const [bytes, kind] of [
  ['"', STRING],
  ['{[', OPEN],
  ['}]', CLOSE],
  [',', COMMA],
  [':', COLON],
] as const)
  for (const byte of Buffer.from(bytes)) KINDS[byte] = kind

/** Providers know about 40. */
const MAX_TOP_LEVEL_FIELDS = 200
/** Strict schemas, the deepest that is ever sent, may have 10 levels. */
const MAX_DEPTH = 128
/**
 * A context window of a million tokens has room for 15,000 messages of one part each: three containers and four fields. What costs time is
 * fields whose names differ, and containers.
 */
const MAX_CONTAINERS = 50_000
const MAX_FIELDS = 70_000
/** OpenAI takes 300,000 token numbers, or 2,048 texts, in one embeddings request. */
const MAX_ITEMS = 400_000

/**
 * One walk over a request's bytes before anything is made of them: what would take a parser seconds is refused in milliseconds, and where
 * the values of its top-level fields stand is written down, so that one can be replaced and every other byte stays as it was.
 * @param bytes anything; what is found is right when it turns out to be a JSON object
 * @returns `fields` is null when one occurs twice: of two models, the one that is priced and the one that is used could then differ
 * @throws ProxyError for more than any provider takes
 */
export function scanObject(bytes: Buffer): { readonly fields: Map<string, Span> | null } {
  const fields = new Map<string, Span>()
  let [depth, containers, colons, commas] = [0, 0, 0, 0]
  let [keyStart, keyEnd, valueStart] = [-1, -1, -1]
  let isTwice = false
  const length = bytes.length
  const endField = (end: number): void => {
    if (valueStart === -1) return
    const key = keyOf(bytes, keyStart, keyEnd)
    isTwice ||= fields.has(key)
    fields.set(key, trimmed(bytes, valueStart, end))
    valueStart = -1
    if (fields.size > MAX_TOP_LEVEL_FIELDS)
      throw tooMuch(`more than ${MAX_TOP_LEVEL_FIELDS} fields. Send those that the provider knows`)
  }
  for (let at = 0; at < length; at++) {
    const kind = KINDS[bytes[at] as number]
    if (kind === 0) continue
    if (kind === STRING) {
      const end = stringEnd(bytes, at)
      if (depth === 1 && valueStart === -1) [keyStart, keyEnd] = [at, end]
      at = end - 1
    } else if (kind === COMMA) {
      if (++commas > MAX_ITEMS) throw tooMuch(`more than ${MAX_ITEMS} items. Send fewer inputs in one call`)
      if (depth === 1) endField(at)
    } else if (kind === COLON) {
      if (++colons > MAX_FIELDS) throw tooMuch(`more than ${MAX_FIELDS} fields in all. Send large data as text`)
      if (depth === 1) valueStart = at + 1
    } else if (kind === OPEN) {
      if (++containers > MAX_CONTAINERS)
        throw tooMuch(`more than ${MAX_CONTAINERS} objects and lists. Send fewer messages, or large data as text`)
      if (++depth > MAX_DEPTH) throw tooMuch(`values more than ${MAX_DEPTH} levels deep. Nest them less`)
    } else {
      if (depth === 1) endField(at)
      depth--
    }
  }
  return { fields: isTwice ? null : fields }
}

const tooMuch = (what: string): ProxyError => new ProxyError(400, 'invalid_params', `The body has ${what}.`)

function keyOf(bytes: Buffer, start: number, end: number): string {
  const text = bytes.toString('utf8', start, end)
  // Only the parser knows what escapes mean; without them it would say the same.
  if (!text.includes('\\')) return text.slice(1, -1)
  try {
    return JSON.parse(text) as string
  } catch (cause) {
    throw notJson(cause)
  }
}

export const notJson = (cause: unknown): ProxyError => new ProxyError(400, 'invalid_json', 'The body is not JSON.', { cause })

/** Replaces spans of the bytes, in any order; an empty span inserts. */
export function splice(bytes: Buffer, edits: readonly Edit[]): Buffer {
  if (edits.length === 0) return bytes
  const pieces: Buffer[] = []
  let at = 0
  for (const { start, end, text } of edits.toSorted((a, b) => a.start - b.start)) {
    pieces.push(bytes.subarray(at, start), Buffer.from(text))
    at = end
  }
  pieces.push(bytes.subarray(at))
  return Buffer.concat(pieces)
}

const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

function trimmed(bytes: Buffer, from: number, to: number): Span {
  let [start, end] = [from, to]
  while (start < end && isSpace(bytes[start])) start++
  while (end > start && isSpace(bytes[end - 1])) end--
  return { start, end }
}

/** How far a string is walked before the native search for quotes, which is faster where they are rare. */
const WALKED_BYTES = 64

/** Behind the closing quote; linear for any mix of quotes and escapes. */
function stringEnd(bytes: Buffer, start: number): number {
  let at = start + 1
  for (;;) {
    for (const until = Math.min(at + WALKED_BYTES, bytes.length); at < until; at++) {
      const byte = bytes[at]
      if (byte === QUOTE) return at + 1
      if (byte === BACKSLASH) at++
    }
    const quote = bytes.indexOf(QUOTE, at)
    if (quote === -1) return bytes.length
    let slashes = 0
    while (quote - slashes > at && bytes[quote - 1 - slashes] === BACKSLASH) slashes++
    if (slashes % 2 === 0) return quote + 1
    at = quote + 1
  }
}
