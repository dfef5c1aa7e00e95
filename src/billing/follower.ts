import { randomUUID } from 'node:crypto'
import type { Address, Hex } from 'viem'
import type { Clock } from '../core/clock.ts'
import { uuidv7 } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import type { Block, Chain, Transfer } from './chain.ts'
import { type CreditRow, deleteUncredited, findCredits, findUnfinal, insertSeen, moveCredit } from './credits.store.ts'
import type { Credits } from './credits.ts'
import { type Cursor, insertCursor, insertOutflow, leaseCursor, moveCursor, releaseCursor } from './follower.store.ts'
import { expireIntents, findIntent } from './intents.store.ts'
import { insertAddress, listAddresses } from './receivers.store.ts'
import type { Receivers } from './receivers.ts'
import { isFor, type X402Payments } from './x402.ts'

const INTERVAL_MS = 4_000
/** Another process takes over when this one has not come back for so long. */
const LEASE_MS = 15_000
const BLOCKS_PER_QUERY = 2_000n
const ADDRESSES_PER_QUERY = 400
const ROWS_PER_QUERY = 200
/** Nodes behind one address are not all equally far: the newest blocks are read again. */
const OVERLAP_BLOCKS = 12n

export type FollowerOptions = { readonly minConfirmations: number; readonly interval_ms?: number }

/**
 * Reads the chain so that nothing depends on a request that lived to see its payment: transfers are credited whether anybody asked or not,
 * credits whose block was undone are reversed, and every block is read a second time once it is final. One process does it at a time;
 * the cursor is in the database, so any other goes on where it stopped. Doing a step twice changes nothing.
 */
export class Follower {
  readonly #database: Database
  readonly #clock: Clock
  readonly #chain: Chain
  readonly #credits: Credits
  readonly #receivers: Receivers
  readonly #x402: X402Payments
  readonly #log: Log
  readonly #minConfirmations: number
  readonly #interval_ms: number
  readonly #id = randomUUID()
  #timer: NodeJS.Timeout | undefined
  #running: Promise<unknown> = Promise.resolve()
  #stopped = false

  constructor(
    deps: {
      database: Database
      clock: Clock
      chain: Chain
      credits: Credits
      receivers: Receivers
      x402: X402Payments
      log: Log
    },
    options: FollowerOptions,
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#chain = deps.chain
    this.#credits = deps.credits
    this.#receivers = deps.receivers
    this.#x402 = deps.x402
    this.#log = deps.log
    this.#minConfirmations = options.minConfirmations
    this.#interval_ms = options.interval_ms ?? INTERVAL_MS
  }

  start(): void {
    this.#stopped = false
    this.#schedule(0)
  }

