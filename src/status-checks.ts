import type { BillingService, BillingSettings } from './billing/service.ts'
import type { Clock } from './core/clock.ts'
import type { Database } from './db/client.ts'
import type { NotificationService } from './notifications/service.ts'
import type { Check } from './status/service.ts'

const SLOW_DATABASE_MS = 500
const OLD_BLOCK_MS = 120_000
const OLD_MESSAGE_MS = 60_000
const CDP_HEALTH = 'https://api.cdp.coinbase.com/platform/v2/x402/supported'

const seconds = (ms: number): string => `${Math.round(ms / 1000)} s`

/** What `/status` looks at. */
export function statusChecks(deps: {
  database: Database
  clock: Clock
  billing: BillingService
  facilitator: BillingSettings['facilitator']
  notifications: NotificationService
}): Check[] {
  const { database, clock, billing, facilitator, notifications } = deps
  const off = { state: 'off' as const, detail: 'no payments are taken here' }
  return [
    {
      name: 'Database',
      isVital: true,
      async probe() {
        const started = performance.now()
        await database.ping()
        const isSlow = performance.now() - started > SLOW_DATABASE_MS
        return { state: isSlow ? 'slow' : 'ok', detail: isSlow ? 'answers slowly' : 'answers' }
      },
    },
    {
      name: 'Outbox',
      isVital: false,
      async probe() {
        const lag_ms = await notifications.lag_ms()
        if (lag_ms > OLD_MESSAGE_MS) return { state: 'slow', detail: `the oldest message has waited ${seconds(lag_ms)}` }
        return { state: 'ok', detail: lag_ms === 0 ? 'nothing is waiting' : `behind by ${seconds(lag_ms)}` }
      },
    },
    {
      name: 'Chain',
      isVital: false,
      async probe() {
        if (!billing.isConfigured) return off
        const { number, time_ms } = await billing.head()
        const age_ms = clock.now() - time_ms
        const detail = `${billing.network.name}, block ${number}, ${seconds(Math.max(0, age_ms))} old`
        return { state: age_ms > OLD_BLOCK_MS ? 'slow' : 'ok', detail }
      },
    },
    {
      name: 'x402 facilitator',
      isVital: false,
      async probe(signal) {
        if (!billing.isConfigured) return off
        if (facilitator.kind === 'own') return { state: 'ok', detail: 'this server settles by itself' }
        const address = facilitator.kind === 'cdp' ? CDP_HEALTH : `${facilitator.url.replace(/\/+$/, '')}/supported`
        const response = await fetch(address, { signal, redirect: 'manual' })
        await response.body?.cancel()
        // Without our signature it may refuse; that it does shows that it is there.
        const isThere = response.status < 500
        return { state: isThere ? 'ok' : 'down', detail: isThere ? 'answers' : `answered ${response.status}` }
      },
    },
  ]
}
