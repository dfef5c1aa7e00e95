/** The ways in which one model id may be spelled in a price list, all in lower case and without surrounding space. */
export type ModelNames = {
  /** The id cut at each `/`, without empty pieces: provider prefixes first, the model's own name last. */
  readonly segments: readonly string[]
  /** The name by which the contract's table knows it: no prefix, dashed Claude spelling; a `:variant` is still there. */
  readonly canonical: string
}

/** No real id has more; what lies beyond is never looked at, so a hostile id costs no more than a real one. */
const MAX_SEGMENTS = 8

/** Bedrock and friends prefix with dots: `us.anthropic.claude-…`, `anthropic.claude-…`, `us-gov.anthropic.claude-…`. */
const DOTTED_PREFIX = /^(?:[a-z-]{2,12}\.)?(?:anthropic|openai|google)\./
/** `claude-4-6-sonnet` is another spelling of `claude-sonnet-4-6`. */
const VERSION_FIRST_CLAUDE = /^claude-(\d)-(\d{1,2})-(opus|sonnet|haiku)/
const DATE = /[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6})(?=$|-v\d)/

/** Reads an id as agents write it: `openrouter/anthropic/claude-sonnet-4.6:thinking`, `models/gemini-2.5-pro`, … */
export function readModelId(model: string): ModelNames {
  const segments = model
    .trim()
    .toLowerCase()
    .split('/')
    .filter((segment) => segment !== '')
    .slice(-MAX_SEGMENTS)
  return { segments, canonical: canonicalName(segments.at(-1) ?? '') }
}

/** A model's own name as the contract's table spells it. */
export function canonicalName(name: string): string {
  return dashedClaude(name.replace(DOTTED_PREFIX, '')).replace(VERSION_FIRST_CLAUDE, 'claude-$3-$1-$2')
}

/** `claude-sonnet-4.6` as `claude-sonnet-4-6`; other makers' dots are part of the name (`gpt-4.1`). */
export function dashedClaude(name: string): string {
  return name.includes('claude') ? name.replace(/(\d)\.(?=\d)/g, '$1-') : name
}

/** Without `:free`, `:thinking`, `:0`, …; a fine-tuned `ft:gpt-4o:org::id` keeps its colons, they are its name. */
export function withoutVariant(name: string): string {
  const colon = name.indexOf(':', name.lastIndexOf('/') + 1)
  return colon <= 0 || name.startsWith('ft:', name.lastIndexOf('/') + 1) ? name : name.slice(0, colon)
}

/** Without a release date: `gpt-5-2025-08-07`, `claude-x-20251001`, `claude-x@20251001`. */
export function withoutDate(name: string): string {
  return name.replace(DATE, '')
}

/** Finds the longest stored key that an id starts with, in one map access per distinct key length. */
export type PrefixTable<T> = { find(id: string): { readonly key: string; readonly value: T } | undefined }

/** Compiles keys for longest-prefix lookup; of equal keys the last one stands. */
export function createPrefixTable<T>(entries: Iterable<readonly [key: string, value: T]>): PrefixTable<T> {
  const byKey = new Map<string, { key: string; value: T }>()
  for (const [key, value] of entries) byKey.set(key, { key, value })
  const lengths = [...new Set([...byKey.keys()].map((key) => key.length))].sort((a, b) => b - a)
  return {
    find(id) {
      for (const length of lengths) {
        const found = length <= id.length ? byKey.get(id.slice(0, length)) : undefined
        if (found) return found
      }
      return undefined
    },
  }
}
