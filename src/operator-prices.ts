import { readFileSync } from 'node:fs'
import { z } from 'zod'
import { type Config, ConfigError } from './config.ts'
import { type OperatorPrices, operatorPricesSchema } from './prices/catalogue.ts'

/** @throws ConfigError when PRICES_FILE cannot be read or used */
export function readOperatorPrices(config: Config): OperatorPrices {
  if (config.PRICES_FILE === undefined) return {}
  try {
    return operatorPricesSchema.parse(JSON.parse(readFileSync(config.PRICES_FILE, 'utf8')))
  } catch (error) {
    const reason = error instanceof z.ZodError ? z.prettifyError(error) : error instanceof Error ? error.message : String(error)
    throw new ConfigError(`PRICES_FILE ${config.PRICES_FILE} cannot be used: ${reason}`)
  }
}
