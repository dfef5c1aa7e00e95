import { describe, expect, it } from 'vitest'
import { FailingReceivers } from '../../../src/notifications/failing.ts'
import { EMAIL_ENDPOINT } from '../../../src/notifications/store.ts'

describe('receivers that fail', () => {
  const failed = (failing: FailingReceivers, id: string, times: number) => {
    for (let n = 0; n < times; n++) failing.note(id, 'retry')
  }

  it('are those that took nothing three times in a row', () => {
    const failing = new FailingReceivers()
    failed(failing, 'a', 2)
    failing.note('a', 'sent')
    failed(failing, 'a', 2)
    expect(failing.has('a')).toBe(false)
    failed(failing, 'a', 1)
    expect([failing.has('a'), failing.ids()]).toEqual([true, ['a']])
    failing.note('a', 'sent')
    expect([failing.has('a'), failing.ids()]).toEqual([false, []])
  })

  it('are not known by messages that were given up', () => {
    const failing = new FailingReceivers()
    for (let n = 0; n < 5; n++) failing.note('a', 'failed')
    failed(failing, 'b', 3)
    failing.note('b', 'failed')
    expect(failing.ids()).toEqual(['b'])
  })

  it('are never the mail server, which all accounts share', () => {
    const failing = new FailingReceivers()
    failed(failing, EMAIL_ENDPOINT, 10)
    expect(failing.has(EMAIL_ENDPOINT)).toBe(false)
  })

  it('are at most two hundred, the last ones', () => {
    const failing = new FailingReceivers()
    for (let n = 0; n < 1000; n++) failed(failing, `e${n}`, 3)
    expect(failing.ids()).toHaveLength(200)
    expect([failing.has('e0'), failing.has('e999')]).toEqual([false, true])
  })
})
