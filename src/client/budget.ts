import type { Gvnr } from './client.ts'
import { BudgetDenied, isUnserved } from './errors.ts'
import type { ApprovalRequested, Clearance, Denial, Usage } from './types.ts'
import { StreamUsage, usageOf } from './usage.ts'

/** How a cleared call ended. */
export type Outcome =
  /** Reconciled with what was used. */
  | { readonly kind: 'settled'; readonly clearance: Clearance; readonly usage: Usage; readonly drift_usd: number }
  /** The provider did not serve the call: the estimate was given back. */
  | { readonly kind: 'released'; readonly clearance: Clearance; readonly error: unknown }
  /**
   * Nobody knows what was used, or Gvnr could not be told: the estimate stands and counts as spent when the clearance expires.
   * With `usage` set, reconcile by hand until then.
   */
  | {
      readonly kind: 'standing'
      readonly clearance: Clearance
      readonly reason: 'usage_unknown' | 'call_failed' | 'stopped_early' | 'gvnr_failed'
      readonly usage?: Usage
      readonly error?: unknown
    }

/** What every way to govern calls understands. */
export type Policy = {
  readonly agentId?: string
  /** `throw` (the default) a `BudgetDenied`, or `ask` a human first where the denial says what to ask for. */
  readonly onDenied?: 'throw' | 'ask'
  /** How long the human has, in seconds; the server's default is 600. */
  readonly approvalTtlSeconds?: number
  /** Who is asked: channel ids or kinds. */
  readonly approvalChannels?: string[]
  /** Told when a human is asked: the place to show `approval_url`. */
  readonly onAsk?: (approval: ApprovalRequested, denial: Denial) => void
  /** Told how each cleared call ended; the only place that hears of estimates left standing. */
  readonly onOutcome?: (outcome: Outcome) => void
  /** How long a clearance stays open; the server's default is an hour. Longer streams need more. */
  readonly holdSeconds?: number
}

/** What is about to be spent. */
export type Plan = {
  readonly model: string
  /** Most output tokens the call may use: what goes out as its `max_tokens`. Embeddings: input tokens. */
  readonly estimatedTokens: number
  readonly estimatedInputTokens?: number
}

export type WithBudgetOptions<T> = Policy &
  Plan & {
    readonly gvnr: Gvnr
    readonly signal?: AbortSignal
    /** What the result used, where the kit does not understand it; of a stream it is asked for each event. Null: not known. */
    readonly usage?: (result: T extends AsyncIterable<infer Event> ? Event : T) => Usage | null
  }

/** Longest wait for one answer about an approval (contract: 30). */
const POLL_SECONDS = 25
const DEFAULT_TTL_SECONDS = 600
/** The server makes an approval final by itself; this is for a server that does not answer any more. */
const GRACE_MS = 60_000

/**
 * Calls `fn` only when its estimate is cleared, and settles it with what it used.
 *
 * A result that is an async iterable is a stream: it is settled when it ends, or when the consumer stops. When `fn` throws, the estimate
 * is given back if the provider certainly did not serve the call, and stands otherwise; the error is passed on as it is.
 * @throws BudgetDenied; GvnrError when Gvnr cannot be asked (then `fn` was not called); what `fn` throws
 */
export async function withBudget<T>(
  options: WithBudgetOptions<T>,
  fn: (context: { readonly clearance: Clearance; readonly signal: AbortSignal | undefined }) => T | Promise<T>,
): Promise<T> {
  const hold = await Hold.take(options.gvnr, options, options, options.signal)
  let result: T
  try {
    result = await fn({ clearance: hold.clearance, signal: options.signal })
  } catch (error) {
    await hold.failed(error)
    throw error
  }
  const read = options.usage as ((value: unknown) => Usage | null) | undefined
  if (isAsyncIterable(result)) observe(result, hold, new StreamUsage(read))
  else await hold.settle((read ?? usageOf)(result))
  return result
}

/** One cleared call until it is over. Its endings never throw: the call was made, and its caller wants the result. */
export class Hold {
  readonly clearance: Clearance
  readonly #gvnr: Gvnr
  readonly #policy: Policy
  #isOver = false

  private constructor(gvnr: Gvnr, policy: Policy, clearance: Clearance) {
    this.#gvnr = gvnr
    this.#policy = policy
    this.clearance = clearance
  }

  /** @throws BudgetDenied, GvnrError, the signal's reason */
  static async take(gvnr: Gvnr, policy: Policy, plan: Plan, signal?: AbortSignal): Promise<Hold> {
    const clear = () =>
      gvnr.clear(
        {
          ...agentOf(policy),
          model: plan.model,
          estimated_tokens: plan.estimatedTokens,
          ...(plan.estimatedInputTokens !== undefined && { estimated_input_tokens: plan.estimatedInputTokens }),
          ...(policy.holdSeconds !== undefined && { hold_seconds: policy.holdSeconds }),
        },
        { signal },
      )
    const first = await clear()
    if (first.approved) return new Hold(gvnr, policy, first as Clearance)
    const denial = first as Denial
    if (policy.onDenied !== 'ask' || denial.approval_request === undefined) throw new BudgetDenied(denial)
    const asked = await ask(gvnr, policy, denial, denial.approval_request, signal)
    if (asked.decision !== 'approved') throw new BudgetDenied(denial, asked)
    const second = await clear()
    if (!second.approved) throw new BudgetDenied(second as Denial, asked)
    return new Hold(gvnr, policy, second as Clearance)
  }

