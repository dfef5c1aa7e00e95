import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { scanObject, splice } from '../../../src/proxy/json.ts'

const spans = (text: string): Record<string, string> | null => {
  const bytes = Buffer.from(text)
  const { fields } = scanObject(bytes)
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

  it('are found behind strings of any length with quotes and slashes anywhere', () => {
    const text = fc
      .array(fc.constantFrom('x'.repeat(61), 'x', '\\\\', '"', 'é'), { maxLength: 150 })
      .map((parts) => parts.join(''))
    fc.assert(
      fc.property(text, text, (key, value) => {
        expect(spans(JSON.stringify({ [`a${key}`]: value, b: 1 }))).toEqual({ [`a${key}`]: JSON.stringify(value), b: '1' })
      }),
    )
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

describe('a body that a parser would take long for', () => {
  const refusal = (text: string): string | undefined => {
    try {
      scanObject(Buffer.from(text))
      return undefined
    } catch (error) {
      return (error as Error).message
    }
  }
  const list = (item: string, count: number): string => `{"model":"m","input":[${Array(count).fill(item).join()}]}`
  const named = (count: number): string => Array.from({ length: count }, (_, n) => `"k${n}":0`).join()

  it.each([
    ['top-level fields', `{${named(201)}}`, 'more than 200 fields'],
    ['fields', `{"a":{${named(70_000)}}}`, 'more than 70000 fields'],
    ['objects', list('{}', 50_000), 'more than 50000 objects'],
    ['lists', list('[]', 50_000), 'more than 50000 objects'],
    ['texts', list('""', 400_001), 'more than 400000 items'],
    ['depth', `{"a":${'['.repeat(128)}`, 'more than 128 levels'],
  ])('is refused: %s', (_name, text, message) => {
    expect(refusal(text)).toContain(message)
  })

  it('is not one with as much as providers take, or with all of it in a string', () => {
    expect(refusal(list('100256', 300_000))).toBeUndefined()
    expect(refusal(list('"text"', 2_048))).toBeUndefined()
    expect(refusal(list('{"role":"user","content":[{"type":"text","text":"hi"}]}', 15_000))).toBeUndefined()
    expect(refusal(JSON.stringify({ input: '[{,:"\\'.repeat(200_000) }))).toBeUndefined()
    expect(refusal(`{${named(200)}}`)).toBeUndefined()
    expect(refusal(`{"a":${'['.repeat(127)}${']'.repeat(127)}}`)).toBeUndefined()
  })

  it('is told apart from bytes that are not JSON by nothing but these messages', () => {
    fc.assert(
      fc.property(fc.stringMatching(/^[{}[\],:"\\a ]*$/), (text) => {
        expect([undefined, 'The body is not JSON.']).toContain(refusal(text))
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
