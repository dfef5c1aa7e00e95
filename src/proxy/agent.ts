import { DomainError } from '../core/errors.ts'
import { isWithin, type KeyCaller } from '../core/operation.ts'
import { agentIdSchema } from '../core/text.ts'
import { ProxyError } from './answers.ts'

/** The agent of a key that is bound to none, when the call does not name one. */
const DEFAULT_AGENT = 'default'

/**
 * The agent that a call is made for: the one it names, else the one its key is bound to.
 * @throws ProxyError `invalid_agent_id`, DomainError `forbidden`
 */
export function agentOf(caller: KeyCaller, named: string | undefined): string {
  if (named === undefined) return caller.agentId ?? DEFAULT_AGENT
  const parsed = agentIdSchema.safeParse(named)
  if (!parsed.success) throw new ProxyError(400, 'invalid_agent_id', 'X-Gvnr-Agent-Id must be 1 to 128 characters long.')
  if (caller.agentId !== null && !isWithin(named, caller.agentId))
    throw new DomainError('forbidden', {
      hint: `This key is bound to agent "${caller.agentId}" and those below it. Name one of those, or none.`,
    })
  return named
}
