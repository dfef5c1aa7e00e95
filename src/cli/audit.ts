import { createReadStream } from 'node:fs'
import { parseArgs } from 'node:util'
import { type KeptHead, verifyExport } from '../audit/verify.ts'
import { type Command, print, UsageError } from './command.ts'

export const audit: Command = {
  usage: 'audit verify FILE [--head SEQ:HASH] [--base SEQ:HASH]',
  help: [
    'Check an export of GET /v1/audit (NDJSON or CSV; - reads standard input): nothing is missing, changed or out of',
    'order. --head is one that was kept from GET /v1/audit/head. --base is what a CSV begins behind, where the server keeps',
    'entries for a limited time: base in GET /v1/audit/head. Needs no database. Ends with 1 when something is wrong.',
  ],
  async run([action, ...rest]) {
    const options = { head: { type: 'string' }, base: { type: 'string' } } as const
    const { values, positionals } = parseArgs({ args: rest, options, allowPositionals: true })
    const [file, ...more] = positionals
    if (action !== 'verify' || file === undefined || more.length > 0)
      throw new UsageError('Say which export to check: audit verify FILE [--head SEQ:HASH] [--base SEQ:HASH].')
    const source = file === '-' ? process.stdin : createReadStream(file)
    const kept = values.head === undefined ? null : placeIn('--head', values.head)
    const base = values.base === undefined ? null : placeIn('--base', values.base)
    const verdict = await verifyExport(source.setEncoding('utf8'), kept, base)
    const { accountId, entries, unsealed, newestSeq, newestHash, baseSeq, problems } = verdict
    for (const problem of problems) print(problem)
    const sealed = `account ${accountId ?? 'unknown'}: ${entries} sealed entries`
    if (problems.length > 0) {
      print(`${sealed}: this is not the whole audit trail as it was sealed.`)
      return 1
    }
    print(
      `${sealed}, nothing missing or changed, up to ${newestSeq}:${newestHash ?? ''}; ${unsealed} newer ones have no seal yet.`,
    )
    if (baseSeq > 0) print(`The server no longer keeps the entries up to ${baseSeq}; the export begins behind them.`)
    if (kept === null) print('Checked within itself only: a head that you kept (--head) proves that it is the same chain.')
    return 0
  },
}

function placeIn(option: string, text: string): KeptHead {
  const [, seq, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? []
  if (seq === undefined || hash === undefined) throw new UsageError(`${option} is SEQ:HASH, as GET /v1/audit/head answers them.`)
  return { seq: Number(seq), hash }
}
