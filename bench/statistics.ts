/** The middle value; the mean of the two middle ones when their number is even. NaN for none. */
export function median(values: readonly number[]): number {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b)
  const middle = sorted.length / 2
  const low = sorted[Math.ceil(middle) - 1]
  const high = sorted[Math.floor(middle)]
  return low === undefined || high === undefined ? Number.NaN : (low + high) / 2
}

/** @param sorted ascending @param share 0…1 */
export function quantile(sorted: Uint32Array, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN
}

/** A reproducible source of numbers in [0, 1): mulberry32. */
export function randomSource(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296
  }
}

/** Draws from 0…size-1; with `zipf` the n-th is drawn 1/n as often as the first. */
export function drawer(size: number, distribution: 'zipf' | 'uniform', random: () => number): () => number {
  if (distribution === 'uniform') return () => Math.floor(random() * size)
  const cumulative = new Float64Array(size)
  let sum = 0
  for (let rank = 0; rank < size; rank++) {
    sum += 1 / (rank + 1)
    cumulative[rank] = sum
  }
  return () => {
    const point = random() * sum
    let low = 0
    let high = size - 1
    while (low < high) {
      const middle = (low + high) >> 1
      if ((cumulative[middle] ?? sum) > point) high = middle
      else low = middle + 1
    }
    return low
  }
}

/** Durations in microseconds, bounded in number. */
export class Durations {
  readonly #values: Uint32Array
  #count = 0

  constructor(capacity: number) {
    this.#values = new Uint32Array(capacity)
  }

  add(duration_us: number): void {
    if (this.#count < this.#values.length) this.#values[this.#count++] = duration_us
  }

  clear(): void {
    this.#count = 0
  }

  summary(): { p50_us: number; p99_us: number; max_us: number } {
    const sorted = this.#values.slice(0, this.#count).sort()
    return { p50_us: quantile(sorted, 0.5), p99_us: quantile(sorted, 0.99), max_us: quantile(sorted, 1) }
  }
}
