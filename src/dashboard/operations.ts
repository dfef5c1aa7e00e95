import { z } from 'zod'
import { effectText, usdText } from '../approvals/effect.ts'
import { WINDOWS } from '../budgets/windows.ts'
import { usdFromNanousd } from '../core/money.ts'
import { defineOperation } from '../core/operation.ts'
import { agentIdSchema, plainLine } from '../core/text.ts'
import type { DashboardData, DashboardService } from './service.ts'

export type DashboardOperationDeps = { readonly dashboard: DashboardService }

const usd = z.number().describe('US dollars, rounded to 6 places')
const unixMs = z.number().int().describe('Unix milliseconds')
const windowView = z.object({
  window: z.enum(WINDOWS),
  limit_usd: usd.describe('One-off raises included'),
  cap_usd: usd.describe('Without them'),
  spent_usd: usd,
  remaining_usd: usd,
  reset_at: unixMs,
})

const output = z.object({
  generated_at: unixMs,
  operations_remaining: z.number().int().describe('Governance operations left'),
  operations_used_24h: z.number().int(),
  agents: z
    .array(
      z.object({
        agent_id: z.string(),
        depth: z.number().int().describe('How many of the envelopes above it are listed'),
        limits: z.array(windowView).describe('None for an agent that has no cap of its own'),
        spent_24h_usd: usd,
        approved_24h: z.number().int(),
      }),
    )
    .describe('Agents with a cap or with spend in the last day, parents before children'),
  agents_in_all: z.number().int().describe('How many there are, of at most 500 envelopes that are looked at'),
  burn: z
    .object({
      agent_id: z.string(),
      window: z.enum(WINDOWS).nullable().describe('The window whose cap is in limit_usd; null without a cap'),
      limit_usd: usd.nullable(),
      spent_usd: usd,
      from: unixMs,
      to: unixMs,
      points: z.array(z.object({ at: unixMs, spent_usd: usd })).describe('Spent since the window began, ascending in time'),
      rate_usd_per_hour: usd,
      forecast_usd: usd.describe('Spent at `to`, if it goes on like this'),
      limit_reached_at: unixMs.nullable().describe('When the cap is reached if it goes on like this; null: not before `to`'),
    })
    .describe('The spend against one cap, over time'),
  approvals: z.array(
    z.object({
      approval_ref: z.string(),
      agent_id: z.string(),
      action_summary: z.string(),
      effect: z.string().nullable(),
      expires_at: unixMs,
    }),
  ),
  decisions: z
    .array(
      z.object({
        id: z.string(),
        at: unixMs,
        kind: z.enum(['approved', 'denied', 'change']),
        agent_id: z.string().nullable(),
        subject: z.string().describe('The model, or what was changed'),
        amount_usd: usd,
        detail: z.string(),
      }),
    )
    .describe('The newest first'),
})
type DashboardJson = z.infer<typeof output>

const MAX_LISTED_LINES = 8

export const viewDashboard = defineOperation({
  name: 'view_dashboard',
  title: 'Show the dashboard',
  description:
    'Quota, every agent with its caps and spend, the burn against the tightest cap with a forecast, pending approvals and the latest decisions. Shows a chart in clients that can. A key bound to an agent sees its own path.',
  tag: 'Usage',
  method: 'get',
  path: '/v1/dashboard',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'], agentRule: 'within' },
  input: z.object({
    agent_id: agentIdSchema.optional().describe('Whose burn to draw; the one closest to its cap when left out'),
  }),
  output,
  tool: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  toolView: 'dashboard',
  toolText: (body) => summaryOf(body as DashboardJson),
  async run({ dashboard }: DashboardOperationDeps, input, { caller }) {
    return dashboardJson(await dashboard.view(caller.accountId, caller.agentId, input.agent_id ?? null))
  },
})

