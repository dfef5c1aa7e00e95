const DAY_MS = 86_400_000

/** A moment as people read it, UTC: `14:05`, with the day where it is not today's. */
export function Moment({ at_ms, now_ms }: { readonly at_ms: number; readonly now_ms?: number }) {
  const date = new Date(at_ms)
  const [, day = '', time = ''] = /^\w+, (\d+ \w+) \d+ (\d+:\d+)/.exec(date.toUTCString()) ?? []
  const isToday = now_ms !== undefined && Math.floor(at_ms / DAY_MS) === Math.floor(now_ms / DAY_MS)
  return <time datetime={date.toISOString()}>{isToday ? time : `${day.replace(/^0/, '')}, ${time}`}</time>
}
