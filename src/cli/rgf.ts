import { readFile, stat } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import type { Database } from '../db/client.ts'
import { describeProblem, type GovernanceFile, MAX_FILE_BYTES, readGovernanceFile } from '../governance/file.ts'
import { describePlan, planGovernance } from '../governance/plan.ts'
import { GovernancePolicy } from '../governance/policy.ts'

const MAX_DAYS = 92

/** The command line was wrong. */
export class RgfUsageError extends Error {}

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
    throw new RgfUsageError('Say "rgf check FILE" or "rgf plan FILE [--days N]".\n')
  const days = Number(values.days ?? 7)
  if (!Number.isInteger(days) || days < 1 || days > MAX_DAYS)
    throw new RgfUsageError(`--days is a whole number from 1 to ${MAX_DAYS}.\n`)
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
  if (found === null || !found.isFile()) throw new RgfUsageError(`There is no file ${path}.\n`)
  if (found.size > MAX_FILE_BYTES) throw new RgfUsageError(`${path} is larger than ${MAX_FILE_BYTES} bytes.\n`)
  return readFile(path, 'utf8')
}

const summaryOf = ({ agents, failSafe }: GovernanceFile): string =>
  `well formed, ${agents.size} ${agents.size === 1 ? 'agent' : 'agents'}, fail_safe_action "${failSafe}".`
