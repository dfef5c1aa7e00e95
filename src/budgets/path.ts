/** The envelope that caps a whole account. */
export const ACCOUNT_PATH = '*'

/**
 * The envelopes a spend of this agent must fit, widest first: `*`, then each prefix of the path that ends before a `/`,
 * then the agent itself (contract section 3, hierarchy). At most 129 levels, since an agent_id has at most 128 characters.
 */
export function pathOf(agentId: string): string[] {
  if (agentId === ACCOUNT_PATH) return [ACCOUNT_PATH]
  const levels = [ACCOUNT_PATH]
  for (let at = agentId.indexOf('/'); at !== -1; at = agentId.indexOf('/', at + 1)) {
    const prefix = agentId.slice(0, at)
    if (prefix !== '' && prefix !== ACCOUNT_PATH) levels.push(prefix)
  }
  levels.push(agentId)
  return levels
}

// `charged` sets: which levels of a path have counted a hold, as a hex bit set (bit i = level i). Hex text rather than an
// integer because a path may have more levels than an integer has bits.

/** @param levels indexes into `pathOf(agent_id)`, each below 129 */
export function encodeLevels(levels: readonly number[]): string {
  let small = 0
  let large: bigint | null = null
  for (const level of levels) {
    if (level < 30) small |= 1 << level
    else large = (large ?? 0n) | (1n << BigInt(level))
  }
  return large === null ? small.toString(16) : (large | BigInt(small)).toString(16)
}

export function decodeLevels(text: string): number[] {
  const levels: number[] = []
  let bits = BigInt(`0x${text}`)
  for (let level = 0; bits > 0n; level++, bits >>= 1n) if (bits & 1n) levels.push(level)
  return levels
}
