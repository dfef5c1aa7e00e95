/**
 * What the contract promises (sections 2, 3, 4 and 6), as plainly as it can be written: lists that are searched and sums that are made
 * anew each time. Shares no code with src, so that both are never wrong in the same way. It speaks requests and response bodies; hints,
 * which are prose, are left out of both.
 *
 * Where the contract is silent: an agent's row, once its first envelope was set, counts for ever, also while the envelope is deleted; an
 * agent that never had one is not charged; an account's time moves with each change and never back; a release gives the estimate
 * back, not the op; an expired clearance stands at its estimate and cannot be resolved; `remaining_usd` is the least that is left of any
 * limit on the path; a clearance whose envelope was deleted can still be resolved; rate minutes are those of the UTC clock.
 */

export const MODEL_WINDOWS = ['hourly', 'daily', 'weekly', 'monthly', 'session'] as const
export type ModelWindow = (typeof MODEL_WINDOWS)[number]
type Limits = { [W in ModelWindow]?: number }
type Body = Record<string, unknown>

/** A request. `agent_id` and the rest are named as in the contract. */
export type ModelRequest =
  | { operation: 'clear'; input: ClearInput; once?: string }
  | { operation: 'reconcile'; input: ReconcileInput; once?: string }
  | { operation: 'release'; input: { clearance_id: string }; once?: string }
  | { operation: 'set_envelope'; input: SetInput; once?: string }
  | { operation: 'delete_envelope'; input: { agent_id: string }; once?: string }
  | { operation: 'get_envelope'; input: { agent_id: string } }
  | { operation: 'list_envelopes' }
  | { operation: 'balance' }
  | { operation: 'grant'; input: { operations: number } }
  | { operation: 'set_share'; input: ShareName & { requests_per_minute: number }; once?: string }
  | { operation: 'get_share'; input: ShareName }
  | { operation: 'delete_share'; input: ShareName }
  | { operation: 'rate_check'; input: ShareName }
  | { operation: 'idempotency_check'; input: { key: string; ttl_seconds?: number } }

type ClearInput = {
  agent_id: string
  model: string
  estimated_tokens: number
  estimated_input_tokens?: number
  hold_seconds?: number
}
type ReconcileInput = { agent_id: string; actual_input_tokens: number; actual_output_tokens: number; clearance_id?: string }
/** Dollars with at most 6 decimals. */
type SetInput = { agent_id: string; limit_usd?: number; window?: ModelWindow; limits?: Limits }
type ShareName = { agent_id: string; provider: string; model: string }

export type ModelResponse = { status: number; body: Body; replayed?: boolean }

/** Dollars per million tokens; the rest of the table is tested where the prices live. */
export const MODEL_PRICES: readonly { model: string; input: number; output: number; inputOnly?: boolean }[] = [
  { model: 'claude-opus-4-8', input: 5, output: 25 },
  { model: 'claude-haiku-4-5-20251001', input: 1, output: 5 },
  { model: 'openrouter/openai/gpt-4o-mini', input: 0.15, output: 0.6 },
  { model: 'text-embedding-3-small', input: 0.02, output: 0.02, inputOnly: true },
  { model: 'nobody-knows-this-one', input: 15, output: 75 },
]

/** Nano-dollars. */
type Hold = {
  id: string
  agent: string
  model: string
  estimate: bigint
  chargedTo: string[]
  takenAt: number
  expiresAt: number
  state: 'open' | 'settled' | 'released'
  actual: bigint
  /** The response of the first resolution. */
  answer?: Body
}
type Account = {
  ops: number
  clock: number
  /** Agents that ever had an envelope; no limits when it is deleted. */
  envelopes: Map<string, { [W in ModelWindow]?: bigint }>
  /** In order of approval. */
  holds: Hold[]
  shares: Map<string, { name: ShareName; perMinute: number; minute: number; used: number }>
  keys: Map<string, number>
  requests: Map<string, { request: string; response: ModelResponse; expiresAt: number }>
}
type Left = { agent: string; window: ModelWindow; limit: bigint; spent: bigint; left: bigint }

