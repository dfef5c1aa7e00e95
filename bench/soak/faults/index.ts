import type { Fault } from './fault.ts'
import { crash, failover, kill, pooler, restart, standby } from './processes.ts'
import { clock, connections, lanes, loss, partition, slowDisk } from './surroundings.ts'

const ALL = [kill, restart, crash, failover, standby, pooler, connections, slowDisk, clock, lanes, loss, partition]
export const FAULT_NAMES = [...ALL.map(({ name }) => name), 'mixed', 'none']

/**
 * What strikes in a run. `mixed`: a server is killed every 20 s, and the database fails over once, in the middle.
 * @throws for a name that is none
 */
export function faultsOf(name: string, minutes: number): readonly Fault[] {
  if (name === 'none') return []
  if (name === 'mixed') return [kill, { ...failover, every_s: minutes * 30, times: 1 }]
  const found = ALL.find((fault) => fault.name === name)
  if (found === undefined) throw new Error(`there is no fault "${name}": ${FAULT_NAMES.join(', ')}`)
  return [found]
}
