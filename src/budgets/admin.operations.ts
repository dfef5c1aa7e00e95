import { createHash } from 'node:crypto'
import { z } from 'zod'
import { DomainError } from '../core/errors.ts'
import { isUuid } from '../core/ids.ts'
import { defineOperation, type RunContext } from '../core/operation.ts'
import { agentIdSchema, text } from '../core/text.ts'
import type { BudgetDeps } from './operations.ts'
import { ACCOUNT_PATH } from './path.ts'
import type { Window } from './windows.ts'

const accountId = z.string().refine(isUuid, 'must be an account_id, as GET /v1/account shows it')
const note = text(1, 280).optional().describe('Why, for the audit trail')
const who = (reason: string | undefined): string => (reason === undefined ? 'operator' : `operator: ${reason}`)

const switchInput = z.object({
  account_id: accountId,
  agent_id: agentIdSchema.optional().describe('This path and everything below it; the whole account when left out'),
  reason: note,
})
const switchOutput = z.object({
  ok: z.literal(true),
  account_id: z.string(),
  agent_id: z.string(),
  suspended: z.boolean(),
  changed: z.boolean().describe('false when it was so already'),
})

async function setSuspended(
  { budgets }: BudgetDeps,
  input: z.output<typeof switchInput>,
  context: RunContext,
  suspended: boolean,
): Promise<z.input<typeof switchOutput>> {
  const agentId = input.agent_id ?? ACCOUNT_PATH
  const changed = await budgets.setSuspended(input.account_id, context, agentId, suspended, who(input.reason))
  return { ok: true, account_id: input.account_id, agent_id: agentId, suspended, changed }
}

export const suspendAgents = defineOperation({
  name: 'admin_suspend',
  title: 'Suspend an account or an agent (operator)',
  description:
    'The kill switch: from the next decision on nothing is approved there, whatever the limits say, until it is resumed.',
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/suspend',
  access: { kind: 'admin' },
  input: switchInput,
  output: switchOutput,
  errors: ['account_not_found'],
  run: (deps: BudgetDeps, input, context) => setSuspended(deps, input, context, true),
})

export const resumeAgents = defineOperation({
  name: 'admin_resume',
  title: 'Resume an account or an agent (operator)',
  description: 'Ends a suspension of exactly this path; one above it still holds.',
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/resume',
  access: { kind: 'admin' },
  input: switchInput,
  output: switchOutput,
  errors: ['account_not_found'],
  run: (deps: BudgetDeps, input, context) => setSuspended(deps, input, context, false),
})

const resetInput = z.object({
  account_id: accountId,
  agent_id: agentIdSchema.optional().describe('This agent only; every envelope of the account when left out'),
  reason: note,
})
const resetOutput = z.object({
  ok: z.literal(true),
  account_id: z.string(),
  reset: z.array(z.string()).describe('The agents whose window is 0 now'),
})

const RESET_TOGETHER = 500

async function reset(
  { budgets, envelopes }: BudgetDeps,
  input: z.output<typeof resetInput>,
  context: RunContext,
  window: Window,
): Promise<z.input<typeof resetOutput>> {
  const { account_id } = input
  const resetOne = async (agentId: string): Promise<void> => {
    const call = { operationId: idFor(context.operationId, agentId), resumed: context.resumed }
    // A deleted meanwhile is no failure of the others.
    await budgets.reset(account_id, call, agentId, [window], who(input.reason)).catch((error: unknown) => {
      if (input.agent_id !== undefined || !(error instanceof DomainError) || error.code !== 'not_found') throw error
    })
  }
  const agents: string[] = []
  if (input.agent_id !== undefined) {
    await resetOne(input.agent_id)
    agents.push(input.agent_id)
  } else {
    for (let after: string | null = ''; after !== null; ) {
      const page = await envelopes.list(account_id, { boundTo: null, after, count: RESET_TOGETHER })
      const ids = page.envelopes.map(({ agentId }) => agentId)
      await Promise.all(ids.map(resetOne))
      agents.push(...ids)
      after = page.next
    }
  }
  return { ok: true, account_id, reset: agents }
}

/** The same id for the same agent when an interrupted call is taken up: its time, and a digest for the random part. */
function idFor(operationId: string, agentId: string): string {
  const digest = createHash('sha256').update(`${operationId}\n${agentId}`).digest('hex')
  return `${operationId.slice(0, 15)}${digest.slice(0, 3)}-a${digest.slice(3, 6)}-${digest.slice(6, 18)}`
}

export const resetDaily = defineOperation({
  name: 'admin_reset_daily',
  title: 'Reset daily windows (operator)',
  description:
    'Sets what was spent today back to 0, for one agent or for every envelope of the account. What was cleared before no longer counts there.',
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/reset-daily',
  access: { kind: 'admin' },
  input: resetInput,
  output: resetOutput,
  errors: ['account_not_found', 'not_found'],
  run: (deps: BudgetDeps, input, context) => reset(deps, input, context, 'daily'),
})

export const resetMonthly = defineOperation({
  name: 'admin_reset_monthly',
  title: 'Reset monthly windows (operator)',
  description:
    'Sets what was spent this month back to 0, for one agent or for every envelope of the account. What was cleared before no longer counts there.',
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/reset-monthly',
  access: { kind: 'admin' },
  input: resetInput,
  output: resetOutput,
  errors: ['account_not_found', 'not_found'],
  run: (deps: BudgetDeps, input, context) => reset(deps, input, context, 'monthly'),
})

export const budgetAdminOperations = [suspendAgents, resumeAgents, resetDaily, resetMonthly]
