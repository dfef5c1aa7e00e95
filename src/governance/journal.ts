import { type FileHandle, open, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { allFulfilled, Batcher } from '../core/batcher.ts'
import { uuidv7 } from '../core/ids.ts'
import { type FolderLock, FolderLockedError, lockFolder } from '../db/folder-lock.ts'

const FILE = 'journal.ndjson'

const nanousd = z
  .string()
  .regex(/^\d{1,18}$/)
  .transform(BigInt)
const allowSchema = z.object({
  kind: z.literal('allow'),
  id: z.uuid(),
  account_id: z.uuid(),
  agent_id: z.string(),
  label: z.string(),
  cost_nanousd: nanousd,
  detail: z.string(),
  at_ms: z.number(),
})
const lineSchema = z.discriminatedUnion('kind', [
  allowSchema,
  z.object({ kind: z.literal('withdraw'), id: z.uuid() }),
  z.object({ kind: z.literal('settle'), id: z.uuid(), cost_nanousd: nanousd, detail: z.string().optional() }),
])

/** Something allowed while the database was away. */
export type JournalEntry = {
  readonly id: string
  readonly accountId: string
  readonly agentId: string
  readonly label: string
  readonly cost: bigint
  readonly detail: string
  readonly atMs: number
}
type Line = { readonly text: string; readonly truncate?: false } | { readonly truncate: true }

/**
 * One process's journal: a folder of its own below the shared one, locked as long as the process lives, so that whoever finds it unlocked knows
 * that its owner is gone. A line is on disk (fsync) before `append` resolves; several that come together share one fsync.
 */
export class Journal {
  readonly #folder: string
  readonly #lock: FolderLock
  readonly #file: FileHandle
  readonly #writes: Batcher<Line, void>

  private constructor(folder: string, lock: FolderLock, file: FileHandle, maxQueue: number) {
    this.#folder = folder
    this.#lock = lock
    this.#file = file
    this.#writes = new Batcher((lines) => this.#write(lines), { maxBatch: 1000, maxQueue })
  }

  static async create(shared: string, now_ms: number, maxQueue: number): Promise<Journal> {
    const folder = join(shared, uuidv7(now_ms))
    const lock = await lockFolder(folder)
    const file = await open(join(folder, FILE), 'ax', 0o600)
    // The entries of the folders too must survive a power cut.
    for (const path of [folder, shared]) await syncFolder(path)
    return new Journal(folder, lock, file, maxQueue)
  }

  /** @throws DomainError `overloaded`; the file system's error when it cannot be stored */
  allow(entry: JournalEntry): Promise<void> {
    const { id, accountId: account_id, agentId: agent_id, label, cost, detail, atMs: at_ms } = entry
    const line = { kind: 'allow', id, account_id, agent_id, label, cost_nanousd: String(cost), detail, at_ms }
    return this.#writes.submit({ text: `${JSON.stringify(line)}\n` })
  }

  settle(id: string, cost: bigint, detail: string): Promise<void> {
    return this.#writes.submit({ text: `${JSON.stringify({ kind: 'settle', id, cost_nanousd: String(cost), detail })}\n` })
  }

  /** Takes back what was denied because its line was not known to be on disk in time. */
  withdraw(id: string): Promise<void> {
    return this.#writes.submit({ text: `${JSON.stringify({ kind: 'withdraw', id })}\n` })
  }

  /** Forgets everything, once all of it is booked. Must not be called while an `allow` is under way. */
  clear(): Promise<void> {
    return this.#writes.submit({ truncate: true })
  }

  /** @param keep whether the entries are still needed */
  async close(keep: boolean): Promise<void> {
    await this.#writes.settled()
    await this.#file.close()
    await this.#lock.release()
    // Once it is unlocked another process may be looking into it.
    if (!keep) await rm(this.#folder, { recursive: true, force: true, maxRetries: 3 })
  }

  async #write(lines: Line[]): Promise<PromiseSettledResult<void>[]> {
    if (lines.some((line) => line.truncate)) await this.#file.truncate(0)
    const text = lines.map((line) => (line.truncate ? '' : line.text)).join('')
    if (text !== '') await this.#file.appendFile(text)
    await this.#file.datasync()
    return allFulfilled(lines.map(() => undefined))
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** What a process that is gone has left: locked while it is dealt with, then `remove`d. */
export type Leftover = { readonly entries: JournalEntry[]; remove(): Promise<void>; release(): Promise<void> }

/** The journals whose processes are gone. Those of live ones are left alone. */
export async function findLeftovers(shared: string): Promise<Leftover[]> {
  const names = await readdir(shared).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw error
  })
  const leftovers: Leftover[] = []
  for (const name of names) {
    const folder = join(shared, name)
    const lock = await lockFolder(folder).catch((error: unknown) => {
      if (error instanceof FolderLockedError) return null
      throw error
    })
    if (lock === null) continue
    const text = await readFile(join(folder, FILE), 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return ''
      throw error
    })
    leftovers.push({
      entries: readLines(text),
      async remove() {
        await rm(join(folder, FILE), { force: true })
        await lock.release()
        await rm(folder, { recursive: true, force: true })
      },
      release: () => lock.release(),
    })
  }
  return leftovers
}

/** The entries, each at its settled cost where there is one. A last line that was cut off was never acknowledged and is left out. */
export function readLines(text: string): JournalEntry[] {
  const entries = new Map<string, JournalEntry>()
  for (const line of text.split('\n').slice(0, -1)) {
    const parsed = lineSchema.safeParse(parseJson(line))
    if (!parsed.success) continue
    const { data } = parsed
    if (data.kind === 'withdraw') entries.delete(data.id)
    else if (data.kind === 'settle') {
      const entry = entries.get(data.id)
      if (entry) entries.set(data.id, { ...entry, cost: data.cost_nanousd, detail: data.detail ?? entry.detail })
    } else {
      const { id, account_id: accountId, agent_id: agentId, label, cost_nanousd: cost, detail, at_ms: atMs } = data
      entries.set(id, { id, accountId, agentId, label, cost, detail, atMs })
    }
  }
  return [...entries.values()]
}

function parseJson(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    return null
  }
}
