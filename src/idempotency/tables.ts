import { bigint, customType, index, integer, pgTable, primaryKey, text, uuid } from 'drizzle-orm/pg-core'

const bytea = customType<{ data: Buffer }>({ dataType: () => 'bytea' })
const ms = (name: string) => bigint(name, { mode: 'number' })

/** Keys of `POST /v1/idempotency/check`: present and not expired means "seen before". */
export const idempotencyKeys = pgTable(
  'idempotency_keys',
  {
    accountId: uuid('account_id').notNull(),
    key: text('key').notNull(),
    expiresMs: ms('expires_ms').notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.key] }), index('idempotency_keys_expiry').on(t.expiresMs)],
)

/** Requests sent with an `Idempotency-Key` header: one row while the first runs, then its response, for 24 hours. */
export const idempotentRequests = pgTable(
  'idempotent_requests',
  {
    accountId: uuid('account_id').notNull(),
    key: text('key').notNull(),
    /** SHA-256 over operation and input: a repeat must be the same request. */
    fingerprint: bytea('fingerprint').notNull(),
    /** The id the operation gives to whatever it creates: a second run after a crash finds the first one's work. */
    operationId: uuid('operation_id').notNull(),
    /** While running: until when the first request owns the key. A later one may take over after that, or once its process is gone. */
    leaseMs: ms('lease_ms').notNull(),
    /** While running: the process that runs it; null for one that others do not see. */
    processId: uuid('process_id'),
    status: integer('status'),
    response: bytea('response'),
    expiresMs: ms('expires_ms').notNull(),
  },
  (t) => [primaryKey({ columns: [t.accountId, t.key] }), index('idempotent_requests_expiry').on(t.expiresMs)],
)
