import type { HttpContext } from './http.ts'

/**
 * The origin that texts and links show: PUBLIC_URL, else that of the request, as the outermost trusted proxy saw it.
 * @param trustedProxies 0: forwarded headers are the caller's invention and ignored
 */
export function originOf(c: HttpContext, options: { publicUrl: string | undefined; trustedProxies: number }): string {
  if (options.publicUrl !== undefined) return options.publicUrl
  const { protocol, host } = new URL(c.req.url)
  if (options.trustedProxies === 0) return `${protocol}//${host}`
  const scheme = firstOf(c.req.header('x-forwarded-proto'))
  const forwardedHost = firstOf(c.req.header('x-forwarded-host'))
  const seen = `${scheme === 'http' || scheme === 'https' ? `${scheme}:` : protocol}//${forwardedHost ?? host}`
  return URL.canParse(seen) ? new URL(seen).origin : `${protocol}//${host}`
}

const firstOf = (list: string | undefined): string | undefined => list?.split(',')[0]?.trim() || undefined
