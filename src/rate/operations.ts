import { z } from 'zod'
import { defineOperation, type KeyCaller } from '../core/operation.ts'
import { agentIdSchema, integer, modelSchema, providerSchema } from '../core/text.ts'
import type { RateKey, RateService } from './service.ts'

export type RateDeps = { readonly rates: RateService }

const keyFields = { agent_id: agentIdSchema, provider: providerSchema, model: modelSchema }
type KeyInput = { agent_id: string; provider: string; model: string }
const keyOf = (caller: KeyCaller, input: KeyInput): RateKey => ({
  accountId: caller.accountId,
  agentId: input.agent_id,
  provider: input.provider,
  model: input.model,
})

const requestsPerMinute = integer(1, 1_000_000).describe('Requests per minute, 1 to 1,000,000')
const PATH = '/v1/rate/envelope/{agent_id}/{provider}/{model}'

export const setRateEnvelope = defineOperation({
  name: 'set_rate_envelope',
  title: 'Set a rate share',
  description:
    'How many requests a minute one agent may send to one model of one provider. Lowering it takes effect at once; the current minute keeps its count.',
  tag: 'Rate',
  method: 'put',
  path: '/v1/rate/envelope',
  access: { kind: 'key', scopes: ['owner'] },
  changes: true,
  input: z.object({ ...keyFields, requests_per_minute: requestsPerMinute }),
  output: z.object({
    success: z.literal(true),
    agent_id: z.string(),
    provider: z.string(),
    model: z.string(),
    requests_per_minute: z.number().int(),
  }),
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  async run({ rates }: RateDeps, input, { caller }) {
    await rates.set(keyOf(caller, input), input.requests_per_minute, caller)
    return { success: true as const, ...input }
  },
})

export const getRateEnvelope = defineOperation({
  name: 'get_rate_envelope',
  title: 'Read a rate share',
  description: 'The share and how much of it the current minute has used.',
  tag: 'Rate',
  method: 'get',
  path: PATH,
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'], agentRule: 'within' },
  input: z.object(keyFields),
  output: z.object({
    agent_id: z.string(),
    provider: z.string(),
    model: z.string(),
    requests_per_minute: z.number().int(),
    requests_in_window: z.number().int(),
    window_start: z.number().int().describe('Start of the current minute, Unix milliseconds'),
  }),
  errors: ['not_found'],
  async run({ rates }: RateDeps, input, { caller }) {
    const share = await rates.get(keyOf(caller, input))
    return {
      ...input,
      requests_per_minute: share.requestsPerMinute,
      requests_in_window: share.requestsInWindow,
      window_start: share.windowStartMs,
    }
  },
})

export const deleteRateEnvelope = defineOperation({
  name: 'delete_rate_envelope',
  title: 'Delete a rate share',
  description: 'Removes the share; rate_check then answers no_rate_envelope.',
  tag: 'Rate',
  method: 'delete',
  path: PATH,
  access: { kind: 'key', scopes: ['owner'] },
  input: z.object(keyFields),
  output: z.object({ success: z.literal(true), agent_id: z.string(), provider: z.string(), model: z.string() }),
  errors: ['not_found'],
  async run({ rates }: RateDeps, input, context) {
    await rates.delete(keyOf(context.caller, input), context)
    return { success: true as const, ...input }
  },
})

export const rateCheck = defineOperation({
  name: 'rate_check',
  title: 'Check and count one request',
  description:
    'Call this before a request to a provider. allowed:true has counted it against this minute; allowed:false says how long to wait (retry_after_ms).',
  tag: 'Rate',
  method: 'post',
  path: '/v1/rate/check',
  access: { kind: 'key', scopes: ['owner', 'agent'], agentRule: 'within' },
  input: z.object(keyFields),
  output: z.object({
    allowed: z.boolean(),
    requests_remaining_this_minute: z.number().int().optional(),
    reason: z.enum(['rate_exceeded', 'no_rate_envelope']).optional(),
    retry_after_ms: z.number().int().optional(),
    hint: z.string().optional(),
  }),
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: false },
  async run({ rates }: RateDeps, input, { caller }) {
    const decision = await rates.check(keyOf(caller, input))
    if (decision.allowed) return { allowed: true, requests_remaining_this_minute: decision.left }
    if (decision.reason === 'no_rate_envelope')
      return {
        allowed: false,
        reason: decision.reason,
        hint: 'No rate share is set for this agent, provider and model. A share holds for exactly this agent_id, not for those below. The account owner sets one with set_rate_envelope (PUT /v1/rate/envelope).',
      }
    return {
      allowed: false,
      reason: decision.reason,
      retry_after_ms: decision.retry_after_ms,
      hint: 'The minute is used up. Wait retry_after_ms, then check again.',
    }
  },
})

export const rateOperations = [rateCheck, setRateEnvelope, getRateEnvelope, deleteRateEnvelope]
