import { parse, TomlError } from 'smol-toml'
import { z } from 'zod'
import { type Nanousd, nanousdFromUsd } from '../core/money.ts'
import { agentIdSchema, text } from '../core/text.ts'
import { Places } from './locate.ts'

/** What a governance file says, checked (contract section 9). */
export type GovernanceFile = {
  /** What happens to agents of the file while the database cannot be reached. */
  readonly failSafe: FailSafe
  /** By agent path. */
  readonly agents: ReadonlyMap<string, AgentRules>
}
export type FailSafe = 'deny' | 'allow'
export type AgentRules = {
  readonly daily: Nanousd | null
  readonly monthly: Nanousd | null
  readonly maxTokens: number | null
  /** null: anything. */
  readonly models: readonly string[] | null
  readonly tools: readonly string[] | null
}

/** A mistake in the file, with its place, both from 1. */
export type FileProblem = { readonly line: number; readonly column: number; readonly message: string }

const EMPTY: FileProblem = { line: 1, column: 1, message: 'the file is empty; one that lifts every rule says [global]' }

export const MAX_FILE_BYTES = 1024 * 1024
const MAX_AGENTS = 10_000
const MAX_NAMES = 1_000
const MAX_USD = 1_000_000
const MAX_PROBLEMS = 50

const budget = z
  .union([
    z.number(),
    z
      .string()
      .regex(/^\d{1,7}(\.\d{1,9})?$/)
      .transform(Number),
  ])
  .refine((usd) => usd >= 0 && usd <= MAX_USD)
  .transform((usd) => nanousdFromUsd(usd, 'down'))
const BUDGET = `must be an amount in dollars from 0 to ${MAX_USD.toLocaleString('en')}, like 5 or "5.00"`
const names = z.array(text(1, 128)).max(MAX_NAMES)
const NAMES = (what: string) =>
  `must be a list of at most ${MAX_NAMES} ${what}, like ["NAME", "PREFIX*"]; an empty list allows none`

const agentSchema = z.strictObject({
  daily_budget: budget.optional(),
  monthly_budget: budget.optional(),
  max_tokens_per_request: z.number().int().min(1).max(1_000_000_000).optional(),
  allowed_models: names.optional(),
  allowed_tools: names.optional(),
})
const fileSchema = z.strictObject({
  global: z
    .strictObject({ currency: z.literal('USD').optional(), fail_safe_action: z.enum(['deny', 'allow']).optional() })
    .optional(),
  agents: z.record(z.string(), agentSchema).optional(),
})

/** What each setting must be, for the messages. */
const RULES: Record<string, string> = {
  global: 'must be a table: [global]',
  agents: 'must be tables: [agents.NAME]',
  currency: 'must be "USD": every amount is in US dollars',
  fail_safe_action: 'must be "deny" or "allow"',
  daily_budget: BUDGET,
  monthly_budget: BUDGET,
  max_tokens_per_request: 'must be a whole number from 1 to 1,000,000,000',
  allowed_models: NAMES('model ids'),
  allowed_tools: NAMES('actions'),
}

/**
 * Reads a governance file.
 * @returns the file, or every mistake in it in order of place (of a text that is no TOML, the first)
 */
