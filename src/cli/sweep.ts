import { parseArgs } from 'node:util'
import { usdFromUnits } from '../billing/packs.ts'
import { openChain } from '../billing/service.ts'
import { findSweepable, sweepOne } from '../billing/sweep.ts'
import { billingSettings } from '../billing-settings.ts'
import { readConfig, readSweepKeys } from '../config.ts'
import { type Command, openConfigured, print, UsageError, using } from './command.ts'

export const sweep: Command = {
  usage: 'sweep [--to 0x…] [--min usd] [--send]',
  help: [
    "Move USDC from the accounts' own addresses to the treasury (PAYTO_ADDRESS unless --to says otherwise).",
    'Without --send it only says what it would do. Needs DEPOSIT_XPRV and SWEEP_GAS_PRIVATE_KEY to send.',
  ],
  async run(parameters) {
    const { values } = parseArgs({
      args: parameters,
      options: { to: { type: 'string' }, min: { type: 'string', default: '1' }, send: { type: 'boolean', default: false } },
    })
    const config = readConfig()
    const treasury = values.to ?? config.PAYTO_ADDRESS
    const minimum = Math.round(Number(values.min) * 1_000_000)
    if (values.to !== undefined && !/^0x[0-9a-fA-F]{40}$/.test(values.to))
      throw new UsageError(`--to ${values.to} is not an address: that is 0x and 40 hex digits.`)
    if (treasury === undefined) throw new UsageError('Say where the money goes: --to 0x… or PAYTO_ADDRESS.')
    if (!Number.isSafeInteger(minimum) || minimum < 0) throw new UsageError('--min is an amount in dollars, for example --min 1.')
    const keys = values.send ? readSweepKeys() : null
    return await using<0 | 1>(await openConfigured(config), async (database) => {
      const { chain, rpcUrls } = openChain(billingSettings(config))
      const found = await findSweepable(database, chain, BigInt(minimum))
      for (const one of found) {
        const sent =
          keys === null ? 'would move' : `moved in ${await sweepOne(chain, rpcUrls, keys, one, treasury as `0x${string}`)}:`
        print(`${one.address} ${sent} ${usdFromUnits(one.units)} USDC (account ${one.accountId})`)
      }
      const total = usdFromUnits(found.reduce((sum, { units }) => sum + units, 0n))
      print(`${found.length} addresses, ${total} USDC to ${treasury}${keys === null ? ': nothing was sent, add --send' : ''}.`)
      return 0
    })
  },
}
