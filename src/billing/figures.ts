import type { BillingService } from './service.ts'

/** What was paid, in figures. */
export async function paymentFigures(billing: BillingService): Promise<Readonly<Record<string, number>>> {
  const totals = await billing.totals()
  return {
    payments_credited: Number(totals?.credits ?? 0),
    payments_credited_usd: Number(totals?.creditedUnits ?? 0) / 1_000_000,
    payments_open: Number(totals?.openIntents ?? 0),
    unattributed_payments: Number(totals?.unattributed ?? 0),
  }
}
