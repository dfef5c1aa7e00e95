/** Where hono/jsx looks for Node's AsyncLocalStorage. */
const SOURCES = ['getBuiltinModule', 'mainModule'] as const

/**
 * Makes hono/jsx render without AsyncLocalStorage. Our pages are synchronous and need none, but its first use in a process switches
 * on a hook for every promise of that process (until Node 24), which a clearance pays for as well
 * (docs/decisions/0007-pages-without-async-context.md). hono/jsx looks for it once, at the first rendering, and does without when
 * there is none; so the first rendering happens here, where it finds none.
 */
export function renderSynchronously(): void {
  const hidden = SOURCES.map((name) => [name, Object.getOwnPropertyDescriptor(process, name)] as const)
  try {
    for (const name of SOURCES) Object.defineProperty(process, name, { value: undefined, configurable: true })
    String(<i>{[<b>first</b>]}</i>)
  } finally {
    for (const [name, descriptor] of hidden) {
      if (descriptor) Object.defineProperty(process, name, descriptor)
      else Reflect.deleteProperty(process, name)
    }
  }
}