export function readGovernanceFile(source: string): { readonly file: GovernanceFile } | { readonly problems: FileProblem[] } {
  // What a write in two steps leaves for a moment must not lift every rule.
  if (source.trim() === '') return { problems: [EMPTY] }
  let data: unknown
  try {
    data = parse(source)
  } catch (error) {
    if (!(error instanceof TomlError)) throw error
    const message = (error.message.split('\n')[0] ?? '').replace(/^Invalid TOML document: /, '')
    return {
      problems: [{ line: error.line, column: error.column, message: `not TOML: ${message}${pathHint(source, error.line)}` }],
    }
  }
  const parsed = fileSchema.safeParse(data)
  const named = parsed.success ? namingProblems(Object.keys(parsed.data.agents ?? {})) : []
  const mistakes = parsed.success ? named : parsed.error.issues.flatMap((issue) => mistakesOf(issue, data))
  if (!parsed.success || mistakes.length > 0) {
    const places = new Places(source)
    const problems = mistakes.map(({ path, message }) => ({ ...places.placeOf(path), message }))
    return { problems: problems.sort((a, b) => a.line - b.line || a.column - b.column).slice(0, MAX_PROBLEMS) }
  }
  const { global, agents } = parsed.data
  const rules = Object.entries(agents ?? {}).map(([agentId, agent]): [string, AgentRules] => [
    agentId,
    {
      daily: agent.daily_budget ?? null,
      monthly: agent.monthly_budget ?? null,
      maxTokens: agent.max_tokens_per_request ?? null,
      models: agent.allowed_models ?? null,
      tools: agent.allowed_tools ?? null,
    },
  ])
  return { file: { failSafe: global?.fail_safe_action ?? 'deny', agents: new Map(rules) } }
}

/** `[agents.team/writer]`: what was meant is a path, which TOML takes in quotes only. */
function pathHint(source: string, line: number): string {
  const [, path] = /^\s*\[\s*agents\s*\.\s*([^"'\]]*\/[^"'\]]*?)\s*\]/.exec(source.split('\n')[line - 1] ?? '') ?? []
  return path === undefined ? '' : `; write paths in quotes: [agents."${path}"]`
}

/** One line for people, as compilers write it. */
export const describeProblem = (file: string, { line, column, message }: FileProblem): string =>
  `${file}:${line}:${column}: ${message}`

type Mistake = { readonly path: readonly PropertyKey[]; readonly message: string }

function mistakesOf(issue: z.core.$ZodIssue, data: unknown): Mistake[] {
  if (issue.code === 'unrecognized_keys') return issue.keys.map((key) => unknownKey(issue.path, key, data))
  const [section, agent, setting] = issue.path.map(String)
  const name = section === 'agents' ? setting : agent
  const shown = name ?? section ?? ''
  if (section === 'agents' && agent !== undefined && setting === undefined)
    return [{ path: issue.path, message: `[agents.${agent}] must be a table of settings` }]
  return [{ path: issue.path, message: `${shown} ${RULES[shown] ?? 'cannot be used'}` }]
}

function unknownKey(path: readonly PropertyKey[], key: string, data: unknown): Mistake {
  const [section, agent] = path.map(String)
  const where = section === undefined ? 'a governance file' : section === 'agents' ? '[agents.NAME]' : `[${section}]`
  const known =
    section === undefined ? ['[global]', '[agents.NAME]'] : Object.keys((section === 'agents' ? agentSchema : GLOBAL).shape)
  // `[agents.team.crawler]` makes a table inside `team`: what was meant is most often a path.
  const isPath = agent !== undefined && isTable([...path, key].reduce<unknown>(memberOf, data))
  const hint = isPath ? `. For an agent's path write [agents."${agent}/${key}"]` : ''
  return { path: [...path, key], message: `there is no setting "${key}": ${where} takes ${known.join(', ')}${hint}` }
}
const isTable = (value: unknown): value is Record<PropertyKey, unknown> => typeof value === 'object' && value !== null
const memberOf = (value: unknown, key: PropertyKey): unknown => (isTable(value) ? value[key] : undefined)
const GLOBAL = fileSchema.shape.global.unwrap()

function namingProblems(agents: readonly string[]): Mistake[] {
  if (agents.length > MAX_AGENTS) return [{ path: ['agents'], message: `at most ${MAX_AGENTS} agents may be named` }]
  return agents
    .filter((agentId) => !agentIdSchema.safeParse(agentId).success)
    .map((agentId) => ({ path: ['agents', agentId], message: 'an agent is named by 1 to 128 characters' }))
}
