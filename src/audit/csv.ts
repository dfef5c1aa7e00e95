import type { Entry } from './chain.ts'

export const CSV_COLUMNS = ['account_id', 'seq', 'id', 'at', 'type', 'agent_id', 'data', 'hash'] as const

/** What a spreadsheet would run as a formula when it begins a cell; such a cell gets a ' in front, and so does one that has one. */
const RISKY_START = /^[=+\-@\t\r\n']/
const NEEDS_QUOTES = /[",\r\n]/

const cell = (value: string): string => {
  const safe = RISKY_START.test(value) ? `'${value}` : value
  return NEEDS_QUOTES.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

export const csvHeader = (): string => `${CSV_COLUMNS.join(',')}\r\n`

/** One entry as RFC 4180 writes it; an absent value is an empty cell, `data` is JSON. */
export const csvLine = (entry: Entry): string =>
  `${CSV_COLUMNS.map((column) => {
    const value = column === 'data' ? JSON.stringify(entry.data) : entry[column]
    return value === null ? '' : cell(String(value))
  }).join(',')}\r\n`

/** Reads records as they come; a quoted cell may span lines. @throws Error for text that is no CSV */
export async function* readCsv(chunks: AsyncIterable<string>): AsyncGenerator<string[]> {
  let record: string[] = []
  let value = ''
  let state: 'start' | 'plain' | 'quoted' | 'quote' = 'start'
  const endCell = () => {
    record.push(value.startsWith("'") ? value.slice(1) : value)
    value = ''
    state = 'start'
  }
  for await (const chunk of chunks) {
    for (const char of chunk) {
      if (state === 'quoted') {
        if (char === '"') state = 'quote'
        else value += char
      } else if (state === 'quote' && char === '"') {
        value += char
        state = 'quoted'
      } else if (char === ',') endCell()
      else if (char === '\n') {
        endCell()
        yield record
        record = []
      } else if (char === '\r') continue
      else if (state === 'start' && char === '"') state = 'quoted'
      else if (state === 'quote') throw new Error('a quoted cell is followed by other text')
      else {
        value += char
        state = 'plain'
      }
    }
  }
  if (state === 'quoted') throw new Error('the last cell has no end: the file is cut off')
  if (value !== '' || record.length > 0) {
    endCell()
    yield record
  }
}
