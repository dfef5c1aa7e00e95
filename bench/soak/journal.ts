import { createReadStream, createWriteStream, type WriteStream } from 'node:fs'
import { createInterface } from 'node:readline'

export type Entry = {
  readonly what: 'approved' | 'settled' | 'released'
  readonly accountId: string
  readonly clearanceId: string
}

/** Every clearance that was answered, on disk: a run of hours keeps none of it in memory. */
export class Journal {
  readonly #file: string
  readonly #stream: WriteStream
  readonly counts = { approved: 0, settled: 0, released: 0 }

  constructor(file: string) {
    this.#file = file
    this.#stream = createWriteStream(file)
  }

  add({ what, accountId, clearanceId }: Entry): void {
    this.counts[what]++
    this.#stream.write(`${what} ${accountId} ${clearanceId}\n`)
  }

  /** Ends writing and reads everything back, some thousand entries at a time. */
  async *batches(size: number): AsyncGenerator<Entry[]> {
    await new Promise<void>((resolve) => this.#stream.end(resolve))
    let batch: Entry[] = []
    for await (const line of createInterface({ input: createReadStream(this.#file) })) {
      const [what = '', accountId = '', clearanceId = ''] = line.split(' ')
      batch.push({ what: what as Entry['what'], accountId, clearanceId })
      if (batch.length < size) continue
      yield batch
      batch = []
    }
    yield batch
  }
}
