import type { Attributes, Context, Span, SpanContext, Tracer } from '@opentelemetry/api'
import type { EngineObserver } from '../budgets/engine.ts'
import type { Command } from '../budgets/state.ts'
import { DomainError } from '../core/errors.ts'
import type { CallContext, CallObserver, Operation, OperationResult, TraceHeaders } from '../core/operation.ts'

/** Most batches remembered for requests that have not ended; commands of no request are forgotten with them. */
const MAX_REMEMBERED = 20_000
/** The values of OpenTelemetry's SpanKind and SpanStatusCode, which are not worth loading its API for. */
const SERVER = 1
const CLIENT = 2
const ERROR = 2

/** W3C Trace Context: which trace a call belongs to, and how those who are called next are told. */
type Propagation = {
  parentOf(incoming: Partial<TraceHeaders> | undefined): Context
  headersOf(span: Span): Record<string, string>
}

/** The span of a proxied call while it runs. */
export type CallTrace = {
  /** For the provider: its work is part of this call. */
  readonly headers: Readonly<Record<string, string>>
  /** The command whose batch decided it. */
  decidedBy(commandId: string): void
  end(outcome: string): void
}

/**
 * One span per call, with its operation, transport and outcome, linked to the span of the database batch that decided it. It continues the
 * trace that its caller is in. A span holds no key, no agent, no account and no part of the request.
 */
export class Tracing<D> implements CallObserver<D>, EngineObserver {
  readonly #tracer: Tracer
  readonly #propagation: Propagation
  readonly #flush: () => Promise<void>
  readonly #batches = new Map<string, SpanContext>()

  constructor(tracer: Tracer, propagation: Propagation, flush: () => Promise<void>) {
    this.#tracer = tracer
    this.#propagation = propagation
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
    const attributes: Attributes = {
      'gvnr.operation': operation.name,
      'gvnr.transport': call.transport ?? 'page',
      'http.route': operation.path,
      ...outcomeOf(result, error),
    }
    const links = operationId === null ? [] : this.#takeLinks(operationId)
    const span = this.#tracer.startSpan(
      operation.name,
      { kind: SERVER, startTime: timeOf(began_ms), attributes, links },
      this.#propagation.parentOf(call.trace),
    )
    if (result === null && !(error instanceof DomainError && error.status < 500)) span.setStatus({ code: ERROR })
    span.end()
  }

  /** Begins the span of a proxied call. @param route its path @param incoming the headers of its request */
  begin(route: string, incoming: Readonly<Record<string, unknown>>): CallTrace {
    const { traceparent, tracestate } = incoming
    const parent = this.#propagation.parentOf({
      ...(typeof traceparent === 'string' && { traceparent }),
      ...(typeof tracestate === 'string' && { tracestate }),
    })
    const attributes: Attributes = { 'gvnr.operation': 'proxy', 'gvnr.transport': 'proxy', 'http.route': route }
    const span = this.#tracer.startSpan('proxy', { kind: SERVER, attributes }, parent)
    return {
      headers: this.#propagation.headersOf(span),
      decidedBy: (commandId) => void span.addLinks(this.#takeLinks(commandId)),
      end: (outcome) => {
        span.setAttribute('gvnr.outcome', outcome)
        if (outcome === 'internal_error') span.setStatus({ code: ERROR })
        span.end()
      },
    }
  }

  #takeLinks(commandId: string): { context: SpanContext }[] {
    const batch = this.#batches.get(commandId)
    this.#batches.delete(commandId)
    return batch === undefined ? [] : [{ context: batch }]
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
  const [api, core, { NodeTracerProvider, BatchSpanProcessor }, { OTLPTraceExporter }, { resourceFromAttributes }] =
    await Promise.all([
      import('@opentelemetry/api'),
      import('@opentelemetry/core'),
      import('@opentelemetry/sdk-trace-node'),
      import('@opentelemetry/exporter-trace-otlp-http'),
      import('@opentelemetry/resources'),
    ])
  const provider = new NodeTracerProvider({
    resource: resourceFromAttributes({ 'service.name': 'gvnr', 'service.version': version }),
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter({ url: `${endpoint}/v1/traces` }))],
  })
  const { ROOT_CONTEXT, trace, defaultTextMapGetter, defaultTextMapSetter } = api
  const w3c = new core.W3CTraceContextPropagator()
  const propagation: Propagation = {
    parentOf: (incoming) => (incoming === undefined ? ROOT_CONTEXT : w3c.extract(ROOT_CONTEXT, incoming, defaultTextMapGetter)),
    headersOf(span) {
      const headers: Record<string, string> = {}
      w3c.inject(trace.setSpan(ROOT_CONTEXT, span), headers, defaultTextMapSetter)
      return headers
    },
  }
  return new Tracing<D>(provider.getTracer('gvnr', version), propagation, () => provider.shutdown())
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
