import { audit } from './cli/audit.ts'
import { type Command, UsageError } from './cli/command.ts'
import { keys } from './cli/keys.ts'
import { rgfCommand } from './cli/rgf.ts'
import { migrate, start } from './cli/start.ts'
import { sweep } from './cli/sweep.ts'
import { verify, verifyPayments } from './cli/verify.ts'
import { ConfigError } from './config.ts'
import { VERSION } from './version.ts'

/** Every subcommand, in the order of the help. */
const COMMANDS: Readonly<Record<string, Command>> = {
  start,
  migrate,
  verify,
  'verify-payments': verifyPayments,
  sweep,
  rgf: rgfCommand,
  audit,
  keys,
}

const HELP = `Usage: gvnr <command>

${Object.values(COMMANDS)
  .map(({ usage, help }) => [`  ${usage}`, ...help.map((line) => `      ${line}`)].join('\n'))
  .join('\n')}
  help, version

The database is the one that the environment names: DATABASE_URL, else the embedded one in DATA_DIR (.gvnr).
`

/** 0: well; 1: something is wrong with what was looked at; 2: could not be done. */
async function main([name, ...parameters]: string[]): Promise<0 | 1 | 2> {
  if (name === undefined) throw new UsageError(`Say what to do.\n\n${HELP}`)
  if (['help', '--help', '-h'].includes(name)) process.stdout.write(HELP)
  else if (['version', '--version', '-v'].includes(name)) process.stdout.write(`${VERSION}\n`)
  else {
    const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
    if (command === undefined) throw new UsageError(`There is no command "${name}".\n\n${HELP}`)
    return await command.run(parameters)
  }
  return 0
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code
  },
  (error: unknown) => {
    process.exitCode = 2
    if (error instanceof ConfigError) process.stderr.write(`Check the environment.\n${error.message}\n`)
    else process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
  },
)
