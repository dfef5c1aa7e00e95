import { z } from 'zod'
import { DomainError } from '../core/errors.ts'
import { nanousdFromUsd } from '../core/money.ts'
import { defineOperation, type RunContext, SCOPES } from '../core/operation.ts'
import { agentIdSchema, integer, text } from '../core/text.ts'
import type { AccountService } from './service.ts'

export type AccountDeps = { readonly accounts: AccountService; readonly limits: { readonly accountsPerHour: number } }

const HOUR_MS = 3_600_000
const OPS_PER_USD = 1000
const MAX_KEY_SECONDS = 10 * 365 * 86_400
const MAX_GRANT_OPS = 1_000_000_000

const ops = z.number().int().describe('Governance operations left')
const unixMs = z.number().int().describe('Unix milliseconds')
const secretKey = z.string().describe('Shown once. Store it now: only its hash is kept.')
const scopeSchema = z.enum(SCOPES).describe('owner: everything; agent: one agent and its children; read: reads only')

export const createAccount = defineOperation({
  name: 'create_account',
  title: 'Create an account',
  description:
    'Makes an account with a trial quota and returns its owner key, once. Needs no authentication; limited per address.',
  tag: 'Account',
  method: 'post',
  path: '/v1/account',
  access: { kind: 'public' },
  status: 201,
  input: z.object({}),
  output: z.object({ api_key: secretKey, account_id: z.string(), operations_remaining: ops }),
  errors: ['rate_limited'],
  throttle({ limits }: AccountDeps, { ip }) {
    if (limits.accountsPerHour === 0) return null
    const hint = `At most ${limits.accountsPerHour} new accounts an hour from one address. Wait retry_after_ms, or make a further key for an account you have with POST /v1/account/keys.`
    return { subject: `account:ip:${ip}`, max: limits.accountsPerHour, window_ms: HOUR_MS, hint }
  },
  async run({ accounts }: AccountDeps, _input, context) {
    const { apiKey, accountId, ops } = await accounts.create(context)
    return { api_key: apiKey, account_id: accountId, operations_remaining: Number(ops) }
  },
})

export const getAccount = defineOperation({
  name: 'get_account',
  title: 'Who am I',
  description: 'The account, and the name, rights and agent of the key that asks.',
  tag: 'Account',
  method: 'get',
  path: '/v1/account',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'] },
  input: z.object({}),
  output: z.object({
    account_id: z.string(),
    operations_remaining: ops,
    created_at: unixMs,
    key: z.object({
      key_id: z.string(),
      name: z.string(),
      scope: scopeSchema,
      agent_id: z.string().nullable(),
      expires_at: unixMs.nullable(),
    }),
  }),
  async run({ accounts }: AccountDeps, _input, { caller }) {
    const account = await accounts.get(caller.accountId)
    return {
      account_id: account.accountId,
      operations_remaining: Number(account.ops),
      created_at: account.createdMs,
      key: {
        key_id: caller.keyId,
        name: caller.name,
        scope: caller.scope,
        agent_id: caller.agentId,
        expires_at: caller.expiresMs,
      },
    }
  },
})

export const getBalance = defineOperation({
  name: 'get_balance',
  title: 'Operations left',
  description: 'How many governance operations the account has left. Each approved clearance burns one; 1,000 cost $1.',
  tag: 'Account',
  method: 'get',
  path: '/v1/account/balance',
  access: { kind: 'key', scopes: ['owner', 'agent', 'read'] },
  input: z.object({}),
  output: z.object({ operations_remaining: ops }),
  tool: { readOnlyHint: true, destructiveHint: false, idempotentHint: true, openWorldHint: false },
  async run({ accounts }: AccountDeps, _input, { caller }) {
    return { operations_remaining: Number((await accounts.get(caller.accountId)).ops) }
  },
})

const keyView = {
  key_id: z.string(),
  name: z.string(),
  scope: scopeSchema,
  agent_id: z.string().nullable().describe('The agent path the key is bound to'),
  created_at: unixMs,
  expires_at: unixMs.nullable(),
}
type KeyRow = {
  keyId: string
  name: string
  scope: 'owner' | 'agent' | 'read'
  agentId: string | null
  createdMs: number
  expiresMs: number | null
}
const keyJson = (row: KeyRow) => ({
  key_id: row.keyId,
  name: row.name,
  scope: row.scope,
  agent_id: row.agentId,
  created_at: row.createdMs,
  expires_at: row.expiresMs,
})