  /** Ends after the pass under way and lets another process take over at once. */
  async stop(): Promise<void> {
    this.#stopped = true
    clearTimeout(this.#timer)
    await this.#running
    await releaseCursor(this.#database, this.#chain.network.chainId, this.#id).catch(() => {})
  }

  #schedule(wait_ms: number): void {
    if (this.#stopped) return
    this.#timer = setTimeout(() => {
      this.#running = this.pass()
        .catch((error: unknown) => this.#log.warn({ err: error }, 'following the chain failed, will try again'))
        .then(() => this.#schedule(this.#interval_ms))
    }, wait_ms)
    this.#timer.unref()
  }

  /** Reads what is new. @returns false when another process is at it */
  async pass(): Promise<boolean> {
    const { chainId } = this.#chain.network
    const cursor = await leaseCursor(this.#database, chainId, this.#id, LEASE_MS)
    if (cursor === null) return false
    if (cursor === undefined) {
      await this.#begin()
      return this.pass()
    }
    await this.#credits.finishAll()
    await this.#watchShared(cursor.finalBlock)
    const head = await this.#chain.head()
    if (head.number < cursor.scannedBlock) throw new Error(`the chain is at block ${head.number}, before ${cursor.scannedBlock}`)
    await this.#readNew(cursor, head)
    await this.#readFinal(cursor)
    return true
  }

  /** The first start: what came before is not ours to credit. */
  async #begin(): Promise<void> {
    const head = await this.#chain.head()
    await insertCursor(this.#database, {
      chainId: this.#chain.network.chainId,
      scannedBlock: head.number,
      scannedHash: head.hash,
      finalBlock: head.number,
    })
  }

  /** The shared address may be new in the configuration: it is watched from here on, and what it held before is written down. */
  async #watchShared(sinceBlock: bigint): Promise<void> {
    const { shared } = this.#receivers
    const { chainId } = this.#chain.network
    if (shared === null) return
    const known = await listAddresses(this.#database, chainId)
    if (known.some(({ address }) => address === shared)) return
    const openingUnits = await this.#chain.balanceOf(shared, sinceBlock)
    const row = { chainId, address: shared, accountId: null, openingUnits, createdMs: this.#clock.now() }
    await insertAddress(this.#database, row)
  }

  async #readNew(cursor: Cursor, head: Block): Promise<void> {
    const isSameChain = (await this.#chain.blockHash(cursor.scannedBlock)) === cursor.scannedHash
    const settled = isSameChain || (await this.#recheck(head))
    const overlap = OVERLAP_BLOCKS + BigInt(this.#minConfirmations)
    const again = cursor.scannedBlock - overlap
    const from = isSameChain && again > cursor.finalBlock ? again : cursor.finalBlock
    for (const step of stepsOf(from + 1n, head.number)) {
      await this.#read('to', step, { isFinal: false })
      await this.#keepLease(cursor)
    }
    // While a block that was undone still has credits in doubt, the old mark stays, so that the next pass looks again.
    if (settled) await moveCursor(this.#database, cursor, { scannedBlock: head.number, scannedHash: head.hash })
  }

  /** What is final now is read once more, to the last log, and closed. */
  async #readFinal(cursor: Cursor): Promise<void> {
    const final = await this.#chain.finalized()
    if (final.number <= cursor.finalBlock) return
    for (const step of stepsOf(cursor.finalBlock + 1n, final.number)) {
      await this.#read('to', step, { isFinal: true })
      await this.#read('from', step, { isFinal: true })
      await this.#keepLease(cursor)
    }
    let after: string | undefined
    for (;;) {
      const rows = await findUnfinal(this.#database, this.#chain.network.chainId, final.number, ROWS_PER_QUERY, after)
      for (const row of rows) {
        await this.#confirm(row, final)
        after = row.creditId
      }
      if (rows.length < ROWS_PER_QUERY) break
    }
    await expireIntents(this.#database, this.#chain.network.chainId, final.time_ms)
    await moveCursor(this.#database, cursor, { finalBlock: final.number })
  }

  async #keepLease(cursor: Cursor): Promise<void> {
    const kept = await leaseCursor(this.#database, cursor.chainId, this.#id, LEASE_MS)
    if (!kept) throw new Error('another process follows the chain now')
  }

  /** Every transfer to (or from) an address of ours in a range of blocks. */
  async #read(side: 'to' | 'from', { from, to }: Step, { isFinal }: { isFinal: boolean }): Promise<void> {
    // Read after the range was chosen: an address is stored before anybody is told it, so none of its transfers can be missed.
    const rows = await listAddresses(this.#database, this.#chain.network.chainId)
    const accounts = new Map(rows.map(({ address, accountId }) => [address, accountId]))
    const addresses = rows.map(({ address }) => address as Address)
    for (let at = 0; at < addresses.length; at += ADDRESSES_PER_QUERY) {
      const found = await this.#chain.transactionsWith(side, addresses.slice(at, at + ADDRESSES_PER_QUERY), from, to)
      if (side === 'from') await this.#recordOutflows(found, accounts)
      else await this.#recordIncoming(found, accounts, isFinal)
    }
  }

  async #recordOutflows(found: readonly { txHash: Hex }[], accounts: ReadonlyMap<string, string | null>): Promise<void> {
    for (const { txHash } of found) {
      const receipt = await this.#chain.receipt(txHash)
      for (const transfer of receipt?.transfers ?? [])
        if (transfer.units > 0n && accounts.has(transfer.payer))
          await insertOutflow(this.#database, this.#chain.network.chainId, transfer)
    }
  }

  async #recordIncoming(
    found: readonly { txHash: Hex; blockHash: Hex }[],
    accounts: ReadonlyMap<string, string | null>,
    isFinal: boolean,
  ): Promise<void> {
    const hashes = found.map(({ txHash }) => txHash)
    const known = await findCredits(this.#database, this.#chain.network.chainId, hashes)
    const done = (row: CreditRow) => row.state !== 'reversed'
    for (const { txHash } of found) {
      const rows = known.filter((row) => row.txHash === txHash)
      // A transaction whose rows are all closed needs no second look; all others are few.
      if (rows.length > 0 && rows.every((row) => row.isFinal)) continue
      const receipt = await this.#chain.receipt(txHash)
      if (receipt === null) {
        if (isFinal) throw new Error(`no node knows the receipt of ${txHash}, which is in a final block`)
        continue
      }
      for (const transfer of receipt.transfers) {
        const isOurs = transfer.units > 0n && accounts.has(transfer.receiver)
        if (isOurs && !rows.some((row) => row.logIndex === transfer.logIndex && done(row)))
          await this.#take(transfer, isFinal ? Number.POSITIVE_INFINITY : receipt.confirmations, accounts)
      }
    }
  }

  /** One transfer to us that has no row yet, or whose credit was reversed and which is back. */
  async #take(transfer: Transfer, confirmations: number, accounts: ReadonlyMap<string, string | null>): Promise<void> {
    const { chainId } = this.#chain.network
    const seen = { creditId: uuidv7(this.#clock.now()), now_ms: this.#clock.now() }
    if (accounts.has(transfer.payer)) {
      await insertSeen(this.#database, chainId, transfer, { ...seen, state: 'internal' })
      return
    }
    const intent =
      transfer.nonce === null
        ? undefined
        : await findIntent(this.#database, { chainId, payer: transfer.payer, nonce: transfer.nonce })
    if (intent !== undefined && isFor(intent, transfer)) {
      await this.#x402.credit(intent, transfer)
      return
    }
    if (confirmations < this.#minConfirmations) return
    const accountId = accounts.get(transfer.receiver) ?? null
    if (accountId !== null) {
      await this.#credits.credit(accountId, 'deposit', [transfer])
      return
    }
    const [reversed] = (await findCredits(this.#database, chainId, [transfer.txHash])).filter(
      (row) => row.logIndex === transfer.logIndex && row.state === 'reversed',
    )
    if (reversed?.accountId) await this.#credits.credit(reversed.accountId, reversed.source ?? 'hash', [transfer])
    else await insertSeen(this.#database, chainId, transfer, { ...seen, state: 'unattributed' })
  }

  /** After a reorganisation: every row that may be concerned. @returns false while one is still in doubt */
  async #recheck(head: Block): Promise<boolean> {
    let settled = true
    let after: string | undefined
    for (;;) {
      const rows = await findUnfinal(this.#database, this.#chain.network.chainId, null, ROWS_PER_QUERY, after)
      for (const row of rows) {
        settled = (await this.#confirm(row, null, head)) && settled
        after = row.creditId
      }
      if (rows.length < ROWS_PER_QUERY) return settled
    }
  }

  /**
   * Looks where a row's transaction is now. Gone for as long as a deposit has to wait: reversed.
   * @param final set when the row's block is final, which closes the row
   * @returns false while the transaction is missing but may still come back
   */
  async #confirm(row: CreditRow, final: Block | null, head?: Block): Promise<boolean> {
    const receipt = await this.#chain.receipt(row.txHash)
    const transfer = receipt?.transfers.find(
      ({ logIndex, units, receiver }) => logIndex === row.logIndex && units === row.amountUnits && receiver === row.receiver,
    )
    if (transfer !== undefined) {
      const { blockNumber, blockHash } = transfer
      const isFinal = final !== null && blockNumber <= final.number
      if (isFinal || blockHash !== row.blockHash) await moveCredit(this.#database, row, { blockNumber, blockHash, isFinal })
      return true
    }
    const tip = head ?? (await this.#chain.head())
    if (final === null && tip.number < row.blockNumber + BigInt(this.#minConfirmations)) return false
    if ((await this.#chain.blockHash(row.blockNumber)) === row.blockHash)
      throw new Error(`a node has block ${row.blockNumber} but not its transaction ${row.txHash}`)
    this.#log.warn({ tx_hash: row.txHash, state: row.state }, 'a payment left the chain: undoing it')
    if (row.state === 'credited') await this.#credits.reverse(row)
    else await deleteUncredited(this.#database, row)
    return row.state !== 'pending' && row.state !== 'reversing'
  }
}

type Step = { readonly from: bigint; readonly to: bigint }

function stepsOf(from: bigint, to: bigint): Step[] {
  const steps: Step[] = []
  for (let at = from; at <= to; at += BLOCKS_PER_QUERY) {
    const end = at + BLOCKS_PER_QUERY - 1n
    steps.push({ from: at, to: end > to ? to : end })
  }
  return steps
}
