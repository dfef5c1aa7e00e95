import { Allowance } from './core/allowance.ts'
import type { Clock } from './core/clock.ts'
import type { Guards } from './core/operation.ts'

/** Part of the allowance that bound keys leave to the owner, so that an agent cannot keep its owner from lowering its limit. */
const RESERVED_FOR_OWNER = 0.5

/** How often an account may change its settings: envelopes, rate shares, keys, channels, webhooks. Each change stores something for ever and burns no op. */
export function createChangeLimit(deps: { clock: Clock; opsOf: (accountId: string) => bigint }): Guards['mayChange'] {
  const allowance = new Allowance({ atOnce: 5_000, perMinute: 10 })
  return (accountId, isBound) => {
    const ops = deps.opsOf(accountId)
    const now_ms = deps.clock.now()
    const reserved = isBound ? allowance.atOnce(ops) * RESERVED_FOR_OWNER : 0
    if (allowance.left(accountId, ops, now_ms) < reserved + 1) return allowance.wait_ms(ops)
    allowance.use(accountId, 1, ops, now_ms)
    return 0
  }
}
