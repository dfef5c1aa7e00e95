import { z } from 'zod'
import { DomainError } from '../core/errors.ts'
import { defineOperation, isWithin, type KeyCaller, type ResultStream } from '../core/operation.ts'
import { agentIdSchema, queryInteger } from '../core/text.ts'
import type { Entry } from './chain.ts'
import { csvHeader, csvLine } from './csv.ts'
import type { AuditFilter, AuditService } from './service.ts'

export type AuditDeps = { readonly audit: AuditService }

const MAX_PAGE = 10_000
const MAX_PAGE_SIZE = 1_000
const DEFAULT_PAGE_SIZE = 100
const MAX_MS = 8_640_000_000_000_000

const unixMs = z.number().int().describe('Unix milliseconds')
const reader = { kind: 'key', scopes: ['owner', 'read'], agentRule: 'within' } as const
const formats = ['json', 'csv', 'ndjson'] as const

const entryView = z.object({
  account_id: z.string(),
  seq: z.number().int().nullable().describe('Place in the chain, from 1; null for the newest seconds, which are not sealed yet'),
  id: z.string(),
  at: unixMs,
  type: z.string().describe('What happened, e.g. clearance.approved, clearance.denied, envelope.set, key.created'),
  agent_id: z.string().nullable(),
  data: z.record(z.string(), z.unknown()),
  hash: z.string().nullable().describe('SHA-256 over the hash of the entry before and this one'),
})

const input = z.object({
  page: queryInteger(1, MAX_PAGE).optional().describe('From 1; json only'),
  page_size: queryInteger(1, MAX_PAGE_SIZE).optional().describe('100 when left out; json only'),
  agent_id: agentIdSchema.optional().describe('This agent and those below it only'),
  from: queryInteger(0, MAX_MS).optional().describe('Unix milliseconds, included'),
  to: queryInteger(0, MAX_MS).optional().describe('Unix milliseconds, not included'),
  format: z.enum(formats).optional().describe('json: one page. csv, ndjson: everything, as a stream'),
})

/** A key that is bound to a path sees what is within it, and never the account's own changes. */
function filterOf(caller: KeyCaller, wanted: z.output<typeof input>): AuditFilter {
  const agentId = wanted.agent_id ?? caller.agentId
  if (caller.agentId !== null && agentId !== null && !isWithin(agentId, caller.agentId)) throw new DomainError('forbidden')
  return { agentId, from_ms: wanted.from ?? null, to_ms: wanted.to ?? null }
}

export const listAudit = defineOperation({
  name: 'list_audit',
  title: 'Read the audit trail',
  description:
    'Every decision and every change of the account, newest first: clearances, denials, settlements, envelopes, grants, top-ups, approvals, keys, channels, operator actions. format=ndjson or csv exports everything as a stream; without filters `gvnr audit verify FILE` proves that nothing was removed or changed.',
  tag: 'Audit',
  method: 'get',
  path: '/v1/audit',
  access: reader,
  input,
  output: z.object({
    account_id: z.string(),
    entries: z.array(entryView),
    page: z.number().int(),
    page_size: z.number().int(),
    has_more: z.boolean(),
    complete: z.boolean().describe('false: so little fits the filter that the search stopped; narrow it with from and to'),
  }),
  streams: {
    types: ['application/x-ndjson', 'text/csv'],
    async open({ audit }: AuditDeps, wanted, { caller }): Promise<ResultStream | null> {
      if (wanted.format === undefined || wanted.format === 'json') return null
      const filter = filterOf(caller, wanted)
      const { head, base, entries } = await audit.export(caller.accountId, filter)
      if (wanted.format === 'csv')
        return { type: 'text/csv; charset=utf-8', filename: 'audit.csv', chunks: linesOf(csvHeader(), entries, csvLine) }
      const opening = {
        gvnr_audit_export: 1,
        account_id: caller.accountId,
        head: { seq: head.seq, hash: head.hash },
        ...(base.seq > 0 && { base: { seq: base.seq, hash: base.hash } }),
        filter: { agent_id: filter.agentId, from: filter.from_ms, to: filter.to_ms },
        exported_at: audit.now(),
      }
      return { type: 'application/x-ndjson', filename: 'audit.ndjson', chunks: linesOf(line(opening), entries, line) }
    },
  },
  async run({ audit }: AuditDeps, wanted, { caller }) {
    const page = wanted.page ?? 1
    const pageSize = wanted.page_size ?? DEFAULT_PAGE_SIZE
    const { entries, hasMore, complete } = await audit.page(caller.accountId, filterOf(caller, wanted), page, pageSize)
    return { account_id: caller.accountId, entries: [...entries], page, page_size: pageSize, has_more: hasMore, complete }
  },
})

export const getAuditHead = defineOperation({
  name: 'get_audit_head',
  title: 'Read the head of the audit chain',
  description:
    'The newest sealed entry. Keep seq and hash somewhere else: with `gvnr audit verify FILE --head SEQ:HASH` they prove later that nothing up to it was removed or changed.',
  tag: 'Audit',
  method: 'get',
  path: '/v1/audit/head',
  access: { kind: 'key', scopes: ['owner', 'read'], agentRule: 'none' },
  input: z.object({}),
  output: z.object({
    account_id: z.string(),
    seq: z.number().int().describe('0 while nothing is sealed'),
    hash: z.string(),
    sealed_at: unixMs.nullable(),
    base: z
      .object({ seq: z.number().int(), hash: z.string() })
      .optional()
      .describe('The last entry that this server no longer keeps: what it keeps begins behind it'),
  }),
  async run({ audit }: AuditDeps, _input, { caller }) {
    const base = await audit.base(caller.accountId)
    const { seq, hash, sealedMs } = await audit.head(caller.accountId)
    return {
      account_id: caller.accountId,
      seq,
      hash,
      sealed_at: sealedMs,
      ...(base.seq > 0 && { base: { seq: base.seq, hash: base.hash } }),
    }
  },
})

export const auditOperations = [listAudit, getAuditHead]

const line = (value: unknown): string => `${JSON.stringify(value)}\n`

async function* linesOf(
  first: string,
  pieces: AsyncIterable<readonly Entry[]>,
  lineOf: (entry: Entry) => string,
): AsyncGenerator<string> {
  yield first
  for await (const entries of pieces) yield entries.map(lineOf).join('')
}
