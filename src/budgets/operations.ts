import { z } from 'zod'
import { ceilDiv, type Nanousd, usdFromNanousd } from '../core/money.ts'
import { defineOperation } from '../core/operation.ts'
import { agentIdSchema, integer, modelSchema, plainLine, text } from '../core/text.ts'
import type { EnvelopeReader } from './reader.ts'
import type { Refusal } from './requests.ts'
import type { BudgetService } from './service.ts'
import { DENIAL_REASONS, type DenialReason, type LimitView } from './state.ts'
import { WINDOWS } from './windows.ts'

export type BudgetDeps = { readonly budgets: BudgetService; readonly envelopes: EnvelopeReader }

const MAX_TOKENS = 1_000_000_000
const MAX_HOLD_SECONDS = 604_800
const DEFAULT_HOLD_SECONDS = 3600

export const usd = z.number().describe('US dollars, rounded to 6 places')
export const unixMs = z.number().int().describe('Unix milliseconds')
const ops = z.number().int().describe('Governance operations left in the account')
export const windowSchema = z.enum(WINDOWS)
const tokens = integer(0, MAX_TOKENS)
const clearanceId = text(1, 128).describe('The clearance_id that budget_clear returned')

/** What to do about a denial, by reason. */
const NEXT_STEP: Record<DenialReason, string> = {
  suspended:
    'Spending is suspended for limit_agent_id and everything below it. Stop, and ask the account owner; calling again is denied until it is resumed.',
  model_not_allowed: "The operator's governance file does not allow this model for this agent. Use one that it allows.",
  max_tokens_exceeded: "This is more than the operator's governance file allows this agent per request. Ask for fewer tokens.",
  tool_not_allowed: "The operator's governance file does not allow this action for this agent. Use one that it allows.",
  loop_detected:
    'This agent keeps asking for the same thing. Stop and change something: the prompt, the model or the plan; or ask a human. Identical calls are denied until there were none for a while.',
  no_credits:
    'The account has no operations left. Ask its owner to buy some (/pay, or POST /v1/account/topup) or the operator to grant some (POST /v1/admin/seed), then call again.',
  no_envelope:
    'No envelope covers this agent. Its owner sets one with set_envelope (PUT /v1/budget/envelope); do not make the call without it.',
  envelope_exceeded:
    'Do not make the call. Ask for at most max_affordable_tokens, wait until reset_at, or ask a human: send approval_request as it is with request_approval (POST /v1/approval/request). Calling again unchanged will be denied again.',
}

/** An approved raise has to suffice for the same call again: rounded up to whole cents. */
const centsUp = (amount: Nanousd): number => Number(ceilDiv(amount, NANOUSD_PER_CENT)) / 100
const NANOUSD_PER_CENT = 10_000_000n
const MAX_LIMIT_USD = 1_000_000

/** The request that would ask a human for what this call lacks; none when no request may ask for that much. */
function approvalRequest(denial: Refusal, tightest: LimitView, asked: { agent_id: string; model: string }) {
  const extraUsd = centsUp(denial.shortfall)
  if (extraUsd > MAX_LIMIT_USD) return undefined
  const cap = `${tightest.window} limit of $${usdFromNanousd(tightest.limit + tightest.extra).toFixed(2)}`
  const whose = tightest.agentId === asked.agent_id ? 'the' : tightest.agentId === '*' ? "the account's" : "a parent's"
  return {
    agent_id: asked.agent_id,
    action_summary: `Spend $${extraUsd.toFixed(2)} beyond ${whose} ${cap}, once, on ${plainLine(asked.model)}`,
    grant: {
      extra_usd: extraUsd,
      window: tightest.window,
      ...(tightest.agentId !== asked.agent_id && { agent_id: tightest.agentId }),
    },
  }
}

/** What a caller should do about a denial. */
export function hintOf(denial: Refusal): string {
  if (denial.policy) return denial.policy.message
  if (denial.underlying) return `${NEXT_STEP.loop_detected} It was denied before because: ${NEXT_STEP[denial.underlying]}`
  if (denial.reason === 'envelope_exceeded' && denial.tightest?.file) return FILE_LIMIT
  return NEXT_STEP[denial.reason]
}

const FILE_LIMIT =
  "Do not make the call. This limit is in the operator's governance file, which nobody can raise through this interface: ask for at most max_affordable_tokens, wait until reset_at, or ask the operator."