/** The figures as JSON has them. */
export function dashboardJson(data: DashboardData): DashboardJson {
  const { burn } = data
  return {
    generated_at: data.now_ms,
    operations_remaining: Number(data.ops),
    operations_used_24h: data.opsUsed24h,
    agents: data.agents.map((agent) => ({
      agent_id: agent.agentId,
      depth: agent.depth,
      limits: agent.limits.map((limit) => ({
        window: limit.window,
        limit_usd: usdFromNanousd(limit.limit + limit.extra),
        cap_usd: usdFromNanousd(limit.limit),
        spent_usd: usdFromNanousd(limit.spent),
        remaining_usd: usdFromNanousd(limit.remaining),
        reset_at: limit.resetMs,
      })),
      spent_24h_usd: usdFromNanousd(agent.spent24h),
      approved_24h: agent.calls24h,
    })),
    agents_in_all: data.agentsInAll,
    burn: {
      agent_id: burn.agentId,
      window: burn.limit?.window ?? null,
      limit_usd: burn.limit === null ? null : usdFromNanousd(burn.limit.limit + burn.limit.extra),
      spent_usd: usdFromNanousd(burn.spent),
      from: burn.from_ms,
      to: burn.to_ms,
      points: burn.points.map(({ at_ms, spent }) => ({ at: at_ms, spent_usd: usdFromNanousd(spent) })),
      rate_usd_per_hour: usdFromNanousd(burn.rate),
      forecast_usd: usdFromNanousd(burn.forecast.spentThen),
      limit_reached_at: burn.forecast.reachedMs,
    },
    approvals: data.pending.map(({ approval, effect }) => ({
      approval_ref: approval.approvalId,
      agent_id: approval.agentId,
      action_summary: approval.actionSummary,
      effect: effect === null ? null : effectText(effect),
      expires_at: approval.expiresMs,
    })),
    decisions: data.decisions.map((row) => ({
      id: row.id,
      at: row.atMs,
      kind: row.kind,
      agent_id: row.agentId,
      subject: row.subject,
      amount_usd: usdFromNanousd(row.actual ?? row.amount),
      detail: row.detail,
    })),
  }
}

const dollars = (amount: number): string => usdText(BigInt(Math.round(amount * 1e9)))
const lines = (title: string, all: readonly string[]): string[] =>
  all.length === 0
    ? []
    : [
        title,
        ...all.slice(0, MAX_LISTED_LINES),
        ...(all.length > MAX_LISTED_LINES ? [`… ${all.length - MAX_LISTED_LINES} more`] : []),
      ]

/** A few lines for clients that show text only. */
export function summaryOf(data: DashboardJson): string {
  const { burn } = data
  const capped = data.agents.flatMap(({ agent_id, limits }) =>
    limits.map(
      ({ window, spent_usd, limit_usd }) =>
        `- ${plainLine(agent_id)}: ${dollars(spent_usd)} of ${dollars(limit_usd)} (${window === 'session' ? 'for good' : window})`,
    ),
  )
  const outlook =
    burn.limit_usd === null
      ? `No cap is set. Rate: ${dollars(burn.rate_usd_per_hour)} an hour.`
      : `${plainLine(burn.agent_id)} goes through ${dollars(burn.rate_usd_per_hour)} an hour; ${
          burn.limit_reached_at === null
            ? `at that rate ${dollars(burn.forecast_usd)} of ${dollars(burn.limit_usd)} by ${new Date(burn.to).toISOString()}.`
            : `at that rate its cap of ${dollars(burn.limit_usd)} is reached at ${new Date(burn.limit_reached_at).toISOString()}.`
        }`
  return [
    `${data.operations_remaining.toLocaleString('en-US')} operations left, ${data.operations_used_24h.toLocaleString('en-US')} used in 24 hours.`,
    outlook,
    ...lines('Caps:', capped),
    ...lines(
      'Waiting for a human:',
      data.approvals.map(({ agent_id, action_summary }) => `- ${plainLine(agent_id)}: ${plainLine(action_summary)}`),
    ),
    ...lines(
      'Latest decisions:',
      data.decisions.map(
        ({ kind, agent_id, subject, amount_usd, detail }) =>
          `- ${kind}: ${plainLine(agent_id ?? 'account')}, ${plainLine(subject)}${kind === 'change' ? '' : `, ${dollars(amount_usd)} (${plainLine(detail)})`}`,
      ),
    ),
  ].join('\n')
}

export const dashboardOperations = [viewDashboard]
