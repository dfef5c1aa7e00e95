import { readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'

/** Linux counts CPU time in hundredths of a second for every program, whatever the kernel's own tick is. */
const TICK_US = 10_000
export const canMeasureCpu = process.platform === 'linux'

/** CPU time of one process with all of its threads, and of the children it has waited for, microseconds. 0 when it is gone. */
export function processCpu_us(pid: number): number {
  const fields = statOf(pid)
  if (fields === null) return 0
  return (Number(fields[11]) + Number(fields[12]) + Number(fields[13]) + Number(fields[14])) * TICK_US
}

/** A process and its children (one level: a PostgreSQL server and its backends). */
export function familyCpu_us(pid: number): number {
  if (!canMeasureCpu) return 0
  let sum = processCpu_us(pid)
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const fields = statOf(Number(name))
    if (fields !== null && Number(fields[1]) === pid) sum += processCpu_us(Number(name))
  }
  return sum
}

/** Time all CPUs were busy for anybody, microseconds; what a hypervisor took away counts as busy. */
export function machineBusy_us(): number {
  if (!canMeasureCpu) return 0
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0, steal = 0] = readFileSync('/proc/stat', 'utf8')
    .slice(0, 256)
    .split(/\s+/)
    .map(Number)
  return (user + nice + system + irq + softirq + steal) * TICK_US
}

/** The fields of /proc/PID/stat from the third (state) on: those before it may contain spaces. */
function statOf(pid: number): string[] | null {
  if (!canMeasureCpu) return null
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    return text.slice(text.lastIndexOf(')') + 2).split(' ')
  } catch {
    return null
  }
}

/** Resident memory of a process, bytes; 0 where it cannot be read. */
export function residentBytes(pid: number): number {
  if (!canMeasureCpu) return 0
  try {
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0) * 1024
  } catch {
    return 0
  }
}

export type Machine = {
  readonly cpu: string
  readonly cores: number
  readonly memory_gib: number
  readonly platform: string
  readonly node: string
  readonly postgres: string
  readonly pglite: string
}

/** What the results depend on; nothing that says whose machine it was. */
export function describeMachine(postgres: string): Machine {
  const require = createRequire(import.meta.url)
  const cpus = os.cpus()
  return {
    cpu: cpus[0]?.model.trim() ?? 'unknown',
    cores: cpus.length,
    memory_gib: Math.round(os.totalmem() / 2 ** 30),
    platform: `${os.platform()} ${os.arch()}`,
    node: process.versions.node,
    postgres,
    pglite: packageVersion(require, '@electric-sql/pglite'),
  }
}

function packageVersion(require: NodeJS.Require, name: string): string {
  const entry = require.resolve(name)
  const folder = entry.slice(0, entry.lastIndexOf(`node_modules/${name}`) + `node_modules/${name}`.length)
  return String((JSON.parse(readFileSync(`${folder}/package.json`, 'utf8')) as { version: string }).version)
}
