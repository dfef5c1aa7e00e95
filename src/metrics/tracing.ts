import type { Attributes, SpanContext, Tracer } from '@opentelemetry/api'
import type { EngineObserver } from '../budgets/engine.ts'
import type { Command } from '../budgets/state.ts'
import { DomainError } from '../core/errors.ts'
import type { CallContext, CallObserver, Operation, OperationResult } from '../core/operation.ts'

/** Most batches remembered for requests that have not ended; commands of no request are forgotten with them. */
const MAX_REMEMBERED = 20_000
/** The values of OpenTelemetry's SpanKind and SpanStatusCode, which are not worth loading its API for. */
const SERVER = 1
const CLIENT = 2
const ERROR = 2

/**
 * One span per call, with its operation, transport and outcome, linked to the span of the database batch that decided it. A span holds no
 * key, no agent, no account and no part of the request.
 */
export class Tracing<D> implements CallObserver<D>, EngineObserver {
  readonly #tracer: Tracer
  readonly #flush: () => Promise<void>
  readonly #batches = new Map<string, SpanContext>()

  constructor(tracer: Tracer, flush: () => Promise<void>) {
    this.#tracer = tracer
    this.#flush = flush
  }

  ended(
    operation: Operation<D>,
    call: CallContext,
    began_ms: number,
    result: OperationResult | null,
    error: unknown,
    operationId: string | null,
  ): void {
    const batch = operationId === null ? undefined : this.#batches.get(operationId)
    if (operationId !== null) this.#batches.delete(operationId)
    const attributes: Attributes = {
      'gvnr.operation': operation.name,
      'gvnr.transport': call.transport ?? 'page',
      'http.route': operation.path,
      ...outcomeOf(result, error),
    }
    const links = batch === undefined ? [] : [{ context: batch }]
    const span = this.#tracer.startSpan(operation.name, {
      kind: SERVER,
      startTime: timeOf(began_ms),
      attributes,
      links,
      root: true,
    })
    if (result === null && !(error instanceof DomainError && error.status < 500)) span.setStatus({ code: ERROR })
    span.end()
  }

  decided(): void {}

  batch(items: readonly { readonly command: Command }[], began_ms: number): void {
    const attributes: Attributes = { 'gvnr.batch.commands': items.length, 'db.system.name': 'postgresql' }
    const span = this.#tracer.startSpan('decision batch', { kind: CLIENT, startTime: timeOf(began_ms), attributes, root: true })
    span.end()
    if (this.#batches.size > MAX_REMEMBERED) this.#batches.clear()
    const context = span.spanContext()
    for (const { command } of items) this.#batches.set(command.id, context)
  }

  /** Sends what is collected. */
  stop(): Promise<void> {
    return this.#flush()
  }
}

/**
 * Loads OpenTelemetry and sends spans to a collector by OTLP over HTTP. Whoever does not trace never loads it.
 * @param endpoint the collector's base URL, e.g. `http://127.0.0.1:4318`
 */
export async function startTracing<D>(endpoint: string, version: string): Promise<Tracing<D>> {
  const [{ NodeTracerProvider, BatchSpanProcessor }, { OTLPTraceExporter }, { resourceFromAttributes }] = await Promise.all([
    import('@opentelemetry/sdk-trace-node'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
  ])
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({ 'service.name': 'gvnr', 'service.version': version }),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url: `${endpoint}/v1/traces` }))],
  })
  return new Tracing<D>(provider.getTracer('gvnr', version), () => provider.shutdown())
}

/** Both of two observers. */
export const observedBy = <D>(first: CallObserver<D> & EngineObserver, second: CallObserver<D> & EngineObserver) => ({
  ended(...call: Parameters<CallObserver<D>['ended']>): void {
    first.ended(...call)
    second.ended(...call)
  },
  decided(...decision: Parameters<EngineObserver['decided']>): void {
    first.decided(...decision)
    second.decided(...decision)
  },
  batch(...batch: Parameters<EngineObserver['batch']>): void {
    first.batch(...batch)
    second.batch(...batch)
  },
})

const timeOf = (monotonic_ms: number): Date => new Date(performance.timeOrigin + monotonic_ms)

function outcomeOf(result: OperationResult | null, error: unknown): Attributes {
  if (result === null) return { 'gvnr.outcome': error instanceof DomainError ? error.code : 'internal_error' }
  const { approved, allowed, reason } = result.body
  if (approved !== false && allowed !== false) return { 'gvnr.outcome': 'ok' }
  return { 'gvnr.outcome': 'denied', ...(typeof reason === 'string' && { 'gvnr.reason': reason }) }
}
