import { type CallToolResult, type InputRequiredResult, inputRequired, inputResponse } from '@modelcontextprotocol/server'
import { z } from 'zod'
import { DomainError } from '../core/errors.ts'
import { plainLine } from '../core/text.ts'
import { type McpCall, type ToolAnswer, toolResult } from './mcp-tools.ts'

/** How long the retried call waits for the decision; clients give a call a minute. */
const WAIT_SECONDS = 25
const QUESTION = 'approve'

/** A client that can open a page for its human. */
export const clientCapabilitiesSchema = z.object({ elicitation: z.object({ url: z.looseObject({}) }) })

/**
 * What the client brings back. It carries no rights: the approval is read with the caller's key like any other, and must be the one that the
 * arguments describe. So it needs no signature, and any process can take the retry.
 */
const stateSchema = z.object({
  approval_id: z.string().max(256),
  approval_url: z.string().max(2048),
  notification: z.record(z.string().max(64), z.enum(['sent', 'queued', 'no_address', 'skipped_no_config', 'failed'])),
})
const argumentsSchema = z.object({ agent_id: z.string(), action_summary: z.string() })
const requestedSchema = stateSchema.extend({ expires_at: z.number() })
const checkedSchema = argumentsSchema.extend({
  decision: z.enum(['pending', 'approved', 'denied', 'timeout']),
  expires_at: z.number(),
})

type Tools = { call(name: string, args: Record<string, unknown>, call: McpCall): Promise<ToolAnswer | undefined> }
type Round = { readonly capabilities: unknown; readonly responses: Record<string, unknown> | undefined; readonly state: unknown }

/**
 * `request_approval` for a client that declares `elicitation: {url}` (protocol 2026-07-28): the first call stores the request and asks the
 * client to open its page; the retry completes with what was decided there. null: this client is answered like any other.
 */
export async function elicitApproval(
  tools: Tools,
  args: Record<string, unknown>,
  call: McpCall,
  round: Round,
): Promise<InputRequiredResult | CallToolResult | null> {
  if (!clientCapabilitiesSchema.safeParse(round.capabilities).success) return null
  if (round.state === undefined) return ask(tools, args, call)
  const answer = await complete(tools, args, call, round)
  return answer && toolResult(answer)
}

async function ask(
  tools: Tools,
  args: Record<string, unknown>,
  call: McpCall,
): Promise<InputRequiredResult | CallToolResult | null> {
  const answer = await tools.call('request_approval', args, call)
  if (answer === undefined || answer.isError) return answer ? toolResult(answer) : null
  const { expires_at: _, ...state } = requestedSchema.parse(answer.body)
  const { agent_id, action_summary } = argumentsSchema.parse(args)
  return inputRequired({
    inputRequests: {
      [QUESTION]: inputRequired.elicitUrl({
        message: `${plainLine(agent_id)} asks for your approval: ${plainLine(action_summary)}`,
        url: state.approval_url,
      }),
    },
    requestState: JSON.stringify(state),
  })
}

async function complete(tools: Tools, args: Record<string, unknown>, call: McpCall, round: Round): Promise<ToolAnswer | null> {
  const state = stateOf(round.state)
  const asked = argumentsSchema.safeParse(args)
  if (state === null || !asked.success) return refusal()
  const response = inputResponse(round.responses, QUESTION)
  const isOpen = response.kind === 'elicit' && response.action === 'accept'
  const checking = { approval_id: state.approval_id, wait_seconds: isOpen ? WAIT_SECONDS : 0 }
  const answer = await tools.call('check_approval', checking, call)
  if (answer === undefined || answer.isError) return answer ?? null
  const { agent_id, action_summary, decision, expires_at } = checkedSchema.parse(answer.body)
  if (agent_id !== asked.data.agent_id || action_summary !== asked.data.action_summary) return refusal()
  const body = { ...state, expires_at, decision }
  const json = JSON.stringify(body)
  return { isError: false, body, json, text: json }
}

function stateOf(state: unknown): z.infer<typeof stateSchema> | null {
  if (typeof state !== 'string') return null
  try {
    return stateSchema.parse(JSON.parse(state))
  } catch {
    return null
  }
}

function refusal(): ToolAnswer {
  const body = new DomainError('invalid_params', {
    hint: 'The request state is not the one of this request_approval. Call it again without a state.',
    details: {
      required: ['agent_id', 'action_summary'],
      issues: [{ path: 'requestState', message: 'belongs to another request' }],
    },
  }).toBody()
  const json = JSON.stringify(body)
  return { isError: true, body, json, text: json }
}
