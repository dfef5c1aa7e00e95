import fc from 'fast-check'
import { parse } from 'smol-toml'
import { describe, expect, it } from 'vitest'
import { describeProblem, readGovernanceFile } from '../../../src/governance/file.ts'
import { Places } from '../../../src/governance/locate.ts'

const lines = (...text: string[]): string => `${text.join('\n')}\n`
const problemsIn = (source: string): string[] => {
  const read = readGovernanceFile(source)
  return 'problems' in read ? read.problems.map((problem) => describeProblem('f', problem)) : []
}
const fileOf = (source: string) => {
  const read = readGovernanceFile(source)
  if ('problems' in read) throw new Error(JSON.stringify(read.problems))
  return read.file
}

describe('a governance file', () => {
  it('must say something, and has its paths in quotes', () => {
    for (const nothing of ['', ' \n\n'])
      expect(problemsIn(nothing)).toEqual(['f:1:1: the file is empty; one that lifts every rule says [global]'])
    expect(problemsIn(lines('[global]', '', '[agents.team/writer]'))).toEqual([
      expect.stringMatching(/^f:3:\d+: not TOML: .*; write paths in quotes: \[agents\."team\/writer"\]$/),
    ])
    expect(problemsIn(lines('[agents.a]', 'b/c = 1'))).toEqual([expect.not.stringContaining('quotes')])
  })

  it('says what each agent may', () => {
    const { failSafe, agents } = fileOf(
      lines(
        '[global]',
        'currency = "USD"',
        'fail_safe_action = "allow"',
        '[agents.crawler]',
        'daily_budget = 5',
        'monthly_budget = "99.10"',
        'max_tokens_per_request = 4_000',
        'allowed_models = ["gpt-4o", "claude-*"]',
        '[agents."team/writer"]',
        'allowed_tools = []',
      ),
    )
    expect(failSafe).toBe('allow')
    expect([...agents]).toEqual([
      [
        'crawler',
        { daily: 5_000_000_000n, monthly: 99_100_000_000n, maxTokens: 4000, models: ['gpt-4o', 'claude-*'], tools: null },
      ],
      ['team/writer', { daily: null, monthly: null, maxTokens: null, models: null, tools: [] }],
    ])
  })

  it('denies in an outage when it does not say otherwise', () => {
    expect(fileOf('[agents.a]\n').failSafe).toBe('deny')
  })

  it('takes amounts exactly, as numbers and as text', () => {
    const budgetOf = (amount: string) => fileOf(`[agents.a]\ndaily_budget = ${amount}\n`).agents.get('a')?.daily
    expect(budgetOf('0.1')).toBe(100_000_000n)
    expect(budgetOf('"0.000000001"')).toBe(1n)
    expect(budgetOf('0')).toBe(0n)
    expect(budgetOf('1000000')).toBe(1_000_000_000_000_000n)
  })

  it('names the place of a mistake in the syntax', () => {
    expect(problemsIn('[global]\ncurrency = "USD\n')).toEqual([expect.stringMatching(/^f:2:\d+: not TOML: /)])
    expect(problemsIn('[agents.a]\n[agents.a]\n')).toEqual([expect.stringMatching(/^f:2:\d+: not TOML: /)])
  })

  it('names the place of every other mistake, in order', () => {
    const source = lines(
      '# rules',
      '[global]',
      '  currency = "EUR"',
      'fail_safe = "deny"',
      '',
      '[agents.crawler]',
      'daily_budget = -1',
      'monthly_budget = "many"',
      "'max_tokens_per_request' = 1.5",
      'allowed_models = "gpt-4o"',
      'allowed_tools = ["", 5]',
      'daily_buget = 5',
      '[agents.team.crawler]',
      'daily_budget = nan',
      '[budgets]',
    )
    expect(problemsIn(source)).toEqual([
      'f:3:3: currency must be "USD": every amount is in US dollars',
      'f:4:1: there is no setting "fail_safe": [global] takes currency, fail_safe_action',
      expect.stringMatching(/^f:7:1: daily_budget must be an amount in dollars from 0 to 1,000,000/),
      expect.stringMatching(/^f:8:1: monthly_budget must be an amount/),
      'f:9:1: max_tokens_per_request must be a whole number from 1 to 1,000,000,000',
      expect.stringMatching(/^f:10:1: allowed_models must be a list/),
      expect.stringMatching(/^f:11:1: allowed_tools must be a list/),
      expect.stringMatching(/^f:11:1: allowed_tools must be a list/),
      'f:12:1: there is no setting "daily_buget": [agents.NAME] takes daily_budget, monthly_budget, max_tokens_per_request, allowed_models, allowed_tools',
      expect.stringMatching(/^f:13:1: there is no setting "crawler": .*\[agents."team\/crawler"\]/),
      'f:15:1: there is no setting "budgets": a governance file takes [global], [agents.NAME]',
    ])
  })

  it('refuses names that no agent can have', () => {
    expect(problemsIn(lines('[agents.""]', `[agents.${'x'.repeat(129)}]`))).toEqual([
      'f:1:1: an agent is named by 1 to 128 characters',
      'f:2:1: an agent is named by 1 to 128 characters',
    ])
  })

  it('is not confused by names that objects have', () => {
    expect(problemsIn('[agents.a]\n__proto__ = 1\nconstructor = 2\n')).toHaveLength(2)
    expect(fileOf('[agents.constructor]\ndaily_budget = 1\n').agents.get('constructor')?.daily).toBe(1_000_000_000n)
  })
})

describe('the places of keys', () => {
  it('survive strings, comments, lists and inline tables', () => {
    const source = lines(
      'a = """',
      'b = 1 # ] "',
      '\\""""" # c = 1',
      "'d e' = '''",
      "]'''''",
      'f . "g\\u0068\\U00000069" = [ # x = 1',
      '  "]", [1, 2], { y = "}" },',
      ']',
      '[[list]] # [no]',
      '  h = { i = 1 }',
      '[ t . u ]',
    )
    parse(source)
    const places = new Places(source)
    const at = (...path: string[]): string => Object.values(places.placeOf(path)).join(':')
    expect(at('a')).toBe('1:1')
    expect(at('d e')).toBe('4:1')
    expect(at('f', 'ghi')).toBe('6:1')
    expect(at('list')).toBe('9:1')
    expect(at('list', 'h', 'i')).toBe('10:3')
    expect(at('t', 'u')).toBe('11:1')
    expect(at('b')).toBe('1:1')
  })

  it('end for every text that a TOML parser accepts', () => {
    const piece = fc.constantFrom(
      'a',
      '.b',
      ' = ',
      '1',
      '"x"',
      "'y'",
      '"""',
      "'''",
      '[',
      ']',
      '{',
      '}',
      ',',
      '\n',
      '#',
      ' ',
      '\\',
    )
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 30 }), (pieces) => {
        const source = pieces.join('')
        try {
          parse(source)
        } catch {
          return
        }
        expect(new Places(source).placeOf(['a']).line).toBeLessThanOrEqual(source.split('\n').length)
      }),
      { numRuns: 3000 },
    )
  })
})
