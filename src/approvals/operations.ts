import { z } from 'zod'
import { pathOf } from '../budgets/path.ts'
import { WINDOWS } from '../budgets/windows.ts'
import { DomainError } from '../core/errors.ts'
import { nanousdFromUsd } from '../core/money.ts'
import { defineOperation, type RunContext } from '../core/operation.ts'
import { agentIdSchema, integer, plainLine, queryInteger, text } from '../core/text.ts'
import { effectText } from './effect.ts'
import type { Approval, ApprovalService, ApprovalView } from './service.ts'

export type ApprovalDeps = {
  readonly approvals: ApprovalService
  readonly accounts: { get(accountId: string): Promise<{ readonly approvalLinks: 'agent' | 'owner' }> }
  /** Origin of links where the transport knows none. */
  /** PUBLIC_URL, else the address that the server listens on. */
  readonly fallbackOrigin: string
}

const MAX_TTL_SECONDS = 604_800
const DEFAULT_TTL_SECONDS = 600
const MAX_WAIT_SECONDS = 30
const REQUESTS_PER_MINUTE = 30
const MINUTE_MS = 60_000
const MAX_LISTED = 100
const DEFAULT_LISTED = 50
const unixMs = z.number().int().describe('Unix milliseconds')
const limitUsd = z.number().gt(0).max(1_000_000)
const windowSchema = z.enum(WINDOWS)

const grantSchema = z
  .strictObject({
    limit_usd: limitUsd.optional().describe('A new cap for the window, US dollars'),
    extra_usd: limitUsd.optional().describe('A one-off raise of the current window instance, US dollars'),
    window: windowSchema
      .optional()
      .describe("With limit_usd: daily when left out. With extra_usd: the agent's tightest window when left out."),
    agent_id: agentIdSchema.optional().describe('The envelope to raise when it is one above the agent; agent_id when left out'),
  })
  .superRefine((grant, context) => {
    if ((grant.limit_usd === undefined) === (grant.extra_usd === undefined))
      context.addIssue({
        code: 'custom',
        path: ['limit_usd'],
        message: 'is required (number), unless extra_usd is given instead',
      })
  })
  .describe('What approving changes, applied together with the decision, once')

