import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { hasRolled, instanceStart, nextReset, WINDOWS } from '../../../src/budgets/windows.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const utc = (text: string): number => Date.parse(`${text}Z`)

/** Every moment from the epoch to the year 9999. */
const moments = fc.integer({ min: 0, max: utc('9999-12-31T23:59:59') })
const windows = fc.constantFrom(...WINDOWS)

describe('windows', () => {
  it.each([
    ['hourly', '2026-01-14T12:34:56.789', '2026-01-14T12:00', '2026-01-14T13:00'],
    ['hourly', '2026-12-31T23:59:59.999', '2026-12-31T23:00', '2027-01-01T00:00'],
    ['daily', '2026-01-14T00:00:00.000', '2026-01-14T00:00', '2026-01-15T00:00'],
    ['daily', '2026-01-13T23:59:59.999', '2026-01-13T00:00', '2026-01-14T00:00'],
    ['weekly', '2026-01-14T12:00', '2026-01-12T00:00', '2026-01-19T00:00'],
    ['weekly', '2026-01-12T00:00', '2026-01-12T00:00', '2026-01-19T00:00'],
    ['weekly', '2026-01-11T23:59:59.999', '2026-01-05T00:00', '2026-01-12T00:00'],
    ['weekly', '2026-12-31T12:00', '2026-12-28T00:00', '2027-01-04T00:00'],
    ['weekly', '1970-01-05T00:00', '1970-01-05T00:00', '1970-01-12T00:00'],
    ['monthly', '2024-02-29T23:59:59.999', '2024-02-01T00:00', '2024-03-01T00:00'],
    ['monthly', '2026-02-28T23:59:59.999', '2026-02-01T00:00', '2026-03-01T00:00'],
    ['monthly', '2100-02-28T12:00', '2100-02-01T00:00', '2100-03-01T00:00'],
    ['monthly', '2026-01-31T12:00', '2026-01-01T00:00', '2026-02-01T00:00'],
    ['monthly', '2026-12-31T23:59:59.999', '2026-12-01T00:00', '2027-01-01T00:00'],
    ['monthly', '1970-01-01T00:00', '1970-01-01T00:00', '1970-02-01T00:00'],
  ] as const)('%s at %s', (window, at, start, end) => {
    expect(instanceStart(window, utc(at))).toBe(utc(start))
    expect(nextReset(window, utc(at))).toBe(utc(end))
  })

  it('has one session, which never ends; its reset is the next midnight, for information', () => {
    expect(instanceStart('session', utc('2026-01-14T12:00'))).toBe(0)
    expect(nextReset('session', utc('2026-01-14T12:00'))).toBe(utc('2026-01-15T00:00'))
    expect(hasRolled('session', 0, utc('9999-01-01T00:00'))).toBe(false)
  })

  it('answers the week in which 1970 began, before its first Monday', () => {
    expect(instanceStart('weekly', 0)).toBe(-3 * DAY)
    expect(nextReset('weekly', 0)).toBe(4 * DAY)
  })

  it('is not confused by asking about months out of order', () => {
    const leap = utc('2024-02-29T12:00')
    const later = utc('2026-07-01T00:00')
    for (const at of [leap, later, leap, later - 1, later, leap]) {
      const date = new Date(at)
      expect(instanceStart('monthly', at)).toBe(Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1))
    }
  })

  it('puts every moment into exactly one instance: start <= moment < next reset', () => {
    fc.assert(
      fc.property(windows, moments, (window, at) => {
        const start = instanceStart(window, at)
        const end = nextReset(window, at)
        expect(start).toBeLessThanOrEqual(at)
        expect(end).toBeGreaterThan(at)
        // Every boundary is a boundary of an hour, on which decide.ts relies.
        expect(Math.abs(start % HOUR) + (end % HOUR)).toBe(0)
        if (window === 'session') return
        expect(instanceStart(window, start)).toBe(start)
        expect(instanceStart(window, end - 1)).toBe(start)
        expect(instanceStart(window, end)).toBe(end)
      }),
      { numRuns: 2000 },
    )
  })

  it('starts weeks on Mondays, months on the first, days and hours on the stroke', () => {
    fc.assert(
      fc.property(moments, (at) => {
        expect(new Date(instanceStart('weekly', at)).getUTCDay()).toBe(1)
        expect(new Date(instanceStart('monthly', at)).getUTCDate()).toBe(1)
        expect(nextReset('weekly', at) - instanceStart('weekly', at)).toBe(7 * DAY)
        expect(new Date(instanceStart('daily', at)).toISOString()).toMatch(/T00:00:00\.000Z$/)
        expect(new Date(instanceStart('hourly', at)).toISOString()).toMatch(/:00:00\.000Z$/)
      }),
      { numRuns: 2000 },
    )
  })

  it('rolls forwards only, exactly when a boundary lies between', () => {
    fc.assert(
      fc.property(windows, moments, moments, (window, a, b) => {
        const [earlier, later] = a < b ? [a, b] : [b, a]
        expect(hasRolled(window, later, earlier)).toBe(false)
        expect(hasRolled(window, earlier, later)).toBe(window !== 'session' && later >= nextReset(window, earlier))
      }),
      { numRuns: 2000 },
    )
  })
})
