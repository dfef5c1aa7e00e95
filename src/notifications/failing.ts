import type { Result } from './delivery.ts'
import { EMAIL_ENDPOINT } from './store.ts'

/** So many failures in a row: a receiver that fails now and then is not meant. */
const FAILING_AFTER = 3
/** Those that failed longest ago are forgotten first, and learned again. */
const MAX_KNOWN = 200

/** Which receivers have taken nothing lately, as this process has seen it. Bounded. */
export class FailingReceivers {
  readonly #inARow = new Map<string, number>()

  note(endpointId: string, state: Result['state']): void {
    // One id for all accounts: the mail server may be well when an address has had enough.
    if (endpointId === EMAIL_ENDPOINT) return
    // `failed` is final and says little: the message may have been too old to be sent at all.
    if (state === 'failed') return
    const before = this.#inARow.get(endpointId) ?? 0
    this.#inARow.delete(endpointId)
    if (state === 'sent') return
    this.#inARow.set(endpointId, before + 1)
    const [oldest] = this.#inARow.keys()
    if (this.#inARow.size > MAX_KNOWN && oldest !== undefined) this.#inARow.delete(oldest)
  }

  has(endpointId: string): boolean {
    return (this.#inARow.get(endpointId) ?? 0) >= FAILING_AFTER
  }

  ids(): string[] {
    return [...this.#inARow.keys()].filter((id) => this.has(id))
  }
}