export const requestApproval = defineOperation({
  name: 'request_approval',
  title: 'Ask a human for approval',
  description:
    'Sends the account owner a link to approve or deny an action. Give the link to the human as well if you talk to one, then call check_approval with wait_seconds until the decision is there. With grant, approving also raises a spend limit: a denied budget_clear returns such a request as approval_request, ready to be sent as it is.',
  tag: 'Approvals',
  method: 'post',
  path: '/v1/approval/request',
  access: { kind: 'key', scopes: ['owner', 'agent'], agentRule: 'within' },
  input: z
    .object({
      agent_id: agentIdSchema,
      action_summary: text(1, 280).describe('What the human is asked to allow, in one sentence'),
      ttl_seconds: integer(1, MAX_TTL_SECONDS).optional().describe('How long the human has; 600 when left out'),
      channels: z
        .array(text(1, 64))
        .min(1)
        .max(10)
        .optional()
        .describe('Channel ids or kinds (email, slack, discord, telegram, webhook); all of the account when left out'),
      grant: grantSchema.optional(),
    })
    .superRefine((input, context) => {
      const raised = input.grant?.agent_id
      if (raised !== undefined && !pathOf(input.agent_id).includes(raised))
        context.addIssue({
          code: 'custom',
          path: ['grant', 'agent_id'],
          message: 'must be the agent or an envelope above it on its path',
        })
    }),
  inputErrors: {
    agent_id: 'invalid_agent_id',
    action_summary: 'invalid_action_summary',
    ttl_seconds: 'invalid_ttl_seconds',
    channels: 'invalid_channels',
  },
  output: z.object({
    approval_id: z.string().describe('Give it to check_approval'),
    approval_url: z
      .string()
      .describe(
        'The page for the human. Whoever has it can decide, unless the account lets only its owner decide (approval_links).',
      ),
    expires_at: unixMs,
    notification: z
      .record(z.string(), z.enum(['sent', 'queued', 'no_address', 'skipped_no_config', 'failed']))
      .describe('Per channel'),
    decision: z
      .enum(['pending', 'approved', 'denied', 'timeout'])
      .optional()
      .describe('Only where the page was opened by the MCP client: what the human decided there so far'),
  }),
  errors: [
    'invalid_agent_id',
    'invalid_action_summary',
    'invalid_ttl_seconds',
    'invalid_channels',
    'no_envelope',
    'rate_limited',
  ],
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: true },
  secretResult: true,
  throttle(_deps: ApprovalDeps, { caller }: RunContext) {
    if (caller.kind !== 'key') return null
    const hint = `At most ${REQUESTS_PER_MINUTE} approval requests a minute for one account. Wait retry_after_ms.`
    return { subject: `approval:${caller.accountId}`, max: REQUESTS_PER_MINUTE, window_ms: MINUTE_MS, hint }
  },
  async run({ approvals, accounts, fallbackOrigin }: ApprovalDeps, input, context) {
    const { grant } = input
    const { caller } = context
    // An agent that holds a deciding link could answer its own request.
    const askerMayDecide = caller.scope !== 'agent' || (await accounts.get(caller.accountId)).approvalLinks === 'agent'
    const usd = grant?.limit_usd ?? grant?.extra_usd
    const asker = context.origin?.() ?? fallbackOrigin
    const origins = { asker, people: isTrustedOrigin(asker, fallbackOrigin) ? asker : fallbackOrigin }
    const requested = await approvals.request(caller.accountId, context, origins, {
      agentId: input.agent_id,
      actionSummary: input.action_summary,
      ttl_ms: (input.ttl_seconds ?? DEFAULT_TTL_SECONDS) * 1000,
      channels: input.channels ?? null,
      askerMayDecide,
      raise:
        grant === undefined || usd === undefined
          ? null
          : {
              agentId: grant.agent_id ?? input.agent_id,
              window: grant.window ?? null,
              kind: grant.limit_usd === undefined ? 'extra' : 'limit',
              amount: atLeastOne(nanousdFromUsd(usd, 'down')),
            },
    })
    return {
      approval_id: requested.token,
      approval_url: requested.url,
      expires_at: requested.expiresMs,
      notification: requested.notification,
    }
  },
})

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/

/**
 * Whether a link that is sent to people may lead there: the caller says in his Host header where this server is, and an agent could name a host
 * of its own.
 */
function isTrustedOrigin(origin: string, configured: string): boolean {
  const host = new URL(origin).hostname
  return LOOPBACK.test(host) || host === new URL(configured).hostname
}

/** A limit too small for the smallest unit still is a limit above zero. */
const atLeastOne = (amount: bigint): bigint => (amount === 0n ? 1n : amount)

const decisionView = {
  decision: z.enum(['pending', 'approved', 'denied', 'timeout']),
  agent_id: z.string(),
  action_summary: z.string(),
  created_at: unixMs,
  expires_at: unixMs,
  responder: z.string().optional().describe('How the answer came'),
  decided_at: unixMs.optional(),
}

/** What `check_approval` answers, and the page to those who ask it for JSON. */
export const approvalJson = (approval: Approval) => ({
  decision: approval.decision ?? ('pending' as const),
  agent_id: approval.agentId,
  action_summary: approval.actionSummary,
  created_at: approval.createdMs,
  expires_at: approval.expiresMs,
  ...(approval.responder !== null && { responder: approval.responder }),
  ...(approval.decidedMs !== null && { decided_at: approval.decidedMs }),
})