const DAY = 86_400_000

export class ReferenceModel {
  readonly accounts: Map<string, Account>

  constructor(accounts: Map<string, Account> = new Map()) {
    this.accounts = accounts
  }

  copy(): ReferenceModel {
    return new ReferenceModel(structuredClone(this.accounts))
  }

  createAccount(id: string, ops: number, now: number): void {
    const nothing = { envelopes: new Map(), holds: [], shares: new Map(), keys: new Map(), requests: new Map() }
    this.accounts.set(id, { ops, clock: now, ...nothing })
  }

  /**
   * What the server must answer.
   * @param newId the id that an approved clearance got (the only thing that the model cannot know)
   */
  apply(accountId: string, request: ModelRequest, now: number, newId = ''): ModelResponse {
    const account = this.accounts.get(accountId)
    if (!account) throw new Error('no such account')
    const once = 'once' in request ? request.once : undefined
    if (once === undefined) return answer(account, request, now, newId)
    const { once: _, ...rest } = request as ModelRequest & { once: string }
    const text = JSON.stringify(rest)
    const stored = account.requests.get(once)
    if (stored && stored.expiresAt > now)
      return stored.request === text ? { ...stored.response, replayed: true } : failure(422, 'idempotency_mismatch')
    const response = answer(account, request, now, newId)
    account.requests.set(once, { request: text, response, expiresAt: now + DAY })
    return response
  }
}

function answer(account: Account, request: ModelRequest, now: number, newId: string): ModelResponse {
  const at = Math.max(now, account.clock)
  switch (request.operation) {
    case 'clear':
      return clear(account, request.input, at, newId)
    case 'reconcile':
      return reconcile(account, request.input, at)
    case 'release':
      return release(account, request.input.clearance_id.toLowerCase(), at)
    case 'set_envelope':
      return setEnvelope(account, request.input, at)
    case 'delete_envelope': {
      const { agent_id } = request.input
      if (!hasLimits(account, agent_id)) return failure(404, 'not_found')
      account.envelopes.set(agent_id, {})
      account.clock = at
      return ok({ success: true, agent_id })
    }
    case 'get_envelope':
      return hasLimits(account, request.input.agent_id)
        ? ok(envelopeBody(account, request.input.agent_id, at))
        : failure(404, 'not_found')
    case 'list_envelopes': {
      const agents = [...account.envelopes.keys()].filter((agent) => hasLimits(account, agent))
      return ok({ envelopes: agents.sort(byUtf8).map((agent) => envelopeBody(account, agent, at)) })
    }
    case 'balance':
      return ok({ operations_remaining: account.ops })
    case 'grant':
      account.ops += request.input.operations
      account.clock = at
      return ok({ ok: true, credited_ops: request.input.operations, operations_remaining: account.ops })
    case 'set_share':
    case 'get_share':
    case 'delete_share':
    case 'rate_check':
      return rateShare(account, request, now)
    case 'idempotency_check': {
      const { key, ttl_seconds = 3600 } = request.input
      const expiresAt = account.keys.get(key) ?? 0
      if (expiresAt > now) return ok({ is_first_call: false, ttl_remaining_seconds: Math.ceil((expiresAt - now) / 1000) })
      account.keys.set(key, now + ttl_seconds * 1000)
      return ok({ is_first_call: true, ttl_remaining_seconds: ttl_seconds })
    }
  }
}

/** What would let the same call through if a human allowed it: the missing amount in whole cents, up to the largest limit there is. */
function approvalRequest(agent: string, missing: bigint, tightest: { agent: string; window: ModelWindow }): Body {
  const wholeCents = missing / 10_000_000n
  const extra_usd = Number(wholeCents * 10_000_000n === missing ? wholeCents : wholeCents + 1n) / 100
  if (extra_usd > 1_000_000) return {}
  const raised = tightest.agent === agent ? {} : { agent_id: tightest.agent }
  return { approval_request: { agent_id: agent, grant: { extra_usd, window: tightest.window, ...raised } } }
}

