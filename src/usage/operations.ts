import { z } from 'zod'
import type { LimitView } from '../budgets/state.ts'
import { WINDOWS } from '../budgets/windows.ts'
import type { Clock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { usdFromNanousd } from '../core/money.ts'
import { defineOperation } from '../core/operation.ts'
import { agentIdSchema, queryInteger, text } from '../core/text.ts'
import { type AgentService, type AgentView, type Prediction, STEP_MS } from './agents.ts'

export type UsageDeps = { readonly agents: AgentService; readonly clock: Clock }

const PAGE = { usual: 100, most: 500 }
const MAX_STEPS = 1_000
const LONGEST_MS = 366 * 86_400_000
const MAX_LOOKBACK_HOURS = 24 * 31

const usd = z.number().describe('US dollars, rounded to 6 places')
const unixMs = z.number().int().describe('Unix milliseconds')
const reads = { kind: 'key', scopes: ['owner', 'agent', 'read'], agentRule: 'within' } as const

const limitView = z.object({
  window: z.enum(WINDOWS),
  limit_usd: usd,
  spent_usd: usd,
  remaining_usd: usd,
  reset_at: unixMs,
  origin: z.literal('file').optional().describe("From the operator's governance file"),
})
const agentView = z.object({
  agent_id: z.string(),
  first_seen_at: unixMs.nullable().describe('null for an agent that has an envelope and never asked for anything'),
  last_activity_at: unixMs.nullable().describe('Its last decision, to the minute'),
  suspended: z.boolean(),
  suspended_agent_id: z.string().optional().describe('The path whose suspension stops it'),
  open_holds: z.number().int().describe('Clearances that are neither settled nor expired; counted up to 1,000'),
  open_usd: usd,
  spent_usd: z
    .object({ hourly: usd, daily: usd, weekly: usd, monthly: usd, session: usd })
    .nullable()
    .describe('Of the agent and everything below it, per window; null where it has no envelope of its own to count it'),
  limits: z.array(limitView),
})

const limitJson = (limit: LimitView) => ({
  window: limit.window,
  limit_usd: usdFromNanousd(limit.limit + limit.extra),
  spent_usd: usdFromNanousd(limit.spent),
  remaining_usd: usdFromNanousd(limit.remaining),
  reset_at: limit.resetMs,
  ...(limit.file && { origin: 'file' as const }),
})
const agentJson = (agent: AgentView) => ({
  agent_id: agent.agentId,
  first_seen_at: agent.firstMs,
  last_activity_at: agent.lastMs,
  suspended: agent.suspendedPath !== null,
  ...(agent.suspendedPath !== null && { suspended_agent_id: agent.suspendedPath }),
  open_holds: agent.open.count,
  open_usd: usdFromNanousd(agent.open.amount),
  spent_usd: agent.spent && {
    hourly: usdFromNanousd(agent.spent.hourly),
    daily: usdFromNanousd(agent.spent.daily),
    weekly: usdFromNanousd(agent.spent.weekly),
    monthly: usdFromNanousd(agent.spent.monthly),
    session: usdFromNanousd(agent.spent.session),
  },
  limits: agent.limits.map(limitJson),
})

export const listAgents = defineOperation({
  name: 'list_agents',
  title: 'List agents',
  description:
    'Every agent that asked for something or has an envelope, in order of agent_id, with its spend, open clearances and last activity. Paged: give the next_after of a page as after. A key bound to an agent sees its own path and below.',
  tag: 'Usage',
  method: 'get',
  path: '/v1/agents',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'] },
  input: z.object({
    after: text(1, 128).optional().describe('Only agents after this one'),
    limit: queryInteger(1, PAGE.most).optional().describe(`At most so many; ${PAGE.usual} when left out`),
  }),
  output: z.object({
    agents: z.array(agentView),
    next_after: z.string().nullable().describe('null on the last page'),
  }),
  async run({ agents }: UsageDeps, input, { caller }) {
    const limit = input.limit ?? PAGE.usual
    const page = { boundTo: caller.agentId, after: input.after ?? '', limit: limit + 1 }
    const found = await agents.list(caller.accountId, page)
    const shown = found.slice(0, limit)
    return { agents: shown.map(agentJson), next_after: found.length > limit ? (shown.at(-1)?.agentId ?? null) : null }
  },
})

export const getAgent = defineOperation({
  name: 'get_agent',
  title: 'Read an agent',
  description: 'Spend, limits, open clearances and last activity of one agent.',
  tag: 'Usage',
  method: 'get',
  path: '/v1/agents/{agent_id}',
  access: reads,
  input: z.object({ agent_id: agentIdSchema }),
  output: agentView,
  errors: ['not_found'],
  async run({ agents }: UsageDeps, input, { caller }) {
    return agentJson(await agents.get(caller.accountId, input.agent_id))
  },
})

export const getPrediction = defineOperation({
  name: 'get_prediction',
  title: 'Predict how long a budget lasts',
  description:
    'When the budget of a period is used up at the present pace, from what was spent in the last hours. Of several limits on the path, the one that is reached first. remaining_time_seconds is null when it lasts beyond its reset, or nothing can be said. Write slashes of agent_id as %2F.',
  tag: 'Usage',
  method: 'get',
  path: '/v1/agents/{agent_id}/prediction',
  access: reads,
  input: z.object({
    agent_id: agentIdSchema,
    period: z.enum(WINDOWS).optional().describe('daily when left out'),
    lookback_hours: queryInteger(1, MAX_LOOKBACK_HOURS).optional().describe('How many hours to go by; 6 when left out'),
  }),
  output: z.object({
    status: z.literal('ok'),
    message: z.string(),
    remaining_budget: usd.nullable(),
    rate_usd_per_hour: usd.nullable().describe('The pace that the prediction goes by'),
    prediction_timestamp: unixMs.nullable().describe('When the budget is used up'),
    remaining_time_seconds: z.number().int().nullable(),
    period: z.enum(WINDOWS),
    limit_agent_id: z.string().nullable().describe('The envelope that is reached first'),
    reset_at: unixMs.nullable(),
    short_usd_per_hour: usd.describe('The pace of the last sixth of the hours looked at'),
    long_usd_per_hour: usd.describe('The pace of all of them, since the first spend among them'),
    trend: z.enum(['rising', 'falling', 'steady']),
    confidence: z.enum(['none', 'low', 'medium', 'high']),
  }),
  errors: ['not_found'],
  async run({ agents, clock }: UsageDeps, input, { caller }) {
    const period = input.period ?? 'daily'
    const prediction = await agents.predict(caller.accountId, input.agent_id, period, (input.lookback_hours ?? 6) * STEP_MS.hour)
    const { limit, pace, remaining_ms } = prediction
    const saysNothing = pace.confidence === 'none' && remaining_ms === null
    return {
      status: 'ok' as const,
      message: messageOf(prediction, period),
      remaining_budget: limit && usdFromNanousd(limit.remaining),
      rate_usd_per_hour: saysNothing ? null : usdFromNanousd(pace.rate),
      prediction_timestamp: remaining_ms === null ? null : clock.now() + remaining_ms,
      remaining_time_seconds: remaining_ms === null ? null : Math.floor(remaining_ms / 1000),
      period,
      limit_agent_id: limit?.agentId ?? null,
      reset_at: limit && period !== 'session' ? limit.resetMs : null,
      short_usd_per_hour: usdFromNanousd(pace.short),
      long_usd_per_hour: usdFromNanousd(pace.long),
      trend: pace.trend,
      confidence: pace.confidence,
    }
  },
})

function messageOf({ limit, pace, remaining_ms }: Prediction, period: string): string {
  const rate = `$${usdFromNanousd(pace.rate).toFixed(2)} an hour`
  if (limit === null) return `No ${period} limit covers this agent. It spends ${rate}.`
  if (limit.remaining === 0n) return `The ${period} budget is used up.`
  if (pace.confidence === 'none') return 'Nothing was spent in the hours looked at, so there is no pace to go by.'
  if (remaining_ms !== null) return `At ${rate} the ${period} budget lasts ${durationOf(remaining_ms)}.`
  return period === 'session'
    ? `At ${rate} the budget is not used up.`
    : `At ${rate} the ${period} budget lasts beyond its next reset.`
}

function durationOf(ms: number): string {
  const minutes = Math.floor(ms / 60_000)
  if (minutes < 1) return 'less than a minute'
  if (minutes < 120) return `${minutes} minutes`
  const hours = Math.floor(minutes / 60)
  return hours < 48 ? `${hours} hours` : `${Math.floor(hours / 24)} days`
}

export const getUsage = defineOperation({
  name: 'get_usage',
  title: "Read an agent's usage",
  description:
    'What an agent and everything below it spent, per hour or day and per model. A clearance counts in the step in which it was taken, at what it really cost once that is known. Ranges are whole hours, of a year at most.',
  tag: 'Usage',
  method: 'get',
  path: '/v1/usage/{agent_id}',
  access: reads,
  input: z.object({
    agent_id: agentIdSchema,
    step: z.enum(['hour', 'day']).optional().describe('hour when left out'),
    from: queryInteger(0, 999_999_999_999_999).optional().describe('Unix milliseconds; a day ago, by days 30 days ago'),
    to: queryInteger(0, 999_999_999_999_999)
      .optional()
      .describe('Unix milliseconds, rounded up to a whole hour; now when left out'),
  }),
  output: z.object({
    agent_id: z.string(),
    step: z.enum(['hour', 'day']),
    from: unixMs.describe('Start of the first step'),
    to: unixMs,
    spent_usd: usd,
    series: z.array(z.object({ at: unixMs.describe('Start of the step'), spent_usd: usd, calls: z.number().int() })),
    models: z
      .array(
        z.object({
          model: z.string().describe('Of a booking: its resource type and action'),
          spent_usd: usd,
          calls: z.number().int(),
          input_tokens: z.number().int().describe('Of the calls that were reconciled'),
          output_tokens: z.number().int(),
        }),
      )
      .describe('The 100 with the largest spend'),
  }),
  errors: ['not_found'],
  async run({ agents, clock }: UsageDeps, input, { caller }) {
    const step = input.step ?? 'hour'
    const range = rangeOf(step, input, clock.now())
    const { series, models } = await agents.usage(caller.accountId, input.agent_id, range)
    return {
      agent_id: input.agent_id,
      step,
      from: range.from_ms,
      to: range.to_ms,
      spent_usd: usdFromNanousd(series.reduce((sum, { spent }) => sum + spent, 0n)),
      series: series.map(({ at_ms, spent, calls }) => ({ at: at_ms, spent_usd: usdFromNanousd(spent), calls })),
      models: models.map(({ model, spent, calls, inputTokens, outputTokens }) => ({
        model,
        spent_usd: usdFromNanousd(spent),
        calls,
        input_tokens: Number(inputTokens),
        output_tokens: Number(outputTokens),
      })),
    }
  },
})

/** Whole steps of UTC from the one that contains `from` on. */
function rangeOf(step: 'hour' | 'day', input: { from?: number | undefined; to?: number | undefined }, now_ms: number) {
  const step_ms = STEP_MS[step]
  const to_ms = Math.ceil((input.to ?? now_ms + 1) / STEP_MS.hour) * STEP_MS.hour
  const first_ms = input.from ?? to_ms - (step === 'hour' ? 24 : 30) * step_ms
  const from_ms = Math.max(0, Math.floor(first_ms / step_ms) * step_ms)
  const issue = (path: string, message: string) =>
    new DomainError('invalid_params', { details: { required: ['agent_id'], issues: [{ path, message }] } })
  if (from_ms >= to_ms) throw issue('from', 'must be before to')
  if (to_ms - from_ms > LONGEST_MS) throw issue('from', 'must be at most 366 days before to')
  if ((to_ms - from_ms) / step_ms > MAX_STEPS)
    throw issue('step', `makes more than ${MAX_STEPS} steps of this range: use day, or a shorter range`)
  return { from_ms, to_ms, step }
}

/** The prediction's path comes first: an agent's id may hold slashes, and would take it for a part of itself. */
export const usageOperations = [listAgents, getPrediction, getAgent, getUsage]
