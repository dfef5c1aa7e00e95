import type { AccountCache, CachedAccount } from './cache.ts'
import {
  type LoadedDecision,
  type LoadedHold,
  loadDecisions,
  loadEnvelopes,
  loadHolds,
  loadLatestOpen,
  loadLedgerEntries,
  type Pair,
} from './load.store.ts'
import { type LoopName, loadLoops } from './loops.store.ts'
import { fingerprintOf, loopKey, loopLimitOf } from './loops.ts'
import { ACCOUNT_PATH, pathOf } from './path.ts'
import type { LaneSql } from './rows.store.ts'
import type { AccountState, ApprovalDecision, Command, HoldState, LoopState } from './state.ts'

export type AccountCommands = { readonly accountId: string; readonly commands: readonly Command[] }
export type Ready = { readonly cached: CachedAccount; readonly state: AccountState; readonly commands: readonly Command[] }

/** How often an account may move between two reads before it is given up as `moved`. */
const MAX_ROUNDS = 4

/**
 * Brings everything the commands may read into memory, all of one account as of one version. Nothing is read that the cache has.
 * @returns for each account its state, null when the account does not exist, `moved` when other processes kept changing it while it was read
 */
export async function loadMissing(
  lane: LaneSql,
  cache: AccountCache,
  groups: readonly AccountCommands[],
  now_ms: number,
): Promise<(Ready | null | 'moved')[]> {
  const ready = new Map<string, Ready | null>()
  for (const { accountId, commands } of groups) {
    const cached = cache.get(accountId)
    if (cached && commands.every((command) => isClearOf(cached, command)))
      ready.set(accountId, { cached, state: stateOf(cached, undefined, undefined), commands })
  }
  for (let round = 0; round < MAX_ROUNDS && ready.size < groups.length; round++) {
    const open = await findResumed(
      lane,
      cache,
      groups.filter((group) => !ready.has(group.accountId)),
    )
    const holds = await holdsFor(lane, cache, open, now_ms)
    await envelopesFor(lane, cache, open, holds)
    const loops = await loopsFor(lane, cache, open)
    for (const request of open) {
      const cached = cache.get(request.accountId)
      if (cached === undefined) ready.set(request.accountId, null)
      else if (isConsistent(cached, request, holds.get(request.accountId), loops.get(request.accountId))) {
        const state = stateOf(cached, holds.get(request.accountId), loops.get(request.accountId))
        ready.set(request.accountId, { cached, state, commands: request.commands })
      }
    }
  }
  return groups.map(({ accountId }) => {
    const found = ready.get(accountId)
    return found === undefined ? 'moved' : found
  })
}

/** A clearance for which the cache has everything: nearly every command is one. What a loop limit counts, the cache has not. */
function isClearOf(cached: CachedAccount, command: Command): boolean {
  if (command.kind !== 'clear' || command.resumed || command.loop !== undefined) return false
  for (const level of command.path) {
    const envelope = cached.envelopes.get(level)
    if (envelope === undefined || envelope?.loop) return false
  }
  return true
}

/** The holds and decisions a batch needs, with the account version they belong to; null when reads of different versions were mixed. */
type HoldSet = {
  version: bigint | null
  readonly holds: Map<string, HoldState>
  readonly decisions: Map<string, ApprovalDecision>
}

const NO_HOLDS: ReadonlyMap<string, HoldState> = new Map()
const NO_DECISIONS: ReadonlyMap<string, ApprovalDecision> = new Map()

/** What loop limits have counted, as of the account's version; null when reads of different versions were mixed. */
type LoopSet = { version: bigint | null; readonly states: Map<string, LoopState> }

const stateOf = (cached: CachedAccount, set: HoldSet | undefined, loops: LoopSet | undefined): AccountState => ({
  accountId: cached.accountId,
  version: cached.version,
  ops: cached.ops,
  clockMs: cached.clockMs,
  envelopes: cached.envelopes,
  holds: set?.holds ?? NO_HOLDS,
  decisions: set?.decisions ?? NO_DECISIONS,
  events: cached.events,
  ...(loops && { loops: loops.states }),
})

