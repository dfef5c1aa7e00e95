import type { Nanousd } from '../core/money.ts'
import type { PerWindow } from './state.ts'

/**
 * Limits and rules that come from outside the accounts and hold in every one of them: the governance file. A pure value. It only ever
 * tightens: of two limits on one path and window the smaller one holds, and both count the same spend.
 */
export type Policy = {
  /** Further limits on one agent path; null when there are none. */
  limits(agentId: string): PerWindow<Nanousd | null> | null
  /** Whether something on the path forbids what is asked for. */
  refusal(path: readonly string[], asked: PolicyQuestion): PolicyRefusal | null
  /** Every path with limits. */
  readonly limitedPaths: readonly string[]
}
export type PolicyQuestion = { readonly model?: string; readonly maxTokens?: number; readonly tool?: string }
export type PolicyRefusal = {
  readonly reason: 'model_not_allowed' | 'max_tokens_exceeded' | 'tool_not_allowed'
  /** The path whose rule forbids it. */
  readonly path: string
  /** For the caller: what the rule allows. */
  readonly message: string
}

/** The policy in force; null when there is none. Asked for each batch, so a change applies to the next decision. */
export type PolicySource = () => Policy | null
export const noPolicy: PolicySource = () => null
