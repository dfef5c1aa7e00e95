import { Hold, type Policy } from '../budget.ts'
import type { Gvnr } from '../client.ts'
import { StreamUsage, usageOf } from '../usage.ts'
import { boundOf, DEFAULT_MAX_TOKENS, type Estimates, MESSAGE_TOKENS } from './requests.ts'

export type MiddlewareOptions = Policy & Estimates & { readonly gvnr: Gvnr }

/** What the middleware needs of the AI SDK's types, which it does not import. */
type CallOptions = {
  readonly prompt: unknown
  readonly maxOutputTokens?: number | undefined
  readonly abortSignal?: AbortSignal | undefined
}
type Model = { readonly modelId: string }
type Wrapped = { readonly params: CallOptions; readonly model: Model }

/**
 * Language model middleware for the Vercel AI SDK: `wrapLanguageModel({ model, middleware: gvnrMiddleware({ gvnr }) })`. Each step of a
 * `generateText` or `streamText` is cleared and settled by itself. A denial throws `BudgetDenied`; the SDK may wrap it, `budgetDenied(error)` finds it.
 */
export function gvnrMiddleware(options: MiddlewareOptions) {
  const take = ({ params, model }: Wrapped) =>
    Hold.take(
      options.gvnr,
      options,
      {
        model: model.modelId,
        estimatedTokens: params.maxOutputTokens ?? options.maxTokens ?? DEFAULT_MAX_TOKENS,
        estimatedInputTokens: Math.max(1, Math.ceil((options.estimateInput ?? inputBound)({ ...params }))),
      },
      params.abortSignal,
    )
  return {
    specificationVersion: 'v4' as const,
    async wrapGenerate<R>({ doGenerate, ...call }: Wrapped & { readonly doGenerate: () => PromiseLike<R> }): Promise<R> {
      const hold = await take(call)
      let result: R
      try {
        result = await doGenerate()
      } catch (error) {
        await hold.failed(error)
        throw error
      }
      await hold.settle(usageOf(result))
      return result
    },
    async wrapStream<P, R extends { stream: ReadableStream<P> }>({
      doStream,
      ...call
    }: Wrapped & { readonly doStream: () => PromiseLike<R> }): Promise<R> {
      const hold = await take(call)
      let result: R
      try {
        result = await doStream()
      } catch (error) {
        await hold.failed(error)
        throw error
      }
      return { ...result, stream: observed(result.stream, hold, call.params.abortSignal) }
    },
  }
}

function inputBound({ prompt, tools }: Record<string, unknown>): number {
  return boundOf([prompt, tools]) + (Array.isArray(prompt) ? prompt.length * MESSAGE_TOKENS : 0)
}

function observed<P>(stream: ReadableStream<P>, hold: Hold, signal: AbortSignal | undefined): ReadableStream<P> {
  const usage = new StreamUsage()
  const source = stream.getReader()
  const left = () => hold.settle(usage.result(false), 'stopped_early')
  signal?.addEventListener('abort', left, { once: true })
  return new ReadableStream<P>(
    {
      async pull(controller) {
        const step = await source.read().catch(async (error: unknown) => {
          await hold.failed(error)
          throw error
        })
        if (!step.done) {
          usage.add(step.value)
          controller.enqueue(step.value)
          return
        }
        signal?.removeEventListener('abort', left)
        await hold.settle(usage.result(true))
        controller.close()
      },
      async cancel(reason) {
        await source.cancel(reason)
        await left()
      },
    },
    { highWaterMark: 0 },
  )
}