function isConsistent(
  cached: CachedAccount,
  request: LoadRequest,
  set: HoldSet | undefined,
  loops: LoopSet | undefined,
): boolean {
  if (loops !== undefined && loops.version !== cached.version) return false
  if (request.asOf !== undefined && request.asOf !== cached.version) return false
  if (set !== undefined && set.version !== cached.version) return false
  for (const agentId of agentsOf(request, set)) if (!cached.envelopes.has(agentId)) return false
  return true
}

/** Every envelope the commands may read or write. The account's own is always among them, so the account row is always read. */
function agentsOf(request: AccountCommands, set: HoldSet | undefined): Set<string> {
  const agents = new Set([ACCOUNT_PATH])
  for (const command of request.commands) {
    if (command.kind === 'clear' || command.kind === 'settle') for (const level of command.path) agents.add(level)
    else if (command.kind === 'decide') {
      if (command.raise) agents.add(command.raise.agentId)
    } else if ('agentId' in command) agents.add(command.agentId)
  }
  if (set) for (const hold of set.holds.values()) for (const level of pathOf(hold.agentId)) agents.add(level)
  return agents
}

async function envelopesFor(
  lane: LaneSql,
  cache: AccountCache,
  requests: readonly AccountCommands[],
  holds: ReadonlyMap<string, HoldSet>,
): Promise<void> {
  const pairs: Pair[] = []
  for (const request of requests) {
    const known = cache.get(request.accountId)?.envelopes
    for (const agentId of agentsOf(request, holds.get(request.accountId)))
      if (!known?.has(agentId)) pairs.push([request.accountId, agentId])
  }
  if (pairs.length === 0) return
  for (const row of await loadEnvelopes(lane, pairs)) cache.adopt(row).envelopes.set(row.agentId, row.envelope)
}

/** Read anew for each batch, and only for clearances that a loop limit applies to: nobody else pays for it. */
async function loopsFor(
  lane: LaneSql,
  cache: AccountCache,
  requests: readonly AccountCommands[],
): Promise<ReadonlyMap<string, LoopSet>> {
  const names = new Map<string, LoopName>()
  for (const { accountId, commands } of requests) {
    const envelopes = cache.get(accountId)?.envelopes
    if (envelopes === undefined) continue
    for (const command of commands) {
      if (command.kind !== 'clear' || loopLimitOf(command, (agentId) => envelopes.get(agentId)) === null) continue
      const fingerprint = fingerprintOf(command)
      names.set(`${accountId}\n${loopKey(command.agentId, fingerprint)}`, [accountId, command.agentId, fingerprint])
    }
  }
  const sets = new Map<string, LoopSet>()
  if (names.size === 0) return sets
  for (const row of await loadLoops(lane, [...names.values()])) {
    cache.adopt(row)
    const set = sets.get(row.accountId) ?? { version: row.version, states: new Map() }
    if (set.version !== row.version) set.version = null
    if (row.state) set.states.set(loopKey(row.agentId, row.fingerprint), row.state)
    sets.set(row.accountId, set)
  }
  return sets
}

