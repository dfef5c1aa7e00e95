import { Hold, type Policy } from '../budget.ts'
import type { Gvnr } from '../client.ts'
import { isObject } from '../errors.ts'
import type { Usage } from '../types.ts'
import { usageOf } from '../usage.ts'
import { boundOf, DEFAULT_MAX_TOKENS, type Estimates, MESSAGE_TOKENS } from './requests.ts'

export type CallbackOptions = Policy & Pick<Estimates, 'maxTokens'> & { readonly gvnr: Gvnr }

/** A run that never says how it ended stays until this many newer ones began; its estimate stands either way. */
const MAX_OPEN_RUNS = 10_000

/**
 * Callbacks for LangChain: `model.invoke(messages, { callbacks: [gvnrCallbacks({ gvnr })] })`, or given to the model's constructor. Each run of
 * a model is cleared at its start and settled at its end. A denial throws `BudgetDenied` out of the run.
 *
 * A streamed run whose consumer stops early says nothing: its estimate stands. Usage of streams needs `streamUsage`, which is on by default.
 */
export function gvnrCallbacks(options: CallbackOptions) {
  const open = new Map<string, Hold>()
  const begin = async (runId: string, texts: readonly unknown[], extra: unknown, metadata: unknown): Promise<void> => {
    const parameters = isObject(extra) && isObject(extra.invocation_params) ? extra.invocation_params : {}
    const known = isObject(metadata) ? metadata : {}
    const model = firstText(parameters.model, parameters.model_name, parameters.modelName, known.ls_model_name)
    if (model === undefined) throw new TypeError('gvnrCallbacks: this model does not say its name')
    const most = [parameters.max_completion_tokens, parameters.max_output_tokens, parameters.max_tokens, known.ls_max_tokens]
    const limit = most.find((value) => typeof value === 'number' && value > 0)
    const hold = await Hold.take(options.gvnr, options, {
      model,
      estimatedTokens: typeof limit === 'number' ? limit : (options.maxTokens ?? DEFAULT_MAX_TOKENS),
      estimatedInputTokens: Math.max(1, boundOf([texts, parameters.tools]) + texts.length * MESSAGE_TOKENS),
    })
    const [oldest] = open.keys()
    if (open.size >= MAX_OPEN_RUNS && oldest !== undefined) open.delete(oldest)
    open.set(runId, hold)
  }
  const ended = (runId: string): Hold | undefined => {
    const hold = open.get(runId)
    open.delete(runId)
    return hold
  }
  return {
    name: 'gvnr',
    // Without these LangChain neither waits for the clearance nor stops at a denial.
    awaitHandlers: true,
    raiseError: true,
    handleLLMStart: (
      _llm: unknown,
      prompts: string[],
      runId: string,
      _parent?: string,
      extra?: unknown,
      _tags?: string[],
      metadata?: unknown,
    ) => begin(runId, prompts, extra, metadata),
    handleChatModelStart: (
      _llm: unknown,
      messages: { readonly content: unknown }[][],
      runId: string,
      _parent?: string,
      extra?: unknown,
      _tags?: string[],
      metadata?: unknown,
    ) =>
      begin(
        runId,
        messages.flat().map(({ content }) => content),
        extra,
        metadata,
      ),
    async handleLLMEnd(output: unknown, runId: string): Promise<void> {
      await ended(runId)?.settle(usageOfRun(output))
    },
    async handleLLMError(error: unknown, runId: string): Promise<void> {
      await ended(runId)?.failed(error)
    },
  }
}

const firstText = (...values: unknown[]): string | undefined =>
  values.find((value): value is string => typeof value === 'string' && value !== '')

/** The sum over the answers of a run; null when one of them does not say. */
function usageOfRun(output: unknown): Usage | null {
  if (!isObject(output) || !Array.isArray(output.generations)) return null
  const usages = output.generations
    .flat()
    .map((generation: unknown) => (isObject(generation) ? usageOf(generation.message) : null))
  const known = usages.filter((usage) => usage !== null)
  if (known.length === 0 || known.length < usages.length) return null
  return known.reduce((sum, usage) => ({
    inputTokens: sum.inputTokens + usage.inputTokens,
    outputTokens: sum.outputTokens + usage.outputTokens,
    cachedInputTokens: (sum.cachedInputTokens ?? 0) + (usage.cachedInputTokens ?? 0),
    cacheWriteInputTokens: (sum.cacheWriteInputTokens ?? 0) + (usage.cacheWriteInputTokens ?? 0),
    cacheWrite1hInputTokens: (sum.cacheWrite1hInputTokens ?? 0) + (usage.cacheWrite1hInputTokens ?? 0),
  }))
}