function clear(account: Account, input: ClearInput, at: number, newId: string): ModelResponse {
  const estimate = estimateOf(input)
  const limits = leftOnPath(account, input.agent_id, at)
  const tightest = least(limits)
  if (account.ops < 1) return ok({ approved: false, remaining_usd: 0, reason: 'no_credits' })
  if (!tightest) return ok({ approved: false, remaining_usd: 0, reason: 'no_envelope' })
  if (limits.some(({ left }) => estimate > left)) {
    return ok({
      approved: false,
      remaining_usd: usd(atLeastZero(tightest.left)),
      reason: 'envelope_exceeded',
      limit_agent_id: tightest.agent,
      window: tightest.window,
      limit_usd: usd(tightest.limit),
      reset_at: resetAfter(tightest.window, at),
      max_affordable_tokens: mostTokens(input, atLeastZero(tightest.left)),
      ...approvalRequest(input.agent_id, estimate - tightest.left, tightest),
    })
  }
  account.ops -= 1
  account.clock = at
  const hold: Hold = {
    id: newId,
    agent: input.agent_id,
    model: input.model,
    estimate,
    chargedTo: pathTo(input.agent_id).filter((agent) => account.envelopes.has(agent)),
    takenAt: at,
    expiresAt: at + (input.hold_seconds ?? 3600) * 1000,
    state: 'open',
    actual: 0n,
  }
  account.holds.push(hold)
  return ok({
    approved: true,
    remaining_usd: usd(remainingOnPath(account, input.agent_id, at)),
    operations_remaining: account.ops,
    clearance_id: newId,
    expires_at: hold.expiresAt,
  })
}

function reconcile(account: Account, input: ReconcileInput, at: number): ModelResponse {
  const own = account.holds.filter((hold) => hold.agent === input.agent_id)
  const named = input.clearance_id?.toLowerCase()
  const hold = named === undefined ? own.findLast((each) => isOpen(each, at)) : own.find((each) => each.id === named)
  if (!hold) return failure(400, leftOnPath(account, input.agent_id, at).length === 0 ? 'no_envelope' : 'no_pending_clearance')
  if (hold.state === 'settled') return ok({ ...hold.answer, replayed: true })
  if (!isOpen(hold, at)) return failure(400, 'no_pending_clearance')

  const price = priceOf(hold.model)
  hold.actual = roundedUp(BigInt(input.actual_input_tokens) * price.input + BigInt(input.actual_output_tokens) * price.output)
  hold.state = 'settled'
  account.clock = at
  hold.answer = {
    ok: true,
    drift_usd: usd(hold.actual - hold.estimate),
    remaining_usd: usd(remainingOnPath(account, hold.agent, at)),
    operations_remaining: account.ops,
    clearance_id: hold.id,
    ...(hold.actual > 2n * hold.estimate && { warning: 'drift_exceeds_2x_threshold' }),
  }
  return ok(hold.answer)
}

function release(account: Account, id: string, at: number): ModelResponse {
  const hold = account.holds.find((each) => each.id === id)
  if (hold?.state === 'released') return ok({ ...hold.answer, replayed: true })
  if (!hold || !isOpen(hold, at)) return failure(400, 'no_pending_clearance')
  hold.state = 'released'
  account.clock = at
  hold.answer = {
    ok: true,
    released_usd: usd(hold.estimate),
    remaining_usd: usd(remainingOnPath(account, hold.agent, at)),
    operations_remaining: account.ops,
    clearance_id: hold.id,
  }
  return ok(hold.answer)
}

