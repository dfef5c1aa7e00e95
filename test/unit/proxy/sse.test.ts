import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { SseSplitter } from '../../../src/proxy/sse.ts'

function split(chunks: readonly Buffer[]): { bytes: string; data: (string | null)[] } {
  const splitter = new SseSplitter()
  const events = chunks.flatMap((chunk) => splitter.push(chunk))
  const last = splitter.end()
  if (last !== null) events.push(last)
  return {
    bytes: Buffer.concat(events.map((event) => event.bytes)).toString(),
    data: events.map(({ data }) => data?.toString() ?? null),
  }
}

const STREAM = [
  ': comment',
  '',
  'event: x',
  'data: {"a":1}',
  '',
  'data:no space',
  '',
  'data: two',
  'data: lines',
  'id: 7',
  '',
  'data: ünïcödé 🧑',
  '',
  'data: the end',
].join('\n')
const EXPECTED = [null, '{"a":1}', 'no space', 'two\nlines', 'ünïcödé 🧑', 'the end']

describe.each([
  ['LF', '\n'],
  ['CR LF', '\r\n'],
  ['CR', '\r'],
])('a stream with %s', (_name, newline) => {
  const bytes = Buffer.from(STREAM.replaceAll('\n', newline))

  it('is cut into its events wherever its chunks are cut in two', () => {
    for (let at = 0; at <= bytes.length; at++)
      expect(split([bytes.subarray(0, at), bytes.subarray(at)])).toEqual({ bytes: bytes.toString(), data: EXPECTED })
  })

  it('is cut into its events in chunks of any length', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 1, max: 20 }), { minLength: 1, maxLength: 200 }), (lengths) => {
        const chunks: Buffer[] = []
        let at = 0
        for (let n = 0; at < bytes.length; n++) {
          const length = lengths[n % lengths.length]!
          chunks.push(bytes.subarray(at, at + length))
          at += length
        }
        expect(split(chunks)).toEqual({ bytes: bytes.toString(), data: EXPECTED })
      }),
    )
  })
})

describe('an event that does not end', () => {
  it('is passed on without being held, and the one after it is read again', () => {
    const piece = Buffer.from('x'.repeat(100_000))
    const splitter = new SseSplitter()
    const passed: Buffer[] = [...splitter.push(Buffer.from('data: '))].map((event) => event.bytes)
    for (let n = 0; n < 100; n++) for (const event of splitter.push(piece)) passed.push(event.bytes)
    expect(Buffer.concat(passed).length).toBeGreaterThan(6_000_000)
    const events = splitter.push(Buffer.from('\n\ndata: next\n\n'))
    expect(events.map(({ data }) => data?.toString() ?? null)).toEqual([null, 'next'])
  })
})

describe('lines that end in every way', () => {
  const line = fc.constantFrom('data: a', 'data:', ': c', 'id: 1', 'x')
  const end = fc.constantFrom('\n', '\r\n', '\r')
  const blank = fc.constantFrom('\n\n', '\r\n\r\n', '\r\r')
  const stream = fc
    .array(fc.tuple(fc.array(fc.tuple(line, end), { maxLength: 3 }), line, blank), { maxLength: 6 })
    .map((events) => events.map(([lines, last, gap]) => lines.flat().join('') + last + gap).join(''))

  it('give the same events wherever the stream is cut', () => {
    fc.assert(
      fc.property(stream, (text) => {
        const bytes = Buffer.from(text)
        const whole = split([bytes])
        expect(whole.bytes).toBe(text)
        for (let at = 0; at <= bytes.length; at++) expect(split([bytes.subarray(0, at), bytes.subarray(at)])).toEqual(whole)
        expect(split(Array.from(bytes, (byte) => Buffer.of(byte)))).toEqual(whole)
      }),
    )
  })
})

describe('a hostile stream takes no longer than its bytes', () => {
  it('one event of very many data lines, which is not looked into', () => {
    for (const newline of ['\n', '\r\n', '\r']) {
      const lines = `data:${newline}`.repeat(200_000)
      const { bytes, data } = split([Buffer.from(`${lines}${newline}data: next${newline}${newline}`)])
      expect(bytes.length).toBe(lines.length + 10 + 3 * newline.length)
      expect(data).toEqual([null, 'next'])
    }
  })

  it('lines that come in pieces of two bytes behind megabytes without an end', () => {
    const pieces = Array<Buffer>(100_000).fill(Buffer.from(':\n'))
    const { data } = split([Buffer.from(`:${'a'.repeat(3_000_000)}\n`), ...pieces, Buffer.from('data: x\n\n')])
    expect(data).toEqual(['x'])
  })
})
