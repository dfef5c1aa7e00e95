import { readConfig } from '../config.ts'
import { migrateDatabase } from '../db/migrate.ts'
import { migrationsFolder } from '../package-root.ts'
import { type Command, openFor, print, UsageError, using } from './command.ts'

export const start: Command = {
  usage: 'start',
  help: ['Serve, after applying the migrations. SIGTERM and SIGINT end it. Every setting is an environment variable.'],
  async run(parameters) {
    if (parameters.length > 0) throw new UsageError('start takes no parameters: set HOST, PORT, DATABASE_URL and so on.')
    await import('../main.ts')
    return 0
  },
}

export const migrate: Command = {
  usage: 'migrate',
  help: ['Bring the database up to this release and say what was applied. `start` does the same by itself.'],
  async run(parameters) {
    if (parameters.length > 0) throw new UsageError('migrate takes no parameters.')
    return await using<0 | 1>(await openFor(readConfig()), async (database) => {
      const { applied } = await migrateDatabase(database, migrationsFolder())
      for (const tag of applied) print(`applied ${tag}`)
      print(applied.length === 0 ? 'The database is up to date.' : `${applied.length} migrations applied.`)
      return 0
    })
  },
}
