/** Where a field's value stands in the bytes, `end` exclusive. */
export type Span = { readonly start: number; readonly end: number }
export type Edit = Span & { readonly text: string }

const QUOTE = 0x22
const BACKSLASH = 0x5c
const OPEN_BRACE = 0x7b
const CLOSE_BRACE = 0x7d
const OPEN_BRACKET = 0x5b
const CLOSE_BRACKET = 0x5d
const COLON = 0x3a
const COMMA = 0x2c

/**
 * The fields of a JSON object, each with where its value stands, so that one can be replaced and every other byte stays as it was.
 * @param bytes a JSON object that has been parsed already: nothing is checked again
 * @returns null when a field occurs twice: of two models, the one that is priced and the one that is used could then differ
 */
export function topLevelFields(bytes: Buffer): Map<string, Span> | null {
  const fields = new Map<string, Span>()
  let at = bytes.indexOf(OPEN_BRACE) + 1
  for (;;) {
    const keyStart = nextKey(bytes, at)
    if (keyStart === -1) return fields
    const keyEnd = stringEnd(bytes, keyStart)
    const key = JSON.parse(bytes.toString('utf8', keyStart, keyEnd)) as string
    if (fields.has(key)) return null
    const start = skipSpace(bytes, bytes.indexOf(COLON, keyEnd) + 1)
    const end = valueEnd(bytes, start)
    fields.set(key, { start, end })
    at = end
  }
}

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

/** The next key's opening quote, or -1 at the object's end. */
function nextKey(bytes: Buffer, from: number): number {
  for (let at = from; at < bytes.length; at++) {
    if (bytes[at] === QUOTE) return at
    if (bytes[at] === CLOSE_BRACE) return -1
  }
  return -1
}

function skipSpace(bytes: Buffer, from: number): number {
  let at = from
  while (isSpace(bytes[at])) at++
  return at
}

const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09

function valueEnd(bytes: Buffer, start: number): number {
  let depth = 0
  for (let at = start; at < bytes.length; at++) {
    const byte = bytes[at]
    if (byte === QUOTE) {
      at = stringEnd(bytes, at) - 1
      if (depth === 0) return at + 1
    } else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth++
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
      if (depth === 0) return trimEnd(bytes, start, at)
      if (--depth === 0) return at + 1
    } else if (byte === COMMA && depth === 0) return trimEnd(bytes, start, at)
  }
  return bytes.length
}

function trimEnd(bytes: Buffer, start: number, end: number): number {
  let at = end
  while (at > start && isSpace(bytes[at - 1])) at--
  return at
}

/** Behind the closing quote. Searching for quotes is native, so a long prompt costs next to nothing. */
function stringEnd(bytes: Buffer, start: number): number {
  for (let at = start + 1; ; ) {
    const quote = bytes.indexOf(QUOTE, at)
    if (quote === -1) return bytes.length
    let slashes = 0
    while (bytes[quote - 1 - slashes] === BACKSLASH) slashes++
    if (slashes % 2 === 0) return quote + 1
    at = quote + 1
  }
}
