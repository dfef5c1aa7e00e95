const GROWTH = Math.log(1.02)
const BUCKETS = 1100

/** Durations in logarithmic buckets two percent wide: memory stays the same however long a run is. */
export class Histogram {
  readonly #counts = new Float64Array(BUCKETS)
  count = 0
  max_ms = 0

  add(duration_ms: number): void {
    const bucket = Math.floor(Math.log(Math.max(1, duration_ms * 1000)) / GROWTH)
    const at = Math.min(BUCKETS - 1, bucket)
    this.#counts[at] = (this.#counts[at] ?? 0) + 1
    this.count++
    this.max_ms = Math.max(this.max_ms, duration_ms)
  }

  /** @param share 0…1 @returns milliseconds, the upper end of the bucket; NaN for none */
  quantile_ms(share: number): number {
    let left = Math.ceil(this.count * share)
    if (left === 0) return Number.NaN
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      left -= this.#counts[bucket] ?? 0
      if (left <= 0) return Math.min(this.max_ms, Math.exp((bucket + 1) * GROWTH) / 1000)
    }
    return this.max_ms
  }
}
