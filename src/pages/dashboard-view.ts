import type { z } from 'zod'
import type { getNotificationEmail, getSettings, listKeys } from '../accounts/operations.ts'
import type { listApprovals } from '../approvals/operations.ts'
import type { listTopups } from '../billing/operations.ts'
import type { KeyCaller } from '../core/operation.ts'
import type { viewDashboard } from '../dashboard/operations.ts'
import type { listChannels } from '../notifications/operations.ts'
import type { listWebhooks } from '../notifications/webhooks.operations.ts'

type ResultOf<O extends { output: z.ZodType }> = z.output<O['output']>

/** The figures that change by themselves. */
export type DashboardView = ResultOf<typeof viewDashboard>
export type PendingApproval = ResultOf<typeof listApprovals>['approvals'][number]
export type LiveView = { readonly view: DashboardView; readonly pending: readonly PendingApproval[] }

/** What the account has set; null where this key may not look. */
export type SettingsView = {
  readonly keys: ResultOf<typeof listKeys>['keys'] | null
  readonly channels: ResultOf<typeof listChannels>['channels'] | null
  readonly webhooks: ResultOf<typeof listWebhooks>['webhooks'] | null
  readonly topups: ResultOf<typeof listTopups>['topups'] | null
  readonly email: ResultOf<typeof getNotificationEmail>['notification_email'] | null
  readonly approvalLinks: ResultOf<typeof getSettings>['approval_links'] | null
}

export type Notice = {
  readonly kind: 'done' | 'error'
  readonly text: string
  /** Shown once, in full. */
  readonly secret?: string
}

/** Who looks, and what forms have to carry. */
export type Viewer = {
  readonly caller: KeyCaller
  readonly formToken: string
  /** Whether the key may call this operation. */
  readonly may: (operation: string) => boolean
}
