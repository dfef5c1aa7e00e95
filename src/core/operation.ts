import type { z } from 'zod'
import type { Clock } from './clock.ts'
import { DomainError, type ErrorCode } from './errors.ts'
import { uuidv7 } from './ids.ts'

/** `owner`: everything. `agent`: bound to one agent path. `read`: reads only (contract section 2). */
export const SCOPES = ['owner', 'agent', 'read'] as const
export type Scope = (typeof SCOPES)[number]

export type KeyCaller = {
  readonly kind: 'key'
  readonly accountId: string
  readonly keyId: string
  readonly name: string
  readonly scope: Scope
  /** The path the key is bound to, null when it is not bound. */
  readonly agentId: string | null
  readonly expiresMs: number | null
}
export type AdminCaller = { readonly kind: 'admin' }
export type PublicCaller = { readonly kind: 'public' }
export type Caller = KeyCaller | AdminCaller | PublicCaller

/**
 * Who may call an operation. `agentRule` says which `agent_id` a key bound to a path may name: `within` its own path and
 * below, only `below` (an agent cannot lift its own limit), or `none`: what it shows concerns the whole account, so such a key may not call it.
 */
export type Access =
  | { readonly kind: 'public' }
  | { readonly kind: 'admin' }
  | { readonly kind: 'key'; readonly scopes: readonly Scope[]; readonly agentRule?: 'within' | 'below' | 'none' }

type CallerOf<A extends Access> = A extends { kind: 'key' } ? KeyCaller : A extends { kind: 'admin' } ? AdminCaller : PublicCaller

export type RunContext<C extends Caller = Caller> = {
  readonly caller: C
  /** The peer's address, for limits on callers without an account. */
  readonly ip: string
  /** The origin for links to this server, e.g. `https://gvnr.example.com`; absent when the transport knows none. */
  readonly origin?: (() => string) | undefined
  /** The id for what this call creates. The same again when an interrupted idempotent request is taken up. */
  readonly operationId: string
  /** True when an earlier run with this operationId may already have done the work. */
  readonly resumed: boolean
}

/** A result that is too long to be held in memory. */
export type ResultStream = {
  readonly type: string
  /** The name a browser saves it under. */
  readonly filename: string
  readonly chunks: AsyncIterable<string>
}

export type Throttle = { readonly subject: string; readonly max: number; readonly window_ms: number; readonly hint: string }

/** One operation of the product: the only place its name, schemas, rights and code are written. */
export type Operation<D, I extends z.ZodObject = z.ZodObject, O extends z.ZodObject = z.ZodObject, A extends Access = Access> = {
  /** Name of the MCP tool and OpenAPI operationId. */
  readonly name: string
  readonly title: string
  /** What it does and when to use it, for people and models. */
  readonly description: string
  readonly tag: string
  readonly method: 'get' | 'post' | 'put' | 'patch' | 'delete'
  /** Path template, e.g. `/v1/budget/envelope/{agent_id}`. */
  readonly path: string
  readonly access: A
  readonly input: I
  readonly output: O
  /** HTTP status of success; 200 when absent. */
  readonly status?: 200 | 201
  /** Set where the contract answers a denial, which is a result like others, with a status of its own. */
  readonly denial?: { readonly status: 403; is(body: z.input<O>): boolean }
  /** Codes this operation may answer beyond those every operation can. */
  readonly errors?: readonly ErrorCode[]
  /** Statuses of codes that this operation answers with another one than usual. */
  readonly errorStatus?: Readonly<Partial<Record<ErrorCode, number>>>
  /** Set when repeating the call is safe by what it carries: it takes no `Idempotency-Key`. */
  readonly countsOnce?: true
  /** Input of a mutating call that may come in the query. */
  readonly query?: readonly string[]
  /** The code a bad value of a field is answered with, where the contract names one, instead of `invalid_params`. */
  readonly inputErrors?: Readonly<Record<string, ErrorCode>>
  /** Set when each call stores something and burns no op: an account may do so many of them (`Guards.mayChange`). */
  readonly changes?: true
  /** MCP tool annotations; absent when the operation is no tool. */
  readonly tool?: {
    readonly readOnlyHint: boolean
    readonly destructiveHint: boolean
    readonly idempotentHint: boolean
    readonly openWorldHint: boolean
  }
  /** What a tool answers as text, for clients that show nothing else; the body as JSON when absent. */
  toolText?(body: Record<string, unknown>): string
  /** The view that shows a tool's result in clients that can (MCP Apps): `dashboard` is `ui://gvnr/dashboard`. */
  readonly toolView?: string
  /** True when the result holds a secret: a stored response is then encrypted under the caller's key. */
  readonly secretResult?: boolean
  /** Other forms of the result, sent piece by piece: their media types, and what opens one. */
  readonly streams?: {
    readonly types: readonly string[]
    /** @returns null when the input asks for none */
    open(deps: D, input: z.output<I>, context: RunContext<CallerOf<A>>): Promise<ResultStream | null>
  }
  throttle?(deps: D, context: RunContext): Throttle | null
  run(deps: D, input: z.output<I>, context: RunContext<CallerOf<A>>): Promise<z.input<O>>
}

