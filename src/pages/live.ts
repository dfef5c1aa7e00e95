import type { Session } from '../accounts/sessions.ts'
import type { Log } from '../core/log.ts'

/** What several open pages of an account show alike is read once for all of them. */
export type Subject = { readonly session: Session; readonly agentId: string | null }

export type LiveDeps<T> = {
  /** The sessions among these that still live. */
  readonly sessions: (tokens: readonly string[]) => Promise<ReadonlyMap<string, Session>>
  /** Per account something that changes with what is shown. */
  readonly marks: (accountIds: readonly string[]) => Promise<ReadonlyMap<string, string>>
  readonly load: (subject: Subject) => Promise<T>
  readonly log: Log
}
export type LiveOptions = {
  readonly poll_ms: number
  /** Shown anew at least so often: windows roll over and requests run out without anybody deciding anything. */
  readonly refresh_ms: number
  readonly maxConnections: number
  readonly maxPerAccount: number
  readonly maxLoadsPerPoll: number
  /** A page is asked to connect again after so long. */
  readonly maxLife_ms: number
}

const DEFAULTS: LiveOptions = {
  poll_ms: 1_000,
  refresh_ms: 20_000,
  maxConnections: 200,
  maxPerAccount: 10,
  maxLoadsPerPoll: 20,
  maxLife_ms: 30 * 60_000,
}
/** A page that costs much to make is made less often: at most a tenth of the time goes into it. */
const REST_FACTOR = 9

type Connection<T> = {
  readonly token: string
  readonly topic: string
  readonly accountId: string
  readonly opened_ms: number
  readonly render: (data: T, session: Session) => string
  readonly controller: ReadableStreamDefaultController<Uint8Array>
  /** What it was sent last. */
  sent: T | null
  sent_ms: number
}
type Topic<T> = { data: T | null; mark: string; loaded_ms: number; notBefore_ms: number }

const encoder = new TextEncoder()

/**
 * Pages that follow what happens (server-sent events). However many are open, one statement a second says which accounts have news and one
 * which sessions still live; both read the database, so decisions of every process count and a revoked key closes its pages. Bounded in
 * connections, per account and in all; who reads too slowly misses steps and never grows memory.
 */
export class LiveHub<T> {
  readonly #deps: LiveDeps<T>
  readonly #options: LiveOptions
  readonly #connections = new Set<Connection<T>>()
  readonly #topics = new Map<string, Topic<T>>()
  #timer: NodeJS.Timeout | undefined
  #isPolling = false
  #released = false

  constructor(deps: LiveDeps<T>, options: Partial<LiveOptions> = {}) {
    this.#deps = deps
    this.#options = { ...DEFAULTS, ...options }
  }

  get count(): number {
    return this.#connections.size
  }

  /** A stream of events for one page; null when too many are open. @param render the event's data, one line */
  open(token: string, subject: Subject, render: Connection<T>['render']): ReadableStream<Uint8Array> | null {
    const { accountId } = subject.session.caller
    const own = [...this.#connections].filter((connection) => connection.accountId === accountId).length
    if (this.#released || this.#connections.size >= this.#options.maxConnections || own >= this.#options.maxPerAccount)
      return null
    let connection: Connection<T> | undefined
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          const opened_ms = performance.now()
          connection = {
            token,
            topic: topicOf(subject),
            accountId,
            opened_ms,
            render,
            controller,
            sent: null,
            sent_ms: opened_ms,
          }
          this.#connections.add(connection)
          controller.enqueue(encoder.encode('retry: 3000\n\n'))
          this.#timer ??= setInterval(() => void this.#poll(), this.#options.poll_ms).unref()
        },
        cancel: () => {
          if (connection) this.#remove(connection)
        },
      },
      { highWaterMark: 4 },
    )
  }

  /** Closes every stream and opens none any more. */
  release(): void {
    this.#released = true
    for (const connection of [...this.#connections]) this.#close(connection)
  }

  async #poll(): Promise<void> {
    if (this.#isPolling) return
    this.#isPolling = true
    try {
      await this.#step()
    } catch (error) {
      this.#deps.log.debug({ err: error }, 'open dashboards could not be refreshed, will try again')
    } finally {
      this.#isPolling = false
    }
  }

  async #step(): Promise<void> {
    const connections = [...this.#connections]
    const accountIds = [...new Set(connections.map(({ accountId }) => accountId))]
    const [sessions, marks] = await Promise.all([
      this.#deps.sessions(connections.map(({ token }) => token)),
      this.#deps.marks(accountIds),
    ])
    let loads = 0
    for (const connection of connections) {
      const session = sessions.get(connection.token)
      const isOld = performance.now() - connection.opened_ms > this.#options.maxLife_ms
      if (session === undefined || isOld) {
        this.#close(connection, session === undefined ? 'event: end\ndata: {}\n\n' : '')
        continue
      }
      const mark = marks.get(connection.accountId) ?? ''
      const agentId = agentOf(connection.topic)
      if (loads < this.#options.maxLoadsPerPoll && (await this.#refresh(connection.topic, mark, { session, agentId }))) loads++
      this.#send(connection, session)
    }
    for (const topic of [...this.#topics.keys()])
      if (![...this.#connections].some((connection) => connection.topic === topic)) this.#topics.delete(topic)
  }

  /** @returns whether it had to be read */
  async #refresh(name: string, mark: string, subject: Subject): Promise<boolean> {
    const now_ms = performance.now()
    const topic = this.#topics.get(name) ?? { data: null, mark: '', loaded_ms: 0, notBefore_ms: 0 }
    const isDue = topic.data === null || topic.mark !== mark || now_ms - topic.loaded_ms > this.#options.refresh_ms
    if (!isDue || now_ms < topic.notBefore_ms) return false
    const data = await this.#deps.load(subject)
    const done_ms = performance.now()
    this.#topics.set(name, { data, mark, loaded_ms: done_ms, notBefore_ms: done_ms + (done_ms - now_ms) * REST_FACTOR })
    return true
  }

  #send(connection: Connection<T>, session: Session): void {
    const data = this.#topics.get(connection.topic)?.data ?? null
    const { controller } = connection
    // Whoever has not read the last one gets the newest when it has.
    if (data === null || !this.#connections.has(connection) || (controller.desiredSize ?? 0) <= 0) return
    const now_ms = performance.now()
    if (data === connection.sent) {
      // Something now and then, so that nothing in between takes the connection for dead.
      if (now_ms - connection.sent_ms < this.#options.refresh_ms) return
      controller.enqueue(encoder.encode(': still here\n\n'))
      connection.sent_ms = now_ms
      return
    }
    connection.sent = data
    connection.sent_ms = now_ms
    controller.enqueue(encoder.encode(`event: update\ndata: ${connection.render(data, session)}\n\n`))
  }

  #close(connection: Connection<T>, last = ''): void {
    this.#remove(connection)
    try {
      if (last !== '') connection.controller.enqueue(encoder.encode(last))
      connection.controller.close()
    } catch {
      // The peer has just gone.
    }
  }

  #remove(connection: Connection<T>): void {
    this.#connections.delete(connection)
    if (this.#connections.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
    this.#topics.clear()
  }
}

/** Pages of one account with the same rights and the same agent show the same. */
const topicOf = ({ session: { caller }, agentId }: Subject): string =>
  JSON.stringify([caller.accountId, caller.scope, caller.agentId, agentId])
const agentOf = (topic: string): string | null => (JSON.parse(topic) as (string | null)[])[3] ?? null
