import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { actualNanousd, affordableTokens, estimateNanousd, MAX_ESTIMATED_TOKENS, type Rate } from '../../../src/prices/cost.ts'

const chat: Rate = {
  input: 5_000_000n,
  output: 25_000_000n,
  cachedInput: 500_000n,
  cacheWrite: 6_250_000n,
  cacheWrite1h: 10_000_000n,
  inputOnly: false,
  source: 'pinned',
  model: 'test',
}
const embedding: Rate = { ...chat, input: 20_000n, output: 20_000n, inputOnly: true }

const picousd = fc.oneof(fc.bigInt(0n, 3n), fc.bigInt(0n, 600_000_000n), fc.bigInt(0n, 10n ** 12n))
const anyRate = fc
  .record({
    input: picousd,
    output: picousd,
    cachedInput: picousd,
    cacheWrite: picousd,
    cacheWrite1h: picousd,
    inputOnly: fc.boolean(),
  })
  .map((rate): Rate => ({ ...chat, ...rate }))
const tokenCount = fc.oneof(fc.integer({ min: 0, max: 20_000 }), fc.integer({ min: 0, max: MAX_ESTIMATED_TOKENS }))

describe('estimateNanousd', () => {
  it('takes the output rate for chat, the input rate for embeddings, and adds input at the input rate', () => {
    expect(estimateNanousd(chat, 1_000)).toBe(25_000_000n)
    expect(estimateNanousd(chat, 1_000, 1_000)).toBe(30_000_000n)
    expect(estimateNanousd(embedding, 1_000_000)).toBe(20_000_000n)
    expect(estimateNanousd(embedding, 1)).toBe(20n)
  })

  it('rounds up once', () => {
    fc.assert(
      fc.property(anyRate, tokenCount, tokenCount, (rate, tokens, inputTokens) => {
        const exact = BigInt(tokens) * (rate.inputOnly ? rate.input : rate.output) + BigInt(inputTokens) * rate.input
        expect(estimateNanousd(rate, tokens, inputTokens)).toBe((exact + 999n) / 1_000n)
      }),
    )
  })
})

describe('actualNanousd', () => {
  it('takes cached and written tokens out of the input tokens', () => {
    const usage = {
      inputTokens: 1_000,
      outputTokens: 100,
      cachedInputTokens: 400,
      cacheWriteInputTokens: 300,
      cacheWrite1hInputTokens: 200,
    }
    expect(actualNanousd(chat, usage)).toBe(500_000n + 2_500_000n + 200_000n + 1_875_000n + 2_000_000n)
    expect(actualNanousd(chat, { inputTokens: 1_000, outputTokens: 100 })).toBe(7_500_000n)
  })

  it('refuses more cached than input tokens', () => {
    expect(() => actualNanousd(chat, { inputTokens: 1, outputTokens: 0, cachedInputTokens: 2 })).toThrow(RangeError)
  })

  it('is exact, rounded up once', () => {
    fc.assert(
      fc.property(
        anyRate,
        fc.tuple(tokenCount, tokenCount, tokenCount, tokenCount, tokenCount),
        (rate, [plain, output, read, write, write1h]) => {
          const exact =
            BigInt(plain) * rate.input +
            BigInt(output) * rate.output +
            BigInt(read) * rate.cachedInput +
            BigInt(write) * rate.cacheWrite +
            BigInt(write1h) * rate.cacheWrite1h
          const actual = actualNanousd(rate, {
            inputTokens: plain + read + write + write1h,
            outputTokens: output,
            cachedInputTokens: read,
            cacheWriteInputTokens: write,
            cacheWrite1hInputTokens: write1h,
          })
          expect(actual).toBe((exact + 999n) / 1_000n)
        },
      ),
    )
  })
})

describe('affordableTokens', () => {
  it('is the largest estimate that fits', () => {
    fc.assert(
      fc.property(
        anyRate,
        fc.bigInt(-1_000n, 10n ** 15n),
        fc.oneof(fc.constant(0), tokenCount),
        (rate, remaining, inputTokens) => {
          const tokens = affordableTokens(rate, remaining, inputTokens)
          const fits = (count: number) => estimateNanousd(rate, count, inputTokens) <= remaining
          expect(tokens >= 0 && tokens <= MAX_ESTIMATED_TOKENS).toBe(true)
          if (tokens > 0) expect(fits(tokens)).toBe(true)
          if (tokens < MAX_ESTIMATED_TOKENS) expect(fits(tokens + 1)).toBe(false)
        },
      ),
      { numRuns: 5_000 },
    )
  })

  it('inverts the estimate', () => {
    fc.assert(
      fc.property(anyRate, tokenCount, (rate, tokens) => {
        expect(affordableTokens(rate, estimateNanousd(rate, tokens))).toBeGreaterThanOrEqual(tokens)
      }),
    )
  })

  it('knows no limit at a rate of zero, and nothing when overdrawn', () => {
    expect(affordableTokens({ ...chat, output: 0n }, 0n)).toBe(MAX_ESTIMATED_TOKENS)
    expect(affordableTokens(chat, 0n)).toBe(0)
    expect(affordableTokens(chat, -1n)).toBe(0)
    expect(affordableTokens(chat, 4_999n, 1)).toBe(0)
    expect(affordableTokens(chat, 30_000n, 1)).toBe(1)
  })
})
