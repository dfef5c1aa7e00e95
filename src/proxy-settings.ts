import type { Config } from './config.ts'
import type { ProxySettings } from './proxy/service.ts'
import { ANTHROPIC_ROUTES, OPENAI_ROUTES, type Upstream, upstreamUrl } from './proxy/upstreams.ts'

/** What the configuration says about the LLM proxy. */
export function proxySettings(config: Config): ProxySettings {
  return {
    upstreams: upstreamsOf(config),
    mayUseOperatorKeys: operatorKeyRule(config),
    timeout_ms: config.PROXY_TIMEOUT_SECONDS * 1000,
    cutoff: config.STREAM_CUTOFF,
    maxCalls: config.PROXY_MAX_CALLS,
    loop: config.PROXY_MAX_REPEATS === 0 ? null : { maxRepeats: config.PROXY_MAX_REPEATS, window_ms: 60_000 },
  }
}

/** Whether people other than the operator can reach this server: then anyone can make an account and set its caps. */
export function isOpenToStrangers(config: Config): boolean {
  const isPublic = config.PUBLIC_URL !== undefined && !isLoopback(new URL(config.PUBLIC_URL).hostname)
  return isPublic || config.TRUST_PROXY > 0 || !isLoopback(config.HOST)
}

const isLoopback = (host: string): boolean => /^(localhost|127(\.\d{1,3}){3}|\[?::1\]?)$/i.test(host)

function operatorKeyRule(config: Config): (accountId: string) => boolean {
  const setting = config.PROXY_OPERATOR_KEYS
  if (setting === 'on' || setting === 'off') return () => setting === 'on'
  if (setting === 'auto') {
    const isAllowed = !isOpenToStrangers(config)
    return () => isAllowed
  }
  const accounts = new Set(setting.split(','))
  return (accountId) => accounts.has(accountId)
}

/** The first that serves a route is the one for models without a known prefix. */
function upstreamsOf(config: Config): Upstream[] {
  const builtIn = (name: string, url: string, key: string | undefined) => ({
    name,
    url: upstreamUrl(url),
    key,
    needsKey: /^(api\.openai\.com|api\.anthropic\.com|openrouter\.ai)$/.test(new URL(url).host),
    takesUsageOption: true,
  })
  const openai: Upstream = {
    ...builtIn('openai', config.UPSTREAM_OPENAI_URL, config.UPSTREAM_OPENAI_KEY),
    serves: OPENAI_ROUTES,
    prefixes: ['openai/'],
  }
  const anthropic: Upstream = {
    ...builtIn('anthropic', config.UPSTREAM_ANTHROPIC_URL, config.UPSTREAM_ANTHROPIC_KEY),
    // Its chat completions are for clients of OpenAI that are given the name of one of its models.
    serves: [...ANTHROPIC_ROUTES, 'chat'],
    prefixes: ['anthropic/', 'claude-'],
  }
  const openrouter: Upstream = {
    ...builtIn('openrouter', config.UPSTREAM_OPENROUTER_URL, config.UPSTREAM_OPENROUTER_KEY),
    serves: [...OPENAI_ROUTES, 'messages'],
    prefixes: ['openrouter/'],
  }
  const further = (config.UPSTREAMS ?? []).map(
    (upstream): Upstream => ({
      name: upstream.name,
      url: upstreamUrl(upstream.url),
      key: upstream.key,
      serves: upstream.protocol === 'openai' ? OPENAI_ROUTES : ANTHROPIC_ROUTES,
      prefixes: upstream.prefixes ?? [`${upstream.name}/`],
      needsKey: false,
      takesUsageOption: upstream.include_usage,
    }),
  )
  return [openai, anthropic, openrouter, ...further]
}
