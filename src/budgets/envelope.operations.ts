import { z } from 'zod'
import { usdFromNanousd } from '../core/money.ts'
import { defineOperation } from '../core/operation.ts'
import { agentIdSchema, integer, text } from '../core/text.ts'
import { type BudgetDeps, unixMs, usd, windowSchema } from './operations.ts'
import type { EnvelopeView } from './reader.ts'
import type { LimitView, LoopLimit } from './state.ts'
import { WINDOWS } from './windows.ts'

const limitUsd = z.number().gt(0).max(1_000_000).describe('US dollars, above 0 and at most 1,000,000')

const windowView = z.object({
  window: windowSchema,
  limit_usd: usd,
  extra_usd: usd.optional().describe('A one-off raise of this window instance that a human approved, on top of limit_usd'),
  spent_usd: usd,
  remaining_usd: usd,
  reset_at: unixMs,
  origin: z
    .literal('file')
    .optional()
    .describe("Set when this limit comes from the operator's governance file, which is stricter here than what the account set"),
  account_limit_usd: usd.optional().describe('With origin: what the account set, where it set one'),
})
const loopSchema = z
  .strictObject({
    max_repeats: integer(1, 10_000).describe('How many identical clearances are let through within the window'),
    window_seconds: integer(1, 86_400).describe('Once there were more, they are denied until none came for this long'),
  })
  .describe(
    'Denies identical clearances (same agent, model and tokens) beyond max_repeats with loop_detected. Off when left out.',
  )
const envelopeView = windowView.extend({
  agent_id: z.string(),
  loop: loopSchema.optional(),
  limits: z.array(windowView).describe('Every window of this envelope; the top-level fields are the tightest'),
})

const limitJson = (limit: LimitView) => ({
  window: limit.window,
  limit_usd: usdFromNanousd(limit.limit),
  ...(limit.extra > 0n && { extra_usd: usdFromNanousd(limit.extra) }),
  spent_usd: usdFromNanousd(limit.spent),
  remaining_usd: usdFromNanousd(limit.remaining),
  reset_at: limit.resetMs,
  ...(limit.file && { origin: 'file' as const }),
  ...(limit.file?.ownLimit != null && { account_limit_usd: usdFromNanousd(limit.file.ownLimit) }),
})
const loopJson = (loop: LoopLimit) => ({ max_repeats: loop.maxRepeats, window_seconds: loop.window_ms / 1000 })
const envelopeJson = (envelope: EnvelopeView) => ({
  agent_id: envelope.agentId,
  ...limitJson(envelope.tightest),
  ...(envelope.loop && { loop: loopJson(envelope.loop) }),
  limits: envelope.limits.map(limitJson),
})

