import { hash } from 'node:crypto'

/** One event as an export shows it and as its hash covers it. */
export type EntryContent = {
  readonly account_id: string
  /** Its place in the account's chain, from 1. */
  readonly seq: number
  readonly id: string
  readonly at: number
  readonly type: string
  readonly agent_id: string | null
  readonly data: Readonly<Record<string, unknown>>
}
/** `seq` and `hash` are null while it is not sealed yet: the newest seconds. */
export type Entry = Omit<EntryContent, 'seq'> & { readonly seq: number | null; readonly hash: string | null }

/** Where an account's chain begins: the hash that the first entry follows. */
export const genesisOf = (accountId: string): string => hash('sha256', `gvnr audit ${accountId}`, 'hex')

/** The hash of an entry that follows the one with hash `previous`. SHA-256 of `<previous>\n<entry as canonical JSON>`. */
export const linkOf = (previous: string, entry: EntryContent): string =>
  hash('sha256', `${previous}\n${canonicalJson(entry)}`, 'hex')

/** JSON as RFC 8785 writes it: keys in order of their UTF-16 code units, no spaces, numbers as ECMAScript prints them. */
export function canonicalJson(value: unknown): string {
  // Entries are made with their keys in order: what the engine prints is canonical then, in a quarter of the time.
  return isInOrder(value) ? JSON.stringify(value) : sortedJson(value)
}

function isInOrder(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return true
  if (Array.isArray(value)) return value.every(isInOrder)
  let before = ''
  for (const key of Object.keys(value)) {
    if (key < before) return false
    before = key
  }
  return Object.values(value).every(isInOrder)
}

function sortedJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(sortedJson).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const fields = Object.entries(value)
    .filter(([, field]) => field !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
  return `{${fields.map(([key, field]) => `${JSON.stringify(key)}:${sortedJson(field)}`).join(',')}}`
}
