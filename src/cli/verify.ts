import { usdFromUnits } from '../billing/packs.ts'
import { openChain } from '../billing/service.ts'
import { verifyBalances as verifyReceived } from '../billing/verify.ts'
import { billingSettings } from '../billing-settings.ts'
import { describeDifference, verifyBalances } from '../budgets/verify.ts'
import { readConfig } from '../config.ts'
import { isUuid } from '../core/ids.ts'
import { type Command, openConfigured, print, UsageError, using } from './command.ts'

export const verify: Command = {
  usage: 'verify [account_id]',
  help: [
    'Recompute every balance from holds and ledger and compare with what is stored.',
    'May run beside a working server on PostgreSQL. Ends with 1 and a list when something differs.',
  ],
  async run(parameters) {
    const accountId = parameters[0]?.toLowerCase()
    if (parameters.length > 1 || (accountId !== undefined && !isUuid(accountId)))
      throw new UsageError('verify takes at most one account_id, as GET /v1/account shows it.')
    return await using<0 | 1>(await openConfigured(), async (database) => {
      const { accounts, envelopes, differences } = await verifyBalances(database, accountId === undefined ? {} : { accountId })
      if (accountId !== undefined && accounts === 0) throw new UsageError(`There is no account ${accountId}.`)
      for (const difference of differences) print(describeDifference(difference))
      const verdict = differences.length === 0 ? 'every balance is right' : `${differences.length} differences`
      print(`${accounts} accounts, ${envelopes} envelopes: ${verdict}.`)
      return differences.length === 0 ? 0 : 1
    })
  },
}

export const verifyPayments: Command = {
  usage: 'verify-payments',
  help: [
    'Compare the USDC that the receiving addresses hold with what was credited, what names no account',
    'and what went out. Ends with 1 and a list when something is missing.',
  ],
  async run(parameters) {
    if (parameters.length > 0) throw new UsageError('verify-payments takes no parameters.')
    const config = readConfig()
    return await using<0 | 1>(await openConfigured(config), async (database) => {
      const report = await verifyReceived(database, openChain(billingSettings(config)).chain)
      for (const { address, expectedUnits, balanceUnits } of report.wrong)
        print(`${address} should hold ${usdFromUnits(expectedUnits)} USDC and holds ${usdFromUnits(balanceUnits)}`)
      const sums = `credited ${usdFromUnits(report.creditedUnits)} USDC, unattributed ${usdFromUnits(report.unattributedUnits)} USDC`
      const verdict = report.wrong.length === 0 ? 'every unit is accounted for' : `${report.wrong.length} addresses differ`
      print(`block ${report.blockNumber}: ${sums}: ${verdict}.`)
      return report.wrong.length === 0 ? 0 : 1
    })
  },
}
