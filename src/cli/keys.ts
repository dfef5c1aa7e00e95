import { parseArgs } from 'node:util'
import { createApp } from '../app.ts'
import { type Config, readConfig } from '../config.ts'
import { systemClock } from '../core/clock.ts'
import { DomainError } from '../core/errors.ts'
import { isUuid } from '../core/ids.ts'
import { createLog } from '../core/log.ts'
import type { Caller, Operation } from '../core/operation.ts'
import type { Database } from '../db/client.ts'
import { type OperationDeps, operations } from '../operations.ts'
import { type Command, openConfigured, print, UsageError, using } from './command.ts'

type Call = (name: string, caller: Caller, input: Record<string, unknown>) => Promise<Record<string, unknown>>

const DAY_SECONDS = 86_400

export const keys: Command = {
  usage: 'keys account | list ACCOUNT | create ACCOUNT [options] | revoke ACCOUNT KEY_ID',
  help: [
    'account: make an account and print its owner key. list: the keys of an account, never their secrets.',
    'create [--name N] [--scope owner|agent|read] [--agent PATH] [--days N]: a further key, e.g. for an owner who lost theirs.',
    'revoke: kill a key, on every server process. Prints JSON. Who can reach the database needs no key for this.',
  ],
  async run([action, ...rest]) {
    const { values, positionals } = parseArgs({
      args: rest,
      allowPositionals: true,
      options: {
        name: { type: 'string' },
        scope: { type: 'string' },
        agent: { type: 'string' },
        days: { type: 'string' },
      },
    })
    const isCreate = action === 'create'
    if (!isCreate && Object.keys(values).length > 0) throw new UsageError('Options belong to `keys create`.')
    const wanted = PARAMETERS[action ?? '']
    if (wanted === undefined || positionals.length !== wanted) throw new UsageError(`Say ${keys.usage}.`)
    const [accountId, keyId] = positionals
    if (accountId !== undefined && !isUuid(accountId))
      throw new UsageError(`${accountId} is no account_id: GET /v1/account shows it.`)
    const config = readConfig()
    return await using<0 | 1>(await openConfigured(config), async (database) => {
      const call = callerOn(config, database)
      if (accountId === undefined) return show(await call('create_account', { kind: 'public' }, {}))
      const owner = operatorFor(accountId)
      await call('get_balance', owner, {})
      if (action === 'list') return show(await call('list_keys', owner, {}))
      if (!isCreate) return show(await call('revoke_key', owner, { key_id: keyId }))
      const { name, scope, agent: agent_id, days } = values
      const expires_in_seconds = days === undefined ? undefined : Number(days) * DAY_SECONDS
      return show(await call('create_key', owner, { name, scope, agent_id, expires_in_seconds }))
    })
  },
}

/** How many parameters each action takes. */
const PARAMETERS: Readonly<Record<string, number>> = { account: 0, list: 1, create: 1, revoke: 2 }

function show(result: Record<string, unknown>): 0 {
  print(JSON.stringify(result, null, 2))
  return 0
}

/** Runs operations as the server does, through the same guards, on a database of one's own. */
function callerOn(config: Config, database: Database): Call {
  // The operator makes as many accounts as they like; the limit by address is for strangers.
  const own = { ...config, ACCOUNT_RATE_LIMIT_PER_HOUR: 0 }
  const { execute } = createApp(own, { database, clock: systemClock, log: createLog('warn') })
  return async (name, caller, input) => {
    try {
      return (await execute(operationNamed(name), { caller, ip: 'cli' }, input)).body
    } catch (error) {
      if (!(error instanceof DomainError)) throw error
      if (error.code === 'account_not_found') throw new UsageError('There is no such account.')
      throw new UsageError(`${error.code}: ${describe(error)}`)
    }
  }
}

function describe(error: DomainError): string {
  const { issues } = error.details
  if (!Array.isArray(issues)) return error.hint
  return issues.map(({ path, message }: { path: string; message: string }) => `${path} ${message}`).join('; ')
}

function operationNamed(name: string): Operation<OperationDeps> {
  const operation = operations.find((one) => one.name === name)
  if (operation === undefined) throw new Error(`there is no operation ${name}`)
  return operation
}

const operatorFor = (accountId: string): Caller => ({
  kind: 'key',
  accountId,
  keyId: accountId,
  name: 'operator',
  scope: 'owner',
  agentId: null,
  expiresMs: null,
})