export const checkApproval = defineOperation({
  name: 'check_approval',
  title: "Read a human's decision",
  description:
    'pending until the human decides, then approved, denied or timeout, which is final. With wait_seconds the answer is held until the decision comes. Only approved means go ahead.',
  tag: 'Approvals',
  method: 'get',
  path: '/v1/approval/check/{approval_id}',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'] },
  input: z.object({
    approval_id: text(1, 256).describe('The approval_id that request_approval returned'),
    wait_seconds: queryInteger(0, MAX_WAIT_SECONDS).optional().describe('Longest wait for a decision; none when left out'),
  }),
  output: z.object({ approval_id: z.string(), ...decisionView }),
  errors: ['approval_not_found'],
  tool: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  async run({ approvals }: ApprovalDeps, input, { caller }) {
    const wait_ms = (input.wait_seconds ?? 0) * 1000
    const approval = await approvals.check(caller.accountId, input.approval_id, caller.agentId, wait_ms)
    return { approval_id: input.approval_id, ...approvalJson(approval) }
  },
})

const approvalView = z.object({
  approval_ref: z.string().describe('Names the request in the account. Unlike the approval_id it decides nothing by itself.'),
  ...decisionView,
  effect: z.string().nullable().describe('What approving would change now; null for nothing, or once decided'),
  terms: z.string().nullable().describe('Hand it to decide_approval, so that nothing is approved but what was shown'),
})
const viewJson = ({ approval, effect }: ApprovalView) => ({
  approval_ref: approval.approvalId,
  ...approvalJson(approval),
  effect: effect === null ? null : effectText(effect),
  terms: effect?.terms ?? null,
})

export const listApprovals = defineOperation({
  name: 'list_approvals',
  title: 'List approval requests',
  description:
    'The requests of the account to its people, newest first, with what was decided. A key that is bound to an agent sees those of its path. Decided ones are kept for 90 days.',
  tag: 'Approvals',
  method: 'get',
  path: '/v1/approval',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'] },
  input: z.object({
    state: z.enum(['pending', 'approved', 'denied', 'timeout']).optional().describe('Only those; all when left out'),
    limit: queryInteger(1, MAX_LISTED).optional().describe('50 when left out'),
    before: z.uuid().optional().describe('An approval_ref: only older requests than that one'),
  }),
  output: z.object({
    approvals: z.array(approvalView),
    next_before: z.string().nullable().describe('Give it as before to read on; null at the end'),
  }),
  async run({ approvals }: ApprovalDeps, input, { caller }) {
    const limit = input.limit ?? DEFAULT_LISTED
    const wanted = { state: input.state ?? null, boundTo: caller.agentId, limit, before: input.before ?? null }
    const found = await approvals.list(caller.accountId, wanted)
    const last = found.length < limit ? undefined : found.at(-1)
    return { approvals: found.map(viewJson), next_before: last?.approval.approvalId ?? null }
  },
})

export const decideApproval = defineOperation({
  name: 'decide_approval',
  title: 'Decide an approval request',
  description:
    'Approves or denies a pending request of the account, as the page behind the approval link does. The first decision stands and is what the answer shows.',
  tag: 'Approvals',
  method: 'post',
  path: '/v1/approval/decide/{approval_ref}',
  access: { kind: 'key', scopes: ['owner'] },
  input: z.object({
    approval_ref: text(1, 64),
    decision: z.enum(['approved', 'denied']),
    terms: text(1, 200).optional().describe('From list_approvals; without it, what was asked for originally is decided on'),
  }),
  output: approvalView,
  errors: ['approval_not_found', 'approval_changed'],
  async run({ approvals }: ApprovalDeps, input, { caller }) {
    const responder = `key ${plainLine(caller.name)}`
    const options = { shown: input.terms ?? null, responder }
    const decided = await approvals.decideById(caller.accountId, input.approval_ref, input.decision, options)
    if (decided.outcome === 'changed')
      throw new DomainError('approval_changed', { details: { terms: decided.effect?.terms ?? null } })
    return viewJson(decided)
  },
})

export const approvalOperations = [requestApproval, checkApproval, listApprovals, decideApproval]
