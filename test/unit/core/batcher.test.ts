import { describe, expect, it, vi } from 'vitest'
import { AGAIN, allFulfilled, Batcher } from '../../../src/core/batcher.ts'
import { DomainError } from '../../../src/core/errors.ts'

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** A batcher whose runs end when they are told to. */
function held(options = { maxBatch: 100, maxQueue: 1000 }) {
  const runs: { items: number[]; end(): void }[] = []
  const batcher = new Batcher<number, number>(
    (items) => new Promise((resolve) => runs.push({ items, end: () => resolve(allFulfilled(items.map((item) => item * 2))) })),
    options,
  )
  const submit = (from: number, count: number, isPatient = false) =>
    Array.from({ length: count }, (_, index) => batcher.submit(from + index, { isPatient }))
  return { batcher, runs, submit }
}

describe('a batcher', () => {
  it('runs what comes in one turn together, and what comes meanwhile in the next run, in order', async () => {
    const { runs, submit } = held()
    const first = submit(1, 3)
    await turn()
    expect(runs.map(({ items }) => items)).toEqual([[1, 2, 3]])
    const second = submit(4, 2)
    await turn()
    expect(runs).toHaveLength(1)
    runs[0]!.end()
    await turn()
    expect(runs.map(({ items }) => items)).toEqual([
      [1, 2, 3],
      [4, 5],
    ])
    runs[1]!.end()
    expect(await Promise.all([...first, ...second])).toEqual([2, 4, 6, 8, 10])
  })

  it('takes half of what is on its way, never more than it may, and loses none', async () => {
    const { runs, submit } = held({ maxBatch: 30, maxQueue: 1000 })
    const all = submit(0, 100)
    await turn()
    expect(runs[0]!.items).toHaveLength(30)
    for (let index = 0; index < runs.length; index++) {
      runs[index]!.end()
      await turn()
    }
    expect(runs.every(({ items }) => items.length <= 30)).toBe(true)
    expect(runs.flatMap(({ items }) => items)).toEqual(Array.from({ length: 100 }, (_, index) => index))
    expect(await Promise.all(all)).toHaveLength(100)
  })

  it('refuses what its queue has no room for', async () => {
    const { runs, submit } = held({ maxBatch: 1, maxQueue: 2 })
    const kept = submit(1, 2)
    const [refused] = submit(3, 1)
    await expect(refused).rejects.toThrow(DomainError)
    await turn()
    runs[0]!.end()
    await turn()
    runs[1]!.end()
    expect(await Promise.all(kept)).toEqual([2, 4])
  })

  it('runs again at once, and first, what must be run again', async () => {
    const runs: number[][] = []
    const batcher = new Batcher<number, number>(
      async (items) => {
        runs.push(items)
        return items.map((item) => (runs.length === 1 && item === 2 ? AGAIN : { status: 'fulfilled', value: item }))
      },
      { maxBatch: 2, maxQueue: 10 },
    )
    expect(await Promise.all([1, 2, 3].map((item) => batcher.submit(item)))).toEqual([1, 2, 3])
    expect(runs).toEqual([
      [1, 2],
      [2, 3],
    ])
  })

  it('fails only the items of a run that throws', async () => {
    const batcher = new Batcher<number, number>(
      async (items) => {
        if (items.includes(1)) throw new Error('broken')
        return allFulfilled(items)
      },
      { maxBatch: 1, maxQueue: 10 },
    )
    const [first, second] = [batcher.submit(1), batcher.submit(2)]
    await expect(first).rejects.toThrow('broken')
    expect(await second).toBe(2)
  })

  describe('with an item that nobody waits for', () => {
    it('keeps it for the next that somebody waits for, and runs it before that one', async () => {
      const { runs, submit } = held()
      const patient = submit(1, 2, true)
      await turn()
      expect(runs).toEqual([])
      const awaited = submit(3, 1)
      await turn()
      expect(runs.map(({ items }) => items)).toEqual([[1, 2, 3]])
      runs[0]!.end()
      expect(await Promise.all([...patient, ...awaited])).toEqual([2, 4, 6])
    })

    it('runs it by itself when nothing else comes, also what came during a run', async () => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
      try {
        const { runs, submit } = held()
        const first = submit(1, 1, true)
        await turn()
        expect(runs).toEqual([])
        await vi.advanceTimersByTimeAsync(10)
        await turn()
        expect(runs).toHaveLength(1)
        const second = submit(2, 1, true)
        runs[0]!.end()
        await turn()
        expect(runs).toHaveLength(1)
        await vi.advanceTimersByTimeAsync(10)
        await turn()
        expect(runs).toHaveLength(2)
        runs[1]!.end()
        expect(await Promise.all([...first, ...second])).toEqual([2, 4])
      } finally {
        vi.useRealTimers()
      }
    })

    it('does not wait when there are many of its kind, or when all is to be settled', async () => {
      const many = held()
      many.submit(1, 16, true)
      await turn()
      expect(many.runs).toHaveLength(1)
      const few = held()
      few.submit(1, 1, true)
      let isSettled = false
      const settled = few.batcher.settled().then(() => {
        isSettled = true
      })
      await turn()
      expect([few.runs.length, isSettled]).toEqual([1, false])
      few.submit(2, 1, true)
      few.runs[0]!.end()
      await turn()
      expect(few.runs).toHaveLength(2)
      few.runs[1]!.end()
      await settled
      expect(isSettled).toBe(true)
      many.runs[0]!.end()
    })
  })
})
