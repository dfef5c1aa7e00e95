import { z } from 'zod'
import { isUuid } from '../core/ids.ts'
import { nanousdFromUsd } from '../core/money.ts'
import { defineOperation } from '../core/operation.ts'
import { integer, text } from '../core/text.ts'
import { type AccountDeps, keyJson, keyView, newKeyInput, ops, secretKey } from './operations.ts'

const OPS_PER_USD = 1000
const MAX_GRANT_OPS = 1_000_000_000

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

export const generateKey = defineOperation({
  name: 'admin_generate_key',
  title: 'Make a key (operator)',
  description:
    'A key of the given account, with a name, scope, agent and life of its own; without account_id a new account and its owner key. Shown once.',
  tag: 'Admin',
  method: 'post',
  path: '/v1/admin/generate-key',
  access: { kind: 'admin' },
  status: 201,
  secretResult: true,
  input: z
    .object({
      account_id: z.string().refine(isUuid, 'must be an account_id, as GET /v1/account shows it').optional(),
      ...newKeyInput,
    })
    .superRefine((input, context) => {
      const fail = (field: string, message: string) => context.addIssue({ code: 'custom', path: [field], message })
      const scope = input.scope ?? (input.agent_id === undefined ? 'owner' : 'agent')
      if (scope === 'agent' && input.agent_id === undefined) fail('agent_id', 'is required for a key of scope agent')
      if (scope === 'owner' && input.agent_id !== undefined)
        fail('agent_id', 'cannot bind a key of scope owner: use scope agent or read')
      if (scope !== 'owner' && input.account_id === undefined)
        fail('account_id', 'is required (string): the first key of a new account is its owner key')
    }),
  output: z.object({ api_key: secretKey, account_id: z.string(), ...keyView, operations_remaining: ops }),
  errors: ['account_not_found'],
  async run({ accounts }: AccountDeps, input, context) {
    const scope = input.scope ?? (input.agent_id === undefined ? 'owner' : 'agent')
    const wanted = { name: input.name ?? scope, expiresInSeconds: input.expires_in_seconds ?? null }
    if (input.account_id === undefined) {
      const { apiKey, accountId, ops, row } = await accounts.create(context, wanted)
      return { api_key: apiKey, account_id: accountId, ...keyJson(row), operations_remaining: Number(ops) }
    }
    const account = await accounts.get(input.account_id)
    const key = await accounts.createKey(account.accountId, context, { ...wanted, scope, agentId: input.agent_id ?? null })
    const { apiKey, row } = key
    return { api_key: apiKey, account_id: account.accountId, ...keyJson(row), operations_remaining: Number(account.ops) }
  },
})

export const accountAdminOperations = [seedAccount, generateKey]
