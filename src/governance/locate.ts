/** Where something stands in a text, both from 1. */
export type Place = { readonly line: number; readonly column: number }

/**
 * Where each table and key of a TOML text stands, by its path (`placeOf`). For texts that a TOML parser has accepted: it skips values and
 * does not check them. What is inside an inline table is found under the key that holds it.
 */
export class Places {
  readonly #text: string
  readonly #places = new Map<string, Place>()
  #at = 0
  #line = 1
  #lineStart = 0

  constructor(text: string) {
    this.#text = text
    let table: string[] = []
    for (this.#skipBlank(true); this.#at < text.length; this.#skipBlank(true)) {
      const place = { line: this.#line, column: this.#at - this.#lineStart + 1 }
      if (text[this.#at] === '[') {
        while (text[this.#at] === '[') this.#step()
        table = this.#key()
        this.#remember(table, place)
        while (text[this.#at] === ']') this.#step()
      } else {
        const path = [...table, ...this.#key()]
        this.#remember(path, place)
        // The `=`; a text without one was not accepted by the parser.
        this.#step()
        this.#skipValue()
      }
    }
  }

  /** The place of the longest part of `path` that has one; the text's beginning when none has. */
  placeOf(path: readonly PropertyKey[]): Place {
    for (let length = path.length; length > 0; length--) {
      const place = this.#places.get(nameOf(path.slice(0, length)))
      if (place) return place
    }
    return { line: 1, column: 1 }
  }

  /** A table is where its header is; one that only keys mention is where the first of them is. */
  #remember(path: readonly string[], place: Place): void {
    for (let length = path.length; length > 0; length--) {
      const name = nameOf(path.slice(0, length))
      if (length === path.length || !this.#places.has(name)) this.#places.set(name, place)
    }
  }

  #step(): void {
    if (this.#text[this.#at] === '\n') {
      this.#line++
      this.#lineStart = this.#at + 1
    }
    this.#at++
  }

  #skipBlank(lines: boolean): void {
    for (let c = this.#text[this.#at]; c !== undefined; c = this.#text[this.#at]) {
      if (c === '#') while (this.#at < this.#text.length && this.#text[this.#at] !== '\n') this.#step()
      else if (c === ' ' || c === '\t' || (lines && (c === '\n' || c === '\r' || c === '\ufeff'))) this.#step()
      else return
    }
  }

  /** A dotted key with the blanks around it. */
  #key(): string[] {
    const parts: string[] = []
    for (;;) {
      this.#skipBlank(false)
      const start = this.#at
      const quote = this.#text[start]
      if (quote === '"' || quote === "'") {
        this.#skipString()
        const raw = this.#text.slice(start + 1, this.#at - 1)
        parts.push(quote === '"' ? unescaped(raw) : raw)
      } else {
        while (/[\w-]/.test(this.#text[this.#at] ?? '')) this.#step()
        parts.push(this.#text.slice(start, this.#at))
      }
      this.#skipBlank(false)
      if (this.#text[this.#at] !== '.') return parts
      this.#step()
    }
  }

  #skipValue(): void {
    let depth = 0
    for (let c = this.#text[this.#at]; c !== undefined; c = this.#text[this.#at]) {
      if (c === '"' || c === "'") this.#skipString()
      else if (c === '#') this.#skipBlank(false)
      else if (depth === 0 && c === '\n') return
      else {
        if (c === '[' || c === '{') depth++
        if (c === ']' || c === '}') depth--
        this.#step()
      }
    }
  }

  #skipString(): void {
    const quote = this.#text[this.#at] ?? ''
    const isLong = this.#text.startsWith(quote.repeat(3), this.#at)
    const end = isLong ? quote.repeat(3) : quote
    for (let left = end.length; left > 0; left--) this.#step()
    while (this.#at < this.#text.length && !this.#text.startsWith(end, this.#at)) {
      if (quote === '"' && this.#text[this.#at] === '\\') this.#step()
      this.#step()
    }
    for (let left = end.length; left > 0; left--) this.#step()
    // A long string may end in up to two quotes of its own.
    while (isLong && this.#text[this.#at] === quote) this.#step()
  }
}

const nameOf = (path: readonly PropertyKey[]): string => JSON.stringify(path.map(String))

/** A basic string's content: TOML's escapes are JSON's but for \U, \e and \x. */
function unescaped(raw: string): string {
  const json = raw
    .replace(/\\U([0-9a-fA-F]{8})/g, (_, hex: string) =>
      JSON.stringify(String.fromCodePoint(Number.parseInt(hex, 16))).slice(1, -1),
    )
    .replace(/\\e/g, '\\u001b')
    .replace(/\\x([0-9a-fA-F]{2})/g, '\\u00$1')
  try {
    return JSON.parse(`"${json}"`) as string
  } catch {
    return raw
  }
}
