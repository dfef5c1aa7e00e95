import { accountAdminOperations } from './accounts/admin.operations.ts'
import { type AccountDeps, accountOperations } from './accounts/operations.ts'
import { type ApprovalDeps, approvalOperations } from './approvals/operations.ts'
import { type AuditDeps, auditOperations } from './audit/operations.ts'
import { type BillingDeps, billingOperations } from './billing/operations.ts'
import { budgetAdminOperations } from './budgets/admin.operations.ts'
import { envelopeOperations } from './budgets/envelope.operations.ts'
import { type BudgetDeps, budgetOperations } from './budgets/operations.ts'
import type { Operation } from './core/operation.ts'
import { type DashboardOperationDeps, dashboardOperations } from './dashboard/operations.ts'
import { type IdempotencyDeps, idempotencyOperations } from './idempotency/operations.ts'
import { channelOperations, type NotificationOperationDeps } from './notifications/operations.ts'
import { webhookOperations } from './notifications/webhooks.operations.ts'
import { type PriceDeps, priceOperations } from './prices/operations.ts'
import { type RateDeps, rateOperations } from './rate/operations.ts'
import { type BookingDeps, bookingOperations } from './resources/operations.ts'
import { type UsageDeps, usageOperations } from './usage/operations.ts'

export type OperationDeps = AccountDeps &
  BillingDeps &
  BudgetDeps &
  BookingDeps &
  UsageDeps &
  RateDeps &
  IdempotencyDeps &
  PriceDeps &
  ApprovalDeps &
  DashboardOperationDeps &
  NotificationOperationDeps &
  AuditDeps

/** Everything the product can do. Routes, MCP tools, OpenAPI and the tests of rights are derived from this list. */
export const operations: readonly Operation<OperationDeps>[] = [
  ...budgetOperations,
  ...envelopeOperations,
  ...bookingOperations,
  ...rateOperations,
  ...idempotencyOperations,
  ...approvalOperations,
  ...usageOperations,
  ...dashboardOperations,
  ...accountOperations,
  ...billingOperations,
  ...channelOperations,
  ...webhookOperations,
  ...priceOperations,
  ...auditOperations,
  ...accountAdminOperations,
  ...budgetAdminOperations,
]
