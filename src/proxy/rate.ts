import { pathOf } from '../budgets/path.ts'
import { answeredWithin } from '../core/patience.ts'
import { canonicalName, readModelId, withoutDate, withoutVariant } from '../prices/normalise.ts'
import type { RateService } from '../rate/service.ts'
import { ProxyError } from './answers.ts'
import type { PlannedCall } from './request.ts'

/** What a call with many names may cost in lookups; no real agent and model come near. */
const MAX_KEYS = 1_000

/**
 * Every name under which a share may count a model: as the provider is sent it, and in lower case with and without its variant, its release
 * date and what stands before its own name.
 */
export function shareNames(model: string): Set<string> {
  const names = new Set([model])
  const { segments } = readModelId(model)
  const own = segments.at(-1) ?? ''
  const before = segments
    .slice(0, -1)
    .map((segment) => `${segment}/`)
    .join('')
  for (const spelling of [own, canonicalName(own)])
    for (const name of [spelling, withoutVariant(spelling), withoutDate(withoutVariant(spelling))])
      names.add(before + name).add(name)
  return names
}

/**
 * Counts a call against the shares of the agent and of those above it, where there are any: who is bound to `team` has not more of it as
 * `team/x`. Every model that may answer counts.
 * @param outage `mayGoOn`: what may go on without its budget may do so without its share
 * @throws ProxyError `rate_exceeded`
 */
export async function checkRate(
  rates: RateService,
  who: { readonly accountId: string; readonly agentId: string },
  { choice, alternatives }: PlannedCall,
  outage: { readonly mayGoOn: boolean; readonly isDatabaseAway: (error: unknown) => boolean },
): Promise<void> {
  const { accountId } = who
  const provider = choice.upstream.name
  const names = new Set([choice.model, ...alternatives].flatMap((model) => [...shareNames(model)]))
  const path = pathOf(who.agentId)
  if (path.length * names.size > MAX_KEYS)
    throw new ProxyError(400, 'invalid_params', 'Name fewer fallback models, or an agent with fewer levels.')
  const keys = path.flatMap((agentId) => [...names].map((model) => ({ accountId, agentId, provider, model })))
  const checks = Promise.all(keys.map((key) => rates.checkIfShared(key)))
  const decisions = await (outage.mayGoOn ? answeredWithin(checks) : checks).catch((error: unknown) => {
    if (outage.mayGoOn && outage.isDatabaseAway(error)) return []
    throw error
  })
  for (const [index, decision] of decisions.entries()) {
    if (decision === null || decision.allowed) continue
    const seconds = Math.ceil(decision.retry_after_ms / 1000)
    const message = `Agent "${keys[index]?.agentId}" has used up its requests a minute for ${provider}. Try again in ${seconds} s.`
    throw new ProxyError(429, 'rate_exceeded', message, { retryAfterSeconds: seconds })
  }
}
