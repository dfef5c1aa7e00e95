/**
 * Money. Amounts are integer nano-dollars, rates integer pico-dollars per token, both `bigint`
 * (DESIGN.md section 3): no float ever holds money, and a cost is rounded once, against the spender.
 */

/** An amount of money in integer nano-dollars (1 USD = 1,000,000,000). May be negative (drift). */
export type Nanousd = bigint

/** A price in integer pico-dollars per token, which is the same number as micro-dollars per million tokens. */
export type PicousdPerToken = bigint

export type Rounding = 'down' | 'up' | 'nearest'

/** The largest amount that can be stored: some 9.2 billion dollars. */
export const MAX_NANOUSD: Nanousd = 2n ** 63n - 1n

const NANOUSD_DECIMALS = 9
const PICOUSD_PER_NANOUSD = 1_000
const NANOUSD_PER_MICROUSD = 1_000
const MICROUSD_PER_USD = 1_000_000

/**
 * Dollars from JSON as nano-dollars, exact to the decimal number the caller wrote: it reads the shortest decimal
 * that denotes the float (`0.1` is 100,000,000 nano-dollars, not 100,000,000.00000001).
 *
 * @param round what happens beyond 9 decimals: `down` towards minus infinity (limits), `up` towards plus infinity
 *   (costs), `nearest` half away from zero.
 * @throws RangeError if `usd` is not finite.
 */
export function nanousdFromUsd(usd: number, round: Rounding): Nanousd {
  const { digits, exponent } = decimalParts(usd)
  const shift = exponent + NANOUSD_DECIMALS
  return shift >= 0 ? digits * 10n ** BigInt(shift) : divide(digits, 10n ** BigInt(-shift), round)
}

/**
 * Nano-dollars as dollars for JSON (CONTRACT.md: 6 places), rounded half away from zero; never `-0`. The result is the
 * float nearest to that decimal, so it prints with at most 6 places, for every amount up to 2^63 nano-dollars.
 */
export function usdFromNanousd(amount: Nanousd): number {
  const nanousd = Number(amount)
  if (!Number.isSafeInteger(nanousd)) {
    // Beyond 9 million dollars: through a string, since a float quotient would be rounded twice.
    return Number(`${divide(amount, BigInt(NANOUSD_PER_MICROUSD), 'nearest')}e-6`)
  }
  const rest = nanousd % NANOUSD_PER_MICROUSD
  const microusd = (nanousd - rest) / NANOUSD_PER_MICROUSD + (rest >= 500 ? 1 : rest <= -500 ? -1 : 0)
  return microusd / MICROUSD_PER_USD
}

/**
 * Price-list dollars per million tokens as a rate, rounded up when it is finer than a pico-dollar per token.
 * Price lists carry float noise (`0.18000000000000002`), which 15 significant digits remove.
 *
 * @throws RangeError if the price is negative or not finite.
 */
export function rateFromUsdPerMtok(usdPerMtok: number): PicousdPerToken {
  if (!(usdPerMtok >= 0)) throw new RangeError(`not a price: ${usdPerMtok}`)
  const nanousdPerMtok = nanousdFromUsd(Number(usdPerMtok.toPrecision(15)), 'up')
  return ceilDiv(nanousdPerMtok, 1_000n)
}

/** The smallest integer not below `dividend / divisor`, for a positive divisor. */
export function ceilDiv(dividend: bigint, divisor: bigint): bigint {
  if (divisor <= 0n) throw new RangeError(`divisor must be positive: ${divisor}`)
  return dividend > 0n ? (dividend + divisor - 1n) / divisor : dividend / divisor
}

/**
 * What tokens cost at their rates, in nano-dollars: the exact sum, rounded up once (DESIGN.md section 3).
 * `tokens` are non-negative safe integers, `rate` is in pico-dollars per token.
 *
 * @throws RangeError for any other token count.
 */
export function costNanousd(parts: readonly { readonly tokens: number; readonly rate: PicousdPerToken }[]): Nanousd {
  let picousd = 0
  for (const { tokens, rate } of parts) {
    if (!Number.isSafeInteger(tokens) || tokens < 0) throw new RangeError(`not a token count: ${tokens}`)
    picousd += tokens * Number(rate)
  }
  // Terms are non-negative and rounding is monotonic, so a sum in the safe range means that every step was exact.
  if (picousd <= Number.MAX_SAFE_INTEGER) {
    const rest = picousd % PICOUSD_PER_NANOUSD
    return BigInt((picousd - rest) / PICOUSD_PER_NANOUSD + (rest > 0 ? 1 : 0))
  }
  return ceilDiv(
    parts.reduce((sum, { tokens, rate }) => sum + BigInt(tokens) * rate, 0n),
    BigInt(PICOUSD_PER_NANOUSD),
  )
}

/** The number as `digits × 10^exponent`, from the shortest decimal that denotes it. */
function decimalParts(value: number): { digits: bigint; exponent: number } {
  if (!Number.isFinite(value)) throw new RangeError(`not an amount of dollars: ${value}`)
  const [mantissa = '0', exponent = '0'] = String(value).split('e')
  const [whole = '0', fraction = ''] = mantissa.split('.')
  return { digits: BigInt(whole + fraction), exponent: Number(exponent) - fraction.length }
}

function divide(dividend: bigint, divisor: bigint, round: Rounding): bigint {
  if (round === 'up') return ceilDiv(dividend, divisor)
  if (round === 'down') return -ceilDiv(-dividend, divisor)
  const half = divisor / 2n
  return dividend < 0n ? (dividend - half) / divisor : (dividend + half) / divisor
}
