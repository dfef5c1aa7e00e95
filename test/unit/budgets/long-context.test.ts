import { expect, it } from 'vitest'
import type { DecisionEngine } from '../../../src/budgets/engine.ts'
import { BudgetService } from '../../../src/budgets/service.ts'
import type { ClearCommand } from '../../../src/budgets/state.ts'
import { ManualClock } from '../../../src/core/clock.ts'
import type { Database } from '../../../src/db/client.ts'
import { createCatalogue } from '../../../src/prices/catalogue.ts'
import { estimateNanousd, ratesAt } from '../../../src/prices/cost.ts'

it('holds a long request at the dearer rate that its input tokens lead to', async () => {
  const catalogue = createCatalogue()
  const commands: ClearCommand[] = []
  const engine = {
    submit: async (_accountId: string, command: ClearCommand) => {
      commands.push(command)
      return { approved: true, holdId: '', remaining: 0n, ops: 0n, expiresMs: 0 }
    },
  } as unknown as DecisionEngine
  const database = {} as Database
  const service = new BudgetService({ engine, catalogue, database, clock: new ManualClock(0) })
  const model = 'gemini-2.5-pro'
  for (const estimatedInputTokens of [1_000, 1_000_000])
    await service.clear(
      '',
      { operationId: '', resumed: false },
      { agentId: 'a', model, estimatedTokens: 60_000, estimatedInputTokens, hold_ms: 1 },
    )
  const [short, long] = [catalogue.rateFor(model), catalogue.rateFor(model, 1_000_000)]
  expect(long.input).toBeGreaterThan(short.input)
  expect(commands.map(({ estimate }) => estimate)).toEqual([
    estimateNanousd(short, 60_000, 1_000),
    estimateNanousd(long, 60_000, 1_000_000),
  ])
  expect(commands.map(({ rates }) => rates)).toEqual([short, long])
  // What is settled later is priced by what it was, not by what was expected.
  for (const { rates } of commands) {
    expect(ratesAt(rates, 1_000)).toMatchObject({ input: short.input, output: short.output })
    expect(ratesAt(rates, 1_000_000)).toMatchObject({ input: long.input, output: long.output })
  }
})
