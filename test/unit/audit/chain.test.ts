import { describe, expect, it } from 'vitest'
import { canonicalJson, type Entry, genesisOf, linkOf } from '../../../src/audit/chain.ts'
import { csvHeader, csvLine } from '../../../src/audit/csv.ts'
import { contentOf, type EventRow } from '../../../src/audit/entries.ts'
import { type KeptHead, verifyExport } from '../../../src/audit/verify.ts'

const ACCOUNT = '019ab5c4-1f00-7c11-8a52-6f0d3c9b7e21'
const AT = 1_763_812_800_000
const id = (n: number) => `019ab5c4-0000-7000-8000-${String(n).padStart(12, '0')}`

const hold: EventRow = {
  source: 'engine',
  rank: 0,
  version: 1n,
  id: id(1),
  atMs: AT,
  agentId: 'crawler',
  kind: '0',
  model: 'gpt-4o',
  amount: 168_000_001n,
  reason: null,
  holdId: null,
  ops: -1n,
  rates: '2500000,10000000,1250000,2500000,2500000',
  detail: null,
}
const denial: EventRow = { ...hold, rank: 1, id: id(2), reason: 'envelope_exceeded', ops: 0n, rates: null }
const settled: EventRow = {
  ...hold,
  rank: 2,
  id: id(3),
  kind: 'settle',
  model: null,
  amount: -68_000_000n,
  holdId: id(1),
  ops: 0n,
  rates: null,
  detail: '',
}
const limit: EventRow = { ...settled, id: id(4), kind: 'limit', amount: 0n, holdId: null, detail: '{"daily":"5000000000"}' }
const created: EventRow = {
  source: 'event',
  rank: 3,
  version: 1n,
  id: id(5),
  atMs: AT,
  type: 'key.created',
  agentId: null,
  actor: 'operator',
  detail: '{"name":"=cmd|\' /C calc\'!A0","scope":"read"}',
}
const ROWS = [hold, denial, settled, limit, created, { ...limit, id: id(6), agentId: '=1+1', detail: 'a "quoted",\nline' }]

/** The chain of ROWS as an export has it: newest first. */
function chain(): (Entry & { seq: number; hash: string })[] {
  let hash = genesisOf(ACCOUNT)
  const entries = ROWS.map((row, index) => {
    const content = contentOf(ACCOUNT, index + 1, row)
    hash = linkOf(hash, content)
    return { ...content, hash }
  })
  return entries.reverse()
}
const open = (entries: readonly { seq: number | null; hash: string | null }[], filter = {}) => ({
  gvnr_audit_export: 1,
  account_id: ACCOUNT,
  head: { seq: entries[0]?.seq ?? 0, hash: entries[0]?.hash ?? genesisOf(ACCOUNT) },
  filter: { agent_id: null, from: null, to: null, ...filter },
  exported_at: AT,
})
const ndjson = (lines: readonly unknown[]): string => lines.map((line) => `${JSON.stringify(line)}\n`).join('')
const csv = (entries: readonly Entry[]): string => csvHeader() + entries.map(csvLine).join('')

/** In pieces of `size` characters, as a file is read. */
async function* pieces(text: string, size = 7): AsyncGenerator<string> {
  for (let at = 0; at < text.length; at += size) yield text.slice(at, at + size)
}
const check = (text: string, kept: KeptHead | null = null) => verifyExport(pieces(text), kept)
const problems = async (text: string, kept: KeptHead | null = null) => (await check(text, kept)).problems.join('\n')

describe('canonical JSON (RFC 8785)', () => {
  it('orders keys by UTF-16 code units and prints values as ECMAScript does', () => {
    const value = { '\u20ac': 1, '\r': 2, '\ufb33': 3, '1': 4, '\ud83d\ude00': 5, '\u0080': 6, '\u00f6': 7 }
    expect(canonicalJson(value)).toBe('{"\\r":2,"1":4,"\u0080":6,"\u00f6":7,"\u20ac":1,"\ud83d\ude00":5,"\ufb33":3}')
    expect(canonicalJson({ b: [333333333.3333333, 1e30, 4.5, 2e-3, 1e-27], a: null, c: undefined, d: 'a"\\\n' })).toBe(
      '{"a":null,"b":[333333333.3333333,1e+30,4.5,0.002,1e-27],"d":"a\\"\\\\\\n"}',
    )
  })
})

describe('what is sealed', () => {
  it('never changes: every kind of event gives the same hash as when the first seals were made', () => {
    expect(chain().map(({ type, hash }) => `${type} ${hash}`)).toMatchSnapshot()
  })

  it('says what happened, exact to the nano-dollar', () => {
    expect(contentOf(ACCOUNT, 1, hold)).toEqual({
      account_id: ACCOUNT,
      seq: 1,
      id: id(1),
      at: AT,
      type: 'clearance.approved',
      agent_id: 'crawler',
      data: {
        model: 'gpt-4o',
        estimate_usd: 0.168,
        estimate_nanousd: '168000001',
        rates_pusd_per_token: {
          input: '2500000',
          output: '10000000',
          cached_input: '1250000',
          cache_write: '2500000',
          cache_write_1h: '2500000',
        },
      },
    })
    expect(contentOf(ACCOUNT, 3, settled)).toMatchObject({
      type: 'hold.settled',
      data: { hold_id: id(1), drift_usd: -0.068, drift_nanousd: '-68000000' },
    })
    expect(contentOf(ACCOUNT, 5, created)).toMatchObject({ type: 'key.created', data: { actor: 'operator', scope: 'read' } })
  })
})