export const createKey = defineOperation({
  name: 'create_key',
  title: 'Make a further key',
  description:
    'A key with its own name, scope and life. Give every agent a key of scope "agent" bound to its agent_id, so that it cannot lift its own limit.',
  tag: 'Account',
  method: 'post',
  path: '/v1/account/keys',
  access: { kind: 'key', scopes: ['owner'] },
  status: 201,
  secretResult: true,
  input: z
    .object({
      name: text(1, 100).optional(),
      scope: scopeSchema.optional().describe('owner when left out; agent when agent_id is given'),
      agent_id: agentIdSchema.optional(),
      expires_in_seconds: integer(1, MAX_KEY_SECONDS).optional(),
    })
    .superRefine((input, context) => {
      const fail = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message })
      if (input.scope === 'agent' && input.agent_id === undefined) fail('agent_id', 'is required for a key of scope agent')
      if (input.scope === 'owner' && input.agent_id !== undefined)
        fail('agent_id', 'cannot bind a key of scope owner: use scope agent or read')
    }),
  output: z.object({ api_key: secretKey, ...keyView }),
  async run({ accounts }: AccountDeps, input, context) {
    const scope = input.scope ?? (input.agent_id === undefined ? 'owner' : 'agent')
    const { apiKey, row } = await accounts.createKey(context.caller.accountId, context, {
      name: input.name ?? scope,
      scope,
      agentId: input.agent_id ?? null,
      expiresInSeconds: input.expires_in_seconds ?? null,
    })
    return { api_key: apiKey, ...keyJson(row) }
  },
})

export const listKeys = defineOperation({
  name: 'list_keys',
  title: 'List keys',
  description: 'Every key of the account, newest first, with when it was last used; never the secret.',
  tag: 'Account',
  method: 'get',
  path: '/v1/account/keys',
  access: { kind: 'key', scopes: ['owner'] },
  input: z.object({}),
  output: z.object({ keys: z.array(z.object({ ...keyView, last_used_at: unixMs.nullable(), revoked_at: unixMs.nullable() })) }),
  async run({ accounts }: AccountDeps, _input, { caller }) {
    const rows = await accounts.listKeys(caller.accountId)
    return { keys: rows.map((row) => ({ ...keyJson(row), last_used_at: row.lastUsedMs, revoked_at: row.revokedMs })) }
  },
})

export const revokeKey = defineOperation({
  name: 'revoke_key',
  title: 'Revoke a key',
  description: 'Takes effect at once, on every server process. A key may revoke itself.',
  tag: 'Account',
  method: 'delete',
  path: '/v1/account/keys/{key_id}',
  access: { kind: 'key', scopes: ['owner'] },
  input: z.object({ key_id: text(1, 64) }),
  output: z.object({ ok: z.literal(true), key_id: z.string() }),
  errors: ['not_found'],
  async run({ accounts }: AccountDeps, input, context) {
    await accounts.revokeKey(context.caller.accountId, context, input.key_id)
    return { ok: true as const, key_id: input.key_id }
  },
})