  /** The call was made; null: nobody knows what it used. */
  async settle(usage: Usage | null, reason: 'usage_unknown' | 'stopped_early' = 'usage_unknown'): Promise<void> {
    if (!this.#end()) return
    const { clearance } = this
    if (usage === null) return this.#tell({ kind: 'standing', clearance, reason })
    try {
      const { drift_usd } = await this.#gvnr.reconcile({
        ...agentOf(this.#policy),
        clearance_id: clearance.clearance_id,
        ...reconcileFields(usage),
      })
      this.#tell({ kind: 'settled', clearance, usage, drift_usd })
    } catch (error) {
      this.#tell({ kind: 'standing', clearance, reason: 'gvnr_failed', usage, error })
    }
  }

  /** The call failed. */
  async failed(error: unknown): Promise<void> {
    if (!isUnserved(error)) {
      if (this.#end()) this.#tell({ kind: 'standing', clearance: this.clearance, reason: 'call_failed', error })
      return
    }
    await this.release(error)
  }

  /** The call was certainly not served. */
  async release(error: unknown): Promise<void> {
    if (!this.#end()) return
    const { clearance } = this
    try {
      await this.#gvnr.release({ clearance_id: clearance.clearance_id })
      this.#tell({ kind: 'released', clearance, error })
    } catch (cause) {
      this.#tell({ kind: 'standing', clearance, reason: 'gvnr_failed', error: cause })
    }
  }

  /** False when it has already ended: the first ending stands. */
  #end(): boolean {
    if (this.#isOver) return false
    this.#isOver = true
    return true
  }

  #tell(outcome: Outcome): void {
    this.#policy.onOutcome?.(outcome)
  }
}

const agentOf = ({ agentId }: Policy) => (agentId === undefined ? {} : { agent_id: agentId })

const reconcileFields = (usage: Usage) => ({
  actual_input_tokens: usage.inputTokens,
  actual_output_tokens: usage.outputTokens,
  ...(usage.cachedInputTokens !== undefined && { cached_input_tokens: usage.cachedInputTokens }),
  ...(usage.cacheWriteInputTokens !== undefined && { cache_write_input_tokens: usage.cacheWriteInputTokens }),
  ...(usage.cacheWrite1hInputTokens !== undefined && { cache_write_1h_input_tokens: usage.cacheWrite1hInputTokens }),
})

/** Sends the request that the denial proposes and waits until a human has decided or time is up. */
async function ask(
  gvnr: Gvnr,
  policy: Policy,
  denial: Denial,
  request: NonNullable<Denial['approval_request']>,
  signal: AbortSignal | undefined,
): Promise<{ approval: ApprovalRequested; decision: 'approved' | 'denied' | 'timeout' }> {
  const { approvalTtlSeconds: ttl_seconds, approvalChannels: channels } = policy
  const approval = await gvnr.requestApproval(
    { ...request, ...(ttl_seconds !== undefined && { ttl_seconds }), ...(channels !== undefined && { channels }) },
    { signal },
  )
  policy.onAsk?.(approval, denial)
  const deadline_ms = performance.now() + (ttl_seconds ?? DEFAULT_TTL_SECONDS) * 1000 + GRACE_MS
  while (performance.now() < deadline_ms) {
    const { decision } = await gvnr.checkApproval(approval.approval_id, { waitSeconds: POLL_SECONDS, signal })
    if (decision !== 'pending') return { approval, decision }
  }
  return { approval, decision: 'timeout' }
}

const isAsyncIterable = (value: unknown): value is AsyncIterable<unknown> =>
  typeof value === 'object' && value !== null && Symbol.asyncIterator in value

/** Lets the stream be what it is (its class, its methods) and watches the iteration that its consumer begins. */
function observe(stream: AsyncIterable<unknown>, hold: Hold, usage: StreamUsage): void {
  const original = stream[Symbol.asyncIterator]
  Object.defineProperty(stream, Symbol.asyncIterator, {
    configurable: true,
    value: () => watched(original.call(stream), hold, usage),
  })
}

async function* watched(events: AsyncIterator<unknown>, hold: Hold, usage: StreamUsage): AsyncGenerator<unknown> {
  let ended = false
  try {
    for (let step = await events.next(); !step.done; step = await events.next()) {
      usage.add(step.value)
      yield step.value
    }
    ended = true
  } catch (error) {
    const known = usage.result(false)
    if (known === null) await hold.failed(error)
    else await hold.settle(known)
    throw error
  } finally {
    // A consumer that stops early lands here without an error: the provider has to be told before the books are closed.
    if (!ended) await events.return?.()
    await hold.settle(usage.result(ended), ended ? 'usage_unknown' : 'stopped_early')
  }
}
