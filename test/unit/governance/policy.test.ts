import { describe, expect, it } from 'vitest'
import { pathOf } from '../../../src/budgets/path.ts'
import type { PolicyQuestion } from '../../../src/budgets/policy.ts'
import { readGovernanceFile } from '../../../src/governance/file.ts'
import { GovernancePolicy } from '../../../src/governance/policy.ts'

function policyOf(source: string): GovernancePolicy {
  const read = readGovernanceFile(source)
  if ('problems' in read) throw new Error(JSON.stringify(read.problems))
  return new GovernancePolicy(read.file)
}
const POLICY = policyOf(`
[agents."*"]
allowed_models = ["gpt-4o", "claude-*", "openrouter/meta/llama", "text-embedding-3-small"]
[agents.team]
daily_budget = 2
max_tokens_per_request = 1000
[agents."team/writer"]
monthly_budget = 9
allowed_tools = ["web_*", "mail"]
allowed_models = ["gpt-4o"]
[agents.nothing]
allowed_tools = []
`)
const reasonFor = (agentId: string, asked: PolicyQuestion) => POLICY.refusal(pathOf(agentId), asked)?.reason ?? null
const mayUse = (model: string, agentId = 'anyone') => reasonFor(agentId, { model }) === null

describe('a governance policy', () => {
  it('has the limits of each path, and of no other', () => {
    expect(POLICY.limits('team')).toEqual([null, 2_000_000_000n, null, null, null])
    expect(POLICY.limits('team/writer')).toEqual([null, null, null, 9_000_000_000n, null])
    expect(POLICY.limits('*')).toBeNull()
    expect([...POLICY.limitedPaths].sort()).toEqual(['team', 'team/writer'])
    expect(POLICY.namedLevels('team/writer/run-1')).toEqual(['*', 'team', 'team/writer'])
    expect(POLICY.namedLevels('teammate')).toEqual(['*'])
  })

  it('knows a model in its other spellings, and no other model by its beginning', () => {
    for (const model of [
      'gpt-4o',
      'GPT-4o',
      'openai/gpt-4o',
      'gpt-4o-2024-08-06',
      'claude-opus-4-8',
      'anthropic/claude-haiku-4.5',
    ])
      expect(mayUse(model), model).toBe(true)
    for (const model of ['gpt-4o-mini', 'gpt-4', 'o1', 'text-embedding-3-large', 'meta/llama', 'x-claude-opus', 'gpt-4o/o1'])
      expect(mayUse(model), model).toBe(false)
    expect(mayUse('openrouter/meta/llama')).toBe(true)
  })

  it("holds a child to every level's rules", () => {
    expect(mayUse('claude-opus-4-8', 'team')).toBe(true)
    expect(mayUse('claude-opus-4-8', 'team/writer')).toBe(false)
    expect(mayUse('o1', 'team/writer')).toBe(false)
    expect(reasonFor('team/writer', { model: 'gpt-4o', maxTokens: 1001 })).toBe('max_tokens_exceeded')
    expect(reasonFor('team/writer', { model: 'gpt-4o', maxTokens: 1000 })).toBeNull()
    expect(reasonFor('other', { model: 'gpt-4o', maxTokens: 1001 })).toBeNull()
  })

  it('allows the tools it lists, all of them where it lists none, none of an empty list', () => {
    expect(reasonFor('team/writer', { tool: 'web_search' })).toBeNull()
    expect(reasonFor('team/writer/x', { tool: 'mail' })).toBeNull()
    expect(reasonFor('team/writer', { tool: 'mailer' })).toBe('tool_not_allowed')
    expect(reasonFor('team', { tool: 'anything' })).toBeNull()
    expect(reasonFor('nothing', { tool: 'anything' })).toBe('tool_not_allowed')
  })

  it('says what is allowed, where', () => {
    const refusal = POLICY.refusal(pathOf('team/writer'), { tool: 'rm' })
    expect(refusal).toMatchObject({ path: 'team/writer' })
    expect(refusal?.message).toBe(`Use web_*, mail: only that is allowed for "team/writer" in the operator's governance file.`)
  })
})