const denialJson = (denial: Refusal, asked: { agent_id: string; model: string }) => {
  const base = {
    approved: false as const,
    remaining_usd: usdFromNanousd(denial.remaining),
    reason: denial.reason,
    hint: hintOf(denial),
  }
  if (denial.suspendedPath !== undefined) return { ...base, limit_agent_id: denial.suspendedPath }
  if (denial.tightest === null) return base
  const { agentId, window, limit, extra, resetMs } = denial.tightest
  const mayAsk = denial.reason === 'envelope_exceeded' && denial.tightest.file === undefined
  const request = mayAsk ? approvalRequest(denial, denial.tightest, asked) : undefined
  return {
    ...base,
    limit_agent_id: agentId,
    window,
    limit_usd: usdFromNanousd(limit),
    ...(extra > 0n && { extra_usd: usdFromNanousd(extra) }),
    reset_at: resetMs,
    ...(denial.tightest.file && { limit_origin: 'file' as const }),
    ...(denial.underlying && { underlying_reason: denial.underlying }),
    max_affordable_tokens: denial.affordableTokens,
    ...(request && { approval_request: request }),
  }
}

const UNKNOWN_MODEL =
  'No price list knows this model, so it is counted at $15 and $75 per million tokens. Check its spelling: GET /v1/models lists those that are known.'

export const budgetClear = defineOperation({
  name: 'budget_clear',
  title: 'Clear a spend before making it',
  description:
    "Call this before every model call. Approved: make the call, then reconcile with the returned clearance_id. Denied (approved:false): do not make the call; reason, hint and max_affordable_tokens say what would work. estimated_tokens is priced at the model's output rate, estimated_input_tokens at its input rate.",
  tag: 'Budget',
  method: 'post',
  path: '/v1/budget/clear',
  access: { kind: 'key', scopes: ['owner', 'agent'], agentRule: 'within' },
  input: z.object({
    agent_id: agentIdSchema,
    model: modelSchema,
    estimated_tokens: integer(1, MAX_TOKENS).describe('Most output tokens the call may use (embeddings: input tokens)'),
    estimated_input_tokens: tokens.optional().describe('Input tokens, added at the input rate'),
    hold_seconds: integer(1, MAX_HOLD_SECONDS)
      .optional()
      .describe('How long the clearance stays open; an hour when left out. At expiry the estimate counts as spent.'),
  }),
  output: z.object({
    approved: z.boolean(),
    remaining_usd: usd.describe('Left in the tightest envelope on the path, US dollars'),
    operations_remaining: ops.optional(),
    clearance_id: z.string().optional().describe('Give it to reconcile or release'),
    expires_at: unixMs.optional(),
    reason: z.enum(DENIAL_REASONS).optional(),
    hint: z.string().optional(),
    limit_agent_id: z.string().optional().describe('The envelope that refused'),
    window: windowSchema.optional(),
    limit_usd: usd.optional(),
    extra_usd: usd.optional().describe('One-off raise of the current window, on top of limit_usd'),
    reset_at: unixMs.optional(),
    limit_origin: z.literal('file').optional().describe("The limit is in the operator's governance file"),
    underlying_reason: z.enum(DENIAL_REASONS).optional().describe('Why it was denied before it became a loop'),
    max_affordable_tokens: z.number().int().optional().describe('The largest estimated_tokens that would fit now'),
    approval_request: z
      .object({
        agent_id: z.string(),
        action_summary: z.string(),
        grant: z.object({ extra_usd: usd, window: windowSchema, agent_id: z.string().optional() }),
      })
      .optional()
      .describe('What to send with request_approval (POST /v1/approval/request) so that a human can allow exactly this'),
  }),
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: false },
  async run({ budgets }: BudgetDeps, input, context) {
    const outcome = await budgets.clear(context.caller.accountId, context, {
      agentId: input.agent_id,
      model: input.model,
      estimatedTokens: input.estimated_tokens,
      estimatedInputTokens: input.estimated_input_tokens ?? 0,
      hold_ms: (input.hold_seconds ?? DEFAULT_HOLD_SECONDS) * 1000,
    })
    if (!outcome.approved) {
      const denial = denialJson(outcome, input)
      return outcome.isModelUnknown ? { ...denial, hint: `${denial.hint} ${UNKNOWN_MODEL}` } : denial
    }
    return {
      approved: true,
      remaining_usd: usdFromNanousd(outcome.remaining),
      operations_remaining: Number(outcome.ops),
      clearance_id: outcome.holdId,
      expires_at: outcome.expiresMs,
    }
  },
})

