/** The windows an envelope can have, in the order of every five-element array of limits or spends in this room. */
export const WINDOWS = ['hourly', 'daily', 'weekly', 'monthly', 'session'] as const
export type Window = (typeof WINDOWS)[number]
export const WINDOW_COUNT = WINDOWS.length

const HOUR = 3_600_000
const DAY = 86_400_000
const WEEK = 7 * DAY
/** 1970-01-01 was a Thursday; the first Monday came four days later. */
const FIRST_MONDAY = 4 * DAY

const floorTo = (ms: number, step: number, offset = 0): number => Math.floor((ms - offset) / step) * step + offset

// One month is asked about millions of times a day: remember its bounds instead of building dates.
let month = { start: 0, end: 0 }
function monthAround(ms: number): { start: number; end: number } {
  if (ms < month.start || ms >= month.end) {
    const date = new Date(ms)
    month = {
      start: Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1),
      end: Date.UTC(date.getUTCFullYear(), date.getUTCMonth() + 1, 1),
    }
  }
  return month
}

/**
 * Start of the window instance that contains a moment, UTC, Unix ms (contract section 3: hours, days from midnight, weeks
 * from Monday, calendar months; `session` has one instance that never ends).
 */
export function instanceStart(window: Window, at_ms: number): number {
  switch (window) {
    case 'hourly':
      return floorTo(at_ms, HOUR)
    case 'daily':
      return floorTo(at_ms, DAY)
    case 'weekly':
      return floorTo(at_ms, WEEK, FIRST_MONDAY)
    case 'monthly':
      return monthAround(at_ms).start
    case 'session':
      return 0
  }
}

/** The next boundary after a moment, Unix ms. For `session`, which never resets, the next UTC midnight, informational. */
export function nextReset(window: Window, at_ms: number): number {
  switch (window) {
    case 'hourly':
      return instanceStart('hourly', at_ms) + HOUR
    case 'weekly':
      return instanceStart('weekly', at_ms) + WEEK
    case 'monthly':
      return monthAround(at_ms).end
    case 'daily':
    case 'session':
      return instanceStart('daily', at_ms) + DAY
  }
}

/** True when a window instance begins between the two moments, i.e. what was spent at `earlier_ms` no longer counts at `later_ms`. */
export const hasRolled = (window: Window, earlier_ms: number, later_ms: number): boolean =>
  instanceStart(window, earlier_ms) < instanceStart(window, later_ms)