function setEnvelope(account: Account, input: SetInput, at: number): ModelResponse {
  const wanted: Limits = input.limits ?? { [input.window ?? 'daily']: input.limit_usd }
  const limits = Object.fromEntries(Object.entries(wanted).map(([window, limit]) => [window, nanoUsd(limit)]))
  account.envelopes.set(input.agent_id, limits)
  account.clock = at
  const tightest = least(leftOf(account, input.agent_id, at).map(floored))
  return ok({
    success: true,
    agent_id: input.agent_id,
    limit_usd: tightest && usd(tightest.limit),
    window: tightest?.window,
    ...(input.limits && { limits: input.limits }),
  })
}

type ShareRequest = Extract<ModelRequest, { operation: 'set_share' | 'get_share' | 'delete_share' | 'rate_check' }>

function rateShare(account: Account, request: ShareRequest, now: number): ModelResponse {
  const { agent_id, provider, model } = request.input
  const name = { agent_id, provider, model }
  const id = JSON.stringify([agent_id, provider, model])
  const share = account.shares.get(id)
  const minute = now - (now % 60_000)
  if (request.operation === 'set_share') {
    const { requests_per_minute } = request.input
    account.shares.set(id, { name, minute, used: 0, ...share, perMinute: requests_per_minute })
    return ok({ success: true, ...name, requests_per_minute })
  }
  if (request.operation === 'rate_check') {
    if (!share) return ok({ allowed: false, reason: 'no_rate_envelope' })
    if (minute > share.minute) Object.assign(share, { minute, used: 0 })
    if (share.used >= share.perMinute)
      return ok({ allowed: false, reason: 'rate_exceeded', retry_after_ms: share.minute + 60_000 - now })
    share.used += 1
    return ok({ allowed: true, requests_remaining_this_minute: share.perMinute - share.used })
  }
  if (!share) return failure(404, 'not_found')
  if (request.operation === 'delete_share') {
    account.shares.delete(id)
    return ok({ success: true, ...name })
  }
  return ok({
    ...name,
    requests_per_minute: share.perMinute,
    requests_in_window: minute > share.minute ? 0 : share.used,
    window_start: Math.max(minute, share.minute),
  })
}

/** `*`, then every prefix that ends before a slash, then the agent. */
function pathTo(agent: string): string[] {
  const parts = agent.split('/')
  const prefixes = parts.map((_, index) => parts.slice(0, index + 1).join('/')).filter((prefix) => prefix !== '')
  return [...new Set(['*', ...prefixes])]
}

const isOpen = (hold: Hold, at: number): boolean => hold.state === 'open' && at < hold.expiresAt
const hasLimits = (account: Account, agent: string): boolean => Object.keys(account.envelopes.get(agent) ?? {}).length > 0

/** What counts in a window: the actual cost once it is known, nothing after a release, else the estimate. */
function spentIn(account: Account, agent: string, window: ModelWindow, at: number): bigint {
  return account.holds
    .filter((hold) => hold.chargedTo.includes(agent) && instanceName(window, hold.takenAt) === instanceName(window, at))
    .reduce((sum, hold) => sum + (hold.state === 'open' ? hold.estimate : hold.actual), 0n)
}

function leftOf(account: Account, agent: string, at: number): Left[] {
  const limits = account.envelopes.get(agent) ?? {}
  return MODEL_WINDOWS.flatMap((window) => {
    const limit = limits[window]
    if (limit === undefined) return []
    const spent = spentIn(account, agent, window, at)
    return [{ agent, window, limit, spent, left: limit - spent }]
  })
}
const leftOnPath = (account: Account, agent: string, at: number): Left[] =>
  pathTo(agent).flatMap((level) => leftOf(account, level, at))

/** The first of those with the least left. */
const least = (limits: Left[]): Left | undefined => limits.find(({ left }) => limits.every((other) => left <= other.left))
const floored = (limit: Left): Left => ({ ...limit, left: atLeastZero(limit.left) })
const remainingOnPath = (account: Account, agent: string, at: number): bigint =>
  atLeastZero(least(leftOnPath(account, agent, at))?.left ?? 0n)

