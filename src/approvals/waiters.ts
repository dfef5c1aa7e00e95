import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import { findDecided } from './store.ts'

const CHANNEL = 'gvnr_approval_decided'
/** For what a lost connection or a pooler without LISTEN keeps from us. */
const POLL_MS = 1_000
const MAX_WAITERS = 10_000

type Wake = () => void
type Subject = { readonly accountId: string; readonly approvalId: string }
const keyOf = ({ accountId, approvalId }: Subject): string => `${accountId}/${approvalId}`

/**
 * Callers that wait for a decision. One subscription per process and one statement per second for all of them; a waiter itself is a
 * callback and a timer.
 */
export class DecisionWaiters {
  readonly #database: Database
  readonly #log: Log
  readonly #waiting = new Map<string, Set<Wake>>()
  #count = 0
  #released = false
  #timer: NodeJS.Timeout | undefined
  #polling = false
  #unlisten: (() => Promise<void>) | undefined

  constructor(deps: { database: Database; log: Log }) {
    this.#database = deps.database
    this.#log = deps.log
  }

  get count(): number {
    return this.#count
  }

  async start(): Promise<void> {
    this.#unlisten = await this.#database.listen(
      CHANNEL,
      (key) => this.#wake(key),
      () => void this.#poll(),
    )
    this.#timer = setInterval(() => void this.#poll(), POLL_MS)
    this.#timer.unref()
  }

  async stop(): Promise<void> {
    this.release()
    clearInterval(this.#timer)
    await this.#unlisten?.()
  }

  /** Lets everyone go who waits, and nobody wait any more. */
  release(): void {
    this.#released = true
    for (const key of [...this.#waiting.keys()]) this.#wake(key)
  }

  /** Resolves when the approval may have been decided, and after `wait_ms` at the latest. At once when too many wait already. */
  wait(subject: Subject, wait_ms: number): Promise<void> {
    const key = keyOf(subject)
    if (this.#released || this.#count >= MAX_WAITERS || wait_ms <= 0) return Promise.resolve()
    return new Promise((resolve) => {
      const wake = () => {
        clearTimeout(timer)
        const waiters = this.#waiting.get(key)
        if (!waiters?.delete(wake)) return
        if (waiters.size === 0) this.#waiting.delete(key)
        this.#count--
        resolve()
      }
      const timer = setTimeout(wake, wait_ms)
      const waiters = this.#waiting.get(key)
      if (waiters) waiters.add(wake)
      else this.#waiting.set(key, new Set([wake]))
      this.#count++
    })
  }

  /** Tells every process that an approval is decided, this one at once. */
  async announce(subject: Subject): Promise<void> {
    this.#wake(keyOf(subject))
    await this.#database.notify(CHANNEL, keyOf(subject))
  }

  #wake(key: string): void {
    for (const wake of [...(this.#waiting.get(key) ?? [])]) wake()
  }

  async #poll(): Promise<void> {
    if (this.#polling || this.#waiting.size === 0) return
    this.#polling = true
    try {
      const wanted = [...this.#waiting.keys()].map((key) => {
        const [accountId = '', approvalId = ''] = key.split('/')
        return { accountId, approvalId }
      })
      for (const subject of await findDecided(this.#database, wanted)) this.#wake(keyOf(subject))
    } catch (error) {
      this.#log.warn({ err: error }, 'decisions cannot be read, will try again')
    } finally {
      this.#polling = false
    }
  }
}