describe('checking an export', () => {
  const whole = chain()
  const [newest] = whole

  it('accepts a whole one, as NDJSON and as CSV, however it is cut into pieces', async () => {
    for (const text of [ndjson([open(whole), ...whole]), csv(whole)])
      for (const size of [1, 7, 100_000])
        expect(await verifyExport(pieces(text, size))).toMatchObject({
          accountId: ACCOUNT,
          entries: 6,
          unsealed: 0,
          newestSeq: 6,
          newestHash: newest!.hash,
          problems: [],
        })
  })

  it('accepts an account without entries, and newest ones without a seal', async () => {
    expect(await problems(ndjson([open([])]))).toBe('')
    const unsealed = { ...whole[0]!, id: id(9), seq: null, hash: null }
    expect(await check(ndjson([open(whole), unsealed, ...whole]))).toMatchObject({ entries: 6, unsealed: 1, problems: [] })
  })

  it('finds every removed entry', async () => {
    for (let at = 0; at < whole.length; at++) {
      const less = whole.toSpliced(at, 1)
      expect(await problems(ndjson([open(whole), ...less])), `ndjson without ${at}`).not.toBe('')
      // A CSV does not say where it began, so the newest entry is missed only by who kept the head.
      const kept = { seq: newest!.seq, hash: newest!.hash }
      expect(await problems(csv(less), kept), `csv without ${at}`).not.toBe('')
      if (at > 0) expect(await problems(csv(less)), `csv without ${at}`).not.toBe('')
    }
  })

  it('finds every cut, at either end', async () => {
    for (let length = 0; length < whole.length; length++) {
      expect(await problems(ndjson([open(whole), ...whole.slice(0, length)]))).toMatch(/cut off/)
      expect(await problems(ndjson([open(whole), ...whole.slice(whole.length - length)]))).not.toBe('')
    }
    const text = ndjson([open(whole), ...whole])
    for (let at = 1; at < text.length - 1; at += 13) expect(await problems(text.slice(0, at))).not.toBe('')
  })

  it('finds every change of order', async () => {
    for (let at = 0; at + 1 < whole.length; at++) {
      const swapped = whole.with(at, whole[at + 1]!).with(at + 1, whole[at]!)
      expect(await problems(ndjson([open(whole), ...swapped]))).not.toBe('')
    }
    expect(await problems(ndjson([open(whole), ...whole.toReversed()]))).not.toBe('')
    expect(await problems(ndjson([open(whole), whole[0], ...whole]))).not.toBe('')
  })

  it('finds every edit of every field', async () => {
    for (const [at, entry] of whole.entries()) {
      const edits = [
        { ...entry, at: entry.at + 1 },
        { ...entry, id: id(77) },
        { ...entry, type: 'clearance.approved.not' },
        { ...entry, agent_id: 'somebody else' },
        { ...entry, data: { ...entry.data, more: 1 } },
        { ...entry, hash: entry.hash.replace(/^./, (digit) => (digit === '0' ? '1' : '0')) },
        { ...entry, seq: entry.seq + 100 },
        { ...entry, account_id: id(5) },
        { ...entry, seq: null, hash: null },
        { ...entry, unknown: true },
      ]
      for (const edit of edits) expect(await problems(ndjson([open(whole), ...whole.with(at, edit as never)]))).not.toBe('')
    }
  })

  it('finds a chain that was computed anew, when a head was kept', async () => {
    const kept = { seq: 4, hash: whole.find(({ seq }) => seq === 4)!.hash }
    expect(await problems(ndjson([open(whole), ...whole]), kept)).toBe('')
    const rows = ROWS.toSpliced(1, 1)
    let hash = genesisOf(ACCOUNT)
    const forged = rows
      .map((row, index) => {
        const content = contentOf(ACCOUNT, index + 1, row)
        hash = linkOf(hash, content)
        return { ...content, hash }
      })
      .reverse()
    expect(await problems(ndjson([open(forged), ...forged]))).toBe('')
    expect(await problems(ndjson([open(forged), ...forged]), kept)).toMatch(/not the one that was kept/)
    expect(await problems(ndjson([open(forged), ...forged]), { seq: 6, hash: newest!.hash })).toMatch(/not in the export/)
  })

  it('says that a filtered export cannot be whole, and that other files are none', async () => {
    expect(await problems(ndjson([open(whole, { agent_id: 'crawler' }), ...whole]))).toMatch(/filter/)
    for (const text of ['', 'hello', '{}', '{"a":1}\n', 'a,b\n1,2\n', '"unended']) expect(await problems(text)).not.toBe('')
  })
})

describe('CSV', () => {
  it('lets no cell begin as a formula', () => {
    for (const agent_id of ['=1+1', '+1', '-1', '@x', '\tx', '\rx', "'x"]) {
      const [, , , , , cell] = csvLine({ ...chain()[0]!, agent_id }).split(/,(?=(?:[^"]*"[^"]*")*[^"]*$)/)
      expect(cell).toMatch(/^"?'/)
    }
  })
})