export const defineOperation = <D, I extends z.ZodObject, O extends z.ZodObject, const A extends Access>(
  operation: Operation<D, I, O, A>,
): Operation<D, I, O, A> => operation

export const mutates = (operation: { method: string }): boolean => operation.method !== 'get'

/** Whether a call is remembered under the `Idempotency-Key` it brings. */
export const isReplayable = (operation: { method: string; access: Access; countsOnce?: true }): boolean =>
  mutates(operation) && operation.access.kind !== 'public' && operation.countsOnce === undefined

/** True when `agentId` is `path` itself or below it. */
export const isWithin = (agentId: string, path: string): boolean =>
  agentId === path || (agentId.startsWith(path) && agentId[path.length] === '/')

/** Who did something, as the audit trail names them: `key:<key_id>`, `operator`, `public`. */
export const actorOf = (caller: Caller): string =>
  caller.kind === 'key' ? `key:${caller.keyId}` : caller.kind === 'admin' ? 'operator' : 'public'

/** What a key is allowed to call, before any input is looked at. */
export function mayCall(access: Access, caller: Caller): boolean {
  if (access.kind === 'public') return true
  if (access.kind === 'admin') return caller.kind === 'admin'
  if (caller.kind !== 'key' || !access.scopes.includes(caller.scope)) return false
  return access.agentRule !== 'none' || caller.agentId === null
}

/** The caller's place in a distributed trace, as it sent it (W3C Trace Context). Not checked. */
export type TraceHeaders = { readonly traceparent: string; readonly tracestate?: string | undefined }

export type CallContext = {
  readonly caller: Caller
  readonly ip: string
  readonly origin?: (() => string) | undefined
  readonly idempotencyKey?: string | undefined
  /** How the call came: one of few words, for metrics. */
  readonly transport?: 'rest' | 'mcp' | undefined
  readonly trace?: TraceHeaders | undefined
  /** The bearer key as sent; encrypts stored secret responses, never stored or logged. */
  readonly bearer?: string | undefined
}

export type OperationResult = {
  readonly status: number
  readonly body: Record<string, unknown>
  readonly replayed?: boolean
  /** Sent instead of the body. */
  readonly stream?: ResultStream
}