const exceedsTwice = (actual: Nanousd | null, estimate: Nanousd): boolean => actual !== null && actual > 2n * estimate

export const reconcile = defineOperation({
  name: 'reconcile',
  title: 'Reconcile a cleared call with what it used',
  description:
    "Call this after every cleared model call with the usage the provider reported. Without clearance_id it takes the agent's most recent open clearance. Repeating it with the same clearance_id returns the first result and moves no money.",
  tag: 'Budget',
  method: 'post',
  path: '/v1/budget/reconcile',
  access: { kind: 'key', scopes: ['owner', 'agent'], agentRule: 'within' },
  input: z
    .object({
      agent_id: agentIdSchema,
      actual_input_tokens: tokens.describe('All input tokens, cached ones included'),
      actual_output_tokens: tokens.describe('All output tokens, reasoning included'),
      clearance_id: clearanceId.optional(),
      cached_input_tokens: tokens.optional().describe('Of actual_input_tokens: read from the prompt cache'),
      cache_write_input_tokens: tokens.optional().describe('Of actual_input_tokens: written to the prompt cache'),
      cache_write_1h_input_tokens: tokens.optional().describe('Of actual_input_tokens: written to the one-hour prompt cache'),
    })
    .superRefine((input, context) => {
      const parts =
        (input.cached_input_tokens ?? 0) + (input.cache_write_input_tokens ?? 0) + (input.cache_write_1h_input_tokens ?? 0)
      if (parts > input.actual_input_tokens)
        context.addIssue({
          code: 'custom',
          path: ['actual_input_tokens'],
          message: 'must include the cached and cache-written tokens',
        })
    }),
  output: z.object({
    ok: z.literal(true),
    drift_usd: usd.describe('Actual minus estimate'),
    remaining_usd: usd,
    operations_remaining: ops,
    clearance_id: z.string(),
    warning: z.literal('drift_exceeds_2x_threshold').optional(),
    replayed: z.literal(true).optional().describe('This clearance was reconciled before: the first result again'),
  }),
  errors: ['no_envelope', 'no_pending_clearance'],
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: false },
  async run({ budgets }: BudgetDeps, input, context) {
    const resolved = await budgets.reconcile(context.caller.accountId, context, {
      agentId: input.agent_id,
      clearanceId: input.clearance_id ?? null,
      usage: {
        inputTokens: input.actual_input_tokens,
        outputTokens: input.actual_output_tokens,
        cachedInputTokens: input.cached_input_tokens ?? 0,
        cacheWriteInputTokens: input.cache_write_input_tokens ?? 0,
        cacheWrite1hInputTokens: input.cache_write_1h_input_tokens ?? 0,
      },
    })
    return {
      ok: true as const,
      drift_usd: usdFromNanousd(resolved.drift),
      remaining_usd: usdFromNanousd(resolved.remaining),
      operations_remaining: Number(resolved.ops),
      clearance_id: resolved.hold.holdId,
      ...(exceedsTwice(resolved.hold.actual, resolved.hold.estimate) && { warning: 'drift_exceeds_2x_threshold' as const }),
      ...(resolved.replayed && { replayed: true as const }),
    }
  },
})

export const release = defineOperation({
  name: 'release',
  title: 'Give an unused clearance back',
  description:
    'For a cleared call that was not made: its estimate no longer counts as spent. The operation that the clearance burned stays burned. Repeating it returns the first result.',
  tag: 'Budget',
  method: 'post',
  path: '/v1/budget/release',
  access: { kind: 'key', scopes: ['owner', 'agent'] },
  input: z.object({ clearance_id: clearanceId }),
  output: z.object({
    ok: z.literal(true),
    released_usd: usd,
    remaining_usd: usd,
    operations_remaining: ops,
    clearance_id: z.string(),
    replayed: z.literal(true).optional(),
  }),
  errors: ['no_pending_clearance'],
  async run({ budgets }: BudgetDeps, input, context) {
    const resolved = await budgets.release(context.caller.accountId, context, {
      clearanceId: input.clearance_id,
      boundTo: context.caller.agentId,
    })
    return {
      ok: true as const,
      released_usd: usdFromNanousd(-resolved.drift),
      remaining_usd: usdFromNanousd(resolved.remaining),
      operations_remaining: Number(resolved.ops),
      clearance_id: resolved.hold.holdId,
      ...(resolved.replayed && { replayed: true as const }),
    }
  },
})

export const budgetOperations = [budgetClear, reconcile, release]