async function holdsFor(
  lane: LaneSql,
  cache: AccountCache,
  requests: readonly AccountCommands[],
  now_ms: number,
): Promise<Map<string, HoldSet>> {
  const sets = new Map<string, HoldSet>()
  const setOf = (accountId: string, version: bigint): HoldSet => {
    const set = sets.get(accountId) ?? { version, holds: new Map(), decisions: new Map() }
    if (set.version !== version) set.version = null
    sets.set(accountId, set)
    return set
  }
  const add = (accountId: string, version: bigint, hold: HoldState | null): void => {
    const set = setOf(accountId, version)
    if (hold) set.holds.set(hold.holdId, hold)
  }
  const addLoaded = (rows: readonly LoadedHold[]): void => {
    for (const row of rows) {
      cache.adopt(row)
      add(row.accountId, row.version, row.hold)
    }
  }
  const addDecisions = (rows: readonly LoadedDecision[]): void => {
    for (const row of rows) {
      cache.adopt(row)
      const set = setOf(row.accountId, row.version)
      if (row.decision) set.decisions.set(row.decision.approvalId, row.decision)
    }
  }
  const pairs: Pair[] = []
  const approvals: Pair[] = []
  const reads: Promise<void>[] = []
  for (const { accountId, commands } of requests) {
    const cached = cache.get(accountId)
    for (const holdId of holdIdsOf(commands)) {
      const hold = cached && cache.hold(cached, holdId)
      if (cached && hold) add(accountId, cached.version, hold)
      else pairs.push([accountId, holdId])
    }
    for (const command of commands) if (command.kind === 'decide') approvals.push([accountId, command.id])
    for (const [agentId, count] of latestWanted(commands))
      reads.push(loadLatestOpen(lane, accountId, agentId, now_ms, count).then(addLoaded))
  }
  if (pairs.length > 0) reads.push(loadHolds(lane, pairs).then(addLoaded))
  if (approvals.length > 0) reads.push(loadDecisions(lane, approvals).then(addDecisions))
  // Awaited together: one that fails while another is awaited would end the process as an unhandled rejection.
  await Promise.all(reads)
  return sets
}

function holdIdsOf(commands: readonly Command[]): Set<string> {
  const ids = new Set<string>()
  for (const command of commands) {
    if (command.kind === 'clear' && command.resumed) ids.add(command.id)
    else if (command.kind === 'renew') ids.add(command.holdId)
    else if ((command.kind === 'settle' || command.kind === 'release') && command.holdId !== null) ids.add(command.holdId)
  }
  return ids
}

/**
 * How many of an agent's newest open holds to read, so that each command that takes "the most recent" finds one even if the
 * commands that name a hold take theirs from among them first.
 */
function latestWanted(commands: readonly Command[]): Map<string, number> {
  const wanted = new Map<string, number>()
  for (const command of commands)
    if (command.kind === 'settle' && command.holdId === null) wanted.set(command.agentId, (wanted.get(command.agentId) ?? 0) + 1)
  if (wanted.size === 0) return wanted
  const named = holdIdsOf(commands).size
  return new Map([...wanted].map(([agentId, count]) => [agentId, count + named]))
}

/** `asOf`: the account version in which the ledger was asked about resumed commands. */
type LoadRequest = AccountCommands & { readonly asOf?: bigint }

/**
 * A command that an interrupted run has already carried out becomes one that finds that run's result. Should that run not be dead but
 * slow, and finish after the ledger was read, the account has moved and is read again.
 */
async function findResumed(
  lane: LaneSql,
  cache: AccountCache,
  groups: readonly AccountCommands[],
): Promise<readonly LoadRequest[]> {
  const pairs = groups.flatMap(({ accountId, commands }) =>
    commands.filter((command) => command.resumed).map((command): Pair => [accountId, command.id]),
  )
  if (pairs.length === 0) return groups
  const loaded = await loadLedgerEntries(lane, pairs)
  for (const entry of loaded) cache.adopt(entry)
  const versions = new Map(loaded.map((entry) => [entry.accountId, entry.version]))
  const holdIds = new Map(loaded.filter((entry) => entry.recorded).map((entry) => [entry.commandId, entry.holdId]))
  const adapt = (command: Command): Command => {
    if (!command.resumed || command.kind === 'clear') return command
    if (!holdIds.has(command.id)) return { ...command, resumed: false }
    return command.kind === 'settle' ? { ...command, holdId: holdIds.get(command.id) ?? command.holdId } : command
  }
  return groups.map(({ accountId, commands }) => {
    const asOf = versions.get(accountId)
    return { accountId, commands: commands.map(adapt), ...(asOf !== undefined && { asOf }) }
  })
}