function envelopeBody(account: Account, agent: string, at: number): Body {
  const limits = leftOf(account, agent, at).map(floored)
  const view = ({ window, limit, spent, left }: Left) => ({
    window,
    limit_usd: usd(limit),
    spent_usd: usd(spent),
    remaining_usd: usd(left),
    reset_at: resetAfter(window, at),
  })
  const tightest = least(limits)
  return { agent_id: agent, ...(tightest && view(tightest)), limits: limits.map(view) }
}

/** A name that two moments share exactly when they lie in the same instance of the window. */
function instanceName(window: ModelWindow, at: number): string {
  const iso = new Date(at).toISOString()
  if (window === 'session') return 'always'
  if (window === 'hourly') return iso.slice(0, 13)
  if (window === 'daily') return iso.slice(0, 10)
  if (window === 'monthly') return iso.slice(0, 7)
  return mondayOf(at).toISOString().slice(0, 10)
}

function mondayOf(at: number): Date {
  const date = new Date(at)
  while (date.getUTCDay() !== 1) date.setUTCDate(date.getUTCDate() - 1)
  date.setUTCHours(0, 0, 0, 0)
  return date
}

/** The next boundary of a window (of the day for `session`, informational), Unix ms. */
export function resetAfter(window: ModelWindow, at: number): number {
  const date = window === 'weekly' ? mondayOf(at) : new Date(at)
  if (window === 'hourly') return date.setUTCHours(date.getUTCHours() + 1, 0, 0, 0)
  if (window === 'monthly') {
    date.setUTCMonth(date.getUTCMonth() + 1, 1)
    return date.setUTCHours(0, 0, 0, 0)
  }
  date.setUTCDate(date.getUTCDate() + (window === 'weekly' ? 7 : 1))
  return date.setUTCHours(0, 0, 0, 0)
}

/** Pico-dollars per token. */
function priceOf(model: string): { input: bigint; output: bigint; estimate: bigint } {
  const price = MODEL_PRICES.find((each) => each.model === model)
  if (!price) throw new Error(`the model has no price for ${model}`)
  const input = BigInt(Math.round(price.input * 1e6))
  const output = BigInt(Math.round(price.output * 1e6))
  return { input, output, estimate: price.inputOnly ? input : output }
}

/** Pico-dollars as nano-dollars, rounded against the spender. */
const roundedUp = (pico: bigint): bigint => (pico + 999n) / 1000n

function estimateOf({ model, estimated_tokens, estimated_input_tokens = 0 }: ClearInput): bigint {
  const price = priceOf(model)
  return roundedUp(BigInt(estimated_tokens) * price.estimate + BigInt(estimated_input_tokens) * price.input)
}

/** By bisection: the largest `estimated_tokens` up to a billion that would have fitted. */
function mostTokens(input: ClearInput, left: bigint): number {
  const fits = (tokens: number) => estimateOf({ ...input, estimated_tokens: tokens }) <= left
  if (!fits(0)) return 0
  let low = 0
  let high = 1_000_000_000
  while (low < high) {
    const middle = Math.ceil((low + high) / 2)
    if (fits(middle)) low = middle
    else high = middle - 1
  }
  return low
}

const atLeastZero = (amount: bigint): bigint => (amount < 0n ? 0n : amount)
const nanoUsd = (dollars: number): bigint => BigInt(Math.round(dollars * 1e6)) * 1000n

/** Dollars to 6 places, half away from zero. */
function usd(nano: bigint): number {
  const micro = ((nano < 0n ? -nano : nano) + 500n) / 1000n
  return micro === 0n ? 0 : Number(nano < 0n ? -micro : micro) / 1e6
}

/** PostgreSQL's order of text in the C collation. */
const byUtf8 = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

const ok = (body: Body): ModelResponse => ({ status: 200, body })
const failure = (status: number, error: string): ModelResponse => ({
  status,
  body: { error, retryable: false },
})
