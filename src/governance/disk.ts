import { mkdir } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { uuidv7 } from '../core/ids.ts'
import { Journal } from './journal.ts'

/** How long the disk may take to note something. Who waits for it holds an answer. */
export const DISK_MS = 2_000

/**
 * The result of work on the disk, unless it keeps silent for too long. The work itself goes on.
 * @throws Error when it has not ended in time; what the work throws
 */
export async function writtenWithin<T>(work: Promise<T>, limit_ms = DISK_MS): Promise<T> {
  const ended = new AbortController()
  const silence = sleep(limit_ms, undefined, { signal: ended.signal }).then(() => {
    throw new Error(`the disk did not answer within ${limit_ms} ms`)
  })
  work.catch(() => {}) // nobody may be left to hear of it
  try {
    return await Promise.race([work, silence])
  } finally {
    ended.abort()
  }
}

/** Makes a folder and those above it. Not with Node's `recursive`, which never returns where the file system says ENOENT to a folder whose parent is there (/proc). */
export async function makeFolder(path: string): Promise<void> {
  const missing = [resolve(path)]
  for (let folder = resolve(path); folder !== dirname(folder); folder = dirname(folder)) missing.unshift(dirname(folder))
  for (const folder of missing)
    await mkdir(folder, { mode: 0o700 }).catch((error: NodeJS.ErrnoException) => {
      // The last one tells whether what is there is a folder that can be used; those above it may be read-only.
      if (error.code !== 'EEXIST' && folder === missing.at(-1)) throw error
    })
}

/** Why nothing can be noted in a journal folder, in a sentence; null when it can: a journal was made, written and removed. */
export async function whyUnusable(folder: string, now_ms: number, limit_ms = DISK_MS): Promise<string | null> {
  const probe = async () => {
    await makeFolder(folder)
    const journal = await Journal.create(folder, now_ms, 1)
    await journal.settle(uuidv7(now_ms), 0n, '{}').finally(() => journal.close(false))
  }
  try {
    await writtenWithin(probe(), limit_ms)
    return null
  } catch (error) {
    // Without the path in it, which is another one with each probe.
    const reason = error instanceof Error ? error.message.split(', ')[0] : String(error)
    return `RGF_JOURNAL_DIR (${resolve(folder)}) cannot be written, and fail_safe_action = "allow" notes there what it allows: ${reason}. Set it to a folder that can be written, or say "deny".`
  }
}
