// Fails when the tables in src/*/tables.ts and the files in migrations/ disagree: someone changed a table and did not
// run `npm run migrations:generate`. Works on a copy, so that the check leaves no file behind.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'

const scratch = `.tmp/migrations-check-${process.pid}`

function drizzleKit(...args) {
  const command = ['node_modules/drizzle-kit/bin.cjs', ...args]
  return execFileSync(process.execPath, command, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
}

if (!existsSync('migrations/meta/_journal.json')) throw new Error('migrations/meta/_journal.json is missing: nothing to check')

try {
  mkdirSync('.tmp', { recursive: true })
  cpSync('migrations', scratch, { recursive: true })
  const before = readdirSync(scratch).sort().join('\n')
  drizzleKit('check', '--dialect', 'postgresql', '--out', scratch)
  const output = drizzleKit('generate', '--dialect', 'postgresql', '--schema', './src/*/tables.ts', '--out', scratch)
  const after = readdirSync(scratch).sort().join('\n')
  if (before !== after) {
    console.error(output)
    console.error('The tables differ from the migrations. Run `npm run migrations:generate` and commit the new file.')
    process.exitCode = 1
  } else if (!output.includes('No schema changes')) {
    console.error(output)
    console.error('drizzle-kit did not say that there is nothing to generate.')
    process.exitCode = 1
  }
} catch (error) {
  console.error(error.stdout ?? '', error.stderr ?? '', error.message)
  process.exitCode = 1
} finally {
  rmSync(scratch, { recursive: true, force: true })
}
