/** USDC has 6 decimals: one base unit is a micro-dollar. */
export type UsdcUnits = bigint

const UNITS_PER_USD = 1_000_000
const UNITS_PER_CENT = 10_000n
/** 1,000 governance ops cost $1 (contract section 2). */
const UNITS_PER_OP = 1_000n

/** Bounds of `POST /v1/account/topup?usd=` (contract section 7). */
const MIN_UNITS = 1_000_000n
const MAX_UNITS = 100_000_000n

export const PACKS = {
  starter: { usd: 19, description: '19,000 governance operations: a few agents in development.' },
  growth: { usd: 39, description: '39,000 governance operations: a team of agents at work every day.' },
  studio: { usd: 79, description: '79,000 governance operations: a fleet of agents in production.' },
} as const
export type PackName = keyof typeof PACKS

export const isPack = (name: string): name is PackName => Object.hasOwn(PACKS, name)

/** What an amount buys: floor(usd × 1,000). */
export const opsFromUnits = (units: UsdcUnits): bigint => units / UNITS_PER_OP

/** Base units as dollars for JSON; exact up to nine billion dollars. */
export const usdFromUnits = (units: UsdcUnits): number => Number(units) / UNITS_PER_USD

export const unitsOfPack = (pack: PackName): UsdcUnits => BigInt(PACKS[pack].usd) * BigInt(UNITS_PER_USD)

export type AmountError = 'invalid_amount' | 'below_minimum' | 'above_maximum'

/** An amount as a caller writes it ("5", "5.00", 5) in base units: whole cents from $1 to $100. */
export function unitsFromAmount(amount: string | number | undefined): UsdcUnits | AmountError {
  const match = /^(\d{1,12})(?:\.(\d{1,2}))?$/.exec(String(amount ?? '').trim())
  if (match === null) return 'invalid_amount'
  const [, dollars = '0', cents = ''] = match
  const units = BigInt(dollars + cents.padEnd(2, '0')) * UNITS_PER_CENT
  if (units < MIN_UNITS) return 'below_minimum'
  return units > MAX_UNITS ? 'above_maximum' : units
}
