import type { operations } from './schema.ts'

type JsonOf<C> = C extends { content: { 'application/json': infer Body } } ? Body : never
type Named = keyof operations
type BodyOf<N extends Named> = operations[N] extends { requestBody: infer R } ? JsonOf<R> : never
type AnswerOf<N extends Named> = operations[N] extends { responses: { 200: infer R } } ? JsonOf<R> : never
/** `agent_id` may be left out where the client has an agent of its own. */
type OwnAgent<T extends { agent_id: string }> = Omit<T, 'agent_id'> & { agent_id?: string }

export type ClearInput = OwnAgent<BodyOf<'budget_clear'>>
export type ClearAnswer = AnswerOf<'budget_clear'>
export type ReconcileInput = OwnAgent<BodyOf<'reconcile'>>
export type ReconcileAnswer = AnswerOf<'reconcile'>
export type ReleaseInput = BodyOf<'release'>
export type ReleaseAnswer = AnswerOf<'release'>
export type RateCheckInput = OwnAgent<BodyOf<'rate_check'>>
export type RateCheckAnswer = AnswerOf<'rate_check'>
export type ApprovalInput = OwnAgent<BodyOf<'request_approval'>>
export type ApprovalRequested = AnswerOf<'request_approval'>
export type Approval = AnswerOf<'check_approval'>

/** A spend that is no model call. */
export type BookInput = OwnAgent<BodyOf<'book_spend'>>
/** `status: "denied"` says in `reason` and `hint` why nothing was booked. */
export type BookAnswer = AnswerOf<'book_spend'>

/** An approved clearance: what is open until it is reconciled or released. */
export type Clearance = ClearAnswer & { approved: true; clearance_id: string; expires_at: number }
/** A refused one. `reason` and `hint` say what would work. */
export type Denial = ClearAnswer & { approved: false }

/** What a call used, as the provider counted it. Cached and written tokens are part of `inputTokens`, reasoning is part of `outputTokens`. */
export type Usage = {
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cachedInputTokens?: number
  readonly cacheWriteInputTokens?: number
  readonly cacheWrite1hInputTokens?: number
}

/** Per call, for all methods. */
export type CallOptions = {
  readonly signal?: AbortSignal | undefined
  /** Makes the call safe to repeat; a random one when left out. */
  readonly idempotencyKey?: string | undefined
}
