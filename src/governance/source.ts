import { type FSWatcher, watch } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { basename, dirname, resolve } from 'node:path'
import type { Clock } from '../core/clock.ts'
import type { Log } from '../core/log.ts'
import { whyUnusable } from './disk.ts'
import { describeProblem, type FailSafe, MAX_FILE_BYTES, readGovernanceFile } from './file.ts'
import { GovernancePolicy } from './policy.ts'

/** Editors write in several steps; what is read within this time of a change may be half of it. */
const SETTLE_MS = 50
/** Where the file system tells of no changes (network mounts, some containers), they are found by looking. */
const POLL_MS = 2_000

/** The file in force, and whether the one on disk could be used. For health, metrics and logs. */
export type GovernanceStatus = {
  readonly path: string
  /** When the file in force was loaded, Unix ms; null: there is none, and so no policy. */
  readonly loadedMs: number | null
  readonly agents: number
  /** How often a changed file was taken over, and how often it could not be. */
  readonly reloads: number
  readonly failures: number
  /** Why the file on disk is not the one in force; empty when it is. */
  readonly problems: readonly string[]
}

/** The governance file cannot be used; `message` has a line per mistake. */
export class GovernanceFileError extends Error {}

/**
 * The governance file, followed while the server runs. A change takes effect with the next decision; a file with a mistake in it changes
 * nothing, and neither does its disappearance: the last good one stays until a good one replaces it.
 */
export class GovernanceSource {
  readonly path: string
  readonly #clock: Clock
  readonly #log: Log
  readonly #journalFolder: string | undefined
  #text: string | null = null
  #policy: GovernancePolicy | null = null
  #failSafe: FailSafe = 'deny'
  #loadedMs: number | null = null
  #agents = 0
  #reloads = 0
  #failures = 0
  #problems: readonly string[] = []
  #watcher: FSWatcher | undefined
  #poll: NodeJS.Timeout | undefined
  #soon: NodeJS.Timeout | undefined
  #looking: Promise<void> = Promise.resolve()

  /** @param options `journalFolder` must be writable before a file that says "allow" is taken over */
  constructor(deps: { clock: Clock; log: Log }, path: string, options: { journalFolder?: string } = {}) {
    this.path = resolve(path)
    this.#clock = deps.clock
    this.#log = deps.log
    this.#journalFolder = options.journalFolder
  }

  /** The rules in force; null when there is no file. */
  get policy(): GovernancePolicy | null {
    return this.#policy
  }

  get failSafe(): FailSafe {
    return this.#failSafe
  }

  get status(): GovernanceStatus {
    return {
      path: this.path,
      loadedMs: this.#loadedMs,
      agents: this.#agents,
      reloads: this.#reloads,
      failures: this.#failures,
      problems: this.#problems,
    }
  }

  /**
   * Loads the file for the first time.
   * @param options `mustExist` when its absence is a mistake
   * @throws GovernanceFileError when it cannot be used: a server must not start without rules it was given
   */
  async load(options: { mustExist: boolean }): Promise<void> {
    const text = await this.#read()
    if (text === null) {
      if (options.mustExist)
        throw new GovernanceFileError(`${this.path} does not exist or is larger than ${MAX_FILE_BYTES} bytes.`)
      return
    }
    const { problems } = await this.#take(text)
    if (problems.length > 0) throw new GovernanceFileError(problems.join('\n'))
  }

  /** Begins to follow changes. */
  start(): void {
    this.#poll = setInterval(() => void this.look(), POLL_MS)
    this.#poll.unref()
    this.#watch()
  }

  async stop(): Promise<void> {
    clearInterval(this.#poll)
    clearTimeout(this.#soon)
    this.#watcher?.close()
    await this.#looking
  }

  /** Takes the file over if it has changed and can be used. Never throws. */
  look(): Promise<void> {
    this.#looking = this.#looking.then(() => this.#lookOnce())
    return this.#looking
  }

  /** The directory, not the file: an editor that replaces the file by another leaves a watch on the file looking at nothing. */
  #watch(): void {
    try {
      this.#watcher = watch(dirname(this.path), { persistent: false }, (_event, name) => {
        if (name !== null && name !== basename(this.path)) return
        clearTimeout(this.#soon)
        this.#soon = setTimeout(() => void this.look(), SETTLE_MS)
        this.#soon.unref()
      })
      this.#watcher.on('error', (error) => {
        this.#watcher?.close()
        this.#log.warn({ err: error }, 'watching the governance file failed, changes are found by polling')
      })
    } catch (error) {
      this.#log.warn({ err: error }, 'the governance file cannot be watched, changes are found by polling')
    }
  }

  async #lookOnce(): Promise<void> {
    try {
      const text = await this.#read()
      if (text === null) {
        if (this.#loadedMs !== null) this.#fail(null, [`${this.path} is gone or too large`])
        return
      }
      if (text === this.#text) return
      const { problems, isFinal } = await this.#take(text)
      if (problems.length > 0) this.#fail(isFinal ? text : null, problems)
      else {
        this.#reloads++
        this.#log.info({ file: this.path, agents: this.#agents }, 'governance file loaded')
      }
    } catch (error) {
      this.#fail(null, [`${this.path} cannot be read: ${error instanceof Error ? error.message : String(error)}`])
    }
  }

  /** Told once for each state of the file, not with every look. */
  #fail(text: string | null, problems: readonly string[]): void {
    if (text === null && problems[0] === this.#problems[0]) return
    this.#text = text
    this.#problems = problems
    this.#failures++
    this.#log.error({ file: this.path, problems }, 'the governance file cannot be used: the last good one stays in force')
  }

  /** @returns what is wrong with it, and whether that stays so until the text changes; when nothing is wrong, it is in force from here on */
  async #take(text: string): Promise<{ problems: string[]; isFinal: boolean }> {
    const read = readGovernanceFile(text)
    if ('problems' in read)
      return { problems: read.problems.map((problem) => describeProblem(this.path, problem)), isFinal: true }
    const folder = this.#journalFolder
    if (folder !== undefined && read.file.failSafe === 'allow' && this.#failSafe !== 'allow') {
      const reason = await whyUnusable(folder, this.#clock.now())
      if (reason !== null) return { problems: [reason], isFinal: false }
    }
    this.#policy = new GovernancePolicy(read.file)
    this.#failSafe = read.file.failSafe
    this.#agents = read.file.agents.size
    this.#loadedMs = this.#clock.now()
    this.#text = text
    this.#problems = []
    return { problems: [], isFinal: true }
  }

  /** The file when nobody is writing it; null when there is none, or one that is too large. */
  async #read(): Promise<string | null> {
    for (let attempt = 0; attempt < 5; attempt++) {
      const before = await stampOf(this.path)
      if (before === null) return null
      const text = await readFile(this.path, 'utf8')
      if ((await stampOf(this.path)) === before) return text
      await new Promise((done) => setTimeout(done, SETTLE_MS))
    }
    throw new Error('it keeps changing')
  }
}

/** Changes with the file's content; null when there is no such file or it is too large. */
async function stampOf(path: string): Promise<string | null> {
  try {
    const { ino, size, mtimeMs } = await stat(path)
    return size > MAX_FILE_BYTES ? null : `${ino} ${size} ${mtimeMs}`
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return null
    throw error
  }
}