/** The guards that need state. Implemented by the rooms that own the state, wired in app.ts. */
export type Guards = {
  throttle(limit: Throttle): Promise<{ allowed: boolean; retry_after_ms: number }>
  /** Counts a change of an account. @returns 0, or how long to wait in milliseconds */
  mayChange(accountId: string, isBound: boolean): number
  once(request: OnceRequest, run: (operationId: string, resumed: boolean) => Promise<OperationResult>): Promise<OperationResult>
}
export type OnceRequest = {
  readonly accountId: string
  readonly key: string
  readonly operation: string
  readonly input: unknown
  /** The path the caller's key is bound to: what it may see is part of the request. Absent like null: not bound. */
  readonly boundTo?: string | null
  /** Set when the response must be unreadable without this bearer key. */
  readonly sealWith: string | undefined
}

/** Operator calls have no account; their idempotency keys live under the nil UUID. */
const OPERATOR_ACCOUNT = '00000000-0000-0000-0000-000000000000'

/** Is told of every call that ended, with a result or an error. On the path of every request: it must not throw, wait or take time. */
export type CallObserver<D> = {
  /**
   * @param began_ms of the process's monotonic clock
   * @param operationId of the command that it sent, null when it did not get so far
   */
  ended(
    operation: Operation<D>,
    call: CallContext,
    began_ms: number,
    result: OperationResult | null,
    error: unknown,
    operationId: string | null,
  ): void
}

export type Execute<D> = (operation: Operation<D>, context: CallContext, raw: unknown) => Promise<OperationResult>

/**
 * Makes the one function through which every transport runs operations: rights, input, agent binding, limits and
 * idempotency are checked here and nowhere else.
 * @throws DomainError for everything a caller can act on
 */
export function createExecutor<D>(options: {
  deps: D
  guards: Guards
  clock: Clock
  observer?: CallObserver<D>
  checkResults?: boolean
}): Execute<D> {
  const { deps, guards, clock, observer } = options
  type Seen = { operationId: string | null }
  const perform = async (operation: Operation<D>, call: CallContext, raw: unknown, seen: Seen): Promise<OperationResult> => {
    authorize(operation.access, call.caller)
    const input = parseInput(operation, raw)
    checkAgent(operation.access, call.caller, input)

    const run = async (operationId: string, resumed: boolean): Promise<OperationResult> => {
      seen.operationId = operationId
      const context: RunContext = { caller: call.caller, ip: call.ip, origin: call.origin, operationId, resumed }
      if (operation.throttle) await checkThrottle(guards, operation.throttle(deps, context))
      if (operation.changes) checkChange(guards, call.caller)
      const stream = await operation.streams?.open(deps, input, context)
      if (stream) return { status: 200, body: {}, stream }
      const body = await operation.run(deps, input, context)
      if (options.checkResults) operation.output.parse(body)
      return { status: operation.denial?.is(body) ? operation.denial.status : (operation.status ?? 200), body }
    }
    // A call without an account cannot own a key; account creation is limited per address instead.
    if (call.idempotencyKey === undefined || !isReplayable(operation) || call.caller.kind === 'public')
      return run(uuidv7(clock.now()), false)
    if (call.idempotencyKey.length < 1 || call.idempotencyKey.length > 256) {
      throw invalidParams(operation, [{ path: 'Idempotency-Key', message: 'must be 1 to 256 characters long' }])
    }
    const sealWith = operation.secretResult ? call.bearer : undefined
    const [accountId, boundTo] =
      call.caller.kind === 'key' ? [call.caller.accountId, call.caller.agentId] : [OPERATOR_ACCOUNT, null]
    return guards.once({ accountId, key: call.idempotencyKey, operation: operation.name, input, boundTo, sealWith }, run)
  }
  return async (operation, call, raw) => {
    const began_ms = performance.now()
    const seen: Seen = { operationId: null }
    try {
      const result = await perform(operation, call, raw, seen)
      observer?.ended(operation, call, began_ms, result, null, seen.operationId)
      return result
    } catch (error) {
      observer?.ended(operation, call, began_ms, null, error, seen.operationId)
      throw error
    }
  }
}

