import type { Protocol, Route, RouteKind } from './routes.ts'

/** A provider that calls are forwarded to. */
export type Upstream = {
  /** The provider's name in rate shares and price lists. */
  readonly name: string
  /** What paths below `/v1` are appended to, e.g. `https://api.openai.com/v1`; no slash at the end. */
  readonly url: string
  /** The operator's key. */
  readonly key: string | undefined
  readonly serves: readonly RouteKind[]
  /** Beginnings of the model ids that go here. One that ends with a slash is cut off before the call is forwarded. */
  readonly prefixes: readonly string[]
  /** True when it answers nobody without a key. */
  readonly needsKey: boolean
  /** Whether streams may be asked for their usage (`stream_options.include_usage`). */
  readonly takesUsageOption: boolean
}

export type Choice = { readonly upstream: Upstream /** The model's id there. */; readonly model: string }

/** Which upstream a model goes to: the longest prefix that fits among those that serve the route, else the protocol's own provider. */
export class Upstreams {
  readonly #all: readonly Upstream[]

  /** @param all the first one that serves a route is its default */
  constructor(all: readonly Upstream[]) {
    this.#all = all
  }

  choose(route: Route, model: string): Choice {
    let best: { upstream: Upstream; prefix: string } | undefined
    const lower = model.toLowerCase()
    for (const upstream of this.#all) {
      if (!upstream.serves.includes(route.kind)) continue
      for (const prefix of upstream.prefixes) {
        if (lower.startsWith(prefix) && lower.length > prefix.length && prefix.length > (best?.prefix.length ?? 0))
          best = { upstream, prefix }
      }
    }
    if (best !== undefined)
      return { upstream: best.upstream, model: best.prefix.endsWith('/') ? model.slice(best.prefix.length) : model }
    const upstream = this.#all.find(({ serves }) => serves.includes(route.kind))
    if (upstream === undefined) throw new Error(`no upstream serves ${route.path}`)
    return { upstream, model }
  }
}

export const OPENAI_ROUTES: readonly RouteKind[] = ['chat', 'responses', 'embeddings']
export const ANTHROPIC_ROUTES: readonly RouteKind[] = ['messages', 'count_tokens']

/** A bare origin means the version that every provider has; any other path is taken as it is. */
export function upstreamUrl(url: string): string {
  const parsed = new URL(url)
  const path = parsed.pathname.replace(/\/+$/, '')
  return `${parsed.origin}${path === '' ? '/v1' : path}`
}

/** Where a path below `/v1` is at the upstream, as its connection is chosen and asked. */
export function addressOf({ url }: Upstream, path: string): { origin: string; path: string } {
  const end = url.indexOf('/', url.indexOf('//') + 2)
  return { origin: url.slice(0, end), path: `${url.slice(end)}${path}` }
}

/**
 * The header that carries a key. A value that names its scheme (`Bearer …`) goes out as `Authorization`; a bare key as each protocol's own
 * header.
 */
export function authorization(protocol: Protocol, value: string): Record<string, string> {
  if (/^\S+ \S/.test(value)) return { authorization: value }
  return protocol === 'anthropic' ? { 'x-api-key': value } : { authorization: `Bearer ${value}` }
}
