import { sql } from 'drizzle-orm'
import { bigint, boolean, index, integer, pgTable, primaryKey, text, unique, uuid } from 'drizzle-orm/pg-core'

const ms = (name: string) => bigint(name, { mode: 'number' })
const units = (name: string) => bigint(name, { mode: 'bigint' })
const block = (name: string) => bigint(name, { mode: 'bigint' })

/**
 * One row per USDC transfer to an address of ours: the place where "once" is decided. The key is the transfer itself, so a request,
 * a claim by hash and the follower that find the same transfer meet in one row. (Like api_keys, looked up before the account is known.)
 *
 * `log_index` counts within the transaction, not within the block as the chain's own does: a transaction that a reorganisation moves
 * to another block keeps its key.
 *
 * state: unattributed → pending → credited → reversing → reversed (→ pending again when it comes back); internal is a move between
 * our own addresses. `pending` and `reversing` name the ledger entry about to be written, so whoever finds the row can finish it.
 */
export const credits = pgTable(
  'credits',
  {
    chainId: integer('chain_id').notNull(),
    txHash: text('tx_hash').notNull(),
    logIndex: integer('log_index').notNull(),
    creditId: uuid('credit_id').notNull(),
    state: text('state', { enum: ['unattributed', 'pending', 'credited', 'reversing', 'reversed', 'internal'] }).notNull(),
    source: text('source', { enum: ['x402', 'hash', 'deposit', 'operator'] }),
    accountId: uuid('account_id'),
    payer: text('payer').notNull(),
    receiver: text('receiver').notNull(),
    amountUnits: units('amount_units').notNull(),
    /** What the transfer buys; 0 while nobody owns it. */
    ops: bigint('ops', { mode: 'bigint' }).notNull(),
    /** Of `ops`: kept back because the account owed them for a reversed credit. */
    debtPaidOps: bigint('debt_paid_ops', { mode: 'bigint' }).notNull(),
    /** Reversed, but already spent: the account's next credits pay this first. */
    debtOps: bigint('debt_ops', { mode: 'bigint' }).notNull(),
    /** The ledger entry of the latest step. */
    entryId: uuid('entry_id'),
    /** EIP-3009 nonce, when the transfer was made by an authorization. */
    nonce: text('nonce'),
    blockNumber: block('block_number').notNull(),
    blockHash: text('block_hash').notNull(),
    isFinal: boolean('is_final').notNull(),
    seenMs: ms('seen_ms').notNull(),
    creditedMs: ms('credited_ms'),
    reversedMs: ms('reversed_ms'),
  },
  (t) => [
    primaryKey({ columns: [t.chainId, t.txHash, t.logIndex] }),
    unique('credits_id').on(t.creditId),
    index('credits_nonce').on(t.chainId, t.payer, t.nonce),
    index('credits_account').on(t.accountId, t.creditId),
    index('credits_open').on(t.chainId, t.state).where(sql`${t.state} in ('unattributed', 'pending', 'reversing')`),
    index('credits_unfinal').on(t.chainId, t.blockNumber).where(sql`not ${t.isFinal}`),
  ],
)

/**
 * x402 payments that somebody may settle, committed before the settlement is asked for: a transfer on the chain carries only
 * payer and nonce, and this row says whose account they pay for. Followed until settled or past `valid_before_ms`.
 */
export const paymentIntents = pgTable(
  'payment_intents',
  {
    chainId: integer('chain_id').notNull(),
    payer: text('payer').notNull(),
    nonce: text('nonce').notNull(),
    accountId: uuid('account_id').notNull(),
    receiver: text('receiver').notNull(),
    amountUnits: units('amount_units').notNull(),
    validBeforeMs: ms('valid_before_ms').notNull(),
    /** The authorization was seen unused at this block: a settlement at or before it was not made for this intent. */
    fromBlock: block('from_block').notNull(),
    state: text('state', { enum: ['open', 'settled', 'expired'] }).notNull(),
    txHash: text('tx_hash'),
    /** Until when one request has the right to ask for the settlement; others wait for its result. */
    leaseMs: ms('lease_ms').notNull(),
    /** The process that has this right: when it is gone, so is the right. Null for one that others do not see. */
    processId: uuid('process_id'),
    createdMs: ms('created_ms').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.chainId, t.payer, t.nonce] }),
    index('payment_intents_open').on(t.chainId, t.validBeforeMs).where(sql`${t.state} = 'open'`),
  ],
)

/** Every address whose incoming USDC is ours: the shared one (no account) and each account's own, once it has been shown. */
export const receivingAddresses = pgTable(
  'receiving_addresses',
  {
    chainId: integer('chain_id').notNull(),
    address: text('address').notNull(),
    accountId: uuid('account_id'),
    /** What the address held before it was watched. */
    openingUnits: units('opening_units').notNull(),
    createdMs: ms('created_ms').notNull(),
  },
  (t) => [primaryKey({ columns: [t.chainId, t.address] })],
)

/** USDC that left an address of ours (sweeping, refunds), so that balances can be checked against what came in. */
export const outflows = pgTable(
  'outflows',
  {
    chainId: integer('chain_id').notNull(),
    txHash: text('tx_hash').notNull(),
    logIndex: integer('log_index').notNull(),
    payer: text('payer').notNull(),
    receiver: text('receiver').notNull(),
    amountUnits: units('amount_units').notNull(),
    blockNumber: block('block_number').notNull(),
  },
  (t) => [primaryKey({ columns: [t.chainId, t.txHash, t.logIndex] })],
)

/** How far the chain has been read, and which process reads it. One row per chain. */
export const chainCursors = pgTable('chain_cursors', {
  chainId: integer('chain_id').primaryKey(),
  scannedBlock: block('scanned_block').notNull(),
  scannedHash: text('scanned_hash').notNull(),
  /** Up to here the chain is final and has been read twice. */
  finalBlock: block('final_block').notNull(),
  leaseHolder: uuid('lease_holder'),
  leaseMs: ms('lease_ms').notNull(),
})
