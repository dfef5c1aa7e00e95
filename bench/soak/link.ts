import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { startSwitch } from '../../test/support/tcp-switch.ts'

/** A cable between the servers and the database: real packets where the machine allows it, else a relay that holds bytes back. */
export type Link = {
  readonly url: string
  /** What stands in for the network, for the report. */
  readonly how: string
  /** Takes packets away, or as far as that cannot be done, stops the flow for moments. */
  lose(): Promise<void>
  /** Nothing passes any more. */
  cut(): void
  restore(): void
  remove(): Promise<void>
}

const SUBNET = '10.213.77'
const LINK_PORT = 5432
const FLAPS = { down_ms: 60, up_ms: 140 } as const

/** @param sockets where PostgreSQL has its Unix socket */
export async function startLink(sockets: string, databasePort: number): Promise<Link> {
  return process.getuid?.() === 0 && canMakeNetworks() ? startNetwork(sockets, databasePort) : startRelay(databasePort)
}

const run = (command: string): void => {
  const [program = '', ...parameters] = command.split(' ')
  execFileSync(program, parameters, { stdio: 'pipe' })
}
const works = (command: string): boolean => {
  try {
    run(command)
    return true
  } catch {
    return false
  }
}

function canMakeNetworks(): boolean {
  const name = `gvnr-try-${process.pid}`
  if (!works(`ip netns add ${name}`)) return false
  const isPossible = works(`ip link add gvt0 type veth peer name gvt1 netns ${name}`)
  if (isPossible) works('ip link del gvt0')
  works(`ip netns del ${name}`)
  return isPossible
}

/**
 * A network namespace with a relay in it, which goes on to PostgreSQL over its Unix socket: so the packets between server and relay, and
 * they alone, cross the pair of interfaces.
 */
async function startNetwork(sockets: string, databasePort: number): Promise<Link> {
  const name = `gvnr-soak-${process.pid}`
  const socket = join(sockets, `.s.PGSQL.${databasePort}`)
  if (!existsSync(socket)) throw new Error(`PostgreSQL has no socket at ${socket}`)
  run(`ip netns add ${name}`)
  run(`ip link add gvnr0 type veth peer name gvnr1 netns ${name}`)
  run(`ip addr add ${SUBNET}.1/30 dev gvnr0`)
  run('ip link set gvnr0 up')
  run(`ip -n ${name} addr add ${SUBNET}.2/30 dev gvnr1`)
  run(`ip -n ${name} link set gvnr1 up`)
  const relay = spawn(
    'ip',
    [
      ...['netns', 'exec', name, process.execPath, '--import', 'tsx', join(import.meta.dirname, 'relay-process.ts')],
      ...[`${SUBNET}.2`, String(LINK_PORT), socket],
    ],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  await once(relay.stdout, 'data')
  // The end of the other side: this one sees a cable without carrier and keeps its routes, so packets are lost and not refused.
  const cut = (): void => run(`ip -n ${name} link set gvnr1 down`)
  const restore = (): void => run(`ip -n ${name} link set gvnr1 up`)
  const hasNetem = ['gvnr0'].every((end) => works(`tc qdisc add dev ${end} root netem loss 0%`))
  const loss = hasNetem
    ? 'netem: 5 % of the packets lost, 20 ms later'
    : `no netem in this kernel: the link goes down for ${FLAPS.down_ms} of ${FLAPS.down_ms + FLAPS.up_ms} ms, which loses what is on it`
  return {
    url: `postgres://postgres@${SUBNET}.2:${LINK_PORT}/postgres`,
    how: `network namespace with a veth pair; ${loss}`,
    async lose() {
      if (hasNetem) {
        run('tc qdisc change dev gvnr0 root netem loss 5% delay 20ms')
        await sleep(10_000)
        run('tc qdisc change dev gvnr0 root netem loss 0%')
        return
      }
      for (const until = Date.now() + 10_000; Date.now() < until; await sleep(FLAPS.up_ms)) {
        cut()
        await sleep(FLAPS.down_ms)
        restore()
      }
    },
    cut,
    restore,
    async remove() {
      relay.kill('SIGKILL')
      works('ip link del gvnr0')
      works(`ip netns del ${name}`)
    },
  }
}

async function startRelay(databasePort: number): Promise<Link> {
  const relay = await startSwitch(databasePort)
  return {
    url: `postgres://postgres@127.0.0.1:${relay.port}/postgres`,
    how: 'no network namespaces here: a TCP relay that holds everything back, for moments in the place of lost packets',
    async lose() {
      for (const until = Date.now() + 10_000; Date.now() < until; await sleep(FLAPS.up_ms)) {
        relay.partition()
        // What a lost packet costs: TCP sends it again after 200 ms.
        await sleep(200)
        relay.heal()
      }
    },
    cut: () => relay.partition(),
    restore: () => relay.heal(),
    remove: () => relay.close(),
  }
}
