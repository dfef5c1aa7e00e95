import { existsSync } from 'node:fs'
import { type Config, readConfig } from '../config.ts'
import { type Database, openDatabase } from '../db/client.ts'

/** One subcommand of `gvnr`. */
export type Command = {
  /** How it is called, e.g. `verify [account_id]`. */
  readonly usage: string
  /** What it does, in lines of at most 120 characters. */
  readonly help: readonly string[]
  /**
   * @param parameters what stands behind the command's name
   * @returns 0: well; 1: what was looked for was found to be wrong
   * @throws UsageError, ConfigError
   */
  run(parameters: string[]): Promise<0 | 1>
}

/** The command line was wrong, or the environment. */
export class UsageError extends Error {}

export const print = (text: string): void => void process.stdout.write(`${text}\n`)

/** Opens the database that the server would, but makes none. */
export async function openConfigured(config: Config = readConfig()): Promise<Database> {
  if (config.DATABASE_URL === undefined && !existsSync(config.DATA_DIR))
    throw new UsageError(`There is no database in ${config.DATA_DIR}: set DATABASE_URL or DATA_DIR.`)
  return await openFor(config)
}

/** Opens the database that the server would, and makes the embedded one when it does not exist. */
export const openFor = (config: Config): Promise<Database> =>
  openDatabase({
    url: config.DATABASE_URL,
    dataDir: config.DATA_DIR,
    poolSize: 1,
    laneConnections: 1,
    ...(config.DB_PREPARE ? {} : { prepare: false }),
  })

/** Runs work on a database and closes it whatever happens. */
export async function using<T>(database: Database, work: (database: Database) => Promise<T>): Promise<T> {
  try {
    return await work(database)
  } finally {
    await database.close()
  }
}
