import { z } from 'zod'
import { type Entry, genesisOf, linkOf } from './chain.ts'
import { CSV_COLUMNS, readCsv } from './csv.ts'

const HASH = z.string().regex(/^[0-9a-f]{64}$/)
const entrySchema = z.strictObject({
  account_id: z.string(),
  seq: z.number().int().positive().nullable(),
  id: z.string(),
  at: z.number().int(),
  type: z.string(),
  agent_id: z.string().nullable(),
  data: z.custom<Entry['data']>((value) => typeof value === 'object' && value !== null && !Array.isArray(value)),
  hash: HASH.nullable(),
})
const filterSchema = z.object({ agent_id: z.string().nullable(), from: z.number().nullable(), to: z.number().nullable() })
const headSchema = z.object({ seq: z.number().int().min(0), hash: HASH })
/** The first line of an NDJSON export. */
const openingSchema = z.object({
  gvnr_audit_export: z.literal(1),
  account_id: z.string(),
  head: headSchema,
  /** The last entry that the server no longer keeps. */
  base: headSchema.optional(),
  filter: filterSchema,
})
type Opening = z.infer<typeof openingSchema>

/** A head that somebody kept from `GET /v1/audit/head` (contract section 9). */
export type KeptHead = { readonly seq: number; readonly hash: string }
export type AuditVerdict = {
  readonly accountId: string | null
  /** Sealed entries that were checked, and the newest ones that have no seal yet, which prove nothing. */
  readonly entries: number
  readonly unsealed: number
  readonly newestSeq: number
  readonly newestHash: string | null
  /** The last entry that is not in the export, since the server keeps entries for a limited time; 0 for none. */
  readonly baseSeq: number
  /** What is wrong, at most ten; empty when the export is whole. */
  readonly problems: readonly string[]
}

const MAX_PROBLEMS = 10

/**
 * Checks an export (NDJSON or CSV, newest first): every hash follows from the entry and the hash before it, down to the first entry of
 * the account; nothing is missing, doubled, out of order or changed. In memory bounded by two entries.
 *
 * An attacker who can write the whole file can also compute a new chain: only a head that was kept elsewhere proves more. With `kept`, the
 * export must contain it.
 * @param base where the export may begin instead of at the account's first entry; an NDJSON export names it itself
 */
export async function verifyExport(
  chunks: AsyncIterable<string>,
  kept: KeptHead | null = null,
  base: KeptHead | null = null,
): Promise<AuditVerdict> {
  const check = new ChainCheck(kept, base)
  try {
    for await (const item of readExport(chunks)) {
      if ('gvnr_audit_export' in item) check.open(item)
      else check.add(item)
    }
    check.close()
  } catch (error) {
    check.fail(error instanceof z.ZodError ? `an entry has another form: ${z.prettifyError(error)}` : String(error))
  }
  return check.verdict()
}

class ChainCheck {
  readonly #kept: KeptHead | null
  #base: KeptHead | null
  readonly #problems: string[] = []
  #opening: Opening | null = null
  #accountId: string | null = null
  /** The entry above the one that comes, which needs its hash. */
  #above: (Entry & { seq: number; hash: string }) | null = null
  #newest: { seq: number; hash: string } | null = null
  #entries = 0
  #unsealed = 0
  #isKeptFound = false

  constructor(kept: KeptHead | null, base: KeptHead | null) {
    this.#kept = kept
    this.#base = base
  }

