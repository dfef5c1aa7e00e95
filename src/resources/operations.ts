import { z } from 'zod'
import { hintOf } from '../budgets/operations.ts'
import { SPEND_REASONS, spendRefusal } from '../budgets/refusal.ts'
import type { Refusal } from '../budgets/requests.ts'
import type { LimitView } from '../budgets/state.ts'
import { WINDOWS } from '../budgets/windows.ts'
import { type Nanousd, usdFromNanousd } from '../core/money.ts'
import { defineOperation } from '../core/operation.ts'
import { agentIdSchema, text } from '../core/text.ts'
import { type BookingService, RESOURCE_TYPES } from './service.ts'

export type BookingDeps = { readonly bookings: BookingService }

const MAX_COST_USD = 1_000_000
const MAX_METADATA_BYTES = 4_096
const MAX_METADATA_DEPTH = 5

const usd = z.number().describe('US dollars, rounded to 6 places')

const metadataSchema = z
  .record(z.string(), z.unknown())
  .superRefine((metadata, context) => {
    // Depth first: it bounds what the recursion of JSON.stringify sees.
    if (isDeeperThan(metadata, MAX_METADATA_DEPTH))
      context.addIssue({ code: 'custom', message: `must not be nested deeper than ${MAX_METADATA_DEPTH} levels` })
    else if (Buffer.byteLength(JSON.stringify(metadata)) > MAX_METADATA_BYTES)
      context.addIssue({ code: 'custom', message: `must be at most ${MAX_METADATA_BYTES} bytes as JSON` })
  })
  .describe(
    `Anything to keep with the booking, at most ${MAX_METADATA_BYTES} bytes as JSON and ${MAX_METADATA_DEPTH} levels deep. Shown in the audit trail; put no secrets here.`,
  )

function isDeeperThan(value: unknown, levels: number): boolean {
  if (typeof value !== 'object' || value === null) return false
  return levels === 0 || Object.values(value).some((child) => isDeeperThan(child, levels - 1))
}

export const bookSpend = defineOperation({
  name: 'book_spend',
  title: 'Book a spend that is no model call',
  description:
    'For what costs money and is not a model call: an API or search request, compute, storage. Charges cost to every envelope above the agent and burns one operation, or denies it. Book before spending. Denied (status denied, HTTP 403): do not spend; reason, message and hint say what would work.',
  tag: 'Bookings',
  method: 'post',
  path: '/v1/book',
  access: { kind: 'key', scopes: ['owner', 'agent'], agentRule: 'within' },
  input: z.object({
    agent_id: agentIdSchema,
    resource_type: z.enum(RESOURCE_TYPES),
    action: text(1, 128)
      .describe('What is bought, e.g. the name of the tool. The governance file may allow some actions only.')
      .meta({ examples: ['web_search'] }),
    cost: z
      .number()
      .min(0)
      .max(MAX_COST_USD)
      .describe(
        'US dollars, 0 to 1,000,000, rounded up to a billionth of a dollar. 0 is a free action that still has to be allowed and counted.',
      ),
    metadata: metadataSchema.optional(),
  }),
  output: z.object({
    status: z.enum(['success', 'denied']),
    cost: usd,
    budgets: z
      .array(z.object({ period: z.enum(WINDOWS), remaining: usd }))
      .describe('What is left per window, of the tightest envelope on the path'),
    agent_id: z.string(),
    booking_id: z.string().optional(),
    operations_remaining: z.number().int().optional().describe('Governance operations left in the account'),
    deferred: z
      .literal(true)
      .optional()
      .describe('The database is away and the governance file lets this agent go on: the booking is kept and made afterwards'),
    reason: z.enum(SPEND_REASONS).optional(),
    message: z.string().optional(),
    hint: z.string().optional(),
    limit_agent_id: z.string().optional().describe('The envelope that refused'),
    limit_usd: usd.optional(),
    spent_usd: usd.optional(),
    reset_at: z.number().int().optional().describe('Unix milliseconds'),
  }),
  denial: { status: 403, is: ({ status }) => status === 'denied' },
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: false },
  async run({ bookings }: BookingDeps, input, context) {
    const { cost, decision } = await bookings.book(context.caller.accountId, context, {
      agentId: input.agent_id,
      resourceType: input.resource_type,
      action: input.action,
      costUsd: input.cost,
      metadata: input.metadata,
    })
    const asked = { cost: usdFromNanousd(cost), agent_id: input.agent_id }
    if (!decision.approved) return deniedJson(decision, cost, asked)
    const booked = { status: 'success' as const, ...asked, booking_id: decision.holdId }
    if ('deferred' in decision) return { ...booked, budgets: [], deferred: true as const }
    return { ...booked, budgets: perPeriod(decision.limits ?? []), operations_remaining: Number(decision.ops) }
  },
})

const deniedJson = (refusal: Refusal, cost: Nanousd, asked: { cost: number; agent_id: string }) => {
  const { tightest } = refusal
  return {
    status: 'denied' as const,
    ...asked,
    budgets: perPeriod(refusal.limits ?? []),
    ...spendRefusal(refusal, cost),
    hint: refusal.reason === 'envelope_exceeded' ? EXCEEDED : hintOf(refusal),
    ...(refusal.suspendedPath !== undefined && { limit_agent_id: refusal.suspendedPath }),
    ...(tightest && {
      limit_agent_id: tightest.agentId,
      limit_usd: usdFromNanousd(tightest.limit + tightest.extra),
      spent_usd: usdFromNanousd(tightest.spent),
      reset_at: tightest.resetMs,
    }),
  }
}

const EXCEEDED =
  'Do not spend. Book something cheaper, wait until reset_at, or ask a human with request_approval and a grant of {extra_usd}. Booking it again unchanged will be denied again.'

/** Of several limits on the path for one window, the one with the least left. */
function perPeriod(limits: readonly LimitView[]): { period: LimitView['window']; remaining: number }[] {
  return WINDOWS.flatMap((window) => {
    const left = limits.filter((limit) => limit.window === window).map(({ remaining }) => remaining)
    const least = left.reduce<Nanousd | null>((least, amount) => (least === null || amount < least ? amount : least), null)
    return least === null ? [] : [{ period: window, remaining: usdFromNanousd(least) }]
  })
}

export const bookingOperations = [bookSpend]
