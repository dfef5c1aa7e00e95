import type { Clock } from '../core/clock.ts'
import { uuidv7 } from '../core/ids.ts'
import type { Log } from '../core/log.ts'
import type { Database } from '../db/client.ts'
import { withDatabaseFailure } from '../db/failure.ts'
import type { Transfer } from './chain.ts'
import { advanceCredit, type CreditRow, type CreditSource, claimTransfers, findUnfinished } from './credits.store.ts'
import { usdFromUnits } from './packs.ts'

/** The quota; implemented by the budgets room, through which every change of it goes. Both are idempotent by operation id. */
export type Quota = {
  grant(
    accountId: string,
    call: { operationId: string; resumed: boolean },
    ops: bigint,
    detail: string,
    entry: 'topup',
  ): Promise<bigint>
  takeBack(accountId: string, operationId: string, ops: bigint, detail: string): Promise<bigint>
}

/** What happened to a payment, for webhooks. Told at least once, before the step is closed; `id` names the event. */
export type PaymentEvent = { readonly id: string; readonly kind: 'credited' | 'reversed'; readonly credit: CreditRow }
export type Announce = (event: PaymentEvent) => Promise<void>

/** What a webhook is told of a credited payment; the names are those of a receipt. `ops`: what it brought, less the debt it paid. */
export const creditedJson = ({ credit }: PaymentEvent) => ({
  topup_id: credit.creditId,
  source: credit.source,
  amount_usd: usdFromUnits(credit.amountUnits),
  ops: Number(credit.ops - credit.debtPaidOps),
  payer: credit.payer,
  tx_hash: credit.txHash,
})

const UNFINISHED_PER_PASS = 200

/**
 * Turns transfers into ops, exactly once. First the row that names the account and the ledger entry is committed, then the entry is
 * written through the decision engine, then the row is closed: a crash between two steps leaves a row that anybody can finish, and
 * writing the same entry again changes nothing.
 */
export class Credits {
  readonly #database: Database
  readonly #clock: Clock
  readonly #quota: Quota
  readonly #announce: Announce
  readonly #chainId: number
  readonly #log: Log

  constructor(
    deps: { database: Database; clock: Clock; quota: Quota; announce: Announce; log: Log },
    options: { chainId: number },
  ) {
    this.#database = deps.database
    this.#clock = deps.clock
    this.#quota = deps.quota
    this.#announce = deps.announce
    this.#log = deps.log
    this.#chainId = options.chainId
  }

  /**
   * Credits transfers of one transaction to an account, as far as nobody else owns them.
   * @returns every transfer's row: those with another `accountId` were credited elsewhere. `isNew`: this call brought ops.
   */
  async credit(
    accountId: string,
    source: CreditSource,
    transfers: readonly Transfer[],
  ): Promise<{ rows: CreditRow[]; isNew: boolean }> {
    const newId = () => uuidv7(this.#clock.now())
    const claim = { chainId: this.#chainId, accountId, source, now_ms: this.#clock.now(), newId }
    const rows = await withDatabaseFailure(claimTransfers(this.#database, claim, transfers))
    let isNew = false
    for (const row of rows) if (row.accountId === accountId && row.state === 'pending') isNew = (await this.finish(row)) || isNew
    return { rows, isNew }
  }

  /** Undoes a credit whose transfer left the chain: takes its ops back, and what is already spent becomes a debt. */
  async reverse(row: CreditRow): Promise<void> {
    const entryId = uuidv7(this.#clock.now())
    const isOurs = await withDatabaseFailure(advanceCredit(this.#database, row, { state: 'reversing', entryId }))
    if (isOurs) await this.finish({ ...row, state: 'reversing', entryId })
  }

  /** Takes a row that stands between two states to the next. @returns true when this call closed it */
  async finish(row: CreditRow): Promise<boolean> {
    const { accountId, entryId } = row
    if (accountId === null || entryId === null) throw new Error(`credit ${row.creditId} is ${row.state} without an account`)
    const granted = row.ops - row.debtPaidOps
    const detail = `usdc ${usdFromUnits(row.amountUnits)} ${row.txHash}:${row.logIndex}`
    if (row.state === 'pending') {
      await this.#quota.grant(accountId, { operationId: entryId, resumed: true }, granted, detail, 'topup')
      await this.#announce({ id: entryId, kind: 'credited', credit: row })
      return withDatabaseFailure(advanceCredit(this.#database, row, { state: 'credited', creditedMs: this.#clock.now() }))
    }
    const taken = await this.#quota.takeBack(accountId, entryId, granted, `reversed ${detail}`)
    await this.#announce({ id: entryId, kind: 'reversed', credit: row })
    // The debt that this credit had paid is open again.
    const debtOps = granted - taken + row.debtPaidOps
    return withDatabaseFailure(advanceCredit(this.#database, row, { state: 'reversed', debtOps, reversedMs: this.#clock.now() }))
  }

  /** Finishes what other processes left behind. */
  async finishAll(): Promise<void> {
    for (const row of await findUnfinished(this.#database, this.#chainId, UNFINISHED_PER_PASS))
      await this.finish(row).catch((error: unknown) =>
        this.#log.error({ err: error, credit_id: row.creditId }, 'a payment could not be credited, will try again'),
      )
  }
}
