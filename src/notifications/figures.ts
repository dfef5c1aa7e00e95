import type { Clock } from '../core/clock.ts'
import type { Database } from '../db/client.ts'
import { countMessages } from './store.ts'

/** The outbox in figures: how much waits, since when, and what was given up during the last day. */
export const outboxFigures =
  ({ database, clock }: { database: Database; clock: Clock }) =>
  async (): Promise<Readonly<Record<string, number>>> => {
    const now_ms = clock.now()
    const { queued, oldestMs, failed } = await countMessages(database, now_ms - 86_400_000)
    const lag_ms = oldestMs === null ? 0 : Math.max(0, now_ms - oldestMs)
    return { outbox_queued: queued, outbox_failed: failed, outbox_lag_seconds: lag_ms / 1000 }
  }
