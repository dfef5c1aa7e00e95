import { ACCOUNT_PATH, pathOf } from '../budgets/path.ts'
import type { Policy, PolicyQuestion, PolicyRefusal } from '../budgets/policy.ts'
import type { PerWindow } from '../budgets/state.ts'
import type { Nanousd } from '../core/money.ts'
import { readModelId, withoutDate, withoutVariant } from '../prices/normalise.ts'
import type { AgentRules, GovernanceFile } from './file.ts'

/** A governance file made ready for decisions. A pure value: a changed file makes another one. */
export class GovernancePolicy implements Policy {
  readonly limitedPaths: readonly string[]
  readonly #limits: ReadonlyMap<string, PerWindow<Nanousd | null>>
  readonly #rules: ReadonlyMap<string, CompiledRules>
  readonly #agents: ReadonlyMap<string, AgentRules>

  constructor(file: GovernanceFile) {
    const limited = [...file.agents].filter(([, { daily, monthly }]) => daily !== null || monthly !== null)
    this.#limits = new Map(limited.map(([agentId, { daily, monthly }]) => [agentId, [null, daily, null, monthly, null]]))
    this.limitedPaths = [...this.#limits.keys()]
    const ruled = [...file.agents].filter(
      ([, rules]) => rules.maxTokens !== null || rules.models !== null || rules.tools !== null,
    )
    this.#rules = new Map(ruled.map(([agentId, rules]) => [agentId, compile(rules)]))
    this.#agents = file.agents
  }

  limits(agentId: string): PerWindow<Nanousd | null> | null {
    return this.#limits.get(agentId) ?? null
  }

  /** Every level's rules hold: a child's cannot loosen its parent's. */
  refusal(path: readonly string[], asked: PolicyQuestion): PolicyRefusal | null {
    if (this.#rules.size === 0) return null
    for (const level of path) {
      const rules = this.#rules.get(level)
      const found = rules && brokenRule(rules, asked)
      if (found)
        return { ...found, path: level, message: `${found.message} for ${whom(level)} in the operator's governance file.` }
    }
    return null
  }

  /** The levels of an agent's path that the file names, widest first; none: the file does not know the agent. */
  namedLevels(agentId: string): string[] {
    return pathOf(agentId).filter((level) => this.#agents.has(level))
  }
}

const whom = (level: string): string => (level === ACCOUNT_PATH ? 'every agent' : `"${level}"`)

type CompiledRules = {
  readonly maxTokens: number | null
  readonly models: Names | null
  readonly tools: Names | null
}

const compile = ({ maxTokens, models, tools }: AgentRules): CompiledRules => ({
  maxTokens,
  models: models && new Names(models, entryOfModel, namesOfModel),
  tools: tools && new Names(tools, asItIs, (tool) => [tool]),
})

function brokenRule(rules: CompiledRules, { model, maxTokens, tool }: PolicyQuestion): Omit<PolicyRefusal, 'path'> | null {
  if (model !== undefined && rules.models?.allows(model) === false)
    return { reason: 'model_not_allowed', message: `Use ${rules.models.listed}: only that is allowed` }
  if (maxTokens !== undefined && rules.maxTokens !== null && maxTokens > rules.maxTokens)
    return { reason: 'max_tokens_exceeded', message: `Ask for at most ${rules.maxTokens} tokens per request: that is the cap` }
  if (tool !== undefined && rules.tools?.allows(tool) === false)
    return { reason: 'tool_not_allowed', message: `Use ${rules.tools.listed}: only that is allowed` }
  return null
}

const LISTED = 10

/** A list of allowed names; one that ends in `*` allows every name that begins like it. */
class Names {
  readonly listed: string
  readonly #exact: ReadonlySet<string>
  readonly #prefixes: readonly string[]
  readonly #spellings: (name: string) => readonly string[]

  /**
   * @param entry how a name of the list is kept
   * @param spellings every entry that allows a name
   */
  constructor(names: readonly string[], entry: (name: string) => string, spellings: (name: string) => readonly string[]) {
    const more = names.length > LISTED ? `, … (${names.length} in all)` : ''
    this.listed = names.length === 0 ? 'none (the list is empty)' : `${names.slice(0, LISTED).join(', ')}${more}`
    const isPrefix = (name: string): boolean => name.endsWith('*')
    this.#exact = new Set(names.filter((name) => !isPrefix(name)).map(entry))
    this.#prefixes = names.filter(isPrefix).map((name) => name.slice(0, -1).toLowerCase())
    this.#spellings = spellings
  }

  allows(name: string): boolean {
    const spellings = this.#spellings(name)
    return (
      spellings.some((spelling) => this.#exact.has(spelling)) ||
      this.#prefixes.some((prefix) => spellings.some((spelling) => spelling.toLowerCase().startsWith(prefix)))
    )
  }
}

const asItIs = (name: string): string => name

/** An entry with a provider prefix means that provider's model; one without, the model from anywhere. */
function entryOfModel(name: string): string {
  const { canonical, segments } = readModelId(name)
  return segments.length > 1 ? segments.join('/') : canonical
}

/**
 * A model as it is spelled, and as its price is found: without provider prefix and case, and without release date. `gpt-4o` in the list allows
 * `openai/gpt-4o-2024-08-06`, not `gpt-4o-mini`.
 */
function namesOfModel(model: string): string[] {
  const { canonical, segments } = readModelId(model)
  const whole = segments.join('/')
  const plain = withoutVariant(canonical)
  return [whole, canonical, plain, withoutDate(plain)]
}
