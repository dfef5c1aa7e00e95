import { createReadStream } from 'node:fs'
import { parseArgs } from 'node:util'
import { type KeptHead, verifyExport } from '../audit/verify.ts'
import { type Command, print, UsageError } from './command.ts'

export const audit: Command = {
  usage: 'audit verify FILE [--head SEQ:HASH]',
  help: [
    'Check an export of GET /v1/audit (NDJSON or CSV; - reads standard input): nothing is missing, changed or out of',
    'order. --head is one that was kept from GET /v1/audit/head. Needs no database. Ends with 1 when something is wrong.',
  ],
  async run([action, ...rest]) {
    const { values, positionals } = parseArgs({ args: rest, options: { head: { type: 'string' } }, allowPositionals: true })
    const [file, ...more] = positionals
    if (action !== 'verify' || file === undefined || more.length > 0)
      throw new UsageError('Say which export to check: audit verify FILE [--head SEQ:HASH].')
    const source = file === '-' ? process.stdin : createReadStream(file)
    const kept = values.head === undefined ? null : keptHead(values.head)
    const { accountId, entries, unsealed, newestSeq, newestHash, problems } = await verifyExport(source.setEncoding('utf8'), kept)
    for (const problem of problems) print(problem)
    const sealed = `account ${accountId ?? 'unknown'}: ${entries} sealed entries`
    if (problems.length > 0) {
      print(`${sealed}: this is not the whole audit trail as it was sealed.`)
      return 1
    }
    print(
      `${sealed}, nothing missing or changed, up to ${newestSeq}:${newestHash ?? ''}; ${unsealed} newer ones have no seal yet.`,
    )
    if (kept === null) print('Checked within itself only: a head that you kept (--head) proves that it is the same chain.')
    return 0
  },
}

function keptHead(text: string): KeptHead {
  const [, seq, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? []
  if (seq === undefined || hash === undefined) throw new UsageError('--head is SEQ:HASH, as GET /v1/audit/head answers them.')
  return { seq: Number(seq), hash }
}
