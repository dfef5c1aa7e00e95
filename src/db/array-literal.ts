/**
 * Builds PostgreSQL array literals (`{a,"b"}`) as text parameters: one string per column carries a whole batch, which is
 * cheaper than the driver's own array encoding and needs no type lookups.
 */
export class ArrayLiteral {
  #text = '{'
  #first = true

  /** A value that needs no quoting: a number, a boolean, a UUID, a known word. */
  raw(value: string | number | bigint | boolean | null): void {
    this.#next()
    this.#text += value === null ? 'null' : value
  }

  text(value: string | null): void {
    if (value === null) {
      this.raw(null)
      return
    }
    this.#next()
    this.#text += NEEDS_ESCAPE.test(value) ? `"${value.replaceAll(ESCAPED, '\\$&')}"` : `"${value}"`
  }

  close(): string {
    return `${this.#text}}`
  }

  #next(): void {
    if (this.#first) this.#first = false
    else this.#text += ','
  }
}
const NEEDS_ESCAPE = /["\\]/
const ESCAPED = /["\\]/g

/** Collects one statement's array parameters in order and hands out their `$n::type[]` placeholders. */
export class Parameters {
  readonly #values: string[] = []

  add<T>(
    type: 'uuid' | 'text' | 'bigint' | 'smallint' | 'integer' | 'boolean' | 'bytea',
    rows: readonly T[],
    put: (row: T, array: ArrayLiteral) => void,
  ): string {
    const array = new ArrayLiteral()
    for (const row of rows) put(row, array)
    this.#values.push(array.close())
    return `$${this.#values.length}::${type}[]`
  }

  /** A parameter that is not an array. */
  addOne(type: 'bigint' | 'integer' | 'text' | 'uuid', value: string | number | bigint): string {
    this.#values.push(String(value))
    return `$${this.#values.length}::${type}`
  }

  values(): string[] {
    return this.#values
  }
}
