import { readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { uuidv7 } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import { type Catalogue, createCatalogue, type OperatorPrices, operatorPricesSchema, type Rate } from './catalogue.ts'
import { findNewerList, insertList } from './store.ts'

export type PriceChange = { readonly model: string; readonly before: Rate | null; readonly after: Rate }
export type Refresh = {
  readonly models: number
  readonly applied: readonly PriceChange[]
  /** Models that the list before named and this one does not, with what they cost from here on. */
  readonly removed: readonly PriceChange[]
  /** Changes by more than 2×, up or down, that nobody has accepted, also by removal: the price before stays in force. */
  readonly quarantined: readonly PriceChange[]
  /** Models whose price another source sets: the contract's table or the operator's file. */
  readonly overruled: readonly string[]
}

const CHANNEL = 'gvnr_prices'
const POLL_MS = 2_000
const FETCH_TIMEOUT_MS = 10_000
const MAX_BYTES = 8 * 1024 * 1024
const KEPT_LISTS = 20
const MAX_FACTOR = 2n
const NIL_UUID = '00000000-0000-0000-0000-000000000000'

/**
 * The prices in force: a catalogue that can be exchanged while it is used. A refreshed list ranks below the contract's table and the
 * operator's file and above the bundled data set; it is in the database, so every process has it within seconds, also after a restart.
 */
export class PriceService implements Catalogue {
  readonly #database: Database
  readonly #clock: Clock
  readonly #log: Log
  readonly #operatorPrices: OperatorPrices
  readonly #url: string | undefined
  #catalogue: Catalogue
  #refreshed: OperatorPrices = {}
  #listId = NIL_UUID
  #timer: NodeJS.Timeout | undefined
  #unlisten: (() => Promise<void>) | undefined
  #loading: Promise<void> | null = null

  constructor(
    deps: { database: Database; clock: Clock; log: Log },
    options: { operatorPrices: OperatorPrices; url: string | undefined },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#log = deps.log
    this.#operatorPrices = options.operatorPrices
    this.#url = options.url
    this.#catalogue = createCatalogue({ operatorPrices: options.operatorPrices })
  }

  /** The prices as they are now, for what has to be settled at the prices it began with. */
  get current(): Catalogue {
    return this.#catalogue
  }

  rateFor(model: string, inputTokens?: number): Rate {
    return this.#catalogue.rateFor(model, inputTokens)
  }

  list(): ReturnType<Catalogue['list']> {
    return this.#catalogue.list()
  }

  get version(): string {
    return this.#catalogue.version
  }

  /** Takes over the newest stored list and follows later ones. */
  async start(): Promise<void> {
    await this.load()
    const reload = () =>
      void this.load().catch((error: unknown) => this.#log.warn({ err: error }, 'reading prices failed, will try again'))
    this.#unlisten = await this.#database.listen(CHANNEL, reload, reload)
    this.#timer = setInterval(reload, POLL_MS)
    this.#timer.unref()
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer)
    await this.#unlisten?.()
    await this.#loading?.catch(() => {})
  }

  /** Looks for a newer list. */
  load(): Promise<void> {
    this.#loading ??= this.#load().finally(() => {
      this.#loading = null
    })
    return this.#loading
  }

  async #load(): Promise<void> {
    const newer = await withDatabaseFailure(findNewerList(this.#database, this.#listId))
    if (newer === undefined) return
    this.#use(newer.listId, operatorPricesSchema.parse(JSON.parse(newer.prices)))
    this.#log.info({ models: Object.keys(this.#refreshed).length, version: this.version }, 'prices in force')
  }

  #use(listId: string, prices: OperatorPrices): void {
    this.#catalogue = this.#catalogueOf(prices)
    this.#refreshed = prices
    this.#listId = listId
  }

  /**
   * Takes out what changes a price by more than 2×, of the models it names and of every other model that is known: an id stands for all
   * that begin with it. What the list no longer names counts as changed to what would hold without it.
   */
  #sift(fetched: OperatorPrices, accepted: ReadonlySet<string>): { next: OperatorPrices; quarantined: PriceChange[] } {
    const next: Record<string, OperatorPrices[string]> = { ...fetched }
    const quarantined: PriceChange[] = []
    const known = new Set([
      ...Object.keys(fetched),
      ...Object.keys(this.#refreshed),
      ...this.#catalogue.list().map(({ id }) => id),
    ])
    // Without an entry a shorter one may decide, so it is looked at again; each round takes at least one entry out or puts one back.
    for (;;) {
      const target = this.#catalogueOf(next)
      const culprits = new Map<string, PriceChange>()
      for (const model of known) {
        const change = this.#change(model, target)
        const gone = change.before?.source === 'refreshed' ? change.before.model : undefined
        if (gone !== undefined && this.#refreshed[gone] !== undefined && next[gone] === undefined) {
          if (!accepted.has(gone) && isTooLarge(change)) culprits.set(gone, culprits.get(gone) ?? change)
          continue
        }
        const entry = change.after.model
        if (
          change.after.source === 'refreshed' &&
          !accepted.has(entry) &&
          next[entry] !== this.#refreshed[entry] &&
          isTooLarge(change)
        )
          culprits.set(entry, culprits.get(entry) ?? change)
      }
      if (culprits.size === 0) return { next, quarantined }
      for (const [entry, change] of culprits) {
        quarantined.push(change)
        const kept = this.#refreshed[entry]
        if (kept === undefined) delete next[entry]
        else next[entry] = kept
      }
    }
  }

  #change(model: string, target: Catalogue): PriceChange {
    const before = this.#catalogue.rateFor(model)
    return { model, before: before.source === 'default' ? null : before, after: target.rateFor(model) }
  }

  #catalogueOf(refreshedPrices: OperatorPrices): Catalogue {
    return createCatalogue({ operatorPrices: this.#operatorPrices, refreshedPrices })
  }

  /**
   * Operator: reads PRICES_URL, checks it, and puts it in force, but for prices that change by more than 2×, be it because the list no longer names them.
   * @param accept models whose change is wanted however large
   * @throws DomainError `price_source_unconfigured`, `price_source_failed`
   */
  async refresh(accept: readonly string[]): Promise<Refresh> {
    if (this.#url === undefined) throw new DomainError('price_source_unconfigured')
    const fetched = await readPrices(this.#url)
    await this.load()
    const { next, quarantined } = this.#sift(fetched, new Set(accept))
    const target = this.#catalogueOf(next)
    const applied: PriceChange[] = []
    const overruled: string[] = []
    for (const model of Object.keys(next)) {
      const change = this.#change(model, target)
      if (change.after.source !== 'refreshed') overruled.push(model)
      else if (!isSame(this.#catalogue.rateFor(model), change.after)) applied.push(change)
    }
    const removed = Object.keys(this.#refreshed)
      .filter((model) => next[model] === undefined)
      .map((model) => this.#change(model, target))
    const listId = uuidv7(this.#clock.now())
    const list = { listId, source: this.#url.split(/[?#]/)[0] ?? '', prices: JSON.stringify(next), createdMs: this.#clock.now() }
    await withDatabaseFailure(insertList(this.#database, list, KEPT_LISTS))
    await this.load()
    await this.#database
      .notify(CHANNEL, listId)
      .catch((error: unknown) => this.#log.warn({ err: error }, 'announcing prices failed, polling will find them'))
    this.#log.info(
      { models: Object.keys(next).length, quarantined: quarantined.length, removed: removed.length },
      'prices refreshed',
    )
    return { models: Object.keys(next).length, applied, removed, quarantined, overruled }
  }
}

const FIELDS = ['input', 'output', 'cachedInput', 'cacheWrite', 'cacheWrite1h'] as const

const isSame = (a: Rate, b: Rate): boolean => FIELDS.every((field) => a[field] === b[field]) && a.inputOnly === b.inputOnly

/** What nobody knew has no price to compare with. A list without prices of cached tokens counts those as input, which is no change of theirs. */
const isTooLarge = ({ before, after }: PriceChange): boolean =>
  before !== null &&
  FIELDS.some((field) => {
    const isGiven = field === 'input' || field === 'output' || after[field] !== after.input
    return isGiven && (after[field] > before[field] * MAX_FACTOR || after[field] * MAX_FACTOR < before[field])
  })

async function readPrices(url: string): Promise<OperatorPrices> {
  try {
    return operatorPricesSchema.parse(JSON.parse(await readText(new URL(url))))
  } catch (error) {
    const reason = error instanceof z.ZodError ? z.prettifyError(error) : error instanceof Error ? error.message : String(error)
    throw new DomainError('price_source_failed', { details: { reason: reason.slice(0, 500) }, cause: error })
  }
}

async function readText(url: URL): Promise<string> {
  if (url.protocol === 'file:') return await readFile(fileURLToPath(url), 'utf8')
  const response = await fetch(url, { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS), headers: { accept: 'application/json' } })
  if (!response.ok || response.body === null) throw new Error(`the source answered ${response.status}`)
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of response.body) {
    bytes += chunk.length
    if (bytes > MAX_BYTES) throw new Error(`the list is longer than ${MAX_BYTES} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}
