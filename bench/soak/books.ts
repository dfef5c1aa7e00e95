import { Histogram } from './histogram.ts'

const MOST_FAULTS = 50

type Kind = { readonly took: Histogram; readonly codes: Map<string, number> }

/** What the run has seen: durations and error codes by kind of request, and answers that nobody should ever get. */
export class Books {
  readonly kinds = new Map<string, Kind>()
  readonly faults: string[] = []
  faultCount = 0
  retries = 0
  /** Clearances that were refused, each of them rightly. */
  denied = 0
  /** Requests whose outcome was unknown at first, and those of them that had no key to ask again with. */
  unknown = 0
  unkeyed = 0
  /** Arrivals that were left out because too many requests were under way. */
  shed = 0

  #kind(name: string): Kind {
    const known = this.kinds.get(name)
    if (known !== undefined) return known
    const kind = { took: new Histogram(), codes: new Map<string, number>() }
    this.kinds.set(name, kind)
    return kind
  }

  /** @param took_ms from the moment the request was due to the answer for good, tries again included */
  answered(kind: string, took_ms: number): void {
    this.#kind(kind).took.add(took_ms)
  }

  error(kind: string, code: string): void {
    const { codes } = this.#kind(kind)
    codes.set(code, (codes.get(code) ?? 0) + 1)
  }

  /** Something that must never happen. */
  fault(what: string): void {
    this.faultCount++
    if (this.faults.length < MOST_FAULTS) this.faults.push(what)
    if (this.faultCount <= 5) console.error(`FAULT ${what}`)
  }
}
