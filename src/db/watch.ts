import { setTimeout as sleep } from 'node:timers/promises'

const INTERVAL_MS = 2_000
/** Longer than any statement that is only waiting: a busy database answers `select 1` on an idle connection. */
const TIMEOUT_MS = 8_000

/**
 * Notices a database that no longer answers although its connections stay open: a host that lost power, a partition, a firewall that forgot
 * them. TCP alone would take a quarter of an hour, and every statement sent meanwhile would wait as long.
 * @param deps `ping` asks on a connection of its own; `onSilent` is called each time it got no answer for `timeout_ms`
 * @returns ends it
 */
export function watchForSilence(
  deps: { ping(): Promise<void>; onSilent(): void },
  { interval_ms = INTERVAL_MS, timeout_ms = TIMEOUT_MS } = {},
): () => void {
  const ended = new AbortController()
  const answers = async (): Promise<boolean> => {
    const answered = deps.ping().then(
      () => true,
      () => true, // a failure is an answer: the pools have noticed by themselves
    )
    return Promise.race([answered, sleep(timeout_ms, false, { ref: false, signal: ended.signal })])
  }
  const watch = async (): Promise<void> => {
    for (;;) {
      await sleep(interval_ms, undefined, { ref: false, signal: ended.signal })
      if (!(await answers())) deps.onSilent()
    }
  }
  watch().catch(() => {}) // ended
  return () => ended.abort()
}
