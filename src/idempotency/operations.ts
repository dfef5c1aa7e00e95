import { z } from 'zod'
import { defineOperation } from '../core/operation.ts'
import { integer, text } from '../core/text.ts'
import type { IdempotencyService } from './service.ts'

export type IdempotencyDeps = { readonly idempotency: IdempotencyService }

const MAX_TTL_SECONDS = 2_592_000
const DEFAULT_TTL_SECONDS = 3600

export const idempotencyCheck = defineOperation({
  name: 'idempotency_check',
  title: 'Is this the first call with this key?',
  description:
    'Call this before an action that must not happen twice. Exactly one caller per key gets is_first_call:true and may act; all others must not. The first call sets how long the key lives.',
  tag: 'Idempotency',
  method: 'post',
  path: '/v1/idempotency/check',
  access: { kind: 'key', scopes: ['owner', 'agent'] },
  input: z.object({
    key: text(1, 256).describe('Names the action, 1-256 characters, for example "invoice-4711-paid"'),
    ttl_seconds: integer(1, MAX_TTL_SECONDS).optional().describe('How long the key is remembered; an hour when left out'),
  }),
  output: z.object({ is_first_call: z.boolean(), ttl_remaining_seconds: z.number().int() }),
  tool: { readOnlyHint: false, destructiveHint: false, idempotentHint: false, openWorldHint: false },
  async run({ idempotency }: IdempotencyDeps, input, { caller }) {
    const { first, ttlRemainingSeconds } = await idempotency.check(
      caller.accountId,
      input.key,
      input.ttl_seconds ?? DEFAULT_TTL_SECONDS,
    )
    return { is_first_call: first, ttl_remaining_seconds: ttlRemainingSeconds }
  },
})

export const idempotencyOperations = [idempotencyCheck]
