import { billingSettings } from './billing-settings.ts'
import type { Config } from './config.ts'
import { isOpenToStrangers, proxySettings } from './proxy-settings.ts'

/** What is configured and will not do what somebody expects of it. @param takesPayments whether top-ups are configured */
export function configWarnings(config: Config, { takesPayments }: { takesPayments: boolean }): string[] {
  const warnings: string[] = []
  if (takesPayments && config.X402_NETWORK === 'eip155:8453' && isTestFacilitator(config))
    warnings.push(
      'x402 payments will fail: https://x402.org/facilitator settles on the test network only. Set CDP keys or FACILITATOR_PRIVATE_KEY',
    )
  if (config.PROXY_OPERATOR_KEYS === 'auto' && isOpenToStrangers(config) && hasProviderKeys(config))
    warnings.push(
      'provider keys are set but nobody may use them: this server is open to strangers. Set PROXY_OPERATOR_KEYS to the ids of your accounts, or to on',
    )
  if (config.PUBLIC_URL === undefined && isWildcard(config.HOST))
    warnings.push(
      'PUBLIC_URL is not set: links that are sent to people would lead to the address this listens on. Set it to the origin that people use',
    )
  return warnings
}

const isTestFacilitator = (config: Config): boolean => {
  const { facilitator } = billingSettings(config)
  return facilitator.kind === 'url' && new URL(facilitator.url).host === 'x402.org'
}

const hasProviderKeys = (config: Config): boolean => proxySettings(config).upstreams.some(({ key }) => key !== undefined)

/** Listening on every address names none of them. */
const isWildcard = (host: string): boolean => host === '0.0.0.0' || host === '::'
