import type { Context, Env } from 'hono'
import { getCookie } from 'hono/cookie'

/**
 * The dashboard's cookie. Over https its name starts with `__Host-`: browsers then take it from this very host alone, for every path, and
 * never send it in clear.
 */
const nameAt = (origin: string): string => (origin.startsWith('https:') ? '__Host-gvnr_session' : 'gvnr_session')

export const sessionTokenOf = <E extends Env>(c: Context<E>, origin: string): string | undefined => getCookie(c, nameAt(origin))

/** @param maxAge_seconds 0 removes it */
export function sessionCookie(origin: string, token: string, maxAge_seconds: number): string {
  const secure = origin.startsWith('https:') ? '; Secure' : ''
  return `${nameAt(origin)}=${token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=${Math.max(0, Math.floor(maxAge_seconds))}${secure}`
}

/**
 * Whether a form was sent from a page of this server. Browsers say where a form comes from (Sec-Fetch-Site, Origin) and pages cannot change
 * that; what says neither is no browser, and carries nobody's cookie either.
 */
export function isOwnForm<E extends Env>(c: Context<E>, origin: string): boolean {
  const site = c.req.header('sec-fetch-site')
  if (site !== undefined && site !== 'same-origin' && site !== 'none') return false
  const from = c.req.header('origin')
  if (from === undefined) return true
  return URL.canParse(from) && new URL(from).host === new URL(origin).host
}
