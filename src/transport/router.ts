import type { Result, Router } from 'hono/router'
import { RegExpRouter } from 'hono/router/reg-exp-router'
import { SmartRouter } from 'hono/router/smart-router'
import { TrieRouter } from 'hono/router/trie-router'

/**
 * hono's usual routers behind a table of the paths without parameters. Looking one up there costs a tenth, and what is found is one handler,
 * which hono calls directly instead of composing it with the fallbacks that match too (docs/decisions/0003).
 */
export class ExactRouter<T> implements Router<T> {
  readonly name = 'ExactRouter'
  readonly #isFinal: (path: string) => boolean
  readonly #exact = new Map<string, Map<string, Result<T>>>()
  readonly #others = new SmartRouter<T>({ routers: [new RegExpRouter(), new TrieRouter()] })

  /** @param isFinal where every handler answers itself and no middleware runs before one, so that the first match is the only one */
  constructor(isFinal: (path: string) => boolean) {
    this.#isFinal = isFinal
  }

  add(method: string, path: string, handler: T): void {
    this.#others.add(method, path, handler)
    if (!this.#isFinal(path) || /[:*{]/.test(path)) return
    const paths = this.#exact.get(method) ?? new Map<string, Result<T>>()
    this.#exact.set(method, paths)
    if (!paths.has(path)) paths.set(path, [[[handler, {}]]])
  }

  match(method: string, path: string): Result<T> {
    return this.#exact.get(method)?.get(path) ?? this.#others.match(method, path)
  }
}