/** Nobody proves that an address is theirs, so nobody may try many. */
const ADDRESSES_PER_HOUR = 20
const EMAIL_PATH = '/v1/account/notification-email'
const ownerOnly = { kind: 'key', scopes: ['owner'] } as const
/** Deliberately plain: one @, no spaces or control characters, a dot in the domain. The mail server has the last word. */
const EMAIL = /^[^\s\p{Cc}@<>()[\],;:\\"]+@[^\s\p{Cc}@<>()[\],;:\\"]+\.[^\s\p{Cc}@.<>()[\],;:\\"]+$/u

export const setNotificationEmail = defineOperation({
  name: 'set_notification_email',
  title: 'Set the notification address',
  description: 'Where approval requests are sent.',
  tag: 'Account',
  method: 'post',
  path: EMAIL_PATH,
  access: ownerOnly,
  input: z.object({ email: z.string() }),
  output: z.object({ ok: z.literal(true), notification_email: z.string() }),
  errors: ['invalid_email', 'rate_limited'],
  throttle(_deps: AccountDeps, { caller }: RunContext) {
    if (caller.kind !== 'key') return null
    const hint = `At most ${ADDRESSES_PER_HOUR} changes of the address an hour. Wait retry_after_ms.`
    return { subject: `address:${caller.accountId}`, max: ADDRESSES_PER_HOUR, window_ms: HOUR_MS, hint }
  },
  async run({ accounts }: AccountDeps, input, { caller }) {
    if (input.email.length > 254 || !input.email.isWellFormed() || !EMAIL.test(input.email))
      throw new DomainError('invalid_email')
    await accounts.setNotificationEmail(caller.accountId, input.email)
    return { ok: true as const, notification_email: input.email }
  },
})

export const getNotificationEmail = defineOperation({
  name: 'get_notification_email',
  title: 'Read the notification address',
  description: 'The address, or null.',
  tag: 'Account',
  method: 'get',
  path: EMAIL_PATH,
  access: { kind: 'key', scopes: ['owner', 'read'] },
  input: z.object({}),
  output: z.object({ notification_email: z.string().nullable() }),
  async run({ accounts }: AccountDeps, _input, { caller }) {
    return { notification_email: (await accounts.get(caller.accountId)).notificationEmail }
  },
})

export const deleteNotificationEmail = defineOperation({
  name: 'delete_notification_email',
  title: 'Remove the notification address',
  description: 'No approval mail is sent any more.',
  tag: 'Account',
  method: 'delete',
  path: EMAIL_PATH,
  access: ownerOnly,
  input: z.object({}),
  output: z.object({ ok: z.literal(true) }),
  async run({ accounts }: AccountDeps, _input, { caller }) {
    await accounts.setNotificationEmail(caller.accountId, null)
    return { ok: true as const }
  },
})

const SETTINGS_PATH = '/v1/account/settings'
const settingsView = z.object({
  approval_links: z
    .enum(['agent', 'owner'])
    .describe(
      "Who is given a link that decides an approval. agent: whoever asked, to hand it to a human. owner: the account's channels and dashboard alone; a key of scope agent gets a link that only shows the request, so that an agent cannot approve its own.",
    ),
})

export const getSettings = defineOperation({
  name: 'get_settings',
  title: 'Read the account settings',
  description: 'Who decides approvals.',
  tag: 'Account',
  method: 'get',
  path: SETTINGS_PATH,
  access: { kind: 'key', scopes: ['owner', 'read'] },
  input: z.object({}),
  output: settingsView,
  async run({ accounts }: AccountDeps, _input, { caller }) {
    return { approval_links: (await accounts.get(caller.accountId)).approvalLinks }
  },
})

export const updateSettings = defineOperation({
  name: 'update_settings',
  title: 'Change the account settings',
  description: 'Holds for approvals that are requested from now on.',
  tag: 'Account',
  method: 'put',
  path: SETTINGS_PATH,
  access: ownerOnly,
  input: settingsView,
  output: settingsView,
  async run({ accounts }: AccountDeps, input, { caller }) {
    await accounts.setApprovalLinks(caller.accountId, input.approval_links)
    return input
  },
})

export const seedAccount = defineOperation({
  name: 'admin_seed',
  title: 'Grant operations (operator)',
  description: 'Adds governance operations to the account that owns api_key: that many, or 1,000 per dollar of amount_usd.',
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/seed',
  access: { kind: 'admin' },
  input: z
    .object({
      api_key: text(1, 128),
      operations: integer(1, MAX_GRANT_OPS).optional(),
      amount_usd: z
        .number()
        .gt(0)
        .max(MAX_GRANT_OPS / OPS_PER_USD)
        .optional()
        .describe('1,000 operations per dollar, rounded down'),
    })
    .superRefine((input, context) => {
      if ((input.operations === undefined) === (input.amount_usd === undefined))
        context.addIssue({
          code: 'custom',
          path: ['operations'],
          message: 'is required (number), unless amount_usd is given instead',
        })
      else if (input.amount_usd !== undefined && opsFor(input.amount_usd) < 1)
        context.addIssue({ code: 'custom', path: ['amount_usd'], message: 'must buy at least one operation: 0.001 or more' })
    }),
  output: z.object({ ok: z.literal(true), credited_ops: z.number().int(), operations_remaining: ops }),
  errors: ['account_not_found'],
  async run({ accounts }: AccountDeps, input, context) {
    const credited = input.operations ?? opsFor(input.amount_usd ?? 0)
    const remaining = await accounts.seed(context, input.api_key, BigInt(credited))
    return { ok: true as const, credited_ops: credited, operations_remaining: Number(remaining) }
  },
})

/** floor(usd × 1,000), on the decimal digits as written: 0.29 dollars are 290 operations, not 289 (contract section 7). */
const opsFor = (usd: number): number => Number(nanousdFromUsd(usd, 'down') / 1_000_000n)

export const accountOperations = [
  createAccount,
  getAccount,
  getBalance,
  createKey,
  listKeys,
  revokeKey,
  setNotificationEmail,
  getNotificationEmail,
  deleteNotificationEmail,
  getSettings,
  updateSettings,
  seedAccount,
]