function authorize(access: Access, caller: Caller): void {
  if (mayCall(access, caller)) return
  if (access.kind === 'admin') throw new DomainError('unauthorized')
  if (caller.kind !== 'key') throw new DomainError('missing_api_key')
  if (access.kind === 'key' && access.scopes.includes(caller.scope))
    throw new DomainError('forbidden', {
      hint: `This concerns the whole account, of which this key sees "${caller.agentId}" and what is below it. Use a key that is not bound to an agent.`,
    })
  const scopes = access.kind === 'key' ? access.scopes.join(' or ') : ''
  throw new DomainError('forbidden', {
    hint: `This key has scope "${caller.scope}"; this needs scope ${scopes}. Ask the account owner to do it or to issue a fitting key.`,
  })
}

function checkAgent(access: Access, caller: Caller, input: Record<string, unknown>): void {
  if (caller.kind !== 'key' || caller.agentId === null || access.kind !== 'key') return
  const named = input.agent_id
  if (typeof named !== 'string' || access.agentRule === undefined) return
  const allowed = isWithin(named, caller.agentId) && !(access.agentRule === 'below' && named === caller.agentId)
  if (allowed) return
  const range =
    access.agentRule === 'below'
      ? `may change only agents below "${caller.agentId}"`
      : `is bound to agent "${caller.agentId}" and those below it`
  throw new DomainError('forbidden', { hint: `This key ${range}. Name one of those, or ask the account owner.` })
}

async function checkThrottle(guards: Guards, limit: Throttle | null): Promise<void> {
  if (limit === null) return
  const { allowed, retry_after_ms } = await guards.throttle(limit)
  if (!allowed)
    throw new DomainError('rate_limited', {
      hint: limit.hint,
      details: { retry_after_ms },
      retryAfterSeconds: Math.ceil(retry_after_ms / 1000),
    })
}

function checkChange(guards: Guards, caller: Caller): void {
  if (caller.kind !== 'key') return
  const retry_after_ms = guards.mayChange(caller.accountId, caller.agentId !== null)
  if (retry_after_ms > 0)
    throw new DomainError('rate_limited', {
      hint: 'This account has changed its settings too often: changes cost nothing, so there is a limit, which grows with the operations it has. Wait retry_after_ms. Leave out changes that change nothing.',
      details: { retry_after_ms },
      retryAfterSeconds: Math.ceil(retry_after_ms / 1000),
    })
}

export type InputIssue = { path: string; message: string }

export function invalidParams(operation: { input: z.ZodObject }, issues: readonly InputIssue[]): DomainError {
  return new DomainError('invalid_params', {
    details: { required: requiredFields(operation.input), issues: issues.slice(0, 20) },
  })
}

const requiredFieldsCache = new WeakMap<z.ZodObject, string[]>()

function requiredFields(schema: z.ZodObject): string[] {
  let fields = requiredFieldsCache.get(schema)
  if (fields === undefined) {
    fields = Object.entries(schema.shape)
      .filter(([, field]) => !field.safeParse(undefined).success)
      .map(([name]) => name)
    requiredFieldsCache.set(schema, fields)
  }
  return fields
}

function parseInput(
  operation: { input: z.ZodObject; inputErrors?: Readonly<Record<string, ErrorCode>> },
  raw: unknown,
): Record<string, unknown> {
  const parsed = operation.input.safeParse(raw)
  if (parsed.success) return parsed.data
  const error = invalidParams(
    operation,
    parsed.error.issues.map((issue) => ({ path: issue.path.join('.'), message: plainMessage(issue) })),
  )
  const code = operation.inputErrors?.[String(parsed.error.issues[0]?.path[0])]
  throw code === undefined ? error : new DomainError(code, { details: error.details })
}

function plainMessage(issue: z.core.$ZodIssue): string {
  if (issue.code === 'invalid_type' && issue.message.endsWith('received undefined')) return `is required (${issue.expected})`
  return issue.message.replace(/^Invalid input: /, '')
}