  fail(problem: string): void {
    if (this.#problems.length < MAX_PROBLEMS) this.#problems.push(problem)
  }

  open(opening: Opening): void {
    if (this.#opening !== null || this.#entries + this.#unsealed > 0)
      this.fail('a second export begins in the middle of the file')
    this.#opening = opening
    this.#accountId = opening.account_id
    const { base = null } = opening
    if (this.#base !== null && (base?.seq !== this.#base.seq || base.hash !== this.#base.hash))
      this.fail('the export begins behind another entry than the one given as base')
    this.#base = base
    const { agent_id, from, to } = opening.filter
    if (agent_id !== null || from !== null || to !== null)
      this.fail('this export was made with a filter, so entries are missing by intention: export without agent_id, from and to')
  }

  add(entry: Entry): void {
    this.#accountId ??= entry.account_id
    if (entry.account_id !== this.#accountId) this.fail(`entry ${entry.id} is of another account`)
    const { seq, hash } = entry
    if (seq === null || hash === null) {
      if (seq !== hash) this.fail(`entry ${entry.id} has only half a seal`)
      if (this.#above !== null) this.fail(`entry ${entry.id} lost its seal: newer ones have theirs`)
      this.#unsealed++
      return
    }
    this.#entries++
    if (this.#newest === null) this.#begin(seq, hash)
    if (this.#kept?.seq === seq) {
      this.#isKeptFound = true
      if (this.#kept.hash !== hash) this.fail(`entry ${seq} is not the one that was kept as head`)
    }
    if (this.#above !== null) this.#link(this.#above, seq, hash)
    this.#above = { ...entry, seq, hash }
  }

  #begin(seq: number, hash: string): void {
    this.#newest = { seq, hash }
    const head = this.#opening?.head
    if (head && (head.seq !== seq || head.hash !== hash))
      this.fail(`the export was made at entry ${head.seq}, but its newest sealed entry is ${seq}, or another one`)
  }

  #link(above: Entry & { seq: number; hash: string }, seq: number, hash: string): void {
    if (seq !== above.seq - 1) this.fail(`after entry ${above.seq} comes entry ${seq}: removed, doubled or out of order`)
    else if (!follows(hash, above)) this.fail(`entry ${above.seq} was changed, or the one before it`)
  }

  /** The oldest entry follows the account's own beginning, or the base. */
  close(): void {
    const oldest = this.#above
    const first = (this.#base?.seq ?? 0) + 1
    if (oldest !== null && oldest.seq !== first) this.fail(`the export ends at entry ${oldest.seq}: the older ones are cut off`)
    else if (oldest !== null && !follows(this.#base?.hash ?? genesisOf(oldest.account_id), oldest))
      this.fail(`entry ${first} was changed`)
    if (oldest === null && (this.#opening?.head.seq ?? 0) >= first) this.fail('every sealed entry is cut off')
    this.#closeKept(first)
    if (this.#entries + this.#unsealed === 0 && this.#opening === null) this.fail('there is no entry in this file')
  }

  #closeKept(first: number): void {
    const kept = this.#kept
    if (kept === null || kept.seq === 0 || this.#isKeptFound) return
    if (kept.seq === this.#base?.seq && kept.hash === this.#base.hash) return
    if (kept.seq === this.#base?.seq) this.fail(`entry ${kept.seq} is not the one that was kept as head`)
    else if (kept.seq < first)
      this.fail(`entry ${kept.seq}, which was kept as head, is older than what the server keeps: keep a newer one`)
    else this.fail(`entry ${kept.seq}, which was kept as head, is not in the export`)
  }

  verdict(): AuditVerdict {
    return {
      accountId: this.#accountId,
      entries: this.#entries,
      unsealed: this.#unsealed,
      newestSeq: this.#newest?.seq ?? 0,
      newestHash: this.#newest?.hash ?? null,
      baseSeq: this.#base?.seq ?? 0,
      problems: this.#problems,
    }
  }
}

/** Whether an entry's hash is the one that follows from it and the hash before it. */
function follows(previous: string, { hash, ...content }: Entry & { seq: number }): boolean {
  return linkOf(previous, content) === hash
}

async function* readExport(chunks: AsyncIterable<string>): AsyncGenerator<Entry | Opening> {
  const [first, all] = await peek(chunks)
  if (first.trimStart().startsWith('{')) {
    for await (const line of linesOf(all)) {
      const value: unknown = JSON.parse(line)
      const isOpening = typeof value === 'object' && value !== null && 'gvnr_audit_export' in value
      yield isOpening ? openingSchema.parse(value) : entrySchema.parse(value)
    }
    return
  }
  let isHeader = true
  for await (const record of readCsv(all)) {
    if (isHeader && record.join() !== CSV_COLUMNS.join())
      throw new Error('this is neither an NDJSON nor a CSV export of the audit trail')
    if (!isHeader) yield entryOf(record)
    isHeader = false
  }
}

function entryOf(record: readonly string[]): Entry {
  const cells = Object.fromEntries(CSV_COLUMNS.map((column, index) => [column, record[index] ?? '']))
  const orNull = (value: string | undefined) => (value === '' || value === undefined ? null : value)
  return entrySchema.parse({
    ...cells,
    seq: cells.seq === '' ? null : Number(cells.seq),
    at: Number(cells.at),
    agent_id: orNull(cells.agent_id),
    data: JSON.parse(cells.data ?? '') as unknown,
    hash: orNull(cells.hash),
  })
}

async function peek(chunks: AsyncIterable<string>): Promise<[first: string, all: AsyncIterable<string>]> {
  const iterator = chunks[Symbol.asyncIterator]()
  const { value: first = '', done } = await iterator.next()
  const all = async function* () {
    yield first
    if (!done) yield* { [Symbol.asyncIterator]: () => iterator }
  }
  return [first, all()]
}

async function* linesOf(chunks: AsyncIterable<string>): AsyncGenerator<string> {
  let rest = ''
  for await (const chunk of chunks) {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) if (line.trim() !== '') yield line
  }
  if (rest.trim() !== '') yield rest
}
