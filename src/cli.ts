import { existsSync } from 'node:fs'
import { describeDifference, verifyBalances } from './budgets/verify.ts'
import { type Config, ConfigError, readConfig } from './config.ts'
import { isUuid } from './core/ids.ts'
import { type Database, openDatabase } from './db/client.ts'

const HELP = `Usage: gvnr <command>

  verify [account_id]   Recompute every balance from holds and ledger and compare with what is stored.
                        May run beside a working server on PostgreSQL. Ends with 1 and a list when something differs.
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
    else if (error instanceof UsageError) process.stderr.write(error.message)
    else process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  },
)
