import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { splice, topLevelFields } from '../../../src/proxy/json.ts'

const spans = (text: string): Record<string, string> | null => {
  const bytes = Buffer.from(text)
  const fields = topLevelFields(bytes)
  return fields && Object.fromEntries([...fields].map(([name, { start, end }]) => [name, bytes.toString('utf8', start, end)]))
}

describe('the fields of an object', () => {
  it('are found with their values as they stand there', () => {
    expect(spans(' {"a" : 1.0 ,"b":"}\\"{\\\\" , "c": {"a":[1,"]"]} ,"d":[ {}, [] ],"e":null\n, "\\u0066":true } ')).toEqual({
      a: '1.0',
      b: '"}\\"{\\\\"',
      c: '{"a":[1,"]"]}',
      d: '[ {}, [] ]',
      e: 'null',
      f: 'true',
    })
    expect(spans('{}')).toEqual({})
  })

  it('may each occur once only, however it is spelled', () => {
    expect(spans('{"model":"a","x":{"model":"b"}}')).not.toBeNull()
    expect(spans('{"model":"a","model":"b"}')).toBeNull()
    expect(spans('{"model":"a","\\u006dodel":"b"}')).toBeNull()
  })

  it('are those that a parser finds, in any object', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.constantFrom(0, 2), (object, indent) => {
        const text = JSON.stringify(object, null, indent)
        const parsed = JSON.parse(text) as Record<string, unknown>
        const found = spans(text)
        expect(Object.fromEntries(Object.entries(found ?? {}).map(([name, value]) => [name, JSON.parse(value)]))).toEqual(parsed)
      }),
    )
  })
})

describe('splicing', () => {
  it('replaces and inserts and leaves the rest', () => {
    const bytes = Buffer.from('{"a":1,"b":2}')
    const edits = [
      { start: 12, end: 12, text: ',"c":3' },
      { start: 5, end: 6, text: '"x"' },
    ]
    expect(splice(bytes, edits).toString()).toBe('{"a":"x","b":2,"c":3}')
    expect(splice(bytes, [])).toBe(bytes)
  })
})