export const setEnvelope = defineOperation({
  name: 'set_envelope',
  title: 'Set a spend envelope',
  description:
    'Caps what an agent may spend in US dollars, per window: daily (default, resets at UTC midnight), session (never resets), hourly, weekly (Monday) or monthly. Several windows at once: limits. Replaces the agent\'s whole set of limits and keeps what is already spent. An envelope on "team" also caps "team/crawler"; "*" caps the account.',
  tag: 'Budget',
  method: 'put',
  path: '/v1/budget/envelope',
  access: { kind: 'key', scopes: ['owner', 'agent'], agentRule: 'below' },
  changes: true,
  input: z
    .object({
      agent_id: agentIdSchema,
      limit_usd: limitUsd.optional(),
      window: windowSchema.optional().describe('With limit_usd; daily when left out'),
      limits: z
        .strictObject({ hourly: limitUsd, daily: limitUsd, weekly: limitUsd, monthly: limitUsd, session: limitUsd })
        .partial()
        .optional()
        .describe('Instead of limit_usd and window: one cap per window'),
      loop: loopSchema.optional(),
    })
    .superRefine((input, context) => {
      const fail = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message })
      if (input.limits === undefined && input.limit_usd === undefined)
        fail('limit_usd', 'is required (number), unless limits is given')
      if (input.limits !== undefined && (input.limit_usd !== undefined || input.window !== undefined))
        fail('limits', 'stands instead of limit_usd and window: send one or the other')
      if (input.limits !== undefined && Object.keys(input.limits).length === 0)
        fail('limits', `needs at least one of ${WINDOWS.join(', ')}`)
    }),
  output: z.object({
    success: z.literal(true),
    agent_id: z.string(),
    limit_usd: usd,
    window: windowSchema,
    limits: z
      .object({ hourly: usd, daily: usd, weekly: usd, monthly: usd, session: usd })
      .partial()
      .optional()
      .describe('The whole set, when it was set as limits'),
    loop: loopSchema.optional(),
  }),
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  async run({ budgets }: BudgetDeps, input, context) {
    const limits = input.limits ?? { [input.window ?? 'daily']: input.limit_usd }
    const { loop } = input
    const { tightest } = await budgets.setEnvelope(
      context.caller.accountId,
      context,
      input.agent_id,
      limits,
      loop ? { maxRepeats: loop.max_repeats, window_ms: loop.window_seconds * 1000 } : null,
    )
    const result = {
      success: true as const,
      agent_id: input.agent_id,
      limit_usd: usdFromNanousd(tightest.limit),
      window: tightest.window,
      ...(loop && { loop }),
    }
    return input.limits ? { ...result, limits: input.limits } : result
  },
})

export const getEnvelope = defineOperation({
  name: 'get_envelope',
  title: 'Read a spend envelope',
  description:
    'Limit, spend and what is left of one agent. The top-level fields describe its tightest window; a window that has passed reads as spent 0.',
  tag: 'Budget',
  method: 'get',
  path: '/v1/budget/envelope/{agent_id}',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'], agentRule: 'within' },
  input: z.object({ agent_id: agentIdSchema }),
  output: envelopeView,
  errors: ['not_found'],
  async run({ envelopes }: BudgetDeps, input, { caller }) {
    return envelopeJson(await envelopes.get(caller.accountId, input.agent_id))
  },
})

const MAX_LISTED = 1000

export const listEnvelopes = defineOperation({
  name: 'list_envelopes',
  title: 'List spend envelopes',
  description:
    'The envelopes of the account in order of agent_id; a key bound to an agent sees its own path and below. Where there are more, next is the value of after for the following ones.',
  tag: 'Budget',
  method: 'get',
  path: '/v1/budget/envelope',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'] },
  input: z.object({
    limit: z.coerce.number().int().min(1).max(MAX_LISTED).optional().describe(`How many at most; ${MAX_LISTED} when left out`),
    after: text(0, 128).optional().describe('The next of the page before'),
  }),
  output: z.object({ envelopes: z.array(envelopeView), next: z.string().optional() }),
  async run({ envelopes }: BudgetDeps, { limit, after }, { caller }) {
    const page = { boundTo: caller.agentId, after: after ?? '', count: limit ?? MAX_LISTED }
    const { envelopes: found, next } = await envelopes.list(caller.accountId, page)
    return { envelopes: found.map(envelopeJson), ...(next !== null && { next }) }
  },
})

export const deleteEnvelope = defineOperation({
  name: 'delete_envelope',
  title: 'Delete a spend envelope',
  description:
    "Removes an agent's limits. What it has spent is remembered: setting an envelope again within the window starts from there.",
  tag: 'Budget',
  method: 'delete',
  path: '/v1/budget/envelope/{agent_id}',
  access: { kind: 'key', scopes: ['owner', 'agent'], agentRule: 'below' },
  input: z.object({ agent_id: agentIdSchema }),
  output: z.object({ success: z.literal(true), agent_id: z.string() }),
  errors: ['not_found'],
  async run({ budgets }: BudgetDeps, input, context) {
    await budgets.deleteEnvelope(context.caller.accountId, context, input.agent_id)
    return { success: true as const, agent_id: input.agent_id }
  },
})

export const envelopeOperations = [setEnvelope, getEnvelope, listEnvelopes, deleteEnvelope]
