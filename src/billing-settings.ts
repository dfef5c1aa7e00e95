import type { BillingSettings, FacilitatorSettings } from './billing/service.ts'
import type { Config } from './config.ts'

/** What top-ups need of the configuration. */
export function billingSettings(config: Config): BillingSettings {
  return {
    networkId: config.X402_NETWORK,
    payTo: (config.PAYTO_ADDRESS ?? null) as BillingSettings['payTo'],
    depositXpub: config.DEPOSIT_XPUB ?? null,
    usdc: (config.USDC_ADDRESS ?? null) as BillingSettings['usdc'],
    rpcUrls: [config.BASE_RPC_URL, config.BASE_RPC_FALLBACK_URL].filter((url) => url !== undefined),
    facilitator: facilitatorSettings(config),
    minConfirmations: config.MIN_CONFIRMATIONS,
    publicUrl: config.PUBLIC_URL ?? null,
  }
}

/** The nearest one that is set: our own, Coinbase's, else the one at the URL. */
function facilitatorSettings(config: Config): FacilitatorSettings {
  const { CDP_API_KEY_ID: id, CDP_API_KEY_SECRET: secret } = config
  if (config.FACILITATOR_PRIVATE_KEY !== undefined)
    return { kind: 'own', privateKey: config.FACILITATOR_PRIVATE_KEY as `0x${string}` }
  if (id !== undefined && secret !== undefined) return { kind: 'cdp', key: { id, secret } }
  return { kind: 'url', url: config.X402_FACILITATOR_URL }
}
