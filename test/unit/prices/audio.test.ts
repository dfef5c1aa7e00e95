import { describe, expect, it } from 'vitest'
import { audioRatesFor } from '../../../src/prices/audio.ts'
import { createCatalogue } from '../../../src/prices/catalogue.ts'
import { bundledProviders } from '../../../src/prices/dataset.ts'

describe('what audio costs', () => {
  const catalogue = createCatalogue()
  const usd = (model: string) => {
    const { input, output } = audioRatesFor(model, catalogue.rateFor(model))
    return [Number(input) / 1e6, Number(output) / 1e6]
  }

  it("is the model's own price, however it is spelled, and never less than its text", () => {
    expect(usd('gpt-audio')).toEqual([32, 64])
    expect(usd('openai/gpt-audio-2025-08-28')).toEqual([32, 64])
    expect(usd('gpt-4o-audio-preview')).toEqual([40, 80])
    expect(usd('gpt-4o-audio-preview-2024-10-01')).toEqual([100, 200])
    expect(usd('gpt-4o-mini-audio-preview-2024-12-17')).toEqual([10, 20])
    expect(usd('gemini-2.5-flash')).toEqual([1, 2.5])
  })

  it('of an unknown model is a multiple of its text that no known one exceeds', () => {
    expect(audioRatesFor('nobody-knows', { input: 2n, output: 3n })).toEqual({ input: 140n, output: 180n })
    for (const { models } of bundledProviders())
      for (const { prices } of models)
        for (const price of Array.isArray(prices) ? prices.map((entry) => entry.prices) : [prices])
          for (const [text, audio, most] of [
            [price.input_mtok, price.input_audio_mtok, 70],
            [price.output_mtok, price.output_audio_mtok, 60],
          ] as const)
            if (typeof text === 'number' && typeof audio === 'number') expect(audio).toBeLessThanOrEqual(text * most)
  })
})
