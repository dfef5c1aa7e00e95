import { readFile, stat } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import type { Database } from '../db/client.ts'
import { describeProblem, type GovernanceFile, MAX_FILE_BYTES, readGovernanceFile } from '../governance/file.ts'
import { describePlan, planGovernance } from '../governance/plan.ts'
import { GovernancePolicy } from '../governance/policy.ts'
import { type Command, openConfigured, UsageError } from './command.ts'

const MAX_DAYS = 92

export const rgfCommand: Command = {
  usage: 'rgf check [FILE] | plan [FILE] [--days N]',
  help: [
    'check: every mistake in a governance file (.rgf) with its line and column. Ends with 1 when there are any.',
    'plan: replay the last days (7) under a governance file and print what it would have denied and saved. Reads only.',
  ],
  run: (parameters) => rgf(parameters, openConfigured, (text) => process.stdout.write(text)),
}

/**
 * `rgf check FILE` and `rgf plan FILE`.
 * @param openDatabase opens the configured database; only `plan` needs it
 * @returns 0: well; 1: the file has mistakes
 */
export async function rgf(
  parameters: string[],
  openDatabase: () => Promise<Database>,
  print: (text: string) => void,
): Promise<0 | 1> {
  const { values, positionals } = parseArgs({ args: parameters, allowPositionals: true, options: { days: { type: 'string' } } })
  const [action, path = '.rgf', ...more] = positionals
  if ((action !== 'check' && action !== 'plan') || more.length > 0)
    throw new UsageError('Say "rgf check FILE" or "rgf plan FILE [--days N]".')
  const days = Number(values.days ?? 7)
  if (!Number.isInteger(days) || days < 1 || days > MAX_DAYS)
    throw new UsageError(`--days is a whole number from 1 to ${MAX_DAYS}.`)
  const read = readGovernanceFile(await readSource(path))
  if ('problems' in read) {
    for (const problem of read.problems) print(`${describeProblem(path, problem)}\n`)
    return 1
  }
  print(`${path}: ${summaryOf(read.file)}\n`)
  if (action === 'check') return 0
  const database = await openDatabase()
  try {
    const plan = await planGovernance(database, new GovernancePolicy(read.file), { days, now_ms: Date.now() })
    print(`${describePlan(plan)}\n`)
    return 0
  } finally {
    await database.close()
  }
}

async function readSource(path: string): Promise<string> {
  const found = await stat(path).catch(() => null)
  if (found === null || !found.isFile()) throw new UsageError(`There is no file ${path}.`)
  if (found.size > MAX_FILE_BYTES) throw new UsageError(`${path} is larger than ${MAX_FILE_BYTES} bytes.`)
  return readFile(path, 'utf8')
}

const summaryOf = ({ agents, failSafe }: GovernanceFile): string =>
  `well formed, ${agents.size} ${agents.size === 1 ? 'agent' : 'agents'}, fail_safe_action "${failSafe}".`
