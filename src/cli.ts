#!/usr/bin/env node
import { createReadStream, existsSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { type KeptHead, verifyExport } from './audit/verify.ts'
import { usdFromUnits } from './billing/packs.ts'
import { openChain } from './billing/service.ts'
import { findSweepable, sweepOne } from './billing/sweep.ts'
import { verifyBalances as verifyReceived } from './billing/verify.ts'
import { billingSettings } from './billing-settings.ts'
import { describeDifference, verifyBalances } from './budgets/verify.ts'
import { RgfUsageError, rgf } from './cli/rgf.ts'
import { type Config, ConfigError, readConfig, readSweepKeys } from './config.ts'
import { isUuid } from './core/ids.ts'
import { type Database, openDatabase } from './db/client.ts'

const HELP = `Usage: gvnr <command>

  verify [account_id]   Recompute every balance from holds and ledger and compare with what is stored.
                        May run beside a working server on PostgreSQL. Ends with 1 and a list when something differs.
  verify-payments       Compare the USDC that the receiving addresses hold with what was credited, what names no account
                        and what went out. Ends with 1 and a list when something is missing.
  sweep [--to 0x…] [--min usd] [--send]
                        Move USDC from the accounts' own addresses to the treasury (PAYTO_ADDRESS unless --to says otherwise).
                        Without --send it only says what it would do. Needs DEPOSIT_XPRV and SWEEP_GAS_PRIVATE_KEY to send.
  rgf check [FILE]      Check a governance file (.rgf): every mistake with its line and column. Ends with 1 when there are any.
  rgf plan [FILE] [--days N]
                        Replay the last days (7) under a governance file and print what it would have denied and saved. Reads only.
  audit verify FILE [--head SEQ:HASH]
                        Check an export of GET /v1/audit (NDJSON or CSV; - reads standard input): nothing is missing, changed or out of
                        order. --head is one that was kept from GET /v1/audit/head. Needs no database. Ends with 1 when something is wrong.
  help                  This text.

The database is the one that the environment names: DATABASE_URL, else the embedded one in DATA_DIR (.gvnr).
`

/** The command line was wrong, or the environment. */
class UsageError extends Error {}

/** 0: well; 1: balances differ; 2: could not be done. */
async function main([command, ...rest]: string[]): Promise<0 | 1 | 2> {
  switch (command) {
    case 'verify':
      return await verify(rest)
    case 'verify-payments':
      return await verifyPayments()
    case 'audit':
      return await audit(rest)
    case 'sweep':
      return await sweep(rest)
    case 'rgf':
      return await rgf(
        rest,
        () => openConfigured(readConfig()),
        (text) => process.stdout.write(text),
      )
    case 'help':
    case '--help':
    case '-h':
      process.stdout.write(HELP)
      return 0
    case undefined:
      throw new UsageError(`Say what to do.\n\n${HELP}`)
    default:
      throw new UsageError(`There is no command "${command}".\n\n${HELP}`)
  }
}

async function verify(parameters: string[]): Promise<0 | 1> {
  const accountId = parameters[0]?.toLowerCase()
  if (parameters.length > 1 || (accountId !== undefined && !isUuid(accountId)))
    throw new UsageError('verify takes at most one account_id, as GET /v1/account shows it.\n')
  const database = await openConfigured(readConfig())
  try {
    const { accounts, envelopes, differences } = await verifyBalances(database, accountId === undefined ? {} : { accountId })
    if (accountId !== undefined && accounts === 0) throw new UsageError(`There is no account ${accountId}.\n`)
    for (const difference of differences) process.stdout.write(`${describeDifference(difference)}\n`)
    const scope = `${accounts} accounts, ${envelopes} envelopes`
    process.stdout.write(
      differences.length === 0 ? `${scope}: every balance is right.\n` : `${scope}: ${differences.length} differences.\n`,
    )
    return differences.length === 0 ? 0 : 1
  } finally {
    await database.close()
  }
}

async function verifyPayments(): Promise<0 | 1> {
  const config = readConfig()
  const database = await openConfigured(config)
  try {
    const report = await verifyReceived(database, openChain(billingSettings(config)).chain)
    for (const { address, expectedUnits, balanceUnits } of report.wrong)
      process.stdout.write(`${address} should hold ${usdFromUnits(expectedUnits)} USDC and holds ${usdFromUnits(balanceUnits)}\n`)
    const sums = `credited ${usdFromUnits(report.creditedUnits)} USDC, unattributed ${usdFromUnits(report.unattributedUnits)} USDC`
    const verdict = report.wrong.length === 0 ? 'every unit is accounted for' : `${report.wrong.length} addresses differ`
    process.stdout.write(`block ${report.blockNumber}: ${sums}: ${verdict}.\n`)
    return report.wrong.length === 0 ? 0 : 1
  } finally {
    await database.close()
  }
}

async function audit([command, ...rest]: string[]): Promise<0 | 1> {
  const { values, positionals } = parseArgs({ args: rest, options: { head: { type: 'string' } }, allowPositionals: true })
  const [file, ...more] = positionals
  if (command !== 'verify' || file === undefined || more.length > 0)
    throw new UsageError('Say which export to check: audit verify FILE [--head SEQ:HASH].\n')
  const source = file === '-' ? process.stdin : createReadStream(file)
  const kept = values.head === undefined ? null : keptHead(values.head)
  const { accountId, entries, unsealed, newestSeq, newestHash, problems } = await verifyExport(source.setEncoding('utf8'), kept)
  for (const problem of problems) process.stdout.write(`${problem}\n`)
  const sealed = `account ${accountId ?? 'unknown'}: ${entries} sealed entries`
  if (problems.length > 0) {
    process.stdout.write(`${sealed}: this is not the whole audit trail as it was sealed.\n`)
    return 1
  }
  process.stdout.write(
    `${sealed}, nothing missing or changed, up to ${newestSeq}:${newestHash ?? ''}; ${unsealed} newer ones have no seal yet.\n`,
  )
  if (kept === null)
    process.stdout.write('Checked within itself only: a head that you kept (--head) proves that it is the same chain.\n')
  return 0
}

function keptHead(text: string): KeptHead {
  const [, seq, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? []
  if (seq === undefined || hash === undefined) throw new UsageError('--head is SEQ:HASH, as GET /v1/audit/head answers them.\n')
  return { seq: Number(seq), hash }
}

async function sweep(parameters: string[]): Promise<0> {
  const { values } = parseArgs({
    args: parameters,
    options: { to: { type: 'string' }, min: { type: 'string', default: '1' }, send: { type: 'boolean', default: false } },
  })
  const config = readConfig()
  const treasury = values.to ?? config.PAYTO_ADDRESS
  const minimum = Math.round(Number(values.min) * 1_000_000)
  if (treasury === undefined || !/^0x[0-9a-fA-F]{40}$/.test(treasury))
    throw new UsageError('Say where the money goes: --to 0x… or PAYTO_ADDRESS.\n')
  if (!Number.isSafeInteger(minimum) || minimum < 0) throw new UsageError('--min is an amount in dollars, for example --min 1.\n')
  const keys = values.send ? readSweepKeys() : null
  const database = await openConfigured(config)
  try {
    const { chain, rpcUrls } = openChain(billingSettings(config))
    const found = await findSweepable(database, chain, BigInt(minimum))
    for (const one of found) {
      const sent =
        keys === null ? 'would move' : `moved in ${await sweepOne(chain, rpcUrls, keys, one, treasury as `0x${string}`)}:`
      process.stdout.write(`${one.address} ${sent} ${usdFromUnits(one.units)} USDC (account ${one.accountId})\n`)
    }
    const total = usdFromUnits(found.reduce((sum, { units }) => sum + units, 0n))
    process.stdout.write(
      `${found.length} addresses, ${total} USDC to ${treasury}${keys === null ? ': nothing was sent, add --send' : ''}.\n`,
    )
    return 0
  } finally {
    await database.close()
  }
}

/** Opens the database that the server would, but makes none. */
async function openConfigured(config: Config): Promise<Database> {
  if (config.DATABASE_URL === undefined && !existsSync(config.DATA_DIR))
    throw new UsageError(`There is no database in ${config.DATA_DIR}: set DATABASE_URL or DATA_DIR.\n`)
  return await openDatabase({
    url: config.DATABASE_URL,
    dataDir: config.DATA_DIR,
    poolSize: 1,
    laneConnections: 1,
    ...(config.DB_PREPARE ? {} : { prepare: false }),
  })
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code
  },
  (error: unknown) => {
    process.exitCode = 2
    if (error instanceof ConfigError) process.stderr.write(`Check the environment.\n${error.message}\n`)
    else if (error instanceof UsageError || error instanceof RgfUsageError) process.stderr.write(error.message)
    else process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  },
)
