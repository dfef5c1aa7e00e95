import { z } from 'zod'
import { DomainError } from '../core/errors.ts'
import { defineOperation, type RunContext, SCOPES } from '../core/operation.ts'
import { agentIdSchema, integer, text } from '../core/text.ts'
import type { AccountService } from './service.ts'

export type AccountDeps = { readonly accounts: AccountService; readonly limits: { readonly accountsPerHour: number } }

const HOUR_MS = 3_600_000
const MAX_KEY_SECONDS = 10 * 365 * 86_400

export const ops = z.number().int().describe('Governance operations left')
const unixMs = z.number().int().describe('Unix milliseconds')
export const secretKey = z.string().describe('Shown once. Store it now: only its hash is kept.')
const scopeSchema = z.enum(SCOPES).describe('owner: everything; agent: one agent and its children; read: reads only')
/** What is said of a key that is to be made. */
export const newKeyInput = {
  name: text(1, 100).optional(),
  scope: scopeSchema.optional().describe('owner when left out; agent when agent_id is given'),
  agent_id: agentIdSchema.optional(),
  expires_in_seconds: integer(1, MAX_KEY_SECONDS).optional(),
}

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

export const keyView = {
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
export const keyJson = (row: KeyRow) => ({
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
  changes: true,
  input: z.object(newKeyInput).superRefine((input, context) => {
    const fail = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message })
    if (input.scope === 'agent' && input.agent_id === undefined) fail('agent_id', 'is required for a key of scope agent')
    if (input.scope === 'owner' && input.agent_id !== undefined)
      fail('agent_id', 'cannot bind a key of scope owner: use scope agent or read')
  }),
  output: z.object({
    api_key: secretKey,
    ...keyView,
    hint: z.string().optional().describe('When neither scope nor agent_id was given: what this key may do'),
  }),
  async run({ accounts }: AccountDeps, input, context) {
    const scope = input.scope ?? (input.agent_id === undefined ? 'owner' : 'agent')
    const { apiKey, row } = await accounts.createKey(context.caller.accountId, context, {
      name: input.name ?? scope,
      scope,
      agentId: input.agent_id ?? null,
      expiresInSeconds: input.expires_in_seconds ?? null,
    })
    const isUnsaid = input.scope === undefined && input.agent_id === undefined
    return { api_key: apiKey, ...keyJson(row), ...(isUnsaid && { hint: OWNER_BY_DEFAULT }) }
  },
})

const OWNER_BY_DEFAULT =
  'No scope was given, so this is an owner key: it may do everything, raise limits and make keys included. For an agent, make one with agent_id; for a dashboard, one of scope read; then revoke this one.'

export const listKeys = defineOperation({
  name: 'list_keys',
  title: 'List keys',
  description:
    'Every key of the account, newest first, with when it was last used; never the secret. A read key that is bound to a path sees those within it.',
  tag: 'Account',
  method: 'get',
  path: '/v1/account/keys',
  access: { kind: 'key', scopes: ['owner', 'read'] },
  input: z.object({}),
  output: z.object({ keys: z.array(z.object({ ...keyView, last_used_at: unixMs.nullable(), revoked_at: unixMs.nullable() })) }),
  async run({ accounts }: AccountDeps, _input, { caller }) {
    const rows = await accounts.listKeys(caller.accountId, caller.agentId)
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

const MAX_OVERLAP_SECONDS = 604_800
const DEFAULT_OVERLAP_SECONDS = 3600

export const rotateKey = defineOperation({
  name: 'rotate_key',
  title: 'Rotate a key',
  description:
    'A new key with the same name, scope and agent; the old one works on for overlap_seconds, so that whoever uses it can change over. 0 revokes it at once.',
  tag: 'Account',
  method: 'post',
  path: '/v1/account/keys/{key_id}/rotate',
  access: { kind: 'key', scopes: ['owner'] },
  status: 201,
  secretResult: true,
  changes: true,
  input: z.object({
    key_id: text(1, 64),
    overlap_seconds: integer(0, MAX_OVERLAP_SECONDS)
      .refine((seconds) => seconds === 0 || seconds >= 60, 'must be 0, or from 60 to 604800')
      .optional()
      .describe('3600 when left out; 0, or at least 60'),
    expires_in_seconds: integer(1, MAX_KEY_SECONDS).optional().describe('As long as the old one was given, when left out'),
  }),
  output: z.object({ api_key: secretKey, ...keyView, rotated_key_id: z.string(), rotated_key_expires_at: unixMs }),
  errors: ['not_found'],
  async run({ accounts }: AccountDeps, input, context) {
    const { apiKey, row, oldExpiresMs } = await accounts.rotateKey(context.caller.accountId, context, input.key_id, {
      overlap_seconds: input.overlap_seconds ?? DEFAULT_OVERLAP_SECONDS,
      expiresInSeconds: input.expires_in_seconds ?? null,
    })
    return { api_key: apiKey, ...keyJson(row), rotated_key_id: input.key_id, rotated_key_expires_at: oldExpiresMs }
  },
})

export const renameKey = defineOperation({
  name: 'rename_key',
  title: 'Rename a key',
  description: 'Changes the name that people know it by. Scope and agent never change: make another key.',
  tag: 'Account',
  method: 'patch',
  path: '/v1/account/keys/{key_id}',
  access: { kind: 'key', scopes: ['owner'] },
  changes: true,
  input: z.object({ key_id: text(1, 64), name: text(1, 100) }),
  output: z.object(keyView),
  errors: ['not_found'],
  async run({ accounts }: AccountDeps, input, context) {
    return keyJson(await accounts.renameKey(context.caller.accountId, context, input.key_id, input.name))
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
  changes: true,
  input: z.object({ email: z.string() }),
  output: z.object({ ok: z.literal(true), notification_email: z.string() }),
  errors: ['invalid_email', 'rate_limited'],
  throttle(_deps: AccountDeps, { caller }: RunContext) {
    if (caller.kind !== 'key') return null
    const hint = `At most ${ADDRESSES_PER_HOUR} changes of the address an hour. Wait retry_after_ms.`
    return { subject: `address:${caller.accountId}`, max: ADDRESSES_PER_HOUR, window_ms: HOUR_MS, hint }
  },
  async run({ accounts }: AccountDeps, input, context) {
    if (input.email.length > 254 || !input.email.isWellFormed() || !EMAIL.test(input.email))
      throw new DomainError('invalid_email')
    await accounts.setNotificationEmail(context.caller.accountId, context, input.email)
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
  access: { kind: 'key', scopes: ['owner', 'read'], agentRule: 'none' },
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
  changes: true,
  input: z.object({}),
  output: z.object({ ok: z.literal(true) }),
  async run({ accounts }: AccountDeps, _input, context) {
    await accounts.setNotificationEmail(context.caller.accountId, context, null)
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
  access: { kind: 'key', scopes: ['owner', 'read'], agentRule: 'none' },
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
  changes: true,
  input: settingsView,
  output: settingsView,
  async run({ accounts }: AccountDeps, input, context) {
    await accounts.setApprovalLinks(context.caller.accountId, context, input.approval_links)
    return input
  },
})

export const accountOperations = [
  createAccount,
  getAccount,
  getBalance,
  createKey,
  listKeys,
  renameKey,
  rotateKey,
  revokeKey,
  setNotificationEmail,
  getNotificationEmail,
  deleteNotificationEmail,
  getSettings,
  updateSettings,
]
